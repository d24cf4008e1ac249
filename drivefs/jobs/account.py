"""Who we are and how much room the account has, kept fresh enough for ``df`` and kept over restarts for offline times."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Final

import trio

from drivefs.base.errors import DriveFSError
from drivefs.base.model import StorageQuota
from drivefs.base.stats import Stats
from drivefs.remote.drive import Drive
from drivefs.store.tree import Tree

__all__ = ["AccountInfo"]

_KEY: Final = "storage_quota"
_PERIOD: Final = 300.0
# Where there may be no room any more: that is to be known soon, and that there is some again, too.
_ANXIOUS_PERIOD: Final = 30.0
# How long the sum of what is pending may be of use: it is asked for before each write.
_SUM_LASTS: Final = 1.0


class AccountInfo:
    """quota is None until Drive has told it for the first time."""

    def __init__(self, drive: Drive, tree: Tree, stats: Stats) -> None:
        self._drive = drive
        self._tree = tree
        self._stats = stats
        stored = tree.db.get_meta(_KEY)
        self.quota = StorageQuota(**json.loads(stored)) if stored else None
        self._anxious = trio.Event()
        self._pending = 0
        self._summed_at = -_SUM_LASTS

    @property
    def email(self) -> str | None:
        return self._tree.db.get_meta("email")

    def room(self) -> int | None:
        """Bytes that the account still takes beside all that is unsent; None where it has no limit, or none is known.

        As of the last news: what others store meanwhile, and what is being written to files still open, is not counted.
        """
        if self.quota is None or self.quota.limit is None:
            return None
        return max(0, self.quota.limit - self.quota.usage - self._pending_bytes())

    def room_for(self, size: int) -> bool:
        """Whether ``size`` more bytes fit. Cheap enough to be asked before each write; where they do not, the quota is asked anew
        soon, so that room made on Drive is noticed."""
        room = self.room()
        if room is None or size <= room:
            return True
        self.refresh()
        return False

    async def renew(self) -> None:
        """Ask Drive for the quota now. Raises RemoteError."""
        self._keep(await self._drive.quota())

    def refresh(self) -> None:
        """Ask Drive for the quota sooner than it would be asked."""
        self._anxious.set()

    def _pending_bytes(self) -> int:
        """A revision that is replaced ceases to count, so what replaces it counts by how much it is larger."""
        now = time.monotonic()
        if now - self._summed_at >= _SUM_LASTS:
            sql = """SELECT coalesce(sum(max(0, size - CASE WHEN remote_exists THEN coalesce(remote_size, 0) ELSE 0 END)), 0)
                     FROM node WHERE pending AND content_dirty AND NOT local_trashed"""
            self._pending, self._summed_at = int(self._tree.db.execute(sql).fetchone()[0]), now
        return self._pending

    async def sign_in(self, patience: float) -> None:
        """Ask Drive who we are; raises what Drive says, and CacheUnusable where the cache is another account's."""
        account, quota = await self._drive.with_patience(patience).about()
        self._tree.bind_account(account.permission_id, account.email, account.root_id)
        self._keep(quota)

    async def serve(self) -> None:
        """Ask for the quota now and then, for ever."""
        while True:
            with trio.move_on_after(_PERIOD - _ANXIOUS_PERIOD):
                await self._anxious.wait()
            await trio.sleep(_ANXIOUS_PERIOD)
            self._anxious = trio.Event()
            try:
                await self.renew()
            except DriveFSError as error:
                self._stats.record_error(str(error), "storage quota")

    def _keep(self, quota: StorageQuota) -> None:
        self.quota = quota
        self._tree.db.set_meta(_KEY, json.dumps(asdict(quota)))
