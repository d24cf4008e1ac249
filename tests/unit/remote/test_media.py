"""Continuing a download: the bytes reach the sink once each, in order, whatever the server does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefs.base.errors import RangeNotSatisfiable, RemoteError, RemoteUnreachable
from drivefs.remote.media import Complete, Cursor

CONTENT = bytes(range(256)) * 2


class Kept:
    """A sink that insists on order."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.data = bytearray()

    def __call__(self, offset: int, data: bytes) -> None:
        assert offset == self.start + len(self.data)
        assert data
        self.data += data


def answer(cursor: Cursor, whole: bool, piece: int, stop_after: int) -> None:
    """Play one answer to what the cursor asks for: 200 or 206, cut into pieces, broken off after so many bytes."""
    asked = cursor.request_headers().get("range")
    first, last = (0, len(CONTENT) - 1) if asked is None else map(int, asked.removeprefix("bytes=").split("-"))
    if whole or asked is None:
        cursor.on_head(200, {"content-length": str(len(CONTENT))})
        body = CONTENT
    else:
        cursor.on_head(206, {"content-range": f"bytes {first}-{last}/{len(CONTENT)}"})
        body = CONTENT[first : last + 1]
    body = body[:stop_after]
    for at in range(0, len(body), piece):
        cursor.on_body(body[at : at + piece])


@given(
    st.tuples(st.integers(0, 512), st.integers(0, 512)).map(sorted).filter(lambda pair: pair[0] < pair[1]),
    st.lists(st.tuples(st.booleans(), st.integers(1, 200), st.integers(0, 512)), max_size=12),
)
def test_whatever_breaks_the_sink_sees_the_content_once(pair: list[int], answers: list[tuple[bool, int, int]]) -> None:
    """Answers of either kind, in any pieces, broken off anywhere, add up to exactly the bytes asked for."""
    start, end = pair
    kept = Kept(start)
    cursor = Cursor("x", start, end, len(CONTENT), kept)
    for whole, piece, stop_after in [*answers, (False, 100, 512)]:
        if cursor.finished:
            break
        try:
            answer(cursor, whole, piece, stop_after)
        except Complete:
            assert cursor.finished
        else:
            if not cursor.finished:
                with pytest.raises(RemoteUnreachable, match="ended at byte"):
                    cursor.end_of_answer()
    assert cursor.finished
    assert bytes(kept.data) == CONTENT[start:end]


@pytest.mark.parametrize(
    ("content_range", "kind"),
    [
        ("", RemoteUnreachable),
        ("bytes 0-9/512", RemoteUnreachable),
        ("bytes 11-19/512", RemoteUnreachable),
        ("bytes 10-20/512", RemoteUnreachable),
        ("bytes 10-9/512", RemoteUnreachable),
        ("bytes 10-19/*", RemoteUnreachable),
        ("bytes 10-19/511", RangeNotSatisfiable),
        ("bytes 10-19/513", RangeNotSatisfiable),
    ],
)
def test_a_part_must_be_the_part_asked_for(content_range: str, kind: type[RemoteError]) -> None:
    """Other bytes than asked for are a broken answer; another total means that the content has changed."""
    cursor = Cursor("x", 10, 20, 512, Kept(10))
    with pytest.raises(kind):
        cursor.on_head(206, {"content-range": content_range})


def test_part_of_the_part_is_fine() -> None:
    """A server may send less than asked for (RFC 9110); the next request continues there."""
    kept = Kept(10)
    cursor = Cursor("x", 10, 20, 512, kept)
    cursor.on_head(206, {"content-range": "bytes 10-14/512"})
    cursor.on_body(CONTENT[10:15])
    assert not cursor.finished
    assert cursor.request_headers() == {"range": "bytes=15-19"}


def test_a_whole_answer_of_another_size_is_another_content() -> None:
    """A 200 whose length differs from the size we know is not skipped through: it is a different file by now."""
    cursor = Cursor("x", 0, 512, 512, Kept(0))
    with pytest.raises(RangeNotSatisfiable, match="it changed on Drive"):
        cursor.on_head(200, {"content-length": "600"})


def test_too_many_bytes_are_an_error() -> None:
    """A body longer than its range never reaches the sink beyond the end."""
    kept = Kept(10)
    cursor = Cursor("x", 10, 20, 512, kept)
    cursor.on_head(206, {"content-range": "bytes 10-19/512"})
    with pytest.raises(RemoteUnreachable, match="more bytes than it announced"):
        cursor.on_body(CONTENT[10:21])
    assert not kept.data


def test_compressed_content_is_refused() -> None:
    """Offsets would mean the compressed bytes."""
    with pytest.raises(RemoteUnreachable, match="compressed"):
        Cursor("x", 0, 512, 512, Kept(0)).on_head(200, {"content-encoding": "gzip"})


def test_the_whole_is_asked_for_without_a_range() -> None:
    """The real Drive answers sooner without Range; only the untouched whole is asked for so."""
    assert Cursor("x", 0, 512, 512, Kept(0)).request_headers() == {}
    assert Cursor("x", 0, 511, 512, Kept(0)).request_headers() == {"range": "bytes=0-510"}
