"""What a reader will want next: how far ahead of it bytes are to be fetched, and in what portions. Pure.

A window grows while its reader reads straight on, from 2 MiB by a factor of four with each further read, because a request costs
as much time as dozens of MiB on the real Drive while a random reader must not pay for bytes it never looks at.
"""

from __future__ import annotations

from typing import Final

from drivefs.base.ranges import Range

__all__ = ["LARGEST_UNIT", "WHOLE", "Window"]

_MIB: Final = 1 << 20
_SMALLEST_UNIT: Final = 1 * _MIB
LARGEST_UNIT: Final = 16 * _MIB
_LARGEST_WINDOW: Final = 128 * _MIB
# Files up to this are fetched whole in one request, whatever part of them is read.
WHOLE: Final = 4 * _MIB
# A read counts as going straight on when it begins this near the end of the last one: the kernel's read-ahead reorders a little.
_STRAIGHT: Final = 512 << 10
_STRAIGHT_READS: Final = 3


class Window:
    """How far ahead one handle is to be served. Pure: ``advance`` is told of each read and returns what to fetch."""

    __slots__ = ("_expected", "_straight", "_until")

    def __init__(self) -> None:
        self._expected = 0
        self._straight = 0
        self._until = 0

    @property
    def size(self) -> int:
        """Bytes to have ready beyond the reader."""
        steps = min(self._straight - _STRAIGHT_READS, 10)
        return 0 if steps < 0 else min(2 * _MIB << 2 * steps, _LARGEST_WINDOW)

    @property
    def unit(self) -> int:
        """Bytes of one request: an eighth of the window, within limits."""
        return max(_SMALLEST_UNIT, min(self.size // 8, LARGEST_UNIT))

    def advance(self, start: int, end: int, size: int) -> Range:
        """A read of [start, end) of a file of ``size`` bytes: the range that ought to be present or under way after it."""
        if size <= WHOLE:
            return Range(0, size)
        if start == 0 and not self._until:
            self._straight = _STRAIGHT_READS  # whoever begins at the beginning mostly goes on
        else:
            self._straight = self._straight + 1 if abs(start - self._expected) <= _STRAIGHT else 0
        self._expected = end
        if not self.size:
            self._until = end
            return Range(start, _align(end, _SMALLEST_UNIT)).clip(size)
        # Whole units only, and a new stretch only when half of the window is used up: no flood of small requests.
        if self._until - end < self.size // 2:
            self._until = _align(end + self.size, self.unit)
        return Range(start, max(self._until, end)).clip(size)


def _align(offset: int, unit: int) -> int:
    return -(-offset // unit) * unit
