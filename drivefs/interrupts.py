"""Programs that are to end while they wait for us: seen in /proc, because pyfuse3 does not pass on the kernel's FUSE_INTERRUPT.

The kernel keeps even a killed process in a request until we have answered it (fuse.rst, "Interrupting filesystem operations"),
so somebody has to look. Only signals by which people and systems end programs count: a program that is merely told of a timer or
a child would not expect a read from a file to fail.
Source: proc_pid_status(5).
"""

from __future__ import annotations

import logging
import os
import signal
from typing import Final

import trio

from drivefs.jobs.patience import Wait, Waits

__all__ = ["process_is_to_end", "thread_is_to_end", "watch"]

log = logging.getLogger(__name__)

_ENDING: Final = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_ENDING_MASK: Final = sum(1 << (number - 1) for number in _ENDING)
_PERIOD: Final = 0.25  # seconds
# Shorter waits are everyday business, and are over before anybody would look.
_LONG: Final = 0.5


def thread_is_to_end(thread: int) -> bool:
    """Whether a signal that ends programs is pending for the thread, neither blocked nor ignored. 0, or gone: False."""
    return thread > 0 and _is_to_end(f"/proc/{thread}/status")


def process_is_to_end(thread: int) -> bool:
    """The same for any thread of the process that ``thread`` belongs to: for a file that one thread opens and another reads."""
    if thread <= 0:
        return False
    try:
        threads = os.listdir(f"/proc/{thread}/task")
    except OSError:
        return False
    return any(_is_to_end(f"/proc/{thread}/task/{one}/status") for one in threads)


def _is_to_end(path: str) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
    except OSError:  # it has ended, or another user's /proc is hidden from us
        return False
    pending, shared, blocked, ignored = (int(fields[name], 16) for name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn"))
    return bool((pending | shared) & ~blocked & ~ignored & _ENDING_MASK)


async def watch(waits: Waits) -> None:
    """Run for ever: interrupt what has waited for a while on behalf of a program that is to end."""
    while True:
        await waits.any()
        await trio.sleep(_PERIOD)
        long = waits.longer_than(_LONG)
        if long:
            for wait in await trio.to_thread.run_sync(_to_be_interrupted, long):
                log.info("%s of %r is given up: its program is to end", wait.operation.name, wait.operation.subject())
                wait.interrupt()


def _to_be_interrupted(waits: list[Wait]) -> list[Wait]:
    return [wait for wait in waits if wait.operation.asked_to_end()]
