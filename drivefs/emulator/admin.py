"""Control endpoints for tests and tools, under /_emulator. They need no token and answer only to this machine."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from drivefs.emulator.auth import Gate
from drivefs.emulator.clock import Clock
from drivefs.emulator.errors import bad_request
from drivefs.emulator.sessions import Sessions
from drivefs.emulator.store import Store
from drivefs.emulator.values import format_time
from drivefs.emulator.wire import Traffic

__all__ = ["Admin"]


class Admin:
    def __init__(self, store: Store, traffic: Traffic, sessions: Sessions, gate: Gate) -> None:
        self._store, self._traffic, self._sessions, self._gate = store, traffic, sessions, gate
        self.on_reset: Callable[[], None] = lambda: None

    def routes(self) -> list[Route]:
        return [
            Route("/_emulator/tree", self.tree, methods=["GET"]),
            Route("/_emulator/requests", self.requests, methods=["GET"]),
            Route("/_emulator/log", self.log, methods=["GET"]),
            Route("/_emulator/clock", self.clock, methods=["POST"]),
            Route("/_emulator/reset", self.reset, methods=["POST"]),
            Route("/_emulator/tokens/expire", self.expire, methods=["POST"]),
            Route("/_emulator/tokens/revoke", self.revoke, methods=["POST"]),
        ]

    async def tree(self, _request: Request) -> Response:
        """Every untrashed item of My Drive with its path, parents before children."""
        return JSONResponse(list(self._walk()))

    def _walk(self) -> Iterator[dict[str, Any]]:
        children: dict[str, list[sqlite3.Row]] = {}
        for row in self._store.connection.execute("SELECT * FROM items WHERE NOT trashed ORDER BY name, seq"):
            children.setdefault(row["parent"], []).append(row)
        pending = [("", row) for row in reversed(children.get(self._store.account.root_id, ()))]
        while pending:
            above, row = pending.pop()
            path = f"{above}{row['name']}"
            yield {
                "path": path,
                "id": row["id"],
                "name": row["name"],
                "size": row["size"],
                "md5": row["md5"],
                "mimeType": row["mime_type"],
                "modifiedTime": format_time(row["modified_ms"]),
                "parents": [row["parent"]],
                "headRevisionId": row["head_revision"],
            }
            pending += [(f"{path}/", child) for child in reversed(children.get(row["id"], ()))]

    async def requests(self, _request: Request) -> Response:
        """What was asked since the start or the last reset."""
        return JSONResponse(self._traffic.snapshot())

    async def log(self, _request: Request) -> Response:
        """The latest thousand calls, in their order."""
        return JSONResponse(self._traffic.latest())

    async def clock(self, request: Request) -> Response:
        """Set Drive's clock forward: ``{"advance": seconds}``. Returns what it shows, in milliseconds since the epoch."""
        clock = self._store.clock
        try:
            if not isinstance(clock, Clock):
                raise ValueError("this server was given a clock of its own")
            clock.advance(float(json.loads(await request.body())["advance"]))
        except (ValueError, KeyError, TypeError) as error:
            raise bad_request(f'Send {{"advance": seconds}}: {error}') from None
        return JSONResponse({"now_ms": clock()})

    async def reset(self, _request: Request) -> Response:
        """An empty Drive, counters at zero, and the machine's time."""
        if isinstance(self._store.clock, Clock):
            self._store.clock.reset()
        await self._sessions.reset()
        self._store.reset()
        self._traffic.reset()
        self.on_reset()
        return JSONResponse({"root_id": self._store.account.root_id})

    async def expire(self, _request: Request) -> Response:
        """Let every token from /token expire now."""
        return JSONResponse({"expired": self._gate.expire_issued()})

    async def revoke(self, request: Request) -> Response:
        """Refuse one token from now on: ``{"token": "..."}``. A refresh token revoked so is answered with invalid_grant."""
        try:
            token = json.loads(await request.body())["token"]
        except (ValueError, KeyError, TypeError):
            raise bad_request('Send {"token": "..."}.') from None
        self._gate.revoke(str(token))
        return JSONResponse({})
