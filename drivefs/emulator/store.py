"""One emulated Drive: its tables, its content, its clock and its limits."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from drivefs.emulator import db
from drivefs.emulator.content import ContentFolder
from drivefs.emulator.errors import ApiError, not_found
from drivefs.emulator.faults.conditions import conditions
from drivefs.emulator.values import IdMint

__all__ = ["FREE_TIER", "SESSION_LIFETIME_MS", "Store"]

FREE_TIER: Final = 15 << 30  # bytes; what Google gives every account
SESSION_LIFETIME_MS: Final = 7 * 24 * 3600 * 1000


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Store:
    """``storage_limit`` is in bytes; None = unlimited. ``clock`` gives milliseconds since the epoch."""

    connection: sqlite3.Connection
    content: ContentFolder
    storage_limit: int | None = FREE_TIER
    clock: Callable[[], int] = _now_ms
    root_id: str = field(init=False)
    ids: IdMint = field(init=False)
    secret: bytes = field(init=False)

    @classmethod
    def open(cls, folder: Path, *, in_memory: bool, storage_limit: int | None = FREE_TIER) -> Store:
        """``folder`` holds the content, and the database too unless it is to live in memory."""
        content = ContentFolder(folder, durable=not in_memory)
        connection = db.connect(None if in_memory else folder / "drive.db")
        store = cls(connection, content, storage_limit)
        if connection.execute("SELECT count(*) FROM drive").fetchone()[0] == 0:
            with db.transaction(connection):
                db.new_drive(connection, store.clock())
        store._load()
        store._sweep()
        return store

    def _load(self) -> None:
        row = self.connection.execute("SELECT root_id, secret FROM drive").fetchone()
        self.root_id, self.secret = row["root_id"], row["secret"]
        self.ids = IdMint(self.secret)

    def _sweep(self) -> None:
        """Forget sessions past their week and remove files that no row names."""
        self.connection.execute("DELETE FROM sessions WHERE created_ms < ?", (self.clock() - SESSION_LIFETIME_MS,))
        sessions = {row[0] for row in self.connection.execute("SELECT id FROM sessions WHERE finished_item IS NULL")}
        self.content.sweep(self._blobs(), sessions)

    def _blobs(self) -> set[str]:
        return {row[0] for row in self.connection.execute("SELECT DISTINCT blob FROM revisions WHERE blob IS NOT NULL")}

    def reset(self) -> None:
        """An empty Drive with a new root, in which no former id, token or session is valid."""
        blobs = self._blobs()
        with self.transaction():
            db.new_drive(self.connection, self.clock())
        self._load()
        self.content.unlink(blobs)

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with db.transaction(self.connection):
            yield

    def find(self, file_id: str) -> sqlite3.Row | None:
        """The item's row; ``root`` is an alias."""
        wanted = self.root_id if file_id == "root" else file_id
        row: sqlite3.Row | None = self.connection.execute("SELECT * FROM items WHERE id = ?", (wanted,)).fetchone()
        return row

    def item(self, file_id: str) -> sqlite3.Row:
        row = self.find(file_id)
        if row is None:
            raise not_found(file_id)
        return row

    def next_change(self) -> int:
        """A new position at the end of the changes feed, which is the version of the item that takes it."""
        row = self.connection.execute("UPDATE drive SET last_change = last_change + 1 RETURNING last_change").fetchone()
        return int(row[0])

    def usage(self) -> tuple[int, int]:
        """Bytes that count against the limit, and how many of them are in the trash."""
        row = self.connection.execute("SELECT usage, usage_trashed FROM drive").fetchone()
        return row["usage"], row["usage_trashed"]

    @property
    def limit(self) -> int | None:
        """The storage limit as it shows now: a Drive that is to seem full has as much as is used."""
        return self.usage()[0] if conditions().full else self.storage_limit

    def check_room(self, more: int) -> None:
        """Raise where ``more`` bytes would not fit."""
        if more > 0 and (limit := self.limit) is not None and self.usage()[0] + more > limit:
            raise ApiError(403, "storageQuotaExceeded", "The user's Drive storage quota has been exceeded.", domain="usageLimits")

    def unlink_unused(self, blobs: list[str | None]) -> None:
        """Remove those blobs that no revision names any more. Call after the transaction that dropped them."""
        for blob in blobs:
            if blob and self.connection.execute("SELECT 1 FROM revisions WHERE blob = ?", (blob,)).fetchone() is None:
                self.content.unlink([blob])
