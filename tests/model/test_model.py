"""Random schedules against the reference model.

DRIVEFS_MODEL_SCHEDULES: how many (default 2000), of three kinds: most with kills, a fifth with power cuts too, and a tenth over
the real ``remote`` and the emulator. A failing schedule is shrunk, and printed with the decorator that replays it. ``-n 2 --dist
load`` shares the parts among two processes.
"""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import tests.model.handles
import tests.model.operations
import tests.model.strangers  # noqa: F401 - they fill the table
from tests.model.common import OPERATIONS
from tests.model.emulated import Emulated
from tests.model.schedule import Schedule, Step
from tests.model.server import Fake

PARTS = 8
SCHEDULES = int(os.environ.get("DRIVEFS_MODEL_SCHEDULES", "2000"))
# Where there is memory to write to: thousands of small databases are made.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

_number = st.integers(0, 63)
_kill = st.one_of(st.none(), st.none(), st.none(), st.integers(1, 25))
_operation = st.sampled_from(sorted(OPERATIONS))
_step = st.builds(Step, _operation, _number, _number, _number, _kill)
_step_with_power = st.builds(Step, _operation, _number, _number, _number, _kill, st.booleans())
_faults = st.sampled_from([0.0, 0.15, 0.4])


def run(steps: list[Step], seed: int = 0, faults: float = 0.15, *, small_cache: bool = False, emulated: bool = False) -> None:
    """One schedule, on virtual time. emulated: over the real ``remote`` and the emulator, rather than the Drive in memory."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(dir=SCRATCH, prefix="drivefs-model-") as directory:
        server = Emulated(rng, faults, Path(directory, "drive")) if emulated else Fake(rng, faults)
        schedule = Schedule(Path(directory), steps, OPERATIONS, server, rng, small_cache=small_cache)
        trio.run(schedule.run, clock=MockClock(autojump_threshold=0))


def examples(number: int) -> settings:
    return settings(max_examples=number, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.timeout(max(120, SCHEDULES))
@examples(SCHEDULES * 7 // 10 // PARTS)
@given(
    steps=st.lists(_step, min_size=5, max_size=40),
    seed=st.integers(0, 2**32),
    faults=_faults,
    small_cache=st.booleans(),
)
def test_no_schedule_of_operations_faults_and_kills_breaks_a_promise(
    part: int, steps: list[Step], seed: int, faults: float, small_cache: bool
) -> None:
    """What was acknowledged is there, locally at once and on Drive in the end, once, and as it was written."""
    run(steps, seed, faults, small_cache=small_cache)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.timeout(max(120, SCHEDULES))
@examples(SCHEDULES // 5 // PARTS)
@given(
    steps=st.lists(_step_with_power, min_size=5, max_size=40),
    seed=st.integers(0, 2**32),
    faults=_faults,
    small_cache=st.booleans(),
)
def test_a_power_cut_takes_nothing_that_was_synced_and_tears_nothing(
    part: int, steps: list[Step], seed: int, faults: float, small_cache: bool
) -> None:
    """What was fsynced is there; what was acknowledged is as it was at some acknowledged moment; no name comes from nowhere."""
    run(steps, seed, faults, small_cache=small_cache)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.timeout(max(120, SCHEDULES))
@examples(SCHEDULES // 10 // PARTS)
@given(
    steps=st.lists(_step, min_size=5, max_size=40),
    seed=st.integers(0, 2**32),
    faults=_faults,
    small_cache=st.booleans(),
)
def test_what_is_promised_holds_through_the_real_protocol(
    part: int, steps: list[Step], seed: int, faults: float, small_cache: bool
) -> None:
    """Over broken connections, refusals and indexes that lag behind, Drive has in the end what was acknowledged, once."""
    run(steps, seed, faults, small_cache=small_cache, emulated=True)
