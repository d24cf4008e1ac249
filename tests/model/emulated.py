"""The real ``remote`` package and the real emulator in the same process, in place of the Drive in memory."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import anyio.to_thread
import trio
from starlette.types import Receive, Scope, Send

import drivefs.emulator.faults.body
import drivefs.emulator.sessions
import drivefs.emulator.uploads
import drivefs.remote.drive
import drivefs.remote.upload
from drivefs.base.model import RemoteItem
from drivefs.emulator import items, placement
from drivefs.emulator.app import Emulator
from drivefs.emulator.content import Landed
from drivefs.emulator.faults.book import Book, parse_rules
from drivefs.emulator.faults.timing import Timer
from drivefs.emulator.store import Store
from drivefs.emulator.values import FOLDER
from drivefs.remote.api import Api
from drivefs.remote.auth import StaticToken
from drivefs.remote.drive import Drive
from tests.model.asgi import AsgiTransport
from tests.model.server import Server, shrunk
from tests.support.world import run_inline

__all__ = ["Emulated"]

T = TypeVar("T")
_api = lru_cache(Api)  # it reads a long description, and keeps nothing of a call
_URL = "http://127.0.0.1:8080"
_GRANULE = 8
_LAG = 3.0  # seconds by which listings and the feed are behind, at times
_LAGS = [
    {"probability": 0.3, "listing_lag": _LAG},
    {"probability": 0.3, "changes_lag": _LAG},
    {"latency": {"uniform": [0.0, 0.3]}},
]
_ACCIDENTS: list[dict[str, Any]] = [
    {"status": 503},
    {"status": 429, "retry_after": 1},
    {"reason": "userRateLimitExceeded"},
    {"status": 500, "applied": True},
    {"reset": "before"},
    {"reset": "after"},
    {"cut_response": 3},
    {"cut_request": 5, "verb": "P*"},
    {"session_gone": 404},
    {"keep_chunk": 0},
    {"keep_chunk": _GRANULE},
    {"ignore_range": True},
    {"quota_full": True},
]
_WEATHER: dict[str, dict[str, Any]] = {
    "offline": {"offline": "reset"},
    "full": {"quota_full": True},
    "signed out": {"reason": "authError"},
}


def at_once(call: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that has nothing to wait for."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


class Emulated(Server):
    """directory: for the emulator's content."""

    def __init__(self, rng: random.Random, faults: float, directory: Path) -> None:
        super().__init__(rng, faults)
        self._store = Store.open(directory, in_memory=True)
        self._running, start = False, time.time_ns() // 1_000_000
        self._store.clock = lambda: start + (round(trio.current_time() * 1000) if self._running else 0)
        self._emulator = Emulator(self._store)
        self._books: dict[str, Book] = {}
        self._transport = AsgiTransport(lambda: self._answer, rng)
        self.prepare()

    def _book(self) -> Book:
        """The rules of the moment. Each keeps its counts and its chance."""
        state = "calm" if self.calm else self.weather or "fair"
        if state not in self._books:
            rules = list(_LAGS)
            if state in _WEATHER:
                rules.append(_WEATHER[state])
            elif state == "fair" and self.faults:
                rules += [{"probability": self.faults / 8, **one} for one in _ACCIDENTS]
            book = self._books[state] = Book(seed=self.rng.randrange(1 << 30), now=trio.current_time)
            book.post(parse_rules({"rules": rules}))
        return self._books[state]

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.calm and self.rng.random() < 0.05:
            self.meddle()
        self._emulator.faults.book = self._book()
        await self._emulator.wire(scope, receive, send)

    # -- as Server -------------------------------------------------------------------------------------------------

    @property
    def drive(self) -> Drive:
        return Drive(self._transport, StaticToken("token"), _URL, rng=self.rng)

    @contextmanager
    def served(self) -> Iterator[None]:
        timer = Timer(now=trio.current_time, sleep=trio.sleep)
        with (
            shrunk(BLOCK=64),  # each call costs a hundred times what it costs in memory
            mock.patch.object(anyio.to_thread, "run_sync", run_inline),
            mock.patch.object(drivefs.emulator.sessions, "GRANULE", _GRANULE),
            mock.patch.object(drivefs.emulator.uploads, "GRANULE", _GRANULE),
            mock.patch.object(drivefs.emulator.faults.body, "GRANULE", _GRANULE),
            mock.patch.object(drivefs.remote.upload, "CHUNK_UNIT", _GRANULE),
            mock.patch.object(drivefs.remote.drive, "Api", _api),
            mock.patch.object(self._emulator.faults, "_timer", timer),
        ):
            self._running = True
            self._emulator.faults.book = self._book()
            self._emulator.faults.rules_changed(None)
            try:
                yield
            finally:
                self._emulator.close()
        assert not self._transport.failures, self._transport.failures

    def kill_client(self) -> None:
        self._transport.kill()

    def revive(self) -> None:
        self._transport.dead = False

    async def settle(self) -> None:
        await trio.sleep(_LAG + 1)

    def put_folder(self, name: str, parent: str | None) -> str:
        values = {"name": name, "mimeType": FOLDER, "parents": [parent or "root"]}
        return str(items.create(self._store, values)["id"])

    def put_file(self, name: str, data: bytes, parent: str | None) -> None:
        items.create(self._store, {"name": name, "parents": [parent or "root"]}, self._landed(data))

    def _landed(self, data: bytes) -> items.NewContent:
        spool = self._store.content.new_spool()
        at_once(spool.write(data))
        landed: Landed = at_once(spool.land())
        blob = at_once(self._store.content.adopt(landed))
        spool.discard()
        return items.NewContent(blob, landed, "application/octet-stream")

    def edit(self, file_id: str, data: bytes | None = None, *, name: str | None = None, trashed: bool | None = None) -> None:
        values: dict[str, Any] = {key: value for key, value in (("name", name), ("trashed", trashed)) if value is not None}
        items.update(self._store, file_id, values, content=None if data is None else self._landed(data))

    def destroy(self, file_id: str) -> None:
        placement.delete(self._store, file_id)

    def _rows(self) -> list[sqlite3.Row]:
        return self._store.connection.execute("SELECT * FROM items WHERE NOT trashed AND parent IS NOT NULL").fetchall()

    def tree(self) -> dict[str, list[RemoteItem]]:
        rows = {row["id"]: row for row in self._rows()}
        found: dict[str, list[RemoteItem]] = {}
        for row in rows.values():
            names, up = [row["name"]], row["parent"]
            while up in rows:
                names.append(rows[up]["name"])
                up = rows[up]["parent"]
            if up == self._store.root_id:
                found.setdefault("/".join(reversed(names)), []).append(_item(row))
        return found

    def content(self, file_id: str) -> bytes:
        row = self._store.row(file_id)
        assert row is not None
        query = "SELECT * FROM revisions WHERE id = ?"
        data = self._bytes(self._store.connection.execute(query, (row["head_revision"],)).fetchone())
        assert hashlib.md5(data, usedforsecurity=False).hexdigest() == row["md5"]
        return data

    def _bytes(self, revision: sqlite3.Row) -> bytes:
        return self._store.content.blob_path(revision["blob"]).read_bytes() if revision["blob"] else b""

    def revisions_of(self, file_id: str) -> set[bytes]:
        query = "SELECT * FROM revisions WHERE item = ?"
        return {self._bytes(row) for row in self._store.connection.execute(query, (file_id,))}


def _item(row: sqlite3.Row) -> RemoteItem:
    return RemoteItem(
        row["id"],
        row["name"],
        row["mime_type"],
        (row["parent"],),
        row["change"],
        row["created_ms"],
        row["modified_ms"],
        size=row["size"],
        md5=row["md5"],
        app_properties=json.loads(row["app_properties"]),
    )
