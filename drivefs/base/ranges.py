"""Half-open byte ranges and sets of them: pure arithmetic, no file, no clock.

Invariant of a RangeSet: its ranges are non-empty, sorted, and neither overlap nor touch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

__all__ = ["Range", "RangeSet"]


class Range(NamedTuple):
    """Bytes start <= n < end."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start

    def clip(self, limit: int) -> Range:
        """The part below ``limit``; empty (start == end) where there is none."""
        return Range(min(self.start, limit), min(self.end, limit))


class RangeSet:
    """A set of byte offsets kept as sorted ranges; every operation is O(log n + ranges touched)."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def _touched(self, start: int, end: int) -> tuple[int, int]:
        """Index span [low, high) of the ranges that overlap or touch [start, end)."""
        return bisect_left(self._ends, start), bisect_right(self._starts, end)

    def add(self, start: int, end: int) -> tuple[Range, list[Range]] | None:
        """Add [start, end). Returns (the merged range, the ranges it replaced), or None where nothing changed."""
        if start >= end:
            return None
        low, high = self._touched(start, end)
        replaced = [Range(s, e) for s, e in zip(self._starts[low:high], self._ends[low:high], strict=True)]
        if len(replaced) == 1 and replaced[0].start <= start and end <= replaced[0].end:
            return None
        if replaced:
            start, end = min(start, replaced[0].start), max(end, replaced[-1].end)
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]
        return Range(start, end), replaced

    def truncate(self, size: int) -> None:
        """Forget everything at and beyond ``size``."""
        keep = bisect_left(self._starts, size)
        del self._starts[keep:], self._ends[keep:]
        if self._ends and self._ends[-1] > size:
            self._ends[-1] = size

    def remove(self, start: int, end: int) -> None:
        """Forget [start, end)."""
        if start >= end:
            return
        low, high = bisect_right(self._ends, start), bisect_left(self._starts, end)
        pieces = [(s, e) for s, e in zip(self._starts[low:high], self._ends[low:high], strict=True)]
        kept = [(s, min(e, start)) for s, e in pieces if s < start] + [(max(s, end), e) for s, e in pieces if e > end]
        self._starts[low:high] = [s for s, _ in kept]
        self._ends[low:high] = [e for _, e in kept]

    def intersection(self, other: RangeSet) -> RangeSet:
        """The offsets that are in both."""
        common = RangeSet()
        for start, end in other:
            for index in range(bisect_right(self._ends, start), bisect_left(self._starts, end)):
                common.add(max(start, self._starts[index]), min(end, self._ends[index]))
        return common

    def missing(self, start: int, end: int) -> list[Range]:
        """The parts of [start, end) that are not in the set, in order."""
        gaps: list[Range] = []
        index = bisect_right(self._ends, start)
        while start < end:
            if index >= len(self._starts) or self._starts[index] >= end:
                gaps.append(Range(start, end))
                break
            if self._starts[index] > start:
                gaps.append(Range(start, self._starts[index]))
            start = self._ends[index]
            index += 1
        return gaps

    def covers(self, start: int, end: int) -> bool:
        if start >= end:
            return True
        index = bisect_right(self._starts, start) - 1
        return index >= 0 and self._ends[index] >= end

    @property
    def size(self) -> int:
        """How many bytes the set holds."""
        return sum(self._ends) - sum(self._starts)

    def __iter__(self) -> Iterator[Range]:
        return (Range(s, e) for s, e in zip(self._starts, self._ends, strict=True))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self._starts == other._starts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"RangeSet({[tuple(r) for r in self]})"

    def check_invariants(self) -> None:
        """Raise AssertionError where the invariant in the module's text is broken. For tests."""
        edges = [edge for r in self for edge in r]
        assert edges == sorted(set(edges)), self
