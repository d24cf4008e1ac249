"""The last minutes of a box, as numbers for curves: what the live views draw."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from drivefs_agent.inventory import Specs

__all__ = ["History", "Point"]

_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Point:
    """One moment. Ratios from 0 to 1, None where not known; gpu and gpu_memory: by Gpu.key."""

    time: datetime
    cpu: float | None
    memory: float
    gpu: dict[str, float | None]
    gpu_memory: dict[str, float | None]


class History:
    """The newest ``length`` points, oldest first."""

    def __init__(self, length: int = 600) -> None:
        self._points: deque[Point] = deque(maxlen=length)

    def __iter__(self) -> Iterator[Point]:
        return iter(tuple(self._points))

    def __len__(self) -> int:
        return len(self._points)

    def add(self, specs: Specs) -> Point:
        """Keep of ``specs`` what is drawn."""
        cards = specs.gpus.gpus
        point = Point(
            time=specs.time,
            cpu=specs.cpu_ratio,
            memory=1 - specs.memory_available / specs.memory_total,
            gpu={gpu.key: gpu.utilization for gpu in cards},
            gpu_memory={gpu.key: gpu.memory_ratio for gpu in cards},
        )
        self._points.append(point)
        return point

    def sparkline(self, value: Callable[[Point], float | None], width: int) -> str:
        """The newest ``width`` points as block characters; a gap where a value is not known."""
        newest = tuple(self._points)[-width:] if width > 0 else ()
        return "".join(_block(value(point)) for point in newest)


def _block(ratio: float | None) -> str:
    if ratio is None:
        return " "
    # Never the blank: a known 0 is a line at the bottom, and a gap is something else.
    return _BLOCKS[1 + round(min(max(ratio, 0.0), 1.0) * 7)]
