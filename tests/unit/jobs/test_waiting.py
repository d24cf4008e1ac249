"""Waiting for Drive: flush, drain, fsync that means Drive, and how long it will take."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from drivefs.base.errors import AccessDenied, DriveFSError, DriveFull, RemoteUnreachable, TimedOut
from drivefs.jobs.agenda import Agenda
from drivefs.jobs.pace import Pace
from tests.support.fake_drive import FakeDrive, Lost
from tests.support.world import World, open_world

# -- fsync means Drive -------------------------------------------------------------------------------------------------


async def test_commit_returns_when_drive_has_an_open_files_bytes(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Though the file stays open; what is written later is not waited for, and is sent after the close."""
    handle = await world.create("a")
    await world.files.write(handle, 0, b"now")
    await world.uploader.commit((await world.node("a")).inode)
    assert fake.files() == {"a": b"now"}
    await world.uploader.commit((await world.node("a")).inode)
    assert fake.calls["create_with_content"] == 1
    await world.files.write(handle, 3, b" later")
    await world.settle(100)
    assert fake.files() == {"a": b"now"}
    world.close(handle)
    await world.drain()
    assert fake.files() == {"a": b"now later"}


async def test_fsync_of_a_remote_mount_is_a_commit(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """And on any other mount it costs no call."""
    handle = await world.create("a")
    await world.files.write(handle, 0, b"1")
    await world.files.fsync(handle)
    assert fake.files() == {}
    world.files._fsync_remote = True
    await world.files.fsync(handle)
    assert fake.files() == {"a": b"1"}
    world.close(handle)


async def test_commit_does_not_take_an_older_upload_for_it(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """An upload of the bytes before the last write is under way: commit waits for the one after it."""
    await world.write("a", b"first")
    gate = fake.hold("create_with_content")
    await gate.reached.wait()
    handle = await world.open("a", os.O_WRONLY)
    await world.files.write(handle, 5, b" second")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.uploader.commit, (await world.node("a")).inode)
        await wait_all_tasks_blocked()
        gate.open.set()
    assert fake.files() == {"a": b"first second"}
    world.close(handle)


async def test_commit_ends_although_the_file_is_written_all_the_time(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """The state at the call, or a later one, is enough."""
    handle = await world.create("a")
    await world.files.write(handle, 0, b"mark")

    async def keep_writing() -> None:
        for offset in range(4, 10_000):
            await world.files.write(handle, offset, b"x")
            await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_writing)
        with trio.fail_after(5):
            await world.uploader.commit((await world.node("a")).inode)
        assert fake.files()["a"].startswith(b"mark")
        nursery.cancel_scope.cancel()
    world.close(handle)
    await world.drain()


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (DriveFull("full", status=403), errno.ENOSPC),
        (AccessDenied("no right", status=403), errno.EACCES),
    ],
)
async def test_commit_says_what_drive_refuses(
    world: World, fake: FakeDrive, autojump_clock: MockClock, error: DriveFSError, number: int
) -> None:
    """At once, with the errno that programs understand; the file is kept, and the next commit may succeed."""
    assert isinstance(error, DriveFull | AccessDenied)
    fake.fail("create_with_content", error)
    await world.write("a", b"1")
    start = trio.current_time()
    with pytest.raises(DriveFSError) as caught:
        await world.uploader.commit((await world.node("a")).inode)
    assert caught.value.errno == number
    assert trio.current_time() - start < 5
    await world.settle(200)
    await world.uploader.commit((await world.node("a")).inode)
    assert fake.files() == {"a": b"1"}


async def test_commit_says_that_the_folder_cannot_be_made(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """A file in a folder that Drive refuses is not on Drive, for the folder's reason."""
    fake.fail("create", AccessDenied("no right", status=403))
    await world.mkdir("d")
    await world.write("d/a", b"1")
    with pytest.raises(AccessDenied, match="no right"):
        await world.uploader.commit((await world.node("d/a")).inode)


async def test_commit_gives_up_without_progress(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """An unreachable server: the error after the patience of a program's call; a server that never answers: a timeout."""
    await world.write("a", b"1")
    fake.fault = lambda _method: Lost(applied=False)
    start = trio.current_time()
    with pytest.raises(RemoteUnreachable, match="the connection broke"):
        await world.uploader.commit((await world.node("a")).inode)
    assert trio.current_time() - start == pytest.approx(20, abs=0.1)
    fake.fault = lambda _method: None
    await world.drain()
    await world.write("b", b"1")
    gate = fake.hold("create_with_content")
    with pytest.raises(TimedOut, match="kept"):
        await world.uploader.commit((await world.node("b")).inode)
    gate.open.set()
    await world.drain()
    assert fake.files() == {"a": b"1", "b": b"1"}


async def test_commit_of_a_deleted_file_has_nothing_to_wait_for(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Before or while it waits."""
    fake.fault = lambda method: Lost(applied=False) if "content" in method else None
    handle = await world.create("a")
    await world.files.write(handle, 0, b"1")
    inode = (await world.node("a")).inode
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.uploader.commit, inode)
        await trio.sleep(1)
        await world.unlink("a")
    await world.uploader.commit(inode)
    world.close(handle)


# -- flush and drain ---------------------------------------------------------------------------------------------------


async def test_a_flush_waits_for_what_was_there_when_it_was_asked(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Somebody who writes a new file every second does not keep it from ending."""
    fake.delay = lambda _method: 1.0
    await world.write("first", b"1")

    async def keep_making() -> None:
        for n in range(10_000):
            await world.write(f"new{n}", b"x")
            await trio.sleep(0.5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_making)
        await trio.sleep(5)
        with trio.fail_after(30):
            assert await world.uploader.drain(60) == []
        assert "first" in fake.files()
        nursery.cancel_scope.cancel()


async def test_a_flush_of_a_log_that_grows_ends(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Its beginning, up to the flush at least, is on Drive."""
    handle = await world.create("log")
    await world.files.write(handle, 0, b"line")

    async def keep_logging() -> None:
        for offset in range(4, 100_000):
            await world.files.write(handle, offset, b"x")
            await trio.sleep(0.005)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_logging)
        await trio.sleep(1)
        size = (await world.node("log")).size
        with trio.fail_after(5):
            assert await world.uploader.drain(60) == []
        assert len(fake.files()["log"]) >= size
        nursery.cancel_scope.cancel()
    world.close(handle)
    await world.drain()


async def test_the_last_drain_waits_for_everything(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Before the end of the process, what is changed during the drain is sent too."""
    await world.write("a", b"1")
    async with trio.open_nursery() as nursery:

        async def write_more() -> None:
            await trio.sleep(0.005)
            await world.write("b", b"2")

        nursery.start_soon(write_more)
        assert await world.uploader.drain(60, until_empty=True) == []
    assert fake.files() == {"a": b"1", "b": b"2"}


async def test_a_drain_begins_with_the_newest_small_files(tmp_path: Path, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Where time may run out, the most files are safe first; folders come before what lies in them, and the largest is last."""
    async with open_world(tmp_path / "cache", fake, delay=1000, workers=1) as world:
        await world.write("old", b"1")
        await world.write("huge", b"x" * (3 << 20))
        await world.write("large", b"x" * (2 << 20))
        await world.mkdir("d")
        await world.write("d/newest", b"2")
        for number, name in enumerate(("old", "huge", "large", "d/newest")):
            await world.utime(name, (1_000 + number) * 10**9)
        await world.drain()
    assert [name for what, name in fake.log if what == "create"] == ["d", "newest", "old", "large", "huge"]


async def test_unsent_tells_what_and_why(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Path, kind, size, reason, and whether it is a deletion."""
    await world.write("gone", b"1")
    await world.drain()
    fake.fault = lambda _method: Lost(applied=False)
    await world.mkdir("d")
    await world.write("d/a", b"123")
    await world.unlink("gone")
    await world.settle(3)
    found = {e.path: (e.kind.value, e.size, e.reason, e.deletion) for e in world.uploader.unsent()}
    assert found == {
        "MyDrive/d": ("folder", 0, "the connection broke", False),
        "MyDrive/d/a": ("file", 3, "waiting for its turn", False),
        "MyDrive/gone": ("file", 0, "waiting for its turn", True),
    }
    assert {e.inode for e in world.uploader.unsent()} >= {(await world.node("d")).inode, (await world.node("d/a")).inode}
    fake.fault = lambda _method: None
    await world.drain()


async def test_the_estimate_comes_from_the_last_uploads(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Unknown before the first; then as long as it really takes, more or less."""
    fake.delay = lambda _method: 0.5
    await world.write("a", b"1")
    assert world.uploader.estimated_seconds() is None
    await world.drain()
    assert world.uploader.estimated_seconds() == 0
    for n in range(60):
        if n == 20:
            await world.drain()
        await world.write(f"f{n}", b"x")
    estimate = world.uploader.estimated_seconds()
    assert estimate is not None
    start = trio.current_time()
    await world.drain()
    assert estimate == pytest.approx(trio.current_time() - start, rel=0.2)


# -- by themselves -----------------------------------------------------------------------------------------------------


def test_pace_learns_a_price_for_calls_and_one_for_bytes() -> None:
    """Small uploads teach the one, large ones the other; without either nothing is claimed."""
    pace = Pace()
    assert pace.estimate([], 4) == 0
    assert pace.estimate([1], 4) is None
    pace.note(10, 1.0)
    assert pace.estimate([1] * 8, 4) == 2.0
    assert pace.estimate([10 << 20], 4) is None
    pace.note(10 << 20, 11.0)
    assert pace.estimate([10 << 20], 4) == pytest.approx(11.0)  # one worker sends it
    assert pace.estimate([10 << 20] * 8, 4) == pytest.approx(22.0)
    pace.note(10, 2.0)
    assert pace.seconds_per_file == pytest.approx(1.2)


def test_the_agenda_gives_the_lowest_rank_of_what_is_due() -> None:
    """Ranks decide among what is due, then time; moving something makes its older entry void."""
    agenda = Agenda()
    agenda.put(1, 5)
    agenda.put(2, 6)
    agenda.rank(3, (1, 0))
    agenda.put(3, 7)
    agenda.rank(4, (0, 9))
    agenda.put(4, 7)
    agenda.put(5, 100)
    agenda.put(2, 4)
    assert agenda.next_time() == 4
    assert [agenda.pop(50) for _ in range(5)] == [4, 3, 2, 1, None]
    assert 5 in agenda
    assert agenda.next_time() == 100
    agenda.put(5, 60)
    assert agenda.pop(60) == 5
    assert agenda.pop(1000) is None
