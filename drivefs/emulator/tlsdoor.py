"""The TLS door: an HTTP proxy that leads clients with compiled-in addresses here.

It takes CONNECT for Google's API hosts, ends TLS itself with a certificate of the local authority, and hands the connection to
the same HTTP server that answers on the plain port. Every other host, port or method is refused: this is no way to the network.
Sources: RFC 9110, 9.3.6 (CONNECT); RFC 7301 (ALPN).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import uvicorn

from drivefs.emulator.certificates import Authority, serves
from drivefs.emulator.connection import Connection

__all__ = ["TlsDoor"]

_HEAD_LIMIT: Final = 8 << 10
_HEAD_SECONDS: Final = 20.0
_HANDSHAKE_SECONDS: Final = 20.0
_PORT: Final = 443


class _Refused(Exception):
    def __init__(self, status: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence

    def answer(self) -> bytes:
        body = self.sentence.encode() + b"\n"
        head = f"HTTP/1.1 {self.status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        return head.encode() + body


def _target(head: bytes) -> str:
    """The host that a CONNECT request names. Raises _Refused for whatever is not served."""
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _Refused("400 Bad Request", "This is not an HTTP/1.1 request.")
    if words[0] != "CONNECT":
        raise _Refused("405 Method Not Allowed", "This proxy takes CONNECT only: use https addresses.")
    host, _, port = words[1].lower().rpartition(":")
    host = host.removesuffix(".")
    if not serves(host) or port != str(_PORT):
        raise _Refused(
            "403 Forbidden", "This proxy leads to the local Drive only: *.googleapis.com and accounts.google.com, port 443."
        )
    return host


class _Http(Connection):
    """An HTTP connection behind TLS. asyncio may deliver bytes, or the end, before it hands over the new transport."""

    _early = b""
    _ended = False

    def data_received(self, data: bytes) -> None:
        if self.transport is None:
            self._early += data
        else:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is None:
            self._ended = True
        else:
            super().connection_lost(exc)

    def begin(self, transport: asyncio.Transport) -> None:
        """The handshake is done."""
        if self._ended:
            transport.abort()
            return
        self.connection_made(transport)
        if self._early:
            early, self._early = self._early, b""
            self.data_received(early)


class _Plain(asyncio.Protocol):
    """One connection until TLS stands."""

    def __init__(self, door: TlsDoor) -> None:
        self._door = door
        self._head = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(_HEAD_SECONDS, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        assert self._timer is not None
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end and len(self._head) <= _HEAD_LIMIT:
            return
        self._timer.cancel()
        try:
            if not end or rest:
                raise _Refused("400 Bad Request", "Send one CONNECT request, and wait for its answer.")
            host = _target(head)
        except _Refused as refused:
            self._transport.write(refused.answer())
            self._transport.close()
            return
        self._transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self._door.upgrade(self._transport, host)


class TlsDoor:
    """Listens beside a uvicorn server and shares its connections, so that they end with it."""

    def __init__(self, authority: Authority, server: uvicorn.Server) -> None:
        self._authority, self._server = authority, server
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    async def open(self, listener: Any) -> None:
        """Accept connections on a listening socket."""
        make: Callable[[], asyncio.Protocol] = lambda: _Plain(self)  # noqa: E731
        self._listener = await asyncio.get_running_loop().create_server(make, sock=listener)

    def close(self) -> None:
        """Accept no more; handshakes under way are given up. Connections beyond them are the HTTP server's to end."""
        if self._listener is not None:
            self._listener.close()
        for task in self._tasks:
            task.cancel()

    def upgrade(self, transport: asyncio.Transport, host: str) -> None:
        """Begin TLS on a connection."""
        task = asyncio.get_running_loop().create_task(self._upgrade(transport, host))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _upgrade(self, transport: asyncio.Transport, host: str) -> None:
        http = _Http(self._server.config, self._server.server_state, {})
        context = self._authority.context(host)
        try:
            tls = await asyncio.get_running_loop().start_tls(
                transport, http, context, server_side=True, ssl_handshake_timeout=_HANDSHAKE_SECONDS
            )
        except OSError:
            # The client broke off or does not trust the certificate. It knows why and says so; there is nobody here to tell.
            transport.abort()
            return
        if tls is None:  # the connection was gone before the handshake began
            return
        http.begin(tls)
