"""A content streamed past the cache: in order, bounded, checked, and cancelled with whoever takes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from drivefs.base.errors import RangeNotSatisfiable, RemoteError, RemoteNotFound, RemoteUnreachable
from drivefs.base.model import RemoteItem
from drivefs.jobs import streaming
from drivefs.jobs.streaming import stream_content
from tests.support.fake_drive import FakeDrive, md5_of

BUFFER = 64
PIECE = 16
SIZE = 1000


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_BUFFER", BUFFER)
    monkeypatch.setattr(streaming, "_PIECE", PIECE)


@pytest.fixture
def data() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def item(fake: FakeDrive, data: bytes) -> RemoteItem:
    return fake.put_file("f", data)


class Taker:
    """Takes each piece after ``pause`` seconds."""

    def __init__(self, pause: float = 0.0) -> None:
        self.data = b""
        self.pause = pause

    async def take(self, pieces: Sequence[bytes]) -> None:
        await trio.sleep(self.pause)
        self.data += b"".join(pieces)


class Counted:
    """A Drive that counts the bytes that it gives away."""

    def __init__(self, fake: FakeDrive) -> None:
        self.given = 0
        inner = fake.download

        async def download(file_id: str, start: int, end: int, sink: Callable[[int, bytes], None], **options: object) -> None:
            def count(offset: int, data: bytes) -> None:
                self.given += len(data)
                sink(offset, data)

            await inner(file_id, start, end, count, **options)  # type: ignore[arg-type]  # handed on as they are

        fake.download = download  # type: ignore[method-assign]  # what the test is about


@pytest.mark.parametrize("size", [0, 1, PIECE, BUFFER, BUFFER + 1, 10 * BUFFER + 7])
@pytest.mark.parametrize("pause", [0.0, 1.0])
async def test_every_byte_comes_once_and_in_order(fake: FakeDrive, size: int, pause: float, autojump_clock: MockClock) -> None:
    """However large the content is, and whether Drive or the taker is faster."""
    data = os.urandom(size)
    taker = Taker(pause)
    await stream_content(fake.drive, fake.put_file("f", data).id, size, md5_of(data), taker.take)
    assert taker.data == data


async def test_a_slow_taker_holds_up_drive(fake: FakeDrive, item: RemoteItem, data: bytes, autojump_clock: MockClock) -> None:
    """However large the content is, a bounded part of it has come and not been taken."""
    taker, drive = Taker(pause=10), Counted(fake)
    worst = 0

    async def watch() -> None:
        nonlocal worst
        while True:
            worst = max(worst, drive.given - len(taker.data))
            await trio.sleep(0.5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await stream_content(fake.drive, item.id, SIZE, md5_of(data), taker.take)
        nursery.cancel_scope.cancel()
    assert taker.data == data
    assert PIECE < worst <= BUFFER + 3 * PIECE


async def test_wrong_bytes_are_an_error(fake: FakeDrive, item: RemoteItem, data: bytes, autojump_clock: MockClock) -> None:
    """Against the checksum that the caller knows, and against Drive's own where he knows none."""
    with pytest.raises(RemoteError, match="checksum"):
        await stream_content(fake.drive, item.id, SIZE, md5_of(b"other"), Taker().take)
    await stream_content(fake.drive, item.id, SIZE, None, Taker().take)
    fake.corrupt = lambda content: bytes(len(content))
    with pytest.raises(RemoteError, match="checksum"):
        await stream_content(fake.drive, item.id, SIZE, None, Taker().take)


async def test_without_a_checksum_one_revision_is_read(
    fake: FakeDrive, item: RemoteItem, data: bytes, autojump_clock: MockClock
) -> None:
    """The one that there was when it was asked what it is; so a continued download never mixes two."""
    gate = fake.hold("download")
    taker = Taker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream_content, fake.drive, item.id, SIZE, None, taker.take)
        await gate.reached.wait()
        fake.edit(item.id, bytes(SIZE))
        gate.open.set()
    assert taker.data == data


@pytest.mark.parametrize("known", [True, False])
async def test_another_size_is_said(
    fake: FakeDrive, item: RemoteItem, data: bytes, known: bool, autojump_clock: MockClock
) -> None:
    """Before anything is given, whether the caller knows a checksum or not."""
    taker = Taker()
    with pytest.raises(RangeNotSatisfiable):
        await stream_content(fake.drive, item.id, SIZE + 1, md5_of(data) if known else None, taker.take)
    assert taker.data == b""


async def test_what_drive_says_is_raised_as_it_is(
    fake: FakeDrive, item: RemoteItem, data: bytes, autojump_clock: MockClock
) -> None:
    """No group, no other error, whatever had been taken by then."""
    fake.fail("download", RemoteUnreachable("broken"))
    with pytest.raises(RemoteUnreachable, match="broken"):
        await stream_content(fake.drive, item.id, SIZE, md5_of(data), Taker().take)
    with pytest.raises(RemoteNotFound):
        await stream_content(fake.drive, "none", 5, None, Taker().take)


async def test_a_taker_that_leaves_ends_the_download(
    fake: FakeDrive, item: RemoteItem, data: bytes, autojump_clock: MockClock
) -> None:
    """Nothing more comes."""
    drive = Counted(fake)
    with trio.move_on_after(50):
        await stream_content(fake.drive, item.id, SIZE, md5_of(data), Taker(pause=20).take)
    given = drive.given
    assert 0 < given < SIZE // 2
    await trio.sleep(100)
    assert drive.given == given


async def test_an_item_without_bytes(fake: FakeDrive, autojump_clock: MockClock) -> None:
    """A folder or a document of Google's has no size, and is refused as such."""
    folder = fake.put_folder("folder")
    fake.items[folder.id].item = replace(folder, size=None)
    with pytest.raises(RangeNotSatisfiable, match="None bytes"):
        await stream_content(fake.drive, folder.id, 0, None, Taker().take)
