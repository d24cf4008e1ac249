"""Resumable upload sessions: what the database and the files in ``uploads/`` know of them, and who may write.

The bytes of a session are the file named by its id, in whole multiples of 256 KiB until the last chunk: the file's length is the
truth, so a session survives kill -9. One writer at a time: a newcomer waits for the write under way, then the former writer
is out, as happens when a client gives up on a connection that the server still holds.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from drivefs.emulator.content import Spool
from drivefs.emulator.errors import ApiError, PlainError
from drivefs.emulator.identity import dump_caller
from drivefs.emulator.store import SESSION_LIFETIME_MS, Store

__all__ = ["GRANULE", "Live", "Session", "Sessions"]

GRANULE: Final = 256 << 10


@dataclass(frozen=True)
class Session:
    """A row of ``sessions``. item_id: of the file to be updated, None for a create. total: bytes, None while unknown.

    asker: as whom the upload is committed, for ``identity.resume``.
    """

    id: str
    item_id: str | None
    body: dict[str, Any]
    query: dict[str, str]
    content_type: str | None
    total: int | None
    finished_item: str | None
    asker: str


@dataclass
class Live:
    """A session's file while this process has it open."""

    spool: Spool
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    writer: object = None

    async def take(self, *, restart: bool) -> object:
        """Become the writer; the file is cut back to whole granules, or to nothing. Returns the mark of the new writer."""
        mark = self.writer = object()
        async with self.lock:
            if self.writer is mark:
                await self.spool.cut(0 if restart else self.spool.size // GRANULE * GRANULE)
        return mark

    async def write(self, mark: object, data: bytes) -> None:
        async with self.lock:
            if self.writer is not mark:
                raise PlainError(503, "Another request took over this upload.")
            await self.spool.write(data)

    async def flush(self, mark: object) -> None:
        """Put what was taken where a kill does not reach it. What a client is told must be so."""
        async with self.lock:
            if self.writer is mark:
                await self.spool.flush()

    async def shut(self) -> None:
        """Turn the writer out and remove the file."""
        self.writer = None
        async with self.lock:
            self.spool.discard()


class Sessions:
    """All sessions of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._live: dict[str, Live] = {}

    def open(
        self,
        *,
        item_id: str | None,
        body: Mapping[str, Any],
        query: Mapping[str, str],
        content_type: str | None,
        total: int | None,
    ) -> str:
        """A new session's id: a secret, since whoever has it may write. 403 where too many are under way."""
        self._check_number()
        session_id = "AOy" + secrets.token_urlsafe(48)
        self._store.connection.execute(
            "INSERT INTO sessions (id, item, body, query, content_type, total, created_ms, asker)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                session_id, item_id, json.dumps(body, ensure_ascii=False), json.dumps(dict(query)), content_type, total,
                self._store.clock(), dump_caller(),
            ),
        )  # fmt: skip
        return session_id

    def _check_number(self) -> None:
        """Abandoned sessions count until they are cancelled or a week old, and so they should be cancelled."""
        under_way = self._store.connection.execute(
            "SELECT count(*) FROM sessions WHERE finished_item IS NULL AND asker = ? AND created_ms >= ?",
            (dump_caller(), self._store.clock() - SESSION_LIFETIME_MS),
        ).fetchone()[0]
        if under_way >= self._store.settings.sessions_limit:
            raise ApiError(403, "UrlLeaseLimitExceeded", "Too many pending uploads for this user.")

    def find(self, session_id: str) -> Session:
        """Raises 404 for one that never was, was cancelled, or is older than a week."""
        row: sqlite3.Row | None = self._store.connection.execute(
            "SELECT * FROM sessions WHERE id = ? AND created_ms >= ?", (session_id, self._store.clock() - SESSION_LIFETIME_MS)
        ).fetchone()
        if row is None:
            raise PlainError(404, "Not Found")
        return Session(
            row["id"], row["item"], json.loads(row["body"]), json.loads(row["query"]),
            row["content_type"], row["total"], row["finished_item"], row["asker"],
        )  # fmt: skip

    def live(self, session: Session) -> Live:
        live = self._live.get(session.id)
        if live is None:
            live = self._live[session.id] = Live(Spool(self._store.content.uploads / session.id))
        return live

    def received(self, session: Session) -> int:
        """Bytes that will not have to be sent again."""
        return self.live(session).spool.written // GRANULE * GRANULE

    def set_total(self, session: Session, total: int) -> None:
        self._store.connection.execute("UPDATE sessions SET total = ? WHERE id = ?", (total, session.id))

    def finish(self, session: Session, item_id: str) -> None:
        """The content was committed: remember the item, for whoever did not get the answer. The caller holds the lock."""
        self._store.connection.execute("UPDATE sessions SET finished_item = ? WHERE id = ?", (item_id, session.id))
        self._drop(session)

    def abandon(self, session: Session) -> None:
        """The commit was refused. The caller holds the lock."""
        self._store.connection.execute("DELETE FROM sessions WHERE id = ?", (session.id,))
        self._drop(session)

    def _drop(self, session: Session) -> None:
        live = self._live.pop(session.id)
        live.writer = None
        live.spool.discard()

    async def cancel(self, session: Session) -> None:
        live = self.live(session)
        self._store.connection.execute("DELETE FROM sessions WHERE id = ?", (session.id,))
        self._live.pop(session.id, None)
        await live.shut()

    async def reset(self) -> None:
        """Turn out every writer. The rows are the store's to remove."""
        lives, self._live = self._live, {}
        for live in lives.values():
            await live.shut()

    def close(self) -> None:
        """Leave the files for the next process."""
        for live in self._live.values():
            live.spool.close()
        self._live.clear()
