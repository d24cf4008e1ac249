"""What cannot be uploaded: kept, readable, listed with its reason, never in a hot loop, and sent when the trouble is over."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from drivefs.base.errors import AccessDenied, DailyLimit, DriveFull, RemoteError, SignInRefused
from drivefs.base.model import StorageQuota
from drivefs.jobs.halts import Halts
from drivefs.store.outbox import Step
from tests.support.fake_drive import FakeDrive, Lost, Refused
from tests.support.world import World, open_world

FULL = DriveFull("The account's storage is full.", status=403)
SIGN_IN = SignInRefused("Sign in again.", status=401)
LIMIT = DailyLimit("the day's 750 GB are uploaded", status=403, reason="userRateLimitExceeded")
SENDING = ("create_with_content", "update_with_content", "open_upload")


def refuse(fake: FakeDrive, error: RemoteError, concerns: Callable[[str], bool]) -> None:
    fake.fault = lambda method: Refused(error) if concerns(method) else None


def sends(fake: FakeDrive) -> int:
    return sum(fake.calls[method] for method in SENDING)


async def test_a_full_drive_is_asked_now_and_then_and_not_by_each_file(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """A hundred files, an hour: a call a minute, all listed with the reason, and metadata goes on; room again, and all go."""
    await world.write("old", b"1")
    await world.drain()
    refuse(fake, FULL, lambda method: method in SENDING)
    for n in range(100):
        await world.write(f"f{n}", b"x")
    await world.settle(10)
    before = sends(fake)
    await world.settle(1800)
    assert sends(fake) - before <= 62
    assert {entry.reason for entry in world.uploader.unsent()} == {"The account's storage is full."}
    assert len(world.uploader.unsent()) == 100
    assert await world.read("f7") == b"x"
    await world.write("f7", b"later")
    await world.rename("old", "renamed")
    await world.settle(10)
    assert "renamed" in fake.files()
    refuse(fake, FULL, lambda _method: False)
    await world.settle(61)
    assert len(fake.files()) == 101
    assert fake.files()["f7"] == b"later"
    assert not world.uploader.unsent()


async def test_what_still_fits_into_a_nearly_full_drive_is_sent(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """One file that is too large does not hold back those that are smaller."""
    fake.fail("create_with_content", FULL)
    await world.write("large", b"x" * 1000)
    await world.settle(5)
    await world.write("small", b"x")
    await world.settle(5)
    assert fake.files() == {"small": b"x"}
    await world.settle(60)
    assert set(fake.files()) == {"small", "large"}


async def test_a_revoked_sign_in_freezes_the_queue(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Nothing fails for good, everything says why, writing goes on, and a new sign-in is enough: no restart."""
    await world.write("gone", b"1")
    await world.drain()
    refuse(fake, SIGN_IN, lambda _method: True)
    await world.mkdir("d")
    await world.write("d/a", b"1")
    await world.unlink("gone")
    await world.settle(10)
    before = sum(fake.calls.values())
    await world.settle(1800)
    assert sum(fake.calls.values()) - before <= 35
    await world.write("d/b", b"2")
    await world.settle(10)
    reasons = {entry.path: entry.reason for entry in world.uploader.unsent()}
    assert reasons["MyDrive/d"] == "Sign in again."
    assert world.uploader.failure((await world.node("d")).inode) == "Sign in again."
    refuse(fake, SIGN_IN, lambda _method: False)
    await world.settle(70)
    assert fake.files() == {"d/a": b"1", "d/b": b"2"}


async def test_a_flush_tries_at_once_although_something_holds_uploads_back(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Whoever has just made room, or signed in again, need not wait for the next probe."""
    for error in (FULL, SIGN_IN):
        refuse(fake, error, lambda method: method in SENDING)
        await world.write("a", str(error).encode())
        await world.settle(5)
        assert world.uploader.unsent()
        refuse(fake, error, lambda _method: False)
        assert await world.uploader.drain(1) == []


async def test_the_upload_limit_of_a_day_is_waited_for_by_the_hour(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Worded as throttling, it is believed when it lasts; then one upload an hour is tried, and everything else goes on."""
    await world.write("old", b"1")
    await world.drain()
    refuse(fake, LIMIT, lambda method: method in SENDING)
    for n in range(20):
        await world.write(f"f{n}", b"x")
    await world.settle(300)
    before = sends(fake)
    await world.settle(4 * 3600)
    assert 3 <= sends(fake) - before <= 5
    await world.mkdir("d")
    await world.rename("old", "d/old")
    await world.settle(10)
    assert fake.files() == {"d/old": b"1"}
    assert {entry.reason for entry in world.uploader.unsent()} == {str(LIMIT)}
    refuse(fake, LIMIT, lambda _method: False)
    await world.settle(3601)
    assert len(fake.files()) == 21


async def test_a_short_throttling_in_the_same_words_costs_no_hour(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """The same message stands for ordinary throttling, after which uploads go on in seconds."""
    fake.fail("create_with_content", LIMIT, LIMIT)
    await world.write("a", b"1")
    await world.settle(15)
    assert fake.files() == {"a": b"1"}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMLINK])
async def test_what_drive_refuses_of_one_file_stops_only_that_file(
    world: World, fake: FakeDrive, autojump_clock: MockClock, number: int
) -> None:
    """No right, or a folder with as many children as Drive allows: listed, tried a few times an hour, others unaffected."""
    error = AccessDenied("The folder is full.", status=403)
    error.errno = number
    fake.fail("create_with_content", *[error] * 1000)
    await world.write("a", b"1")
    await world.settle(5)
    await world.mkdir("d")
    await world.settle(5)
    assert "d" in fake.tree()
    await world.settle(1800)
    assert fake.calls["create_with_content"] <= 15
    (unsent,) = world.uploader.unsent()
    assert (unsent.path, unsent.size, unsent.reason) == ("MyDrive/a", 1, "The folder is full.")
    before = fake.calls["create_with_content"]
    for n in range(30):
        await world.write("a", str(n).encode())
        await world.settle(5)
    assert fake.calls["create_with_content"] - before <= 2
    assert await world.read("a") == b"29"


async def test_an_id_that_drive_says_is_in_use_and_does_not_have_is_given_up(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """The create was applied, its answer lost, and somebody deleted the item for good: 409 and 404 for ever, so another id."""
    fake.fail("create_with_content", Lost(applied=True))
    gate = fake.hold("create_with_content", after=True)
    await world.write("a", b"1")
    await gate.reached.wait()
    used = fake.tree()["a"][0].id
    fake.destroy(used)
    gate.open.set()
    await world.settle(60)
    assert fake.files() == {"a": b"1"}
    assert fake.tree()["a"][0].id != used
    assert fake.calls["create_with_content"] == 6


async def test_the_room_that_is_left(tmp_path: Path, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Quota minus what is used and what is unsent; what replaces a file counts by how much it is larger."""
    fake.limit = 1000
    async with open_world(tmp_path / "cache", fake, delay=1e6) as world:
        assert world.account.room() is None  # signed in without a limit
        assert world.account.room_for(1 << 60)
        world.account.quota = StorageQuota(1000, 100)
        assert world.account.room() == 900
        item = fake.put_file("b", b"x" * 50)
        await world.changes.poll()
        await world.walk()
        await world.write("a", b"x" * 200)
        await world.write("b", b"x" * 150)
        assert (await world.node("b")).remote_id == item.id
        world.account._summed_at -= 1
        assert world.account.room() == 600
        assert world.account.room_for(600)
        assert not world.account.room_for(601)
        world.account.quota = StorageQuota(1000, 2000)
        assert world.account.room() == 0


async def test_the_quota_is_asked_soon_where_there_seems_to_be_no_room(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Room that was made on Drive is noticed within half a minute, and without need the quota is asked every five."""
    world.account.quota = StorageQuota(1000, 1000)
    fake.limit = 10**9
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.account.serve)
        await world.settle(200)
        assert fake.calls["quota"] == 0
        assert not world.account.room_for(1)
        await world.settle(31)
        assert world.account.room_for(1)
        await world.settle(290)
        assert fake.calls["quota"] == 1
        nursery.cancel_scope.cancel()


def test_whom_a_halt_concerns() -> None:
    """A full Drive: content from the smallest refused size up. A sign-in: everything."""
    halts = Halts()
    assert not halts.note(AccessDenied("no"), Step.CREATE, 10, 0)
    assert halts.note(FULL, Step.CREATE, 10, 0)
    assert halts.wait_until(Step.CREATE, 10, 1) == 60
    assert halts.wait_until(Step.CREATE, 9, 1) is None
    assert halts.wait_until(Step.UPDATE_METADATA, 0, 1) is None
    assert halts.wait_until(Step.CREATE, 10, 60) is None  # the probe
    assert halts.wait_until(Step.CREATE, 10, 60) == 120
    assert not halts.note(FULL, Step.UPDATE_METADATA, 0, 0)  # unheard of, so it is that node's own trouble
    assert not halts.passed(Step.CREATE, 9)
    assert halts.passed(Step.CREATE, 10)
    assert halts.error(Step.CREATE, 10) is None
    assert halts.note(SIGN_IN, Step.TRASH, 0, 0)
    assert halts.error(Step.UPDATE_METADATA, 0) is SIGN_IN
