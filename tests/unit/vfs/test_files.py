"""Open files: POSIX meaning of reading, writing, truncating and times, without a kernel."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from drivefs.base.errors import DriveFull, LocalDiskFull, PathError
from drivefs.base.model import StorageQuota
from drivefs.store.db import Database
from drivefs.vfs.filesystem import Changes
from tests.support.fake_drive import FakeDrive
from tests.support.world import World, clone_cache, open_world


async def test_writes_far_beyond_the_end_read_as_zeros_between(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Sparse files, as lseek(2) has it, also on Drive."""
    handle = await world.create("a")
    await world.files.write(handle, 10, b"x")
    world.close(handle)
    assert await world.read("a") == bytes(10) + b"x"
    await world.drain()
    assert fake.files() == {"a": bytes(10) + b"x"}


async def test_append_goes_to_the_end_whatever_the_offset(world: World, autojump_clock: MockClock) -> None:
    """O_APPEND: two handles never overwrite each other."""
    await world.write("a", b"begin")
    one, two = [await world.open("a", os.O_WRONLY | os.O_APPEND) for _ in range(2)]
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(world.files.write, one, 0, b"1")
            nursery.start_soon(world.files.write, two, 0, b"2")
    world.close(one)
    world.close(two)
    data = await world.read("a")
    assert data.startswith(b"begin")
    assert sorted(data[5:]) == sorted(b"1" * 5 + b"2" * 5)


async def test_reading_ends_at_the_end(world: World, autojump_clock: MockClock) -> None:
    """Short read at the end, nothing beyond it."""
    await world.write("a", b"12345")
    handle = await world.open("a")
    assert await world.files.read(handle, 3, 100) == b"45"
    assert await world.files.read(handle, 5, 100) == b""
    assert await world.files.read(handle, 99, 1) == b""
    world.close(handle)


async def test_a_write_of_nothing_changes_nothing(world: World, autojump_clock: MockClock) -> None:
    """write(2) of zero bytes beyond the end does not lengthen the file."""
    await world.write("a", b"12345")
    handle = await world.open("a", os.O_WRONLY)
    assert await world.files.write(handle, 100, b"") == 0
    world.close(handle)
    assert world.fs.getattr((await world.node("a")).inode).size == 5


async def test_a_part_of_a_remote_file_is_changed_without_fetching_it(
    world: World, fake: FakeDrive, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing needs no network; the rest is completed when the file is sent."""
    monkeypatch.setattr("drivefs.jobs.prefetch._WHOLE", 4)
    fake.put_file("a", b"0123456789")
    await world.changes.poll()
    await world.node("a")
    fake.calls.clear()
    await world.patch("a", 4, b"XY")
    assert not fake.calls
    assert await world.read("a") == b"0123XY6789"
    await world.drain()
    assert fake.files() == {"a": b"0123XY6789"}


async def test_an_unlinked_open_file_lives_until_its_last_close(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """And leaves no trace here; on Drive it is in the trash with what it had there."""
    await world.write("a", b"sent")
    await world.drain()
    handle = await world.open("a", os.O_RDWR)
    await world.unlink("a")
    await world.files.write(handle, 4, b" more")
    await world.drain()
    assert await world.read_all(handle) == b"sent more"
    world.close(handle)
    await world.drain()
    assert fake.files() == {}
    await world.keeper.durable()
    assert not list(world.directory.glob("*/*/*"))


async def test_a_time_set_by_hand_outlives_close(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """cp -p, tar and rsync set the time before they close."""
    handle = await world.create("a")
    await world.files.write(handle, 0, b"1")
    inode = (await world.node("a")).inode
    await world.fs.setattr(inode, Changes(mtime_ns=1_234_567_891), handle)
    world.close(handle)
    assert world.fs.getattr(inode).mtime_ns == 1_234_567_891
    await world.drain()
    assert fake.tree()["a"][0].modified_ms == 1234
    assert world.fs.getattr(inode).mtime_ns == 1_234_567_891


async def test_stat_of_a_file_being_written_is_current(world: World, autojump_clock: MockClock) -> None:
    """Length and time are those of the last write, before any close."""
    handle = await world.create("a")
    inode = (await world.node("a")).inode
    before = world.fs.getattr(inode).mtime_ns
    await world.files.write(handle, 0, b"123")
    assert world.fs.getattr(inode).size == 3
    assert world.fs.getattr(inode).mtime_ns > before
    world.close(handle)


async def test_a_full_disk_gives_enospc_and_keeps_what_was_acknowledged(
    world: World, fake: FakeDrive, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First what can be fetched again goes; if that does not help the write fails, and the file is as before."""
    fake.put_file("clean", b"x" * 50)
    await world.changes.poll()
    await world.read("clean")
    handle = await world.create("a")
    await world.files.write(handle, 0, b"kept")
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if offset < 8:
            return real(fd, data[: 8 - offset], offset)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(LocalDiskFull):
            await world.files.write(handle, 4, b"not kept")
    assert not world.cache.is_whole(await world.node("clean"))
    assert await world.read_all(handle) == b"kept"
    world.close(handle)
    await world.drain()
    assert fake.content(fake.tree()["a"][0].id) == b"kept"


async def test_what_a_full_disk_refused_does_not_appear_after_a_kill(
    tmp_path: Path, fake: FakeDrive, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Part of the refused write had reached the disk; the length after a restart is that of what was acknowledged."""
    async with open_world(tmp_path / "cache", fake) as world:
        handle = await world.create("a")
        await world.files.write(handle, 0, b"kept")
        real = os.pwrite

        def full(fd: int, data: bytes, offset: int) -> int:
            if offset < 8:
                return real(fd, data[: 8 - offset], offset)
            raise OSError(errno.ENOSPC, "full")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(LocalDiskFull):
                await world.files.write(handle, 4, b"not kept")
        clone_cache(world.directory, tmp_path / "copy")
        world.close(handle)
    async with open_world(tmp_path / "copy", fake) as world:
        assert await world.read("a") == b"kept"


async def test_what_open_refuses(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Folders, links, Google's own documents, and files that may not be edited."""
    document = fake.put_file("doc", b"", mime="application/vnd.google-apps.document")
    await world.mkdir("d")
    await world.symlink("x", "link")
    await world.changes.poll()
    for path, flags, number in (
        ("d", os.O_RDONLY, errno.EISDIR),
        ("link", os.O_RDONLY, errno.ELOOP),
        (f"{document.name}.gdoc", os.O_RDONLY, errno.EOPNOTSUPP),
    ):
        with pytest.raises(PathError) as caught:
            await world.open(path, flags)
        assert caught.value.errno == number
    await world.write("a", b"1")
    world.tree.update((await world.node("a")).inode, can_edit=0)
    assert await world.read("a") == b"1"
    with pytest.raises(PathError, match="EACCES"):
        await world.open("a", os.O_WRONLY)


async def test_a_handle_that_is_none_is_refused(world: World, autojump_clock: MockClock) -> None:
    """EBADF, as the kernel would."""
    with pytest.raises(PathError, match="EBADF"):
        await world.files.read(99, 0, 1)


async def test_a_full_account_is_said_by_write(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Where Drive has told how much room is left, a write that goes beyond it is ENOSPC at once; shortening still works."""
    world.account.quota = StorageQuota(limit=1000, usage=900)
    handle = await world.create("a")
    await world.files.write(handle, 0, bytes(80))
    with pytest.raises(DriveFull) as caught:
        await world.files.write(handle, 80, bytes(50))
    assert caught.value.errno == errno.ENOSPC
    await world.cut(handle, 10)
    await world.files.write(handle, 0, bytes(80))
    world.close(handle)
    await world.drain()
    assert fake.files() == {"a": bytes(80)}


async def test_a_file_and_its_content_are_made_in_one_step(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At no moment could a kill leave a name without content, nor content without a name."""
    copies: list[Path] = []
    execute = Database.execute

    def copying(db: Database, sql: str, parameters: Any = ()) -> Any:
        result = execute(db, sql, parameters)
        if sql.startswith(("INSERT", "UPDATE")):
            copies.append(tmp_path / f"copy{len(copies)}")
            clone_cache(world.directory, copies[-1])
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Database, "execute", copying)
        handle = await world.create("a")
    clone_cache(world.directory, tmp_path / "after")
    seen = []
    for copy in [*copies, tmp_path / "after"]:
        with Database(copy) as db:
            seen.append(db.execute("SELECT content IS NOT NULL FROM node WHERE shown_name = 'a'").fetchall())
    assert [len(rows) for rows in seen[:-1]] == [0] * len(copies)
    assert [tuple(row) for row in seen[-1]] == [(1,)]
    world.close(handle)


async def test_bytes_come_before_the_name_they_take(world: World, autojump_clock: MockClock) -> None:
    """A temporary file renamed over another is on the disk first; renamed to a free name it is in no hurry."""
    await world.write("a", b"former")
    await world.write("tmp", b"newer")
    synced = "SELECT count(*) FROM content WHERE synced IS NOT NULL"
    assert world.db.execute(synced).fetchone()[0] == 0
    await world.rename("tmp", "b")
    assert world.db.execute(synced).fetchone()[0] == 0
    await world.rename("b", "a")
    assert world.db.execute(synced).fetchone()[0] == 1
    assert await world.read("a") == b"newer"
