"""JSON answers, gzipped for those who ask as Google wants to be asked: in Accept-Encoding and in the name of the client.

Content is never compressed: lengths and ranges of downloads stay those of the file.
Source: https://developers.google.com/workspace/drive/api/guides/performance#gzip
"""

from __future__ import annotations

import gzip
from typing import Final

from starlette.types import Message, Scope, Send

__all__ = ["Compressed", "wants_gzip"]

_LEVEL: Final = 1  # what travels over loopback is not worth more


def wants_gzip(scope: Scope) -> bool:
    if scope["method"] == "HEAD" or b"alt=media" in scope["query_string"].split(b"&"):
        return False
    headers = dict(scope["headers"])
    offered = [one.partition(b";")[0].strip() for one in headers.get(b"accept-encoding", b"").lower().split(b",")]
    return b"gzip" in offered and b"gzip" in headers.get(b"user-agent", b"").lower()


class Compressed:
    """Sends one answer: a JSON body as gzip without a stated length, anything else as it is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_json(message):
            self._start = message
        elif self._start is None or message["type"] != "http.response.body":
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._finish(self._start)

    async def _finish(self, start: Message) -> None:
        headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        await self._send({**start, "headers": [*headers, (b"content-encoding", b"gzip")]})
        await self._send({"type": "http.response.body", "body": gzip.compress(bytes(self._body), _LEVEL, mtime=0)})


def _is_json(start: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"application/json") for name, value in start.get("headers", []))
