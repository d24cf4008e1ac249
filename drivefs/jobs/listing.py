"""A folder's children, fetched when somebody first looks into it, once for all who look at the same time.

Once listed, a folder stays complete: the changes feed was being read before the first listing began, and keeps it so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from drivefs.base.errors import BadRequest, RemoteNotFound
from drivefs.base.model import Invalidation, RemoteItem
from drivefs.jobs.flights import Flights
from drivefs.remote.drive import Drive
from drivefs.store.merging import Merger
from drivefs.store.tree import Tree

__all__ = ["Listing"]

log = logging.getLogger(__name__)

# How many items are merged between two chances for other tasks to run: about 10 ms of work.
_SLICE: Final = 200


class Listing:
    def __init__(self, drive: Drive, tree: Tree, merger: Merger, notify: Callable[[Sequence[Invalidation]], None]) -> None:
        self._drive = drive
        self._tree = tree
        self._merger = merger
        self._notify = notify
        self._flights: Flights[int] = Flights()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._flights.serve(task_status)

    async def ensure(self, folder: int) -> None:
        """Return when all children of ``folder`` are in the tree.

        Raises RemoteError where Drive could not tell, and what ``patience.waiting`` raises.
        """
        if not self._tree.get(folder).listed:
            await self._flights.join(folder, "a folder's listing", lambda moved: self._list(folder, moved))

    async def verify(self, folder: int) -> None:
        """List a folder that is listed already: what the changes feed did not tell is merged. Raises RemoteError."""
        remote_id = self._tree.get(folder).remote_id
        try:
            await self._list(folder, lambda: None)
        except RemoteNotFound:
            if remote_id is not None:
                await self._ask(remote_id)

    async def items(self, remote_id: str) -> list[RemoteItem]:
        """What Drive has in a folder at this moment, by its id; the tree is neither asked nor told.

        Nothing where there is no such folder. Raises RemoteError.
        """
        try:
            return await self._fetch(remote_id, lambda: None)
        except RemoteNotFound:
            return []

    async def _list(self, folder: int, moved: Callable[[], None]) -> None:
        remote_id = self._tree.get(folder).remote_id
        if remote_id is None:  # it lost its item on Drive while we waited; what it holds is all there is
            return
        self._merger.listing.add(folder)
        try:
            items = await self._fetch(remote_id, moved)
            # Of several items with one name the oldest keeps it: the same on every machine, whatever order pages come in.
            items.sort(key=lambda item: (item.created_ms, item.id))
            for start in range(0, len(items), _SLICE):
                self._apply(items[start : start + _SLICE])
                await trio.lowlevel.checkpoint()
            unlisted = self._merger.finish_listing(folder, (item.id for item in items))
        finally:
            self._merger.listing.discard(folder)
        for missing in unlisted:
            await self._ask(missing)
            moved()

    async def _fetch(self, remote_id: str, moved: Callable[[], None]) -> list[RemoteItem]:
        items: list[RemoteItem] = []
        token: str | None = None
        restarts = 0
        while True:
            try:
                page = await self._drive.list_children(remote_id, token)
            except BadRequest:
                if token is None or restarts == 3:
                    raise
                log.info("a page token was refused; listing the folder anew")
                items, token, restarts = [], None, restarts + 1
                continue
            moved()
            items += page.items
            token = page.next_page_token
            if token is None:
                return items

    def _apply(self, items: Sequence[RemoteItem]) -> None:
        stale: list[Invalidation] = []
        with self._tree.db.transaction():
            for item in items:
                stale += self._merger.apply(item, listed=True)
        self._notify(stale)

    async def _ask(self, remote_id: str) -> None:
        """Listings come from an index that lags: only the item itself can say that it is gone or has moved."""
        try:
            self._notify(self._merger.apply(await self._drive.get(remote_id)))
        except RemoteNotFound:
            self._notify(self._merger.apply_gone(remote_id))
