"""After the changes feed was lost: every folder that was listed is listed again, so that nothing that happened is missed.

Folders stay listed meanwhile: what is known of them may be old, as it was before, and is not taken away from anybody. Where it
stands is kept in the database, so that an end in the middle loses nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from drivefs.base.errors import AccessDenied, BadRequest, DriveFSError
from drivefs.base.stats import Stats
from drivefs.jobs.listing import Listing
from drivefs.store.tree import Tree

__all__ = ["Relisting"]

log = logging.getLogger(__name__)

_NEXT: Final = "relist_from"  # the first inode that is not yet done; empty where nothing is to be done
_PAUSE: Final = 5.0  # seconds, after a failure that may pass
_FINAL: Final = (AccessDenied, BadRequest)  # as long as Drive says so, programs get the same answer


class Relisting:
    """merged: called after a folder was listed, for whoever watches the tree."""

    def __init__(self, listing: Listing, tree: Tree, merged: Callable[[], None], stats: Stats) -> None:
        self._listing = listing
        self._tree = tree
        self._merged = merged
        self._stats = stats
        self._asked = trio.Event()
        self._beginnings = 0

    def begin(self) -> None:
        """List everything again, from the first folder. Call it in the transaction that makes a new beginning of the feed."""
        self._tree.db.set_meta(_NEXT, "0")
        self._beginnings += 1
        self._asked.set()

    async def serve(self) -> None:
        """For ever: what an earlier session began, and then whatever is asked for."""
        while True:
            self._asked = trio.Event()
            await self._list_all()
            await self._asked.wait()

    async def _list_all(self) -> None:
        """Returns when all is done."""
        failures = 0
        while (folder := self._next()) is not None:
            beginning = self._beginnings
            try:
                await self._listing.verify(folder)
            except DriveFSError as error:
                failures += 1
                self._note(folder, error, first=failures == 1)
                if not isinstance(error, _FINAL):
                    await trio.sleep(_PAUSE)
                    continue
            else:
                failures = 0
                self._merged()
            if beginning == self._beginnings:
                self._tree.db.set_meta(_NEXT, str(folder + 1))

    def _note(self, folder: int, error: DriveFSError, *, first: bool) -> None:
        path = self._tree.path(self._tree.get(folder))
        if first:
            log.log(error.level, "the folder %r cannot be listed again: %s", path, error)
        self._stats.record_error(str(error), path)

    def _next(self) -> int | None:
        stand = self._tree.db.get_meta(_NEXT)
        if not stand:
            return None
        sql = "SELECT min(inode) FROM node WHERE listed AND remote_id IS NOT NULL AND inode >= ?"
        (folder,) = self._tree.db.execute(sql, (int(stand),)).fetchone()
        if folder is not None:
            return int(folder)
        self._tree.db.set_meta(_NEXT, "")
        log.info("all folders that were known are listed again")
        return None
