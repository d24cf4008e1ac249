"""One emulated Drive: its tables, its content, its clock and its limits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from drivefs.emulator import access, db
from drivefs.emulator.caller import MAIN, User, current
from drivefs.emulator.clock import Clock
from drivefs.emulator.content import ContentFolder
from drivefs.emulator.errors import ApiError, not_found
from drivefs.emulator.faults.conditions import conditions
from drivefs.emulator.settings import Settings
from drivefs.emulator.values import IdMint

__all__ = ["FREE_TIER", "SESSION_LIFETIME_MS", "Store"]

FREE_TIER: Final = 15 << 30  # bytes; what Google gives every account
SESSION_LIFETIME_MS: Final = 7 * 24 * 3600 * 1000


@dataclass
class Store:
    """``storage_limit`` is in bytes; None = unlimited. ``clock`` gives milliseconds since the epoch."""

    connection: sqlite3.Connection
    content: ContentFolder
    storage_limit: int | None = FREE_TIER
    clock: Callable[[], int] = field(default_factory=Clock)
    settings: Settings = field(default_factory=Settings)
    account: User = field(init=False)  # the main one
    several: bool = field(init=False)  # False: one account that shared nothing, for which every question of access is idle
    pages: int = 0  # of listings given out so far
    ids: IdMint = field(init=False)
    _roots: frozenset[str] = field(init=False)
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
        self.account, self.secret = MAIN.at(row["root_id"]), row["secret"]
        self.ids = IdMint(self.secret)
        self.look_around()

    def look_around(self) -> None:
        """Notice whether there is anybody else. Call when the first user, permission or shared drive was made."""
        query = "SELECT EXISTS (SELECT 1 FROM users) OR EXISTS (SELECT 1 FROM permissions) OR EXISTS (SELECT 1 FROM drives)"
        self.several = bool(self.connection.execute(query).fetchone()[0])
        self._roots = frozenset(user.root_id for user in self.users())

    def is_root(self, row: sqlite3.Row) -> bool:
        """The root of somebody's My Drive, or of a shared drive."""
        return row["id"] in self._roots or row["id"] == row["drive"]

    @property
    def me(self) -> User:
        """Who asks."""
        return current().user or self.account

    @property
    def root_id(self) -> str:
        """The caller's My Drive."""
        return self.me.root_id

    def user(self, user_id: str) -> User:
        """By permission id. KeyError for a stranger."""
        if user_id == MAIN.id:
            return self.account
        row = self.connection.execute("SELECT id, email, name, root_id FROM users WHERE id = ?", (user_id,)).fetchone()
        if row is None:
            raise KeyError(user_id)
        return User(*row)

    def users(self) -> list[User]:
        """The main account first."""
        rows = self.connection.execute("SELECT id, email, name, root_id FROM users ORDER BY email")
        return [self.account, *(User(*row) for row in rows)]

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

    def row(self, file_id: str) -> sqlite3.Row | None:
        """The item's row, whoever may see it."""
        row: sqlite3.Row | None = self.connection.execute("SELECT * FROM items WHERE id = ?", (file_id,)).fetchone()
        return row

    def find(self, file_id: str) -> sqlite3.Row | None:
        """The item's row, if it exists for the caller; ``root`` is an alias."""
        row = self.row(self.root_id if file_id == "root" else file_id)
        if row is not None and self.several and not access.View(self).sees(row):
            return None
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
        """Bytes that count against the caller's limit, and how many of them are in the trash."""
        if self.me.owner is not None:
            query = "SELECT coalesce(sum(quota_bytes), 0), coalesce(sum(quota_bytes * trashed), 0) FROM items WHERE owner = ?"
            used, used_by_trash = self.connection.execute(query, (self.me.owner,)).fetchone()
            return used, used_by_trash
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
