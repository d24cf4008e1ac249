"""Random schedules against the reference model. DRIVEFS_MODEL_SCHEDULES: how many (default 300)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.model.operations import OPERATIONS
from tests.model.schedule import Schedule, Step

SCHEDULES = int(os.environ.get("DRIVEFS_MODEL_SCHEDULES", "300"))
# Where there is memory to write to: thousands of small databases are made.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

_number = st.integers(0, 63)
_kill = st.one_of(st.none(), st.none(), st.none(), st.integers(1, 25))
_step = st.builds(Step, st.sampled_from(sorted(OPERATIONS)), _number, _number, _number, _kill)


def run(steps: list[Step], seed: int = 0, faults: float = 0.15) -> None:
    """One schedule, on virtual time."""
    with tempfile.TemporaryDirectory(dir=SCRATCH, prefix="drivefs-model-") as directory:
        schedule = Schedule(Path(directory), steps, OPERATIONS, seed, faults)
        trio.run(schedule.run, clock=MockClock(autojump_threshold=0))


@pytest.mark.slow
@pytest.mark.timeout(max(120, SCHEDULES))
@settings(max_examples=SCHEDULES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(steps=st.lists(_step, min_size=5, max_size=40), seed=st.integers(0, 2**32), faults=st.sampled_from([0.0, 0.15, 0.4]))
def test_no_schedule_of_operations_faults_and_kills_breaks_a_promise(steps: list[Step], seed: int, faults: float) -> None:
    """What was acknowledged is there, locally at once and on Drive in the end, once, and as it was written."""
    run(steps, seed, faults)
