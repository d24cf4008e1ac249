"""Whose transfer is next: so many run at a time, and those that somebody waits for come first.

A transfer that has been silent for a while keeps nobody else from beginning, up to as many again, so that a few hung connections
never hold up the reading of other files.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

import trio

__all__ = ["Turn", "Turns"]

# Seconds. Above the time to the first byte of a large file on the real Drive.
_SILENT: Final = 3.0


class Turn(Protocol):
    """urgent: somebody waits for it; may change while it is in the queue.  moved_at: when a byte came last, in trio's time."""

    urgent: bool
    moved_at: float


class Turns:
    """``size`` transfers at a time, twice as many where some are silent."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._running: dict[Turn, None] = {}
        self._queue: dict[Turn, None] = {}
        self._news = trio.lowlevel.ParkingLot()

    @asynccontextmanager
    async def take(self, turn: Turn) -> AsyncIterator[None]:
        """The body runs when it is the turn of ``turn``."""
        self._queue[turn] = None
        try:
            while not self._may_begin(turn):
                with trio.move_on_after(_SILENT):
                    await self._news.park()
        finally:
            del self._queue[turn]
        turn.moved_at = trio.current_time()
        self._running[turn] = None
        self._news.unpark_all()
        try:
            yield
        finally:
            del self._running[turn]
            self._news.unpark_all()

    def reconsider(self) -> None:
        """A turn in the queue has become urgent."""
        self._news.unpark_all()

    def _may_begin(self, turn: Turn) -> bool:
        first = next((one for one in self._queue if one.urgent), None) or next(iter(self._queue))
        return turn is first and self._has_room()

    def _has_room(self) -> bool:
        now = trio.current_time()
        moving = sum(now - one.moved_at < _SILENT for one in self._running)
        return moving < self._size and len(self._running) < 2 * self._size
