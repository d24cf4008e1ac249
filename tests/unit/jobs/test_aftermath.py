"""After a power cut or a kill at an awkward moment: what the next start shows, what it sends, and that it comes to rest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from trio.testing import MockClock

from drivefs.base.model import Kind
from drivefs.store.tree import MY_DRIVE_INODE
from tests.support.fake_drive import FakeDrive
from tests.support.world import World, clone_cache, open_world


@pytest.fixture(autouse=True)
def first_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIVEFS_BOOT_ID", "first")


async def sync(world: World, path: str) -> None:
    handle = await world.open(path, os.O_RDWR)
    await world.files.fsync(handle)
    world.close(handle)


async def change(world: World, path: str, how: int, data: bytes) -> None:
    handle = await world.open(path, os.O_WRONLY | how)
    await world.files.write(handle, 0, data)
    world.close(handle)


@pytest.mark.parametrize("on_drive", [False, True])
@pytest.mark.parametrize("how", [os.O_APPEND, os.O_TRUNC])
async def test_a_synced_file_that_was_changed_and_renamed_over_another(
    how: int, on_drive: bool, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the change nor the renaming was synced: each name shows one whole version, and what was synced of a is there."""
    fake = FakeDrive()
    a, b = b"A" * 200, b"B" * 100
    new = a + b"more" if how == os.O_APPEND else b"more"
    async with open_world(tmp_path / "before", fake, delay=1000) as world:
        for name, data in (("a", a), ("b", b)):
            await world.write(name, data)
            await sync(world, name)
        if on_drive:
            await world.drain()
        await change(world, "a", how, b"more")
        await world.rename("a", "b")
        clone_cache(tmp_path / "before", tmp_path / "cut")
    monkeypatch.setenv("DRIVEFS_BOOT_ID", "second")
    async with open_world(tmp_path / "cut", fake) as world:
        found = await world.contents()
        assert found in ({"b": new}, {"b": a}, {"a": a, "b": b}, {"a": new, "b": b})
        await world.drain()
        assert fake.files() == await world.contents() == found


@pytest.mark.parametrize("synced", [False, True])
async def test_what_drive_had_of_a_file_that_was_renamed_over_another(
    synced: bool, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older content of the renamed file was on Drive: after the cut it is still there, at least as much as Drive had."""
    fake = FakeDrive()
    async with open_world(tmp_path / "before", fake, delay=1000) as world:
        await world.write("a", b"A" * 200)
        if synced:
            await sync(world, "a")
        await world.write("b", b"B" * 100)
        await world.drain()
        await change(world, "a", os.O_APPEND, b"more")
        await world.rename("a", "b")
        clone_cache(tmp_path / "before", tmp_path / "cut")
    monkeypatch.setenv("DRIVEFS_BOOT_ID", "second")
    async with open_world(tmp_path / "cut", fake) as world:
        await world.drain()
        assert await world.contents() == fake.files()
        assert any(data in (b"A" * 200, b"A" * 200 + b"more") for data in fake.files().values())


async def test_a_new_file_whose_id_was_noted_and_whose_bytes_never_were_on_the_disk(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its create arrived nobody knows: Drive is asked under that id, and then there is no such file, here or there."""
    fake = FakeDrive()
    async with open_world(tmp_path / "before", fake, delay=1000) as world:
        await world.write("f", b"x" * 200)
        world.tree.update((await world.node("f")).inode, remote_id="an id that Drive never saw")
        clone_cache(tmp_path / "before", tmp_path / "cut")
    monkeypatch.setenv("DRIVEFS_BOOT_ID", "second")
    async with open_world(tmp_path / "cut", fake) as world:
        assert [lost.path for lost in world.lost] == ["MyDrive/f"]
        await world.drain()
        assert fake.calls["get"] == 1
        assert await world.contents() == fake.files() == {}


@pytest.mark.parametrize("looked_at", [False, True])
async def test_a_row_of_a_new_file_without_a_content(looked_at: bool, tmp_path: Path, autojump_clock: MockClock) -> None:
    """Such as a cache of before may hold: it comes to rest, and the mount and Drive agree, whether or not anybody looks first."""
    fake = FakeDrive()
    async with open_world(tmp_path / "before", fake, delay=1000) as world:
        world.tree.create(MY_DRIVE_INODE, "f", Kind.FILE, 0o600)
        clone_cache(tmp_path / "before", tmp_path / "killed")
    async with open_world(tmp_path / "killed", fake) as world:
        if looked_at:
            await world.contents()
        await world.drain()
        assert await world.contents() == fake.files()
        assert not list(world.tree.pending())


async def test_a_change_of_what_was_just_sent_is_no_damage_after_a_power_cut(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows on the disk must not call it settled any more, with the checksums of what it was, once its bytes are others."""
    fake = FakeDrive()
    async with open_world(tmp_path / "before", fake, delay=2) as world:
        on_disk, commit = tmp_path / "rows", world.db.commit_durably

        def commit_and_remember() -> None:
            commit()
            shutil.rmtree(on_disk, ignore_errors=True)
            on_disk.mkdir()
            for path in (tmp_path / "before").glob("state.db*"):
                shutil.copy(path, on_disk)

        monkeypatch.setattr(world.db, "commit_durably", commit_and_remember)
        await world.write("a", b"sent")
        await sync(world, "a")
        handle = await world.open("a", os.O_RDWR)
        await world.drain()
        await world.files.write(handle, 4, b", changed")
        clone_cache(tmp_path / "before", tmp_path / "cut")
        world.close(handle)
    for path in on_disk.iterdir():
        shutil.copy(path, tmp_path / "cut")
    monkeypatch.setenv("DRIVEFS_BOOT_ID", "second")
    async with open_world(tmp_path / "cut", fake) as world:
        assert (await world.contents())["a"] in (b"sent", b"sent, changed")
