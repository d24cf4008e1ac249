"""What happens between a call and its answer: the user goes on, others change things, answers are lost, the process dies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from drivefs.base.errors import AccessDenied, RemoteUnreachable
from drivefs.store.tree import MY_DRIVE_INODE
from drivefs.vfs.filesystem import Changes as Attrs
from tests.support.fake_drive import FakeDrive, Lost
from tests.support.world import World, clone_cache, open_world


async def test_renaming_back_while_the_first_rename_is_in_flight_is_not_undone(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """The answer to the first rename is no news from a stranger: the user's later rename back to the agreed name stands."""
    await world.write("a", b"1")
    await world.drain()
    await world.rename("a", "b")
    gate = fake.hold("update", after=True)
    await gate.reached.wait()
    await world.rename("b", "a")
    gate.open.set()
    await world.drain()
    await world.changes.poll()
    assert set(await world.walk()) == {"a"}
    assert set(fake.files()) == {"a"}


async def test_renaming_back_after_a_lost_answer_reaches_drive(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """While nobody knows whether a rename was applied, the row stays pending, and the last name the user gave wins."""
    await world.write("a", b"1")
    await world.drain()
    await world.rename("a", "b")
    fake.fail("update", Lost(applied=True))
    gate = fake.hold("update", after=True)
    await gate.reached.wait()
    await world.rename("b", "a")
    gate.open.set()
    await trio.testing.wait_all_tasks_blocked()
    await world.drain()
    assert set(fake.files()) == {"a"}
    await world.changes.poll()
    assert set(await world.walk()) == {"a"}


async def test_a_file_deleted_while_its_create_is_in_flight_does_not_stay_on_drive(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """A create whose answer was lost may have made the item, so deleting the file asks Drive to delete that id."""
    await world.write("a", b"1")
    gate = fake.hold("create_with_content", after=True)
    fake.fail("create_with_content", Lost(applied=True))
    await gate.reached.wait()
    await world.unlink("a")
    gate.open.set()
    await trio.testing.wait_all_tasks_blocked()
    await world.drain()
    assert fake.files() == {}


async def test_an_upload_never_takes_a_half_written_state(
    world: World, fake: FakeDrive, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload that begins while a write is on its way to the disk waits for it; what Drive has is what the file has."""
    monkeypatch.setattr("drivefs.vfs.files._INLINE_WRITE", 0)
    handle = await world.create("a")
    await world.files.write(handle, 0, b"old" * 100)
    began, go_on = trio.Event(), trio.Event()
    original = world.files._write_bytes

    async def slow(content: object, data: bytes, offset: int) -> None:
        began.set()
        await go_on.wait()
        await original(content, data, offset)  # type: ignore[arg-type]

    monkeypatch.setattr(world.files, "_write_bytes", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.files.write, handle, 0, b"NEW" * 200)
        await began.wait()
        nursery.start_soon(world.drain)
        await trio.sleep(1)
        go_on.set()
    assert fake.files() == {"a": b"NEW" * 200}
    world.close(handle)


async def test_a_file_open_for_writing_is_not_sent_half_finished(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """chmod of a file that is being written schedules it, but its content waits for the last close."""
    handle = await world.create("a")
    await world.files.write(handle, 0, b"half")
    node = await world.node("a")
    await world.fs.setattr(node.inode, Attrs(mode=0o640), handle)
    await world.settle()
    assert fake.files() == {}
    await world.files.write(handle, 4, b" whole")
    world.close(handle)
    await world.settle()
    assert fake.files() == {"a": b"half whole"}
    assert fake.calls["create_with_content"] == 1


async def test_cut_content_is_completed_from_the_revision_it_came_from(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """After ftruncate to a shorter length the holes that are left are filled, although the revision is longer."""
    data = os.urandom(100)
    fake.put_file("a", data)
    await world.changes.poll()
    await world.truncate("a", 40)
    assert await world.read("a") == data[:40]
    await world.drain()
    assert fake.files() == {"a": data[:40]}


async def test_a_reader_keeps_the_file_that_a_rename_replaced(
    world: World, fake: FakeDrive, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader opened stays readable to the end, also those parts that were not fetched before the file was replaced."""
    monkeypatch.setattr("drivefs.jobs.prefetch._WHOLE", 10)
    monkeypatch.setattr("drivefs.jobs.window.WHOLE", 10)
    monkeypatch.setattr("drivefs.jobs.window._SMALLEST_UNIT", 10)
    data = os.urandom(100)
    fake.put_file("a", data)
    await world.changes.poll()
    handle = await world.open("a")
    assert await world.files.read(handle, 0, 5) == data[:5]
    await world.write("tmp", b"new")
    await world.rename("tmp", "a")
    await world.drain()
    assert await world.read_all(handle) == data
    world.close(handle)
    assert fake.files() == {"a": b"new"}


async def test_a_conflict_copy_is_whole(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """The user's version is completed from the revision it began with, and Drive's keeps its own bytes."""
    item = fake.put_file("a.txt", b"0123456789")
    await world.changes.poll()
    handle = await world.open("a.txt", os.O_RDWR)
    await world.files.write(handle, 5, b"XX")
    fake.edit(item.id, b"strange")
    world.close(handle)
    await world.drain()
    files = fake.files()
    assert files.pop("a.txt") == b"strange"
    (copy,) = files
    assert copy.startswith("a (conflict ")
    assert copy.endswith(").txt")
    assert files[copy] == b"01234XX789"
    assert await world.contents() == fake.files()


async def test_a_strangers_edit_before_our_answer_is_seen(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """The feed may tell of a newer version before the answer to our upload comes; then the newer one is what is shown."""
    await world.write("a", b"ours")
    gate = fake.hold("create_with_content", after=True)
    await gate.reached.wait()
    (item,) = fake.tree()["a"]
    fake.edit(item.id, b"theirs")
    await world.changes.poll()
    gate.open.set()
    await world.drain()
    await world.changes.poll()
    assert await world.contents() == fake.files()


async def test_what_is_written_to_an_open_file_after_it_was_trashed_on_drive_is_kept(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Somebody else trashed the file; a program that has it open goes on writing, and its bytes bring the file back."""
    item = fake.put_file("a", b"before")
    await world.changes.poll()
    handle = await world.open("a", os.O_RDWR)
    assert await world.read_all(handle) == b"before"
    fake.edit(item.id, trashed=True)
    await world.changes.poll()
    assert set(await world.walk()) == set()
    await world.files.write(handle, 0, b"AFTER!")
    world.close(handle)
    await world.drain()
    assert await world.contents() == {"a": b"AFTER!"}
    assert fake.files() == {"a": b"AFTER!"}


async def test_what_is_written_below_a_folder_trashed_on_drive_brings_the_folder_back(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Unsent bytes never wait for ever for a folder that somebody else deleted."""
    folder = fake.put_folder("d")
    fake.put_file("a", b"before", folder.id)
    await world.changes.poll()
    handle = await world.open("d/a", os.O_RDWR)
    assert await world.read_all(handle) == b"before"
    fake.edit(folder.id, trashed=True)
    await world.changes.poll()
    await world.files.write(handle, 0, b"AFTER!")
    world.close(handle)
    await world.drain()
    assert fake.files() == {"d/a": b"AFTER!"}
    assert await world.contents() == {"d/a": b"AFTER!"}


async def test_a_dirty_file_moved_out_of_sight_is_still_sent(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Moved by somebody else into a folder we never looked into: unsent bytes follow it there."""
    outer = fake.put_folder("outer")
    inner = fake.put_folder("inner", outer.id)
    item = fake.put_file("a", b"before")
    await world.changes.poll()
    handle = await world.open("a", os.O_RDWR)
    await world.files.write(handle, 0, b"AFTER!")
    fake.edit(item.id, add_parent=inner.id, remove_parent="root0")
    await world.changes.poll()
    world.close(handle)
    assert world.uploader.unsent()
    await world.drain()
    assert fake.files() == {"outer/inner/a": b"AFTER!"}


async def test_a_move_into_a_folder_that_is_gone_does_not_lose_the_file(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """404 for a move may speak of the folder: only a 404 for the file itself says that the file is gone."""
    folder = fake.put_folder("d")
    fake.put_file("a", b"1")
    await world.changes.poll()
    await world.walk()
    await world.rename("a", "d/a")
    fake.destroy(folder.id)
    await world.drain()
    assert fake.files() == {"d/a": b"1"}
    assert await world.contents() == {"d/a": b"1"}


async def test_a_value_that_drive_does_not_keep_is_not_sent_in_a_loop(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Where Drive's answer still differs from what was sent, the next attempt waits like any other failure."""
    await world.write("a", b"1")
    await world.drain()
    original = fake._update
    fake._update = lambda i, patch, data: original(i, type(patch)(name=patch.name), data)  # type: ignore[method-assign,assignment]
    await world.utime("a", 5 * 10**9)
    await world.settle(20)
    assert 1 <= fake.calls["update"] < 8
    assert world.uploader.unsent()


async def test_drain_ends_when_what_it_waited_for_is_deleted(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """A pending file that the user deletes needs no call, and nobody waits for one."""
    fake.fail("create_with_content", *[AccessDenied("no", status=403)] * 5)
    await world.write("a", b"1")
    await world.settle(10)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.drain)
        await trio.sleep(1)
        await world.unlink("a")
    assert trio.current_time() - start < 60


async def test_rows_read_in_a_transaction_that_failed_are_forgotten(world: World, autojump_clock: MockClock) -> None:
    """A row as it was inside a transaction that was undone is never seen again."""
    node = await world.mkdir("d")

    def fail_midway() -> None:
        with world.db.transaction():
            world.tree.update(node.inode, local_mode=0o111)
            assert world.tree.get(node.inode).local_mode == 0o111
            raise RemoteUnreachable("boom")

    with pytest.raises(RemoteUnreachable):
        fail_midway()
    assert world.tree.get(node.inode).local_mode is None


async def test_an_item_deleted_while_its_folder_is_being_listed_stays_away(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """A page that was answered before the feed told of a deletion must not bring the item back."""
    folder = fake.put_folder("d")
    doomed = fake.put_file("doomed", b"1", folder.id)
    moved = fake.put_file("moved", b"1", folder.id)
    gone = fake.put_file("gone", b"1", folder.id)
    await world.changes.poll()
    await world.names.children(MY_DRIVE_INODE)
    gate = fake.hold("list_children", after=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.walk, "d")
        await gate.reached.wait()
        fake.edit(doomed.id, trashed=True)
        fake.edit(moved.id, add_parent="root0", remove_parent=folder.id)
        fake.destroy(gone.id)
        await world.changes.poll()
        gate.open.set()
    assert set(await world.walk()) == {"d", "moved"}


async def test_a_folder_restored_from_the_trash_is_listed_anew(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """While a folder is in the trash nothing is learnt of its children, so it is looked into again."""
    folder = fake.put_folder("d")
    await world.changes.poll()
    await world.walk()
    fake.edit(folder.id, trashed=True)
    await world.changes.poll()
    fake.put_file("late", b"1", folder.id)
    await world.changes.poll()
    fake.edit(folder.id, trashed=False)
    await world.changes.poll()
    assert set(await world.walk()) == {"d", "d/late"}


async def test_replacing_a_file_whose_upload_is_being_prepared_is_no_conflict(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """The upload of the replaced version is dropped before it is committed, and the newcomer goes under the same id."""
    await world.write("a", b"first")
    await world.drain()
    (item,) = fake.tree()["a"]
    await world.write("a", b"second")
    gate = fake.hold("get", after=True)
    await gate.reached.wait()
    await world.write("tmp", b"third")
    await world.rename("tmp", "a")
    gate.open.set()
    await world.drain()
    assert fake.files() == {"a": b"third"}
    assert fake.tree()["a"][0].id == item.id
    assert await world.contents() == {"a": b"third"}


async def test_a_deletion_waits_for_the_copy_also_when_the_copy_is_changed_again(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """cp a b; rm a; chmod b: b's content is older than the deletion, whatever happened to b later."""
    await world.write("a", b"1")
    await world.drain()
    await world.write("b", b"1")
    await world.unlink("a")
    await world.chmod("b", 0o644)
    fake.log.clear()
    await world.drain()
    assert [what for what, _name in fake.log] == ["create", "trash"]


async def test_a_deletion_waits_for_a_copy_that_failed_once(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """A broken connection does not turn the order round: Drive never has neither of both."""
    await world.write("a", b"1")
    await world.drain()
    await world.write("b", b"1")
    await world.unlink("a")
    fake.fail("create_with_content", Lost(applied=False))
    fake.log.clear()
    await world.drain()
    assert [what for what, _name in fake.log] == ["create", "trash"]


async def test_a_conflict_copy_of_a_moved_file_finds_its_place(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Drive's version appears under its own name and folder, beside whatever else has the name the user gave."""
    folder = fake.put_folder("d")
    fake.put_file("b", b"other", folder.id)
    item = fake.put_file("a", b"base", folder.id)
    await world.changes.poll()
    await world.walk()
    await world.write("d/a", b"ours")
    await world.rename("d/a", "c")
    fake.edit(item.id, b"theirs", name="b")
    await world.drain()
    await world.changes.poll()
    assert sorted(await world.walk()) == sorted(["d", "d/b", "d/b (1)", *[p for p in await world.walk() if "conflict" in p]])
    assert {item.name for items in fake.tree().values() for item in items} >= {"b"}
    assert b"ours" in (await world.contents()).values()
    assert b"theirs" in (await world.contents()).values()


async def test_a_crash_while_cutting_leaves_the_old_content_or_the_new(
    tmp_path: Path, fake: FakeDrive, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed anywhere inside O_TRUNC of a file of which nothing is here, the file is as on Drive or empty: never zeros."""
    fake.put_file("a", b"0123456789")
    original = os.ftruncate
    for number in range(2):
        crashed = tmp_path / f"crashed{number}"
        async with open_world(tmp_path / f"cache{number}", fake) as world:
            await world.walk()
            node = await world.node("a")
            content = world.cache.open(node.inode)
            world.cache.begin_change(content, 0, 1 << 40)

            def kill(fd: int, size: int, *, after: bool = bool(number), world: World = world, crashed: Path = crashed) -> None:
                if after:
                    original(fd, size)
                clone_cache(world.directory, crashed)
                original(fd, size)

            with monkeypatch.context() as patch:
                patch.setattr(os, "ftruncate", kill)
                world.cache.truncate(content, 0)
            world.cache.close(content)
            fake.dead = True
        fake.dead = False
        async with open_world(crashed, fake) as world:
            assert await world.read("a") in (b"0123456789", b"")


async def test_what_the_user_deleted_does_not_come_back_because_drive_deleted_it_too(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """A file with unsent changes is unlinked while it is open, and Drive has destroyed it: it stays deleted, here and there."""
    file_id = fake.put_file("a", b"old").id
    await world.changes.poll()
    handle = await world.open("a", os.O_WRONLY)
    await world.files.write(handle, 0, b"new")
    await world.unlink("a")
    fake.destroy(file_id)
    await world.settle()
    assert await world.find("a") is None
    world.close(handle)
    await world.drain()
    assert (await world.find("a"), fake.files()) == (None, {})


@pytest.mark.parametrize("step", ["create", "rename"])
async def test_a_deletion_waits_also_where_another_call_for_the_file_is_under_way(
    step: str, world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """cp a b; rm a, while a call for a is being made: what comes after that call is not the deletion of a, but b."""
    await world.write("a", b"1")
    if step == "rename":
        await world.drain()
        await world.rename("a", "c")
    gate = fake.hold("create_with_content" if step == "create" else "update")
    await gate.reached.wait()
    await world.write("b", b"1")
    await world.unlink("a" if step == "create" else "c")
    fake.log.clear()
    gate.open.set()
    await world.settle(1)  # less than b waits for more to come
    assert "trash" not in [what for what, _name in fake.log]
    await world.drain()
    assert [what for what, _name in fake.log][-2:] == ["create", "trash"]
    assert fake.files() == {"b": b"1"}


async def test_a_file_that_is_opened_while_its_upload_is_being_prepared_is_not_sent_half_written(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Between the decision to send and the first byte lie a call and a sync; whoever appends in that time comes first."""
    await world.write("a", b"first")
    await world.drain()
    gate = fake.hold("get")
    await world.patch("a", 0, b"FIRST")
    await gate.reached.wait()
    handle = await world.open("a", os.O_WRONLY | os.O_APPEND)
    await world.files.write(handle, 0, b" half")
    gate.open.set()
    await world.settle(20)
    assert fake.files() == {"a": b"first"}
    await world.files.write(handle, 0, b" and whole")
    world.close(handle)
    await world.drain()
    assert fake.files() == {"a": b"FIRST half and whole"}
