"""The cost-unit bucket, on a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefs.remote.quota import COST_DOWNLOAD, COST_EDIT, COST_GET, COST_LIST, DEFAULT_BUDGET, Lane, Pacer


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def drain(pacer: Pacer, lane: Lane, units: int) -> int:
    """Take until refused; how many calls went through."""
    taken = 0
    while pacer.take(lane, units) == 0.0:
        taken += 1
    return taken


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(Lane), st.sampled_from([COST_GET, COST_LIST, COST_DOWNLOAD, COST_EDIT]), st.floats(0, 20)),
        max_size=30,
    ),
    st.floats(2_000, 400_000),
)
def test_no_minute_spends_more_than_the_budget(calls: list[tuple[Lane, int, float]], budget: float) -> None:
    """However calls are spread, and however greedy they are, no window of 60 seconds exceeds the budget."""
    clock = Clock()
    pacer = Pacer(clock, budget)
    spent: list[tuple[float, int]] = []
    for lane, units, pause in calls:
        clock.now += pause
        spent.append((clock.now, units * drain(pacer, lane, units)))
    for start, _ in spent:
        assert sum(units for when, units in spent if start <= when < start + 60.0) <= budget + 1e-6


def test_bulk_leaves_the_rest_to_metadata() -> None:
    """When downloads have taken all they may, a listing still goes through at once."""
    clock = Clock()
    pacer = Pacer(clock)
    assert drain(pacer, Lane.BULK, COST_DOWNLOAD) > 100
    assert pacer.take(Lane.INTERACTIVE, COST_LIST) == 0.0
    assert pacer.take(Lane.BULK, COST_DOWNLOAD) > 0.0


def test_the_wait_it_states_is_enough_and_not_much_more() -> None:
    """After waiting as told, the call goes through; a little earlier it would not have."""
    clock = Clock()
    pacer = Pacer(clock)
    drain(pacer, Lane.INTERACTIVE, COST_LIST)
    delay = pacer.take(Lane.INTERACTIVE, COST_LIST)
    clock.now += delay * 0.9
    assert pacer.take(Lane.INTERACTIVE, COST_LIST) > 0.0
    clock.now += delay * 0.11
    assert pacer.take(Lane.INTERACTIVE, COST_LIST) == 0.0


def test_the_steady_pace_uses_most_of_the_budget() -> None:
    """Over ten busy minutes at least nine tenths of the allowance are used: safety is not bought with idleness."""
    clock = Clock()
    pacer = Pacer(clock)
    drain(pacer, Lane.INTERACTIVE, COST_EDIT)
    calls = 0
    for _ in range(6000):
        clock.now += 0.1
        calls += drain(pacer, Lane.INTERACTIVE, COST_EDIT)
    assert calls * COST_EDIT >= 0.89 * DEFAULT_BUDGET * 10


def test_throttling_halves_the_speed_once_for_a_volley() -> None:
    """Ten calls throttled together count as one sign; a second later it counts again; the floor is a sixty-fourth."""
    clock = Clock()
    pacer = Pacer(clock)
    for _ in range(10):
        pacer.slow_down(Lane.BULK)
    assert pacer.speed(Lane.BULK) == 0.5
    clock.now += 1.0
    pacer.slow_down(Lane.BULK)
    assert 0.25 <= pacer.speed(Lane.BULK) < 0.27
    for _ in range(100):
        clock.now += 1.0
        pacer.slow_down(Lane.BULK)
    assert 1 / 64 <= pacer.speed(Lane.BULK) <= 2 / 64


def test_speed_comes_back_steadily() -> None:
    """From half speed it takes half a minute of peace to full speed, not a moment."""
    clock = Clock()
    pacer = Pacer(clock)
    pacer.slow_down(Lane.BULK)
    clock.now += 16.0
    assert pacer.speed(Lane.BULK) == 0.75
    clock.now += 17.0
    assert pacer.speed(Lane.BULK) == 1.0


def test_throttling_ends_the_burst_of_bulk() -> None:
    """What was saved up for bulk is gone after a rate limit: calls are spread out from then on."""
    clock = Clock()
    pacer = Pacer(clock)
    pacer.slow_down(Lane.BULK)
    assert pacer.take(Lane.BULK, COST_DOWNLOAD) > 0.0
    assert pacer.take(Lane.INTERACTIVE, COST_GET) == 0.0


def test_what_somebody_waits_for_is_slowed_down_last() -> None:
    """Throttled, INTERACTIVE takes speed from the lanes behind it; only when that did not help it slows down too."""
    clock = Clock()
    pacer = Pacer(clock)
    pacer.slow_down(Lane.INTERACTIVE)
    assert [pacer.speed(lane) for lane in (Lane.INTERACTIVE, Lane.UPLOAD, Lane.BULK)] == [1.0, 0.5, 0.5]
    pacer.slow_down(Lane.INTERACTIVE)
    assert pacer.speed(Lane.INTERACTIVE) == 1.0
    clock.now += 1.0
    pacer.slow_down(Lane.INTERACTIVE)
    assert pacer.speed(Lane.INTERACTIVE) == 1.0
    clock.now += 1.0
    pacer.slow_down(Lane.INTERACTIVE)
    assert pacer.speed(Lane.INTERACTIVE) == 0.5


def test_throttled_uploads_do_not_slow_down_anything_else() -> None:
    """A lane's trouble is its own."""
    clock = Clock()
    pacer = Pacer(clock)
    for _ in range(20):
        pacer.slow_down(Lane.UPLOAD, retry_after=5.0)
        clock.now += 1.0
    assert pacer.take(Lane.UPLOAD, COST_EDIT) >= 3.9
    assert (pacer.speed(Lane.INTERACTIVE), pacer.speed(Lane.BULK)) == (1.0, 1.0)
    assert pacer.take(Lane.INTERACTIVE, COST_LIST) == pacer.take(Lane.BULK, COST_DOWNLOAD) == 0.0


def test_a_budget_below_one_call_is_refused() -> None:
    """A budget with which nothing could ever be called is a mistake, not a very slow mount."""
    with pytest.raises(ValueError, match="too small"):
        Pacer(Clock(), 100)
