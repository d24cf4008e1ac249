"""What a session says of what it could not send: in its log, to the service manager, in the manifest, in the mount's record."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import trio

from drivefs.base.config import Config
from drivefs.jobs.account import AccountInfo
from drivefs.jobs.upload import Uploader
from drivefs.manifest import FILE_NAME, read_manifest, remove_manifest, write_manifest
from drivefs.notify import sd_notify
from drivefs.record import Record
from drivefs.report import size_text
from drivefs.store.outbox import Unsent
from drivefs.store.tree import Tree
from drivefs.verbs import stated

__all__ = ["LastWord"]

log = logging.getLogger(__name__)

_LISTED: Final = 100  # lines in the log
_NEWS_PERIOD: Final = 5.0  # seconds between lines about a drain
_TIDY_PERIOD: Final = 1.0


class LastWord:
    """Of one session. The database is asked on the loop's thread, and only files are written in another."""

    def __init__(self, config: Config, tree: Tree, account: AccountInfo, uploader: Uploader) -> None:
        self._config = config
        self._tree = tree
        self._account = account
        self._uploader = uploader
        self._record = Record(config.socket_path)

    def prepare(self) -> None:
        """The mount answers: should it end without a word, its record tells where the cache is."""
        self._record.begin(self._config.mountpoint, self._config.cache_dir, self._config.serves)

    async def mind(self) -> None:
        """Remove the list that an earlier session left, once it is no longer true."""
        while read_manifest(self._config.cache_dir) is not None:
            await trio.sleep(_TIDY_PERIOD)
            if not self._tree.count_pending():
                remove_manifest(self._config.cache_dir)

    async def foretell(self) -> None:
        """At the beginning of the end: who asked for it may switch the machine off any moment."""
        unsent = self._uploader.unsent()
        if unsent:
            await trio.to_thread.run_sync(self._write, unsent, self._account.email)

    async def tell_progress(self) -> None:
        """Now and then, for ever."""
        while True:
            await trio.sleep(_NEWS_PERIOD)
            unsent = self._uploader.unsent()
            text = f"still to be sent: {len(unsent)} files ({size_text(sum(entry.size for entry in unsent))})"
            log.info("%s", text)
            sd_notify(f"STATUS={text}")

    def say(self, unsent: Sequence[Unsent]) -> None:
        """The last thing a session does, whichever way it ends: list what is not on Drive, where the next one finds it."""
        if not unsent:
            remove_manifest(self._config.cache_dir)
            self._record.remove()
            return
        self._write(unsent, self._account.email)
        for one in unsent[:_LISTED]:
            log.warning("not on Drive, kept in the cache: %r (%d bytes): %s", one.path, one.size, one.reason)
        if len(unsent) > _LISTED:
            log.warning("and %d more, in %s", len(unsent) - _LISTED, self._config.cache_dir / FILE_NAME)

    def _write(self, unsent: Sequence[Unsent], account: str | None) -> None:
        entries = [stated(entry) for entry in unsent]
        try:
            write_manifest(self._config.cache_dir, entries, mountpoint=self._config.mountpoint, account=account)
        except OSError as error:  # a full disk; the log has the list too
            log.warning("the list of what is not on Drive cannot be written: %s", error)
