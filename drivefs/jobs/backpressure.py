"""Writers wait while the cache is full: for what can be evicted, then for uploads, and not for ever.

A writer is told ENOSPC by its write, never by its close: at once where nothing that is being sent could make room, else after
``patience`` seconds in which no room was made.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from drivefs.base.errors import LocalDiskFull
from drivefs.jobs.patience import waiting
from drivefs.store.cache import Cache
from drivefs.store.content import Content

__all__ = ["Backpressure"]


class Backpressure:
    """hurry: asked to send now what would make room; returns whether there is anything that may.  patience: in seconds."""

    def __init__(self, cache: Cache, hurry: Callable[[], bool], patience: float) -> None:
        self._cache = cache
        self._hurry = hurry
        self._patience = patience
        self._news = trio.Event()
        cache.on_room = self._wake

    async def admit(self, content: Content, size: int) -> None:
        """Return when ``size`` more bytes may be written to ``content``; LocalDiskFull where they may not."""
        if not self._cache.room.take(size):
            await self._wait(content, size)

    async def _wait(self, content: Content, size: int) -> None:
        while lacking := self._lacking(size):
            if not self._hurry():
                raise self._full(content, lacking)
            news, before = self._news, self._cache.room.unsent
            with waiting("room in the cache", bounded=False), trio.move_on_after(self._patience) as scope:
                await news.wait()
            if scope.cancelled_caught and self._cache.room.unsent >= before:
                raise self._full(content, lacking)

    def _lacking(self, size: int) -> int:
        """After everything that can be fetched again, and what was deleted, has made room."""
        cache = self._cache
        if lacking := cache.room.lacking(size, cache.clean_bytes):
            cache.evict(max(0, cache.clean_bytes - lacking))
            lacking = cache.room.lacking(size, cache.clean_bytes)
        if lacking:
            cache.make_room()
            lacking = cache.room.lacking(size, cache.clean_bytes)
        return lacking

    def _full(self, content: Content, lacking: int) -> LocalDiskFull:
        room = self._cache.room
        if room.bound is not None and self._cache.clean_bytes + room.unsent + lacking > room.bound:
            return LocalDiskFull(
                f"The cache is full: {room.unsent >> 20} MiB are not on Drive yet, {room.taken_by(content.id) >> 20} MiB of them "
                f"in this file, and --cache-size allows {room.bound >> 20} MiB. Wait until they are sent, or allow more."
            )
        return LocalDiskFull(
            f"The disk of the cache is full, but for the {room.floor >> 20} MiB that --min-free leaves to others. "
            "Free some space there."
        )

    def _wake(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()
