"""A world on a fake Drive. Tests take ``autojump_clock`` too: pytest-trio looks for a clock among a test's own arguments."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.support.fake_drive import FakeDrive
from tests.support.world import World, open_world, run_inline


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", run_inline)


@pytest.fixture
def fake() -> FakeDrive:
    return FakeDrive()


@pytest.fixture
async def world(tmp_path: Path, fake: FakeDrive) -> AsyncIterator[World]:
    async with open_world(tmp_path / "cache", fake) as opened:
        yield opened
