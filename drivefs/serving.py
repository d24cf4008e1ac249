"""The door that is none: a daemon without a mount, which programs reach by its control socket alone (``drivefs serve``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from drivefs.base.model import Invalidation
from drivefs.base.stats import Stats
from drivefs.vfs.filesystem import Filesystem

__all__ = ["Serving"]


class Serving:
    """As ``Mounting``, where no kernel is to be answered."""

    def __init__(self) -> None:
        self._ended = trio.Event()

    def notify(self, stale: Sequence[Invalidation]) -> None:
        """There is no kernel that could know anything stale."""

    @asynccontextmanager
    async def open(self, _fs: Filesystem, _stats: Stats) -> AsyncIterator[trio.Event]:
        yield self._ended

    async def close(self, *, lazily: bool) -> None:  # nothing can be in use
        self._ended.set()
