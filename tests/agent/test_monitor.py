"""Looks are shared: how often the box is looked at does not depend on how many ask."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from drivefs_agent.inventory import Sampler, Specs
from drivefs_agent.monitor import Monitor, NotLooking
from drivefs_agent.state import State
from tests.agent.boxes import make_specs


class Counted(Sampler):
    """Looks at nothing, and counts. ``error``: raised instead.  ``gate``: what a look waits for."""

    def __init__(self) -> None:
        self.count = 0
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def sample(self) -> Specs:
        self.count += 1
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return make_specs()

    def close(self) -> None:
        """Nothing was opened."""


def trial(tmp_path: Path, *, watched: float, quiet: float) -> tuple[Monitor, Counted]:
    sampler = Counted()
    return Monitor(State(tmp_path / "agent"), sampler=lambda: sampler, watched=watched, quiet=quiet), sampler


def during(monitor: Monitor, act: Coroutine[Any, Any, Any]) -> Any:
    """The outcome of ``act`` while the monitor runs."""

    async def main() -> Any:
        looking = asyncio.create_task(monitor.run())
        try:
            return await asyncio.wait_for(act, 30)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    return asyncio.run(main())


def test_a_hundred_questions_at_once_are_one_look(tmp_path: Path) -> None:
    """They all get the same, and those that come within its time get it without another."""
    monitor, sampler = trial(tmp_path, watched=5, quiet=60)

    async def ask() -> None:
        first = await asyncio.gather(*(monitor.fresh() for _ in range(100)))
        assert len({id(look) for look in first}) == 1
        assert (await monitor.fresh(), sampler.count) == (first[0], 1)

    during(monitor, ask())


def test_a_question_does_not_wait_for_the_quiet_time(tmp_path: Path) -> None:
    """Nobody watches, the next look is minutes off, and still who asks gets a fresh one at once."""
    monitor, sampler = trial(tmp_path, watched=0.05, quiet=600)

    async def ask() -> None:
        old = await monitor.fresh()
        await asyncio.sleep(0.2)
        begun = time.monotonic()
        assert await monitor.fresh() is not old
        assert (time.monotonic() - begun < 5, sampler.count) == (True, 2)

    during(monitor, ask())


def test_looks_come_often_only_while_somebody_watches(tmp_path: Path) -> None:
    """With a watcher every 0.05 s here, without one not at all within the quiet time."""
    monitor, sampler = trial(tmp_path, watched=0.05, quiet=600)

    async def watch() -> None:
        looks = monitor.watch()
        times = [(await anext_of(looks)).at for _ in range(5)]
        assert monitor.watchers == 1
        assert all(later - earlier >= 0.045 for earlier, later in itertools.pairwise(times))
        await looks.aclose()
        assert monitor.watchers == 0
        await asyncio.sleep(0.2)
        seen = sampler.count
        await asyncio.sleep(0.5)
        assert sampler.count == seen

    during(monitor, watch())


async def anext_of(looks: Any) -> Any:
    return await looks.__anext__()


def test_a_look_that_fails_is_logged_and_not_the_last(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The next one is served, and the failure is in the log with its traceback."""
    monitor, sampler = trial(tmp_path, watched=0.05, quiet=600)
    sampler.error = RuntimeError("a box stranger than we knew")

    async def ask() -> None:
        asked = asyncio.create_task(monitor.fresh())
        while sampler.count < 2:
            await asyncio.sleep(0.01)
        sampler.error = None
        await asked

    with caplog.at_level(logging.ERROR):
        during(monitor, ask())
    assert "RuntimeError: a box stranger than we knew" in caplog.text


def test_a_look_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks is answered with a sentence after a while, and health says that looks no longer come about."""
    monkeypatch.setattr("drivefs_agent.monitor._ANSWER", 0.2)
    monitor, sampler = trial(tmp_path, watched=0.05, quiet=0.1)

    async def ask() -> None:
        await monitor.fresh()
        assert monitor.well
        sampler.gate.clear()
        await asyncio.sleep(0.5)
        with pytest.raises(NotLooking, match="No look at the box came about in time"):
            await monitor.fresh()
        assert not monitor.well
        sampler.gate.set()

    during(monitor, ask())


def test_a_damaged_session_is_told_and_does_not_stop_the_looks(tmp_path: Path) -> None:
    """The page then says so in the place of the session."""
    monitor, _ = trial(tmp_path, watched=1, quiet=60)
    state = State(tmp_path / "agent")
    state.tell(hold_until=5.0)
    (state.folder / "session.json").write_text("{")

    async def ask() -> bytes:
        return (await monitor.fresh()).event

    name, data = during(monitor, ask()).decode().split("\n", 1)
    assert name == "event: look"
    assert "is damaged" in json.loads(data.removeprefix("data: "))["session"]["error"]
