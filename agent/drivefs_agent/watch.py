"""``specs --watch``: the box, live in a terminal, once a second, until Ctrl-C.

Plain ANSI sequences (ECMA-48): the frame is written over the last one, on the terminal's second screen, which is left as it was
found. Where the output is no terminal, each look is written as plain text.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, TextIO

from drivefs_agent import text
from drivefs_agent.history import History, Point
from drivefs_agent.inventory import Sampler, Specs

__all__ = ["frame", "watch"]

_ENTER: Final = "\x1b[?1049h\x1b[?25l"  # second screen, no cursor
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_REST_OF_LINE: Final = "\x1b[K"
_REST_OF_SCREEN: Final = "\x1b[J"
_BAR: Final = 20


def watch(output: TextIO, *, interval: float = 1.0, count: int | None = None, sampler: Sampler | None = None) -> None:
    """Show a look every ``interval`` seconds, ``count`` times or until interrupted."""
    history = History()
    live = output.isatty()
    with sampler or Sampler() as looks, _screen(output) if live else _nothing():
        looks.sample()  # loads are differences: the first look only begins them
        due = time.monotonic() + min(interval, 0.1)
        shown = 0
        while count is None or shown < count:
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + interval, time.monotonic())
            specs = looks.sample()
            history.add(specs)
            if live:
                columns, rows = shutil.get_terminal_size()
                _draw(output, list(frame(specs, history, columns)), columns, rows)
            else:
                output.write(f"{specs.time:%H:%M:%S}\n{text.render(specs)}\n\n")
            output.flush()
            shown += 1


def _draw(output: TextIO, lines: list[str], columns: int, rows: int) -> None:
    if len(lines) > rows:
        lines = [*lines[: rows - 1], f"… {len(lines) - rows + 1} lines more: enlarge the window"]
    # No line break after the last line: at the bottom it would scroll.
    body = "\n".join(line[:columns] + _REST_OF_LINE for line in lines)
    output.write(_HOME + body + _REST_OF_SCREEN)


def frame(specs: Specs, history: History, columns: int) -> Iterator[str]:
    """The lines of one picture: gauges with their curves, then the rest of the inventory."""
    room = max(0, min(60, columns - _BAR - 34))
    yield f"{text.printable(specs.system.hostname)}   {specs.time:%Y-%m-%d %H:%M:%S} UTC   Ctrl-C ends"
    yield ""
    yield _gauge("CPU", specs.cpu_ratio, "", history.sparkline(lambda point: point.cpu, room))
    used = specs.memory_total - specs.memory_available
    amount = f"{text.size(used)} of {text.size(specs.memory_total)}"
    yield _gauge("Memory", used / specs.memory_total, amount, history.sparkline(lambda point: point.memory, room))
    for gpu in specs.gpus.gpus:
        yield _gauge(f"GPU {gpu.index}", gpu.utilization, "", history.sparkline(_busy(gpu.key), room))
        yield _gauge("  memory", gpu.memory_ratio, f"{text.size(gpu.memory_used)} of {text.size(gpu.memory_total)}", "")
    yield ""
    for label, line in text.lines(specs):
        yield f"{label:<8} {line}"


def _busy(key: str) -> Callable[[Point], float | None]:
    return lambda point: point.gpu.get(key)


def _gauge(label: str, ratio: float | None, amount: str, curve: str) -> str:
    if ratio is None:
        return f"{label:<9} [{'?' * _BAR}]  N/A {amount:<22} {curve}".rstrip()
    filled = round(min(max(ratio, 0.0), 1.0) * _BAR)
    return f"{label:<9} [{'█' * filled}{'·' * (_BAR - filled)}] {ratio:>4.0%} {amount:<22} {curve}".rstrip()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _screen(output: TextIO) -> Iterator[None]:
    """The terminal is given back as it was, also when we are asked to end."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    earlier = signal.signal(signal.SIGTERM, end)
    output.write(_ENTER)
    try:
        yield
    finally:
        output.write(_LEAVE)
        output.flush()
        signal.signal(signal.SIGTERM, earlier)
