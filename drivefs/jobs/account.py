"""Who we are and how much room the account has, kept fresh enough for ``df`` and kept over restarts for offline times."""

from __future__ import annotations

import json
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


class AccountInfo:
    """quota is None until Drive has told it for the first time."""

    def __init__(self, drive: Drive, tree: Tree, stats: Stats) -> None:
        self._drive = drive
        self._tree = tree
        self._stats = stats
        stored = tree.db.get_meta(_KEY)
        self.quota = StorageQuota(**json.loads(stored)) if stored else None

    @property
    def email(self) -> str | None:
        return self._tree.db.get_meta("email")

    async def sign_in(self, patience: float) -> None:
        """Ask Drive who we are; raises what Drive says, and CacheUnusable where the cache is another account's."""
        account, quota = await self._drive.with_patience(patience).about()
        self._tree.bind_account(account.permission_id, account.email, account.root_id)
        self._keep(quota)

    async def serve(self) -> None:
        while True:
            await trio.sleep(_PERIOD)
            try:
                self._keep(await self._drive.quota())
            except DriveFSError as error:
                self._stats.record_error(str(error), "storage quota")

    def _keep(self, quota: StorageQuota) -> None:
        self.quota = quota
        self._tree.db.set_meta(_KEY, json.dumps(asdict(quota)))
