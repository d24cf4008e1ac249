"""A full cache: what is clean goes, then writers wait for uploads, then they are told, by write and not by close."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from drivefs.base.errors import LocalDiskFull, ServerFault
from tests.support.fake_drive import FakeDrive
from tests.support.world import World, open_world

MIB = 1 << 20


async def write(world: World, path: str, mebibytes: int) -> None:
    """In pieces, as the kernel does it."""
    handle = await world.create(path)
    try:
        for number in range(mebibytes):
            await world.files.write(handle, number * MIB, os.urandom(MIB))
    finally:
        world.close(handle)


async def test_clean_data_goes_first(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Nobody waits while there is something that can be fetched again."""
    fake = FakeDrive()
    async with open_world(tmp_path / "cache", fake, cache_limit=32 * MIB, delay=1000) as world:
        await write(world, "old", 20)
        await world.drain()
        assert world.cache.clean_bytes == 20 * MIB
        begin = trio.current_time()
        await write(world, "new", 20)
        assert trio.current_time() == begin
        assert world.cache.clean_bytes + world.cache.room.unsent <= 33 * MIB


async def test_writers_wait_until_uploads_make_room(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Sixty mebibytes go through a cache of thirty-two, file after file, and all of them reach Drive."""
    fake = FakeDrive()
    async with open_world(tmp_path / "cache", fake, cache_limit=32 * MIB, delay=1000) as world:
        for name in "abc":
            await write(world, name, 20)
            assert world.cache.room.unsent <= 33 * MIB
        await world.drain()
        assert {path: len(data) for path, data in fake.files().items()} == dict.fromkeys("abc", 20 * MIB)


async def test_a_file_larger_than_the_cache_is_refused_by_write_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Nothing that could be sent would help. What was written stays, and room is made by deleting it."""
    fake = FakeDrive()
    async with open_world(tmp_path / "cache", fake, cache_limit=32 * MIB, delay=1000) as world:
        begin = trio.current_time()
        with pytest.raises(LocalDiskFull, match="--cache-size allows 32 MiB") as caught:
            await write(world, "large", 50)
        assert caught.value.errno == errno.ENOSPC
        assert trio.current_time() - begin < 2
        assert (await world.node("large")).size >= 30 * MIB
        await world.unlink("large")
        await write(world, "small", 20)


async def test_a_drive_that_takes_nothing_makes_writers_wait_and_then_tells_them(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Twenty seconds without any room made are the limit; once Drive takes files again, writing goes on without a restart."""
    fake = FakeDrive()
    async with open_world(tmp_path / "cache", fake, cache_limit=32 * MIB, delay=1000) as world:
        await write(world, "first", 20)
        fake.fail("open_upload", *[ServerFault("Drive is not itself.", status=503)] * 6)
        begin = trio.current_time()
        with pytest.raises(LocalDiskFull):
            await write(world, "second", 20)
        assert 15 <= trio.current_time() - begin <= 60
        await world.settle(300)
        await write(world, "third", 5)


async def test_reading_a_file_larger_than_the_cache(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What the reader has left behind makes room while the file stays open, and reading it again fetches it again."""
    fake = FakeDrive()
    data = os.urandom(400 * MIB)
    fake.put_file("large", data)
    async with open_world(tmp_path / "cache", fake, cache_limit=64 * MIB) as world:
        handle = await world.open("large")
        for offset in range(0, len(data), MIB):
            assert await world.files.read(handle, offset, MIB) == data[offset : offset + MIB]
        assert world.cache.clean_bytes < 300 * MIB
        assert await world.files.read(handle, 5, MIB) == data[5 : 5 + MIB]
        world.close(handle)
        assert world.cache.clean_bytes <= 64 * MIB
