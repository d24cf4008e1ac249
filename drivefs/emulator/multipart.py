"""A multipart/related upload, taken apart while it streams: a JSON part, then the content.

Clients differ: some end lines with LF and quote the boundary, others use CRLF and chunked transfer. The line end of the first
delimiter decides for the whole body, so that content ending in CR survives an LF body. Bytes are never re-encoded.
Sources: RFC 2046 (5.1), RFC 2387.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from drivefs.emulator.errors import bad_request

__all__ = ["Part", "boundary_of", "read_related"]

_HEAD_LIMIT: Final = 1 << 20  # of all before the content: metadata is small
_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"]+)"|([^\s;"]+))', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """A part's headers, names in lower case."""

    headers: dict[str, str]

    @property
    def content_type(self) -> str | None:
        return self.headers.get("content-type")


def boundary_of(content_type: str) -> bytes:
    match = _BOUNDARY.search(content_type)
    if match is None or not content_type.lower().startswith("multipart/"):
        raise bad_request("Missing boundary in the Content-Type of a multipart request.", reason="badContent")
    return (match[1] or match[2]).encode("latin-1")


def _malformed() -> Exception:
    return bad_request("Malformed multipart body.", reason="badContent")


def _parse_headers(block: bytes) -> Part:
    headers = {}
    for line in block.decode("latin-1").splitlines():
        name, colon, value = line.partition(":")
        if not colon:
            raise _malformed()
        headers[name.strip().lower()] = value.strip()
    return Part(headers)


class _Head:
    """Collects the body up to the first byte of content."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"--" + boundary
        self.buffer = bytearray()

    def try_split(self) -> tuple[bytes, Part, bytes, bytes] | None:
        """(metadata, the content's part, the line end used, first bytes of content), once all of that has arrived."""
        start = self.buffer.find(self._delimiter)
        line_feed = self.buffer.find(b"\n", start)
        if start < 0 or line_feed < 0:
            return None
        if start > 0 and self.buffer[start - 1] != 0x0A:
            raise _malformed()
        end = b"\r\n" if self.buffer[line_feed - 1] == 0x0D else b"\n"
        second = self.buffer.find(end + self._delimiter, line_feed)
        second_line = self.buffer.find(b"\n", second + len(end)) if second >= 0 else -1
        if second_line < 0:
            return None
        if self.buffer[second + len(end) + len(self._delimiter) :].startswith(b"--"):
            raise bad_request("A multipart upload needs two parts.", reason="badContent")
        content_at = self._headers_end(second_line + 1, end)
        if content_at is None:
            return None
        metadata_at = self._headers_end(line_feed + 1, end)
        if metadata_at is None or metadata_at > second + len(end):
            raise _malformed()
        part = _parse_headers(bytes(self.buffer[second_line + 1 : content_at]).strip())
        return bytes(self.buffer[metadata_at:second]), part, end, bytes(self.buffer[content_at:])

    def _headers_end(self, at: int, end: bytes) -> int | None:
        """Where the body of the part begins whose headers begin at ``at``."""
        if self.buffer[at:].startswith(end):
            return at + len(end)
        blank = self.buffer.find(end + end, at)
        return None if blank < 0 else blank + 2 * len(end)


class _Base64:
    """Decodes a base64 part as it streams."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        text = self._rest + b"".join(data.split())
        usable = len(text) // 4 * 4
        self._rest = text[usable:]
        try:
            return base64.b64decode(text[:usable], validate=True)
        except binascii.Error:
            raise _malformed() from None

    def finish(self) -> None:
        if self._rest:
            raise _malformed()


async def _read_head(chunks: AsyncIterator[bytes], boundary: bytes) -> tuple[bytes, Part, bytes, bytes]:
    head = _Head(boundary)
    async for chunk in chunks:
        head.buffer += chunk
        if (found := head.try_split()) is not None:
            return found
        if len(head.buffer) > _HEAD_LIMIT:
            raise bad_request("Request Too Large", reason="uploadTooLarge")
    raise _malformed()


async def read_related(
    chunks: AsyncIterator[bytes], boundary: bytes, sink: Callable[[bytes], Awaitable[None]]
) -> tuple[bytes, Part]:
    """Send the content to ``sink`` as it arrives. Returns the metadata and the content's part once the body has ended well."""
    metadata, part, end, tail = await _read_head(chunks, boundary)
    decoder = _Base64() if part.headers.get("content-transfer-encoding", "").lower() == "base64" else None
    closing = end + b"--" + boundary
    held = bytearray(end + tail)  # the delimiter's own line end may be the one that ended the headers: content may be empty
    skip = len(end)
    closed = False

    async def pass_on(data: bytes) -> None:
        await sink(decoder.feed(data) if decoder else data)

    async def drain(chunk: bytes) -> None:
        nonlocal closed, skip
        if closed:
            return  # an epilogue
        held.extend(chunk)
        at = held.find(closing)
        safe = at if at >= 0 else len(held) - len(closing)
        if safe > skip:
            await pass_on(bytes(held[skip:safe]))
        if at >= 0:
            closed = True
        elif safe > 0:
            skip = max(0, skip - safe)
            del held[:safe]

    await drain(b"")
    async for chunk in chunks:
        await drain(chunk)
    if not closed:
        raise _malformed()
    if decoder:
        decoder.finish()
    return metadata, part
