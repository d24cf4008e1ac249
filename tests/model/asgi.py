"""Drive's HTTP without sockets: requests go straight to an ASGI application, in the same trio loop and on its clock.

``AsgiTransport`` stands in for ``drivefs.remote.http.Transport``. Each request is a task of the server's, which outlives the
client's wait for it: a client that gives up, or dies, leaves behind what was on the wire, and that may be carried out or not. The
next requests find all of that dealt with, since nobody could tell two clients apart that speak at once.
"""

from __future__ import annotations

import contextvars
import math
import random
import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import trio
from starlette.types import ASGIApp, Message, Scope

from drivefs.base.errors import RemoteUnreachable
from drivefs.emulator.connection import _KEY, Connection
from drivefs.remote.http import Response, Transport
from drivefs.remote.transfer import OnHead, Sink

__all__ = ["AsgiTransport"]


class _Line(Connection):
    """The connection of one request, in place of uvicorn's. closed: set by either side."""

    def __init__(self) -> None:
        self.served = 1
        self.closed = trio.Event()
        self.transport: Any = SimpleNamespace(is_closing=self.closed.is_set)
        self.connections = set()

    def reset(self) -> None:
        self.closed.set()

    hang_up = reset


class _Exchange:
    """One request on the server's side, and its answer as far as it has come."""

    def __init__(self, scope: Scope, body: bytes, cut: Callable[[int], int]) -> None:
        self.line = _Line()
        self.scope = {**scope, "extensions": {_KEY: self.line}}
        self.server = trio.CancelScope()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = False
        self._said, self.answer = trio.open_memory_channel[bytes](math.inf)
        self._body, self._cut, self._taken, self._more = body, cut, 0, True

    async def receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        if not self._more:
            await self.line.closed.wait()
            return {"type": "http.disconnect"}
        end = self._taken + self._cut(len(self._body) - self._taken)
        piece, self._taken, self._more = self._body[self._taken : end], end, end < len(self._body)
        return {"type": "http.request", "body": piece, "more_body": self._more}

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if self.line.closed.is_set():
            return  # as uvicorn does
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message["headers"]:
                key, text = name.decode("latin-1").lower(), value.decode("latin-1")
                self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text
        else:
            self.complete = not message.get("more_body", False)
            self._said.send_nowait(bytes(message.get("body", b"")))

    def end(self) -> None:
        self.line.closed.set()
        self._said.close()


class AsgiTransport(Transport):
    """app: asked anew for each request.  rng: of how bytes are cut into pieces, and of what a client left behind."""

    def __init__(self, app: Callable[[], ASGIApp], rng: random.Random) -> None:
        super().__init__()
        self._app, self._rng = app, rng
        self.dead = False
        self.failures: list[BaseException] = []
        self._under_way: set[_Exchange] = set()
        self._left_behind: set[_Exchange] = set()

    def kill(self) -> None:
        """The client is no more."""
        self.dead = True
        for exchange in list(self._under_way):
            self._leave(exchange)

    def _leave(self, exchange: _Exchange) -> None:
        if exchange not in self._under_way:
            return
        self._left_behind.add(exchange)
        if self._rng.random() < 0.3:
            return
        exchange.line.closed.set()
        exchange.server.cancel()

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | memoryview | None = None,
        *,
        sink: Sink | None = None,
        on_head: OnHead | None = None,
        decode: bool = True,
        timeout: float | None = 60.0,
        stall: float = 60.0,
        go: threading.Event | None = None,
    ) -> Response:
        assert go is None or go.is_set(), "nobody in a model takes a content slowly"
        if self.dead:
            await trio.sleep_forever()
        while self._left_behind:
            await trio.sleep(0.01)
        exchange = _Exchange(_scope(method, url, headers, body), bytes(body or b""), self._cut)
        started = trio.current_time()
        self._under_way.add(exchange)
        trio.lowlevel.spawn_system_task(self._serve, exchange, context=contextvars.copy_context())
        try:
            with trio.fail_after(stall if timeout is None else timeout):
                answer = await self._answer(exchange, sink, on_head)
        except trio.TooSlowError:
            raise RemoteUnreachable("no answer in time", may_have_applied=method != "GET") from None
        finally:
            self._leave(exchange)
        if not exchange.complete:
            raise RemoteUnreachable("the connection broke", may_have_applied=method != "GET")
        return Response(exchange.status, exchange.headers, answer, trio.current_time() - started)

    def _cut(self, size: int) -> int:
        return self._rng.randint(min(1, size), size)

    async def _serve(self, exchange: _Exchange) -> None:
        try:
            with exchange.server:
                await self._app()(exchange.scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001 - a system task must not raise; the test does
            self.failures.append(error)
        finally:
            self._under_way.discard(exchange)
            self._left_behind.discard(exchange)
            exchange.end()

    async def _answer(self, exchange: _Exchange, sink: Sink | None, on_head: OnHead | None) -> bytes:
        whole, begun = bytearray(), False
        async for piece in exchange.answer:
            if self.dead:
                await trio.sleep_forever()
            success = 200 <= exchange.status < 300
            if success and on_head is not None and not begun:
                on_head(exchange.status, exchange.headers)
            begun = True
            if not (success and sink is not None):
                whole += piece
            elif piece:
                sink(piece)
        return bytes(whole)


def _scope(method: str, url: str, headers: Mapping[str, str], body: bytes | memoryview | None) -> Scope:
    parts = urlsplit(url)
    fields = {"host": parts.netloc} | {name.lower(): value for name, value in headers.items()}
    if body is not None or method != "GET":
        fields["content-length"] = str(len(body or b""))
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "root_path": "",
        "query_string": parts.query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
        "client": ("127.0.0.1", 1),
        "server": (parts.hostname, parts.port),
    }
