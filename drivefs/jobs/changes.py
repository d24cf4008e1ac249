"""Remote changes: the feed is polled, each page is merged in one transaction with the token that follows it.

A token that Drive no longer takes (it is too old, or the account was restored) ends the feed: it is begun anew at its present
end, and what happened in between is found by listing every known folder again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from drivefs.base.crashpoints import crash_point
from drivefs.base.errors import BadRequest, DriveFSError, RemoteNotFound
from drivefs.base.model import ChangePage, Invalidation
from drivefs.base.stats import Stats
from drivefs.remote.drive import Drive
from drivefs.store.merging import Merger
from drivefs.store.tree import Tree

__all__ = ["Changes"]

log = logging.getLogger(__name__)

_TOKEN: Final = "change_token"
_LONGEST_PAUSE: Final = 60.0


class Changes:
    """Polls every ``interval`` seconds; less often, down to once a minute, while Drive cannot be reached.

    notify: told what the kernel must forget.  merged: called after changes were merged, for whoever watches the tree.  lost:
    called within the transaction that begins the feed anew after a gap.
    """

    def __init__(
        self,
        drive: Drive,
        tree: Tree,
        merger: Merger,
        notify: Callable[[Sequence[Invalidation]], None],
        merged: Callable[[], None],
        lost: Callable[[], None],
        stats: Stats,
        interval: float,
    ) -> None:
        self._drive = drive
        self._tree = tree
        self._merger = merger
        self._notify = notify
        self._merged = merged
        self._lost = lost
        self._stats = stats
        self._interval = interval
        self._failures = 0

    async def begin(self) -> None:
        """Before anything is listed for the first time: remember from where the feed is to be read."""
        if self._tree.db.get_meta(_TOKEN) is None:
            self._tree.db.set_meta(_TOKEN, await self._drive.start_page_token())

    async def serve(self) -> None:
        while True:
            await self._poll_once()
            await trio.sleep(min(self._interval * 2 ** min(self._failures, 16), max(self._interval, _LONGEST_PAUSE)))

    async def _poll_once(self) -> None:
        try:
            await self.poll()
        except DriveFSError as error:  # a full disk too: the page is merged when there is room again
            self._failures += 1
            if self._failures == 1:
                log.log(error.level, "remote changes cannot be read: %s", error)
            self._stats.record_error(str(error), "changes feed")
        else:
            if self._failures:
                log.info("remote changes can be read again")
            self._failures = 0

    async def poll(self) -> None:
        """Read the feed to its end."""
        await self.begin()
        token = self._tree.db.get_meta(_TOKEN) or ""
        while True:
            try:
                page = await self._drive.changes(token)
            except (BadRequest, RemoteNotFound) as error:
                log.info("the changes feed is begun anew, for Drive does not know our place in it: %s", error)
                await self._begin_anew()
                return
            self._notify(self._apply(page))
            if page.changes:
                self._merged()
            if page.finished:
                return
            token = page.next_token

    async def _begin_anew(self) -> None:
        """First the feed's present end, then the listings: what happens between them is in the feed."""
        token = await self._drive.start_page_token()
        with self._tree.db.transaction():
            self._tree.db.set_meta(_TOKEN, token)
            self._lost()

    def _apply(self, page: ChangePage) -> list[Invalidation]:
        stale: list[Invalidation] = []
        with self._tree.db.transaction():
            for change in page.changes:
                if change.item is None:
                    stale += self._merger.apply_gone(change.file_id)
                else:
                    stale += self._merger.apply(change.item)
            crash_point("page-applied")
            stale += self._merger.settle_names()
            self._tree.db.set_meta(_TOKEN, page.next_token)
        return stale
