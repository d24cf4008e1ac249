"""The keeper: what was closed gets to the disk by itself, and nothing that the disk changed is believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from drivefs.base.errors import DataDamaged
from drivefs.store.content import BLOCK
from tests.support.fake_drive import FakeDrive
from tests.support.world import World, open_world


def settled(world: World, path: str = "") -> list[bool]:
    return [bool(row["settled"]) for row in world.db.execute("SELECT settled FROM content WHERE dirty ORDER BY id")]


async def test_what_was_closed_is_settled_soon_and_what_is_open_is_not(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Half-written files are nobody's idea of a safe state."""
    fake = FakeDrive()
    async with open_world(tmp_path / "cache", fake, delay=1000) as world:
        await world.write("closed", b"closed")
        handle = await world.create("open")
        await world.files.write(handle, 0, b"half")
        assert settled(world) == [False, False]
        await world.settle(3)
        assert settled(world) == [True, False]
        world.close(handle)
        await world.settle(3)
        assert settled(world) == [True, True]
        await world.patch("closed", 0, b"C")
        assert settled(world) == [False, True]


async def test_many_files_are_settled_too(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A pip install closes thousands; they share one sync of the file system."""
    fake = FakeDrive()
    async with open_world(tmp_path / "cache", fake, delay=1000) as world:
        for number in range(50):
            await world.write(f"f{number}", b"x" * number)
        await world.settle(3)
        assert all(settled(world))


async def test_a_flipped_bit_in_unsent_bytes_is_an_error_and_is_never_sent(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Reading says EIO, nothing reaches Drive, the file is listed with the reason, and saving it anew mends it."""
    fake = FakeDrive()
    async with open_world(tmp_path / "cache", fake, delay=1000) as world:
        await world.write("a", b"a" * BLOCK + b"tail")
        await world.settle(3)
    (path,) = (tmp_path / "cache").glob("dirty/*/*")
    with open(path, "r+b") as file:
        file.write(b"b")
    async with open_world(tmp_path / "cache", fake, delay=0) as world:
        with pytest.raises(DataDamaged, match="lost\\+found"):
            await world.read("a")
        with pytest.raises(DataDamaged):
            await world.patch("a", 5, b"x")
        (unsent,) = await world.uploader.drain(5)
        assert "the disk has changed" in unsent.reason
        assert fake.files() == {}
        await world.write("a", b"anew")
        await world.drain()
        assert fake.files() == {"a": b"anew"}
    assert any(p.read_bytes().startswith(b"ba") for p in (tmp_path / "cache" / "lost+found").iterdir())


async def test_a_flipped_bit_in_fetched_bytes_is_fetched_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The reader notices nothing; only the block in question is asked for."""
    fake = FakeDrive()
    data = os.urandom(3 * BLOCK + 5)
    fake.put_file("a", data)
    async with open_world(tmp_path / "cache", fake) as world:
        assert await world.read("a") == data
        await world.settle(3)
    (path,) = (tmp_path / "cache").glob("clean/*/*")
    with open(path, "r+b") as file:
        file.seek(BLOCK + 3)
        file.write(bytes([data[BLOCK + 3] ^ 1]))
    async with open_world(tmp_path / "cache", fake) as world:
        assert await world.read("a") == data


async def test_writing_into_fetched_bytes_that_the_disk_changed_does_not_launder_them(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Before a block is changed in part, the rest of it is checked: what goes to Drive is its bytes and ours, nothing else."""
    fake = FakeDrive()
    data = os.urandom(BLOCK + 5)
    fake.put_file("a", data)
    async with open_world(tmp_path / "cache", fake) as world:
        assert await world.read("a") == data
        await world.settle(3)
    (path,) = (tmp_path / "cache").glob("clean/*/*")
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(bytes([data[100] ^ 1]))
    async with open_world(tmp_path / "cache", fake) as world:
        await world.patch("a", 5, b"ours")
        await world.drain()
        assert fake.files() == {"a": data[:5] + b"ours" + data[9:]}


async def test_asking_together_costs_one_sync(world: World, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    """Fifty fsyncs at once are at most two syncs of the rows: the one under way, and one that serves all the rest."""
    calls = 0
    original = world.db.commit_durably

    def counted() -> None:
        nonlocal calls
        calls += 1
        original()

    monkeypatch.setattr(world.db, "commit_durably", counted)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(world.keeper.durable)
    assert calls <= 2


@pytest.mark.parametrize("arrived", [False, True])
async def test_after_a_power_cut_a_file_is_what_drive_has_of_it(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, arrived: bool
) -> None:
    """An earlier version was on its way when the power failed, and the newer one was not on the disk: Drive is asked."""
    fake = FakeDrive()
    monkeypatch.setenv("DRIVEFS_BOOT_ID", "first")
    async with open_world(tmp_path / "cache", fake, delay=1000) as world:
        await world.write("a", b"newer")
        item = fake.put_file("a", b"older")
        if not arrived:
            fake.destroy(item.id)
        world.tree.update((await world.node("a")).inode, remote_id=item.id, sent_md5="older's")
    monkeypatch.setenv("DRIVEFS_BOOT_ID", "second")
    async with open_world(tmp_path / "cache", fake) as world:
        assert [lost.path for lost in world.lost] == ["MyDrive/a"]
        await world.drain()
        assert await world.contents() == ({"a": b"older"} if arrived else {})
    assert fake.files() == ({"a": b"older"} if arrived else {})


async def test_a_file_that_somebody_removed_keeps_no_other_from_the_disk(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its loss is in the status, and what else was closed is settled."""
    fake = FakeDrive()
    async with open_world(tmp_path / "cache", fake, delay=1000) as world:
        await world.write("gone", b"gone")
        await world.write("kept", b"kept")
        (tmp_path / "cache" / "dirty" / "01" / "1").unlink()
        await world.settle(3)
        assert settled(world) == [False, True]
        assert any("somebody removed it" in error["what"] for error in world.stats.snapshot()["last_errors"])
