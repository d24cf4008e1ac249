"""RangeSet against a set of integers."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from drivefs.base.ranges import Range, RangeSet

_edge = st.integers(0, 40)
_pairs = st.lists(st.tuples(_edge, _edge), max_size=12)


def _bytes(pairs: Iterable[tuple[int, int]]) -> set[int]:
    return {n for start, end in pairs for n in range(start, end)}


@given(_pairs)
def test_adding_ranges_gives_their_union(pairs: list[tuple[int, int]]) -> None:
    """Whatever overlaps or touches, the set holds exactly the bytes added, in its normal form."""
    ranges = RangeSet(pairs)
    ranges.check_invariants()
    assert _bytes(ranges) == _bytes(pairs)
    assert ranges.size == len(_bytes(pairs))
    assert bool(ranges) == bool(_bytes(pairs))


@given(_pairs, _edge, _edge)
def test_add_tells_what_became_of_the_neighbours(pairs: list[tuple[int, int]], start: int, end: int) -> None:
    """Rows kept by their start are brought up to date by deleting what was replaced and inserting the merged range."""
    ranges = RangeSet(pairs)
    rows = {r.start: r.end for r in ranges}
    result = ranges.add(start, end)
    if result is None:
        assert _bytes([(start, end)]) <= _bytes(pairs)
    else:
        merged, replaced = result
        for old in replaced:
            assert rows.pop(old.start) == old.end
        rows[merged.start] = merged.end
    assert rows == {r.start: r.end for r in ranges}


@given(_pairs, _edge, _edge)
def test_missing_is_the_complement(pairs: list[tuple[int, int]], start: int, end: int) -> None:
    """missing gives the bytes of a range that the set lacks, in order; covers tells whether there are none."""
    ranges = RangeSet(pairs)
    gaps = ranges.missing(start, end)
    assert _bytes(gaps) == set(range(start, end)) - _bytes(pairs)
    assert gaps == sorted(gaps)
    assert all(gap.size > 0 for gap in gaps)
    assert ranges.covers(start, end) == (not gaps)


@given(_pairs, _edge)
def test_truncate_forgets_what_lies_beyond(pairs: list[tuple[int, int]], size: int) -> None:
    """Nothing at or beyond the size is left, and everything below is."""
    ranges = RangeSet(pairs)
    ranges.truncate(size)
    ranges.check_invariants()
    assert _bytes(ranges) == {n for n in _bytes(pairs) if n < size}


@given(_edge, _edge, _edge)
def test_clip_keeps_what_lies_below(start: int, end: int, limit: int) -> None:
    """A clipped range holds the bytes below the limit."""
    assert _bytes([Range(start, end).clip(limit)]) == {n for n in range(start, end) if n < limit}
