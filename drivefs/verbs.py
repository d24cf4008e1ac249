"""What a command may ask of a running daemon, but for whole files (``storage``); the wire contract is that of ``drivefs.client``.

The verb that ends the mount is the daemon's own, because it belongs to the mount's life.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Final

import trio

from drivefs.base.config import Config
from drivefs.base.errors import UsageError
from drivefs.base.stats import Stats
from drivefs.control import Progress
from drivefs.jobs.account import AccountInfo
from drivefs.jobs.upload import Uploader
from drivefs.look import look
from drivefs.mountpoint import mount_at
from drivefs.signin import Gate
from drivefs.store.cache import Cache
from drivefs.store.outbox import Unsent

__all__ = ["Verbs", "stated"]

_LISTED: Final = 100  # pending entries in one answer
_NEWS_PERIOD: Final = 0.5


def stated(unsent: Unsent) -> dict[str, Any]:
    """One entry of what is not on Drive, as clients and the manifest get it."""
    return {
        "path": unsent.path,
        "size": unsent.size,
        "age_s": unsent.age_s,
        "reason": unsent.reason,
        "deletion": unsent.deletion,
    }


class Verbs:
    """gate: of the sign-in.  supervisor: the process that starts this daemon again after a crash, if any does."""

    def __init__(
        self,
        config: Config,
        cache: Cache,
        account: AccountInfo,
        uploader: Uploader,
        gate: Gate,
        stats: Stats,
        supervisor: int | None,
    ) -> None:
        self._config = config
        self._cache = cache
        self._account = account
        self._uploader = uploader
        self._gate = gate
        self._supervisor = supervisor
        self._stats = stats
        self._since = time.time()

    async def status(self, _arguments: Mapping[str, Any], _progress: Progress) -> dict[str, Any]:
        unsent = self._uploader.unsent()
        quota = self._account.quota
        ages = [entry.age_s for entry in unsent]
        return {
            "mountpoint": os.fspath(self._config.mountpoint),
            "serves": self._config.serves,
            "pid": os.getpid(),
            "api_root": self._config.api_root,
            "embedded": self._config.embedded,
            "account": self._account.email,
            "cache_dir": os.fspath(self._config.cache_dir),
            "read_only": self._config.read_only,
            "fsync": "remote" if self._config.fsync_remote else "local",
            "supervised": self._is_supervised(),
            "offline": self._gate.reason,
            "since": self._since,
            "pending_files": len(unsent),
            "pending_bytes": sum(entry.size for entry in unsent),
            "oldest_pending_age_s": max(ages) if ages else None,
            "pending": [stated(entry) for entry in unsent[:_LISTED]],
            "estimated_seconds": self._uploader.estimated_seconds() if unsent else 0.0,
            "cache_bytes": self._cache.clean_bytes,
            "dirty_bytes": self._cache.room.unsent,
            "quota_total_bytes": None if quota is None else quota.limit,
            "quota_used_bytes": None if quota is None else quota.usage,
            "min_free": self._cache.room.floor,
            "cache_limit": self._cache.room.limit,
            **self._stats.snapshot(),
        }

    async def flush(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        inodes = [await self._inode_of(str(path)) for path in arguments.get("paths", [])]
        unsent = await self.drain(float(arguments["timeout"]), inodes, progress)
        return {"unsent": [stated(entry) for entry in unsent]}

    async def drain(self, timeout: float, inodes: list[int], progress: Progress, *, until_empty: bool = False) -> list[Unsent]:
        """Drain (``Uploader.drain``), and tell the client now and then how much is left."""

        async def tell() -> None:
            while True:
                began = trio.current_time()
                left = self._uploader.unsent(inodes)
                await progress({"pending_files": len(left), "pending_bytes": sum(entry.size for entry in left)})
                # A long list takes long to make: news must not slow down what they are about.
                await trio.sleep(max(_NEWS_PERIOD, 10 * (trio.current_time() - began)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            unsent = await self._uploader.drain(timeout, inodes, until_empty=until_empty)
            nursery.cancel_scope.cancel()
        return unsent

    def _is_supervised(self) -> bool:
        """By our own supervisor while it lives, or by systemd, which wants to be notified."""
        return os.getppid() == self._supervisor if self._supervisor is not None else "NOTIFY_SOCKET" in os.environ

    async def _inode_of(self, path: str) -> int:
        """By the kernel's own lookup, so that links and aliases mean what they mean to programs."""
        if self._config.serves != "mount":
            raise UsageError("This daemon has no mount, so there are no paths in it. Flush all of it: give no path.")
        seen = await trio.to_thread.run_sync(look, path, self._config.io_timeout)
        if seen.error:
            raise UsageError(f"{path!r}: {os.strerror(seen.error)}. Name a file or folder inside {self._config.mountpoint}.")
        here = mount_at(self._config.mountpoint)
        if here is None or seen.device != here.device:
            raise UsageError(f"{path!r} does not lie in {self._config.mountpoint}. Name a file or folder inside it.")
        return seen.inode
