"""Files that are sent while their writers go on: what Drive gets is one state of the file, and it gets one now and then."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from drivefs.jobs.snapshots import Snapshots
from tests.support.fake_drive import FakeDrive
from tests.support.world import World, open_world


@pytest.fixture
async def world(tmp_path: Path, fake: FakeDrive) -> AsyncIterator[World]:
    """A world that takes snapshots every minute."""
    async with open_world(tmp_path / "cache", fake, snapshot_every=60) as opened:
        yield opened


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of more than 4 bytes are sent resumably, in chunks of 4."""
    monkeypatch.setattr("drivefs.jobs.transfer._MULTIPART_LIMIT", 4)
    monkeypatch.setattr("drivefs.jobs.transfer._CHUNK", 4)


def revisions(fake: FakeDrive, path: str) -> list[bytes]:
    (item,) = fake.tree()[path]
    return list(fake.items[item.id].revisions.values())


async def test_an_open_file_is_sent_one_interval_after_its_first_unsent_change(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Not before, once an interval, under one id, and nothing where nothing changed."""
    fake.put_file("a", b"base")
    await world.changes.poll()
    handle = await world.open("a", os.O_RDWR)
    await world.settle(100)
    await world.files.write(handle, 4, b"1")
    await world.settle(50)
    await world.files.write(handle, 5, b"2")
    await world.settle(9)
    assert fake.files() == {"a": b"base"}
    await world.settle(2)
    assert fake.files() == {"a": b"base12"}
    assert not world.uploader.unsent()
    await world.settle(1000)
    await world.files.write(handle, 6, b"3")
    await world.settle(59)
    (unsent,) = world.uploader.unsent()
    assert unsent.reason == "open for writing, last sent 1060 s ago"
    await world.settle(2)
    assert revisions(fake, "a") == [b"base", b"base12", b"base123"]
    world.close(handle)
    await world.settle()
    assert len(revisions(fake, "a")) == 3


async def test_a_log_that_grows_all_the_time_is_sent_every_interval(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Ten minutes of a line a second: ten snapshots or nearly so, each the beginning of the log, and all of it after close."""
    handle = await world.create("log")
    lines = b""
    for n in range(600):
        line = b"%d\n" % n
        await world.files.write(handle, len(lines), line)
        lines += line
        await world.settle(1)
    snapshots = revisions(fake, "log")
    assert 8 <= len(snapshots) <= 10
    assert all(lines.startswith(snapshot) and snapshot for snapshot in snapshots)
    assert len(snapshots[-1]) > len(lines) * 4 // 5
    world.close(handle)
    await world.drain()
    assert fake.files() == {"log": lines}


async def test_a_new_open_file_is_sent_and_its_deletion_ends_that(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Created and never closed: on Drive after an interval, and in its trash after the unlink."""
    handle = await world.create("a")
    await world.files.write(handle, 0, b"1")
    await world.settle(62)
    assert fake.files() == {"a": b"1"}
    await world.unlink("a")
    await world.files.write(handle, 1, b"2")
    await world.settle(200)
    assert fake.files() == {}
    world.close(handle)


@pytest.mark.usefixtures("chunks")
async def test_what_is_appended_during_an_upload_does_not_void_it(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """The bytes that were frozen are unchanged, so they are committed; the rest follows with the next snapshot."""
    handle = await world.create("a")
    await world.files.write(handle, 0, b"0123456789AB")
    gate = fake.hold("send_chunk", after=True)
    await gate.reached.wait()
    await world.files.write(handle, 12, b"more")
    gate.open.set()
    await world.settle(10)
    assert fake.files() == {"a": b"0123456789AB"}
    assert fake.calls["open_upload"] == 1
    await world.settle(60)
    assert fake.files() == {"a": b"0123456789ABmore"}
    world.close(handle)


@pytest.mark.usefixtures("chunks")
async def test_what_is_overwritten_during_an_upload_voids_it(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Drive never has half of each, and the next interval brings the new state."""
    handle = await world.create("a")
    await world.files.write(handle, 0, b"0123456789AB")
    gate = fake.hold("send_chunk", after=True)
    await gate.reached.wait()
    await world.files.write(handle, 11, b"X!")
    gate.open.set()
    await world.settle(30)
    assert fake.files() == {}
    await world.settle(60)
    assert revisions(fake, "a") == [b"0123456789AX!"]
    world.close(handle)


@pytest.mark.usefixtures("chunks")
async def test_a_large_file_that_never_rests_is_sent_from_a_copy(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Rewritten in place while each chunk is sent, it would begin again for ever; a copy of one state gets through."""
    handle = await world.create("a")
    states = [bytes([65 + n]) * 12 for n in range(26)]
    await world.files.write(handle, 0, states[0])
    for state in states[1:]:
        await world.settle(10)
        await world.files.write(handle, 0, state)
        fake.delay = lambda method: 6.0 if method == "send_chunk" else 0.01
    assert fake.calls["cancel_upload"] >= 1
    assert revisions(fake, "a")
    assert set(revisions(fake, "a")) <= set(states)
    world.close(handle)
    await world.drain()
    assert fake.files() == {"a": states[-1]}


@pytest.mark.usefixtures("chunks")
async def test_a_large_closed_file_rewritten_all_the_time_reaches_drive(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Opened, emptied, written, closed every ten seconds, while an upload takes twenty: what Drive gets is one of the states."""
    fake.delay = lambda method: 4.0 if method == "send_chunk" else 0.01
    states = [b"%012d" % n for n in range(60)]
    for state in states:
        await world.write("a", state)
        await world.settle(10)
    assert len(revisions(fake, "a")) >= 2
    assert set(revisions(fake, "a")) <= set(states)
    await world.drain()
    assert fake.files() == {"a": states[-1]}


async def test_a_restart_during_a_snapshot_sends_the_whole_file(
    tmp_path: Path, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Killed between Drive's taking the first state and the answer: the rest is an update of the same item, and no conflict."""
    async with open_world(tmp_path / "cache", fake, snapshot_every=60) as world:
        handle = await world.create("a")
        await world.files.write(handle, 0, b"first")
        gate = fake.hold("create_with_content", after=True)
        await gate.reached.wait()
        await world.files.write(handle, 5, b" second")
        world.files.flush(handle)
        fake.dead = True
    fake.dead = False
    async with open_world(tmp_path / "cache", fake) as world:
        await world.drain()
        assert await world.contents() == {"a": b"first second"}
    assert revisions(fake, "a") == [b"first", b"first second"]


async def test_without_snapshots_an_open_file_waits_for_its_close(
    tmp_path: Path, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """``open_file_snapshot`` 0 turns them off."""
    async with open_world(tmp_path / "cache", fake, snapshot_every=0) as world:
        handle = await world.create("a")
        await world.files.write(handle, 0, b"1")
        await trio.sleep(10_000)
        assert fake.files() == {}
        world.close(handle)
        await world.settle()
        assert fake.files() == {"a": b"1"}


def test_the_interval_counts_from_the_first_change() -> None:
    """Arming again does not put it off; a reset does."""
    snapshots = Snapshots(60)
    assert snapshots.arm(1, now=100) == 160
    assert snapshots.arm(1, now=150) == 160
    assert not snapshots.is_due(1, 159)
    assert snapshots.is_due(1, 160)
    snapshots.reset(1)
    assert not snapshots.is_due(1, 1000)
    assert snapshots.arm(1, now=170) == 230
    assert Snapshots(0).arm(1, now=0) is None


async def test_a_deletion_waits_for_a_copy_that_was_opened_again(
    tmp_path: Path, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """``cp a b; rm a`` and b is appended to at once: Drive loses a when it has b, which is with b's next snapshot."""
    fake.put_file("a", b"original")
    async with open_world(tmp_path / "cache", fake, delay=1.0, snapshot_every=60.0) as world:
        assert await world.read("a") == b"original"
        await world.write("b", b"original")
        await world.unlink("a")
        handle = await world.open("b", os.O_WRONLY | os.O_APPEND)
        await world.files.write(handle, 0, b" and more")
        await world.settle(30)
        assert "a" in fake.files()
        await world.settle(60)
        assert fake.files()["b"] == b"original and more"
        await world.settle(120)
        assert set(fake.files()) == {"b"}
        world.close(handle)
