"""Read-ahead: what a reader's pattern asks for, and how requests are shared, fail and are checked."""

from __future__ import annotations

import os
import random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from drivefs.base.errors import AccessDenied, RemoteNotFound, RemoteUnreachable, ServerFault
from drivefs.base.model import Invalidation
from drivefs.base.ranges import Range, RangeSet
from drivefs.jobs.prefetch import Window
from drivefs.store.content import Content
from tests.support.fake_drive import FakeDrive
from tests.support.world import World

MIB = 1 << 20
KERNEL_READ = 128 << 10


def requests_for(reads: list[tuple[int, int]], size: int) -> tuple[int, int]:
    """(requests, bytes) that one handle's reads of a file cost, if each request is answered before the next read."""
    window, present = Window(), RangeSet()
    requests = fetched = 0
    for start, end in reads:
        wanted = window.advance(start, min(end, size), size)
        assert wanted.start <= start
        assert wanted.end >= min(end, size)
        for gap in present.missing(*wanted):
            pieces = -(-gap.size // window.unit)
            requests, fetched = requests + pieces, fetched + gap.size
            present.add(*gap)
    return requests, fetched


def sequential(size: int) -> list[tuple[int, int]]:
    return [(start, start + KERNEL_READ) for start in range(0, size, KERNEL_READ)]


async def test_a_small_file_costs_one_request(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Whatever part of it is read first: 4 MiB are fetched whole."""
    fake.put_file("a", bytes(4 * MIB))
    await world.changes.poll()
    handle = await world.open("a")
    assert await world.files.read(handle, 3 * MIB, 4096) == bytes(4096)
    assert fake.ranges == [(0, 4 * MIB)]
    world.close(handle)


def test_reading_straight_on_costs_few_requests_and_nothing_twice() -> None:
    """A file of 512 MiB in reads of 128 KiB: requests grow to 16 MiB, and no byte is asked for twice."""
    requests, fetched = requests_for(sequential(512 * MIB), 512 * MIB)
    assert fetched == 512 * MIB
    assert requests <= 70


def test_a_reordered_read_is_still_straight() -> None:
    """The kernel's own read-ahead swaps neighbours now and then."""
    reads = sequential(64 * MIB)
    for at in range(0, len(reads) - 1, 6):
        reads[at], reads[at + 1] = reads[at + 1], reads[at]
    assert requests_for(reads, 64 * MIB)[0] <= requests_for(sequential(64 * MIB), 64 * MIB)[0] + 4


def test_random_reads_do_not_fetch_ahead() -> None:
    """100 reads of 4 KiB all over a file of 10 GiB fetch about one unit of 1 MiB each, never a window."""
    rng = random.Random(1)
    size = 10 << 30
    reads = [(start, start + 4096) for start in (rng.randrange(size - 4096) for _ in range(100))]
    requests, fetched = requests_for(reads, size)
    assert requests <= 200
    assert fetched <= 100 * 2 * MIB


def test_a_jump_ends_the_read_ahead() -> None:
    """After a seek a reader has to prove again that it goes straight on."""
    window = Window()
    for start, end in sequential(8 * MIB):
        window.advance(start, end, 1 << 30)
    assert window.size > 0
    window.advance(500 * MIB, 500 * MIB + 4096, 1 << 30)
    assert window.size == 0


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivefs.jobs.prefetch._WHOLE", 10)


async def opened(world: World, fake: FakeDrive, data: bytes) -> Content:
    fake.put_file("a", data)
    await world.changes.poll()
    return world.cache.open((await world.node("a")).inode)


@pytest.mark.usefixtures("small_units")
async def test_each_byte_is_fetched_once_however_many_read(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Overlapping readers share the requests under way."""
    data = os.urandom(100)
    content = await opened(world, fake, data)
    async with trio.open_nursery() as nursery:
        for start in range(0, 60, 10):
            nursery.start_soon(world.prefetch.ensure, content, Range(start, start + 40))
    assert sorted(fake.ranges) == sorted(set(fake.ranges))
    assert sum(end - start for start, end in fake.ranges) == 90
    assert os.pread(content.fd, 90, 0) == data[:90]
    world.cache.close(content)


async def test_a_failure_wakes_all_who_wait_and_the_next_try_succeeds(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Every reader of the missing bytes gets the error; nothing is remembered against the file."""
    content = await opened(world, fake, b"0123456789")
    gate = fake.hold("download")
    fake.fail("download", RemoteUnreachable("no connection"))
    failed = 0

    async def read() -> None:
        nonlocal failed
        with pytest.raises(RemoteUnreachable):
            await world.prefetch.ensure(content, Range(0, 10))
        failed += 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read)
        await gate.reached.wait()
        await wait_all_tasks_blocked()
        gate.open.set()
    assert failed == 3
    await world.prefetch.ensure(content, Range(0, 10))
    assert os.pread(content.fd, 10, 0) == b"0123456789"
    world.cache.close(content)


async def test_a_cancelled_reader_leaves_the_others_their_bytes(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """The request belongs to nobody in particular."""
    content = await opened(world, fake, b"0123456789")
    gate = fake.hold("download")
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            await world.prefetch.ensure(content, Range(0, 10))
        assert gate.reached.is_set()
        nursery.start_soon(world.prefetch.ensure, content, Range(0, 10))
        gate.open.set()
    assert content.complete
    assert fake.calls["download"] == 1
    world.cache.close(content)


@pytest.mark.parametrize("whole", [True, False])
async def test_bytes_that_do_not_match_the_checksum_are_never_kept(
    world: World, fake: FakeDrive, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """Of a small file nobody sees them; of a larger one the last bytes fail. Opened again, all is fetched anew."""
    monkeypatch.setattr("drivefs.jobs.prefetch._WHOLE", 100 if whole else 10)
    content = await opened(world, fake, b"0123456789" * 3)
    fake.corrupt = lambda data: b"X" + data[1:]
    if not whole:
        await world.prefetch.ensure(content, Range(0, 10))  # readers are not kept waiting for the rest of a large file
    with pytest.raises(ServerFault, match="checksum"):
        await world.prefetch.ensure(content, Range(0, 30))
    assert content.missing(0, 30) == [Range(0, 30)]
    fake.corrupt = lambda data: data
    if not whole:
        with pytest.raises(ServerFault, match="open it again"):  # this reader has seen wrong bytes: it cannot go on as if not
            await world.prefetch.ensure(content, Range(0, 10))
        world.cache.close(content)
        content = world.cache.open((await world.node("a")).inode)
    await world.prefetch.ensure(content, Range(0, 30))
    assert os.pread(content.fd, 30, 0) == b"0123456789" * 3
    world.cache.close(content)


async def test_a_very_large_file_is_checked_when_it_is_complete(
    world: World, fake: FakeDrive, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader is not kept waiting for the checksum; wrong bytes are dropped here and in the kernel, and the reader stopped."""
    monkeypatch.setattr("drivefs.jobs.prefetch._WHOLE", 10)
    monkeypatch.setattr("drivefs.jobs.prefetch._CHECKED_FIRST", 20)
    content = await opened(world, fake, b"0123456789" * 3)
    fake.corrupt = lambda data: b"X" + data[1:]
    await world.prefetch.ensure(content, Range(0, 30))
    await wait_all_tasks_blocked()
    assert content.missing(0, 30) == [Range(0, 30)]
    assert Invalidation(content.inode, pages=True) in world.stale
    with pytest.raises(ServerFault, match="open it again"):
        await world.prefetch.ensure(content, Range(0, 10))
    world.cache.close(content)


@pytest.mark.usefixtures("small_units")
async def test_an_edit_between_two_requests_does_not_mix_versions(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """What is missing is asked for by revision: a reader sees the version that it opened, to the end."""
    content = await opened(world, fake, b"a" * 40)
    await world.prefetch.ensure(content, Range(0, 20))
    (item,) = fake.tree()["a"]
    fake.edit(item.id, b"b" * 40)
    await world.changes.poll()
    await world.prefetch.ensure(content, Range(0, 40))
    assert os.pread(content.fd, 40, 0) == b"a" * 40
    world.cache.close(content)
    assert await world.read("a") == b"b" * 40


async def test_a_viewer_reads_the_head_where_the_revision_is_refused(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Drive may keep revisions from those who can only view: the head is read, and known to be the same revision."""
    data = random.Random(7).randbytes(6 * MIB)
    fake.put_file("a", data)
    await world.changes.poll()
    handle = await world.open("a")
    fake.fail("download", AccessDenied("no revisions for you", status=403))
    assert await world.files.read(handle, 5 * MIB, 4096) == data[5 * MIB : 5 * MIB + 4096]
    world.close(handle)


async def test_the_head_is_not_taken_for_a_revision_that_it_is_no_more(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """The file was changed on Drive to the same length, and our revision cannot be had: an error, never the other bytes."""
    file_id = fake.put_file("a", bytes(6 * MIB)).id
    await world.changes.poll()
    handle = await world.open("a")
    fake.edit(file_id, b"x" * (6 * MIB))
    fake.fail("download", AccessDenied("no revisions for you", status=403))
    with pytest.raises(RemoteNotFound):
        await world.files.read(handle, 5 * MIB, 4096)
    world.close(handle)
