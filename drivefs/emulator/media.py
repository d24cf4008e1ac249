"""Answers that are bytes: whole or a single range, streamed from the blob's file in large pieces.

Source: RFC 9110, 14 (range requests).
"""

from __future__ import annotations

import errno
import os
import re
from typing import Final

import anyio
import anyio.to_thread
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from drivefs.emulator.connection import disconnected
from drivefs.emulator.content import PIECE, ContentFolder
from drivefs.emulator.errors import ApiError

__all__ = ["media_response"]

_RANGE: Final = re.compile(r"bytes=\s*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))", re.ASCII)


def _wanted(headers: Headers, size: int) -> tuple[int, int] | None:
    """The half-open range asked for; None for the whole. Malformed and multiple ranges count as none (RFC 9110, 14.2)."""
    match = _RANGE.fullmatch(headers.get("range", "").strip())
    if match is None:
        return None
    if match[3] is not None:
        start, end = size - min(int(match[3]), size), size
    else:
        start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    if start >= end:
        error = ApiError(
            416, "requestedRangeNotSatisfiable", "Request range not satisfiable", location="Range", location_type="header"
        )
        error.headers["Content-Range"] = f"bytes */{size}"
        raise error
    return start, end


def media_response(request: Request, content: ContentFolder, blob: str | None, size: int, mime_type: str) -> Response:
    """200 with all ``size`` bytes of a blob, or 206 with the range asked for; raises 416."""
    wanted = _wanted(request.headers, size)
    start, end = wanted or (0, size)
    headers = {"content-length": str(end - start), "content-type": mime_type, "accept-ranges": "bytes"}
    if wanted:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    status = 206 if wanted else 200
    if blob is None or request.method == "HEAD":
        return Response(b"", status, headers)
    return _BlobResponse(os.open(content.blob_path(blob), os.O_RDONLY | os.O_CLOEXEC), start, end, status, headers)


class _BlobResponse(Response):
    """Owns the open file, so that a blob removed meanwhile is still sent in full."""

    def __init__(self, fd: int, start: int, end: int, status: int, headers: dict[str, str]) -> None:
        super().__init__(None, status, headers)
        self._fd, self._start, self._end, self._gone = fd, start, end, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with anyio.create_task_group() as group:
                # The server drops what is sent to a closed connection in silence: only receive() tells that nobody listens.
                group.start_soon(self._watch, receive)
                await self._send(send)
                group.cancel_scope.cancel()
        finally:
            os.close(self._fd)

    async def _watch(self, receive: Receive) -> None:
        await disconnected(receive)
        self._gone = True

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        position = self._start
        while position < self._end and not self._gone:
            piece = await _read(self._fd, min(PIECE, self._end - position), position)
            position += len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": position < self._end})


async def _read(fd: int, size: int, offset: int) -> memoryview:
    """``size`` bytes, or fewer (never none): from the page cache at once, from the disk in a thread."""
    buffer = bytearray(size)
    try:
        count = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
            raise
        count = await anyio.to_thread.run_sync(os.preadv, fd, [buffer], offset)
    if count == 0:
        raise OSError(errno.EIO, "a blob is shorter than its revision says")
    return memoryview(buffer)[:count]
