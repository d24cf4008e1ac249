"""What surrounds every request: counters, the method override, Google's response headers, and the local-only door.

Pure ASGI, so that bodies stream through untouched.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drivefs.emulator.compression import Compressed, wants_gzip

__all__ = ["Traffic", "Wire", "is_control"]

# As captured from the real front end; there is no ETag on v3 answers.
_HEADERS: Final = [
    (b"vary", b"Origin, X-Origin"),
    (b"server", b"ESF"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"x-xss-protection", b"0"),
]
_NO_CACHE: Final = [
    (b"cache-control", b"no-cache, no-store, max-age=0, must-revalidate"),
    (b"pragma", b"no-cache"),
    (b"expires", b"Mon, 01 Jan 1990 00:00:00 GMT"),
]
_FORM_LIMIT: Final = 256 << 10
_LOGGED: Final = 1000
_ADMIN: Final = "/_emulator"


@dataclass
class Traffic:
    """What was asked since the start or the last reset. Bytes are of bodies. Calls to /_emulator are not counted."""

    by_method: Counter[str] = field(default_factory=Counter)
    by_route: Counter[str] = field(default_factory=Counter)
    bytes_in: int = 0
    bytes_out: int = 0
    log: deque[tuple[float, str, str]] = field(default_factory=lambda: deque(maxlen=_LOGGED))
    in_progress: int = 0
    last_activity: float = field(default_factory=time.monotonic)

    def count(self, method: str, route: str) -> None:
        """One call: ``method`` as the API names it (``files.list``), ``route`` as the verb and path template."""
        self.by_method[method] += 1
        self.by_route[route] += 1
        self.log.append((time.time(), method, route))

    def snapshot(self) -> dict[str, Any]:
        return {
            "by_method": dict(self.by_method),
            "by_route": dict(self.by_route),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
        }

    def latest(self) -> list[dict[str, Any]]:
        """The latest calls, oldest first; ``time`` is in seconds since the epoch."""
        return [{"time": when, "method": method, "route": route} for when, method, route in self.log]

    def reset(self) -> None:
        self.log.clear()
        self.by_method.clear()
        self.by_route.clear()
        self.bytes_in = self.bytes_out = 0

    def idle_seconds(self) -> float:
        return 0.0 if self.in_progress else time.monotonic() - self.last_activity


def _is_loopback(address: tuple[str, int] | None) -> bool:
    return address is not None and ipaddress.ip_address(address[0]).is_loopback


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _from_a_web_page(scope: Scope) -> bool:
    """A page of another origin asks through the user's browser: it says so in Origin, or it reached a loopback address by a name
    of its own (DNS rebinding). Whatever a user keeps in a local Drive is no web site's business.
    """
    headers = dict(scope["headers"])
    host, origin = headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin", b"").decode("latin-1")
    if origin and origin.partition("://")[2] != host:
        return True
    if scope["scheme"] == "https" and not scope["path"].startswith(_ADMIN):
        return False  # through the TLS door, whose names are Google's; no browser trusts its certificate unasked
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return _is_loopback(scope.get("server")) and name != "localhost" and not _is_address(name.strip("[]"))


def is_control(scope: Scope) -> bool:
    """Control calls, and the operator's page. (Behind the TLS door ``/`` is Google's, where nothing is.)"""
    return bool(scope["path"].startswith(_ADMIN)) or (scope["path"] == "/" and scope["scheme"] == "http")


async def _forbid(send: Send, sentence: str) -> None:
    body = sentence.encode() + b"\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _override(scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
    """Honour x-http-method-override: a GET whose URL would be too long arrives as a POST with the query in its body."""
    override = (
        next((value for name, value in scope["headers"] if name == b"x-http-method-override"), b"").decode("latin-1").upper()
    )
    if scope["method"] != "POST" or not override:
        return scope, receive
    if override != "GET":
        return {**scope, "method": override}, receive
    body = bytearray()
    more = True
    while more and len(body) <= _FORM_LIMIT:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
    query = b"&".join(part for part in (scope["query_string"], bytes(body)) if part)

    async def receive_nothing() -> Message:
        return await receive() if more else {"type": "http.request", "body": b"", "more_body": False}

    return {**scope, "method": "GET", "query_string": query}, receive_nothing


class Wire:
    """The outermost ASGI application."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"unexpected {scope['type']} connection")
        self._traffic.in_progress += 1
        try:
            if _from_a_web_page(scope):
                await _forbid(send, "This server does not answer web pages. Address it as 127.0.0.1 or localhost.")
            elif not is_control(scope):
                await self._counted(scope, receive, send)
            elif _is_loopback(scope.get("client")):
                await self._app(scope, receive, send)
            else:
                await _forbid(send, "The control endpoints answer only to this machine itself.")
        except ClientDisconnect:
            pass  # nobody is left to answer; what the request had begun is undone where it was begun
        finally:
            self._traffic.in_progress -= 1
            self._traffic.last_activity = time.monotonic()

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        traffic = self._traffic

        async def counted_receive() -> Message:
            message = await receive()
            traffic.bytes_in += len(message.get("body", b""))
            return message

        async def dressed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                cached = any(name == b"cache-control" for name, _ in headers)
                message = {**message, "headers": headers + _HEADERS + ([] if cached else _NO_CACHE)}
            elif scope["method"] != "HEAD":
                traffic.bytes_out += len(message.get("body", b""))
            await send(message)

        inner_scope, inner_receive = await _override(scope, counted_receive)
        await self._app(inner_scope, inner_receive, Compressed(dressed_send) if wants_gzip(scope) else dressed_send)
