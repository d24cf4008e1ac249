"""The multipart reader by itself: whatever the pieces, line ends and content."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import trio
from hypothesis import given
from hypothesis import strategies as st

from drivefs.emulator.multipart import read_related

BOUNDARY = b"=BOUNDARY="


async def _read(body: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    content = bytearray()

    async def pieces() -> AsyncIterator[bytes]:
        for start, end in itertools.pairwise(edges):
            yield body[start:end]

    async def sink(data: bytes) -> None:
        content.extend(data)

    metadata, part = await read_related(pieces(), BOUNDARY, sink)
    assert part.content_type == "text/plain"
    return metadata, bytes(content)


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"--", BOUNDARY[:5], BOUNDARY[5:], b"x", b"\0"]), max_size=12).map(b"".join),
    st.sampled_from([b"\n", b"\r\n"]),
    st.lists(st.integers(0, 200), max_size=200),
)
def test_content_survives_any_pieces(content: bytes, end: bytes, cuts: list[int]) -> None:
    """RFC 2046, 5.1: the content is what lies between the blank line and the line end before the delimiter, byte for byte."""
    if end + b"--" + BOUNDARY in end + content:
        return  # such content may not be sent with this boundary
    delimiter = b"--" + BOUNDARY
    body = end.join([delimiter, b"Content-Type: application/json", b"", b"{}", delimiter, b"Content-Type: text/plain", b"", b""])
    body += content + end + delimiter + b"--" + end
    assert trio.run(_read, body, cuts) == (b"{}", content)
    assert trio.run(_read, body, list(range(len(body)))) == (b"{}", content)
