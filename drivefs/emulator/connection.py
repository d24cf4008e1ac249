"""The TCP connection below a request, for what HTTP has no words for: to be reset, or to be closed in the middle of an answer.

Every request's ASGI scope names its connection in ``extensions``. Who sends bytes past ASGI (straight to the transport) may do
so only where ``connection_of`` finds one: a request whose answer is to be cut, slowed or altered is handed on without it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final

from starlette.types import Receive, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Connection", "connection_of", "disconnected", "without_connection"]

_KEY: Final = "drivefs.connection"
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, which requests can reach. ``served``: requests begun on this connection."""

    served = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.served += 1
        self.scope["extensions"] = {_KEY: self}  # type: ignore[dict-item]

    def reset(self) -> None:
        """Let the client see "connection reset by peer": nothing that is still to be sent goes out (socket(7), SO_LINGER)."""
        raw = self.transport.get_extra_info("socket")
        if raw is not None and not self.transport.is_closing():
            with contextlib.suppress(OSError):  # the client was faster
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.transport.abort()

    def hang_up(self) -> None:
        """Send what is still to be sent, then close."""
        self.transport.close()

    def others(self) -> list[Connection]:
        """All other connections of this server."""
        return [one for one in self.connections if isinstance(one, Connection) and one is not self]


def connection_of(scope: Scope) -> Connection | None:
    """The request's connection; None where it has none of its own, or must not be written to directly."""
    found = scope.get("extensions", {}).get(_KEY)
    return found if isinstance(found, Connection) else None


def without_connection(scope: Scope) -> Scope:
    """The scope for a handler whose answer must pass through ``send``."""
    return {**scope, "extensions": {name: one for name, one in scope.get("extensions", {}).items() if name != _KEY}}


async def disconnected(receive: Receive) -> None:
    """Wait until the connection is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
