"""A content streamed past the cache: in order, bounded, checked, and cancelled with whoever takes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from drivefs.base.errors import RangeNotSatisfiable, RemoteError, RemoteNotFound, RemoteUnreachable
from drivefs.jobs import streaming
from drivefs.jobs.streaming import stream_content
from tests.support.fake_drive import FakeDrive, Refused, md5_of

PORTION = 64


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_PORTION", PORTION)
    monkeypatch.setattr(streaming, "_PIECE", 16)


class Taker:
    """Takes each piece after ``pause`` seconds."""

    def __init__(self, pause: float = 0.0) -> None:
        self.data = b""
        self.pause = pause

    async def take(self, pieces: Sequence[bytes]) -> None:
        await trio.sleep(self.pause)
        self.data += b"".join(pieces)


@pytest.mark.parametrize("size", [0, 1, PORTION - 1, PORTION, PORTION + 1, 10 * PORTION + 7])
async def test_every_byte_comes_once_and_in_order(fake: FakeDrive, size: int, autojump_clock: MockClock) -> None:
    """Portions that arrive in the opposite order are given in the right one."""
    data = os.urandom(size)
    item = fake.put_file("f", data)
    delays = iter(range(100, 0, -1))
    fake.delay = lambda _method: next(delays) / 100
    taker = Taker()
    await stream_content(fake.drive, item.id, size, md5_of(data), taker.take)
    assert taker.data == data


async def test_a_slow_taker_holds_up_the_asking(fake: FakeDrive, autojump_clock: MockClock) -> None:
    """However large the content is, a bounded part of it has been asked for and not been taken."""
    data = os.urandom(100 * PORTION)
    item = fake.put_file("f", data)
    taker = Taker(pause=10)
    worst = 0

    async def watch() -> None:
        nonlocal worst
        while True:
            worst = max(worst, sum(end - start for start, end in fake.ranges) - len(taker.data))
            await trio.sleep(0.5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await stream_content(fake.drive, item.id, len(data), md5_of(data), taker.take)
        nursery.cancel_scope.cancel()
    assert taker.data == data
    assert PORTION < worst <= (streaming._AHEAD + 1) * PORTION


async def test_wrong_bytes_are_an_error(fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Against the checksum that the caller knows, and against Drive's own where he knows none."""
    data = os.urandom(3 * PORTION)
    item = fake.put_file("f", data)
    with pytest.raises(RemoteError, match="checksum"):
        await stream_content(fake.drive, item.id, len(data), md5_of(b"other"), Taker().take)
    await stream_content(fake.drive, item.id, len(data), None, Taker().take)
    fake.corrupt = lambda content: bytes(len(content))
    with pytest.raises(RemoteError, match="checksum"):
        await stream_content(fake.drive, item.id, len(data), None, Taker().take)


async def test_a_change_in_the_middle_never_mixes(fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Without a checksum the revision that was there at the beginning is read to its end."""
    data = os.urandom(20 * PORTION)
    item = fake.put_file("f", data)
    taker = Taker(pause=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream_content, fake.drive, item.id, len(data), None, taker.take)
        await trio.sleep(5)
        fake.edit(item.id, bytes(len(data)))
    assert taker.data == data


async def test_another_size_is_said(fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Before anything is given, whether a checksum is known or not."""
    item = fake.put_file("f", b"12345")
    for md5 in (None, md5_of(b"12345")):
        with pytest.raises(RangeNotSatisfiable):
            await stream_content(fake.drive, item.id, 6, md5, Taker().take)


async def test_an_error_in_the_middle_ends_it(fake: FakeDrive, autojump_clock: MockClock) -> None:
    """What Drive says of one portion, or of two at once, is raised as it is, and the others are not waited for."""
    data = os.urandom(8 * PORTION)
    item = fake.put_file("f", data)
    fake.fault = lambda _method: Refused(RemoteUnreachable("broken")) if fake.calls["download"] > 1 else None
    fake.hold("download")
    with trio.fail_after(60), pytest.raises(RemoteUnreachable, match="broken"):
        await stream_content(fake.drive, item.id, len(data), md5_of(data), Taker().take)


async def test_an_item_that_is_gone(fake: FakeDrive, autojump_clock: MockClock) -> None:
    """404 is raised as what it is."""
    with pytest.raises(RemoteNotFound):
        await stream_content(fake.drive, "none", 5, None, Taker().take)


async def test_a_taker_that_leaves_ends_the_downloads(fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Nothing more is asked for."""
    data = os.urandom(100 * PORTION)
    item = fake.put_file("f", data)
    with trio.move_on_after(5):
        await stream_content(fake.drive, item.id, len(data), md5_of(data), Taker(pause=2).take)
    asked = len(fake.ranges)
    assert asked < 20
    await trio.sleep(100)
    assert len(fake.ranges) == asked


async def test_an_item_without_bytes(fake: FakeDrive, autojump_clock: MockClock) -> None:
    """A folder or a document of Google's has no size, and is refused as such."""
    folder = fake.put_folder("folder")
    fake.items[folder.id].item = replace(folder, size=None)
    with pytest.raises(RangeNotSatisfiable, match="None bytes"):
        await stream_content(fake.drive, folder.id, 0, None, Taker().take)
