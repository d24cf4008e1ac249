"""Names: what POSIX refuses, what it allows, and that neither waits for Drive once a folder is known."""

from __future__ import annotations

import errno
from collections.abc import Awaitable

import pytest
import trio
from trio.testing import MockClock

from drivefs.base.errors import PathError, RemoteUnreachable
from drivefs.base.model import Kind
from drivefs.store.tree import MY_DRIVE_INODE, TOP_INODE
from drivefs.vfs.namespace import RENAME_NOREPLACE
from tests.support.fake_drive import FakeDrive
from tests.support.world import World


async def refused(number: int, call: Awaitable[object]) -> None:
    with pytest.raises(PathError) as caught:
        await call
    assert errno.errorcode[caught.value.errno] == errno.errorcode[number]


@pytest.fixture
async def tree(world: World) -> World:
    """``full/inside``, ``empty``, ``file``, all local."""
    await world.mkdir("full")
    await world.mkdir("empty")
    await world.write("full/inside", b"1")
    await world.write("file", b"2")
    return world


async def test_what_rename_refuses(tree: World, autojump_clock: MockClock) -> None:
    """rename(2): the errno of each case, and nothing is changed."""
    before = set(await tree.walk())
    await refused(errno.ENOENT, tree.rename("none", "x"))
    await refused(errno.ENOTEMPTY, tree.rename("empty", "full"))
    await refused(errno.ENOTDIR, tree.rename("empty", "file"))
    await refused(errno.EISDIR, tree.rename("file", "empty"))
    await refused(errno.EINVAL, tree.rename("full", "full/inside2"))
    await refused(errno.ENAMETOOLONG, tree.rename("file", "x" * 256))
    await refused(errno.EEXIST, tree.names.rename(MY_DRIVE_INODE, "file", MY_DRIVE_INODE, "empty", RENAME_NOREPLACE))
    await refused(errno.EINVAL, tree.names.rename(MY_DRIVE_INODE, "file", MY_DRIVE_INODE, "x", 2))
    await refused(errno.EPERM, tree.names.rename(MY_DRIVE_INODE, "file", TOP_INODE, "file"))
    assert set(await tree.walk()) == before


async def test_what_rename_allows(tree: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Over a file, over an empty folder, onto itself, and into another folder."""
    await tree.rename("file", "full/inside")
    assert await tree.read("full/inside") == b"2"
    await tree.rename("full", "empty")
    await tree.rename("empty", "empty")
    assert set(await tree.walk()) == {"empty", "empty/inside"}
    await tree.drain()
    assert fake.files() == {"empty/inside": b"2"}


async def test_what_removal_refuses(tree: World, autojump_clock: MockClock) -> None:
    """unlink(2) and rmdir(2)."""
    await refused(errno.EISDIR, tree.unlink("empty"))
    await refused(errno.ENOTDIR, tree.rmdir("file"))
    await refused(errno.ENOTEMPTY, tree.rmdir("full"))
    await refused(errno.ENOENT, tree.unlink("none"))


async def test_what_creation_refuses(tree: World, autojump_clock: MockClock) -> None:
    """mkdir(2), symlink(2), open(2)."""
    await refused(errno.EEXIST, tree.mkdir("file"))
    await refused(errno.EPERM, tree.names.create(TOP_INODE, "x", Kind.FOLDER, 0o700))
    await refused(errno.ENAMETOOLONG, tree.mkdir("ä" * 128))
    await refused(errno.ENAMETOOLONG, tree.symlink("x" * 4096, "link"))
    await refused(errno.ENOTDIR, tree.names.create((await tree.node("file")).inode, "x", Kind.FILE, 0o600))


async def test_nothing_is_created_in_a_deleted_folder(tree: World, autojump_clock: MockClock) -> None:
    """A program whose working directory was removed gets ENOENT."""
    inode = (await tree.node("empty")).inode
    await tree.rmdir("empty")
    await refused(errno.ENOENT, tree.names.create(inode, "x", Kind.FILE, 0o600))


async def test_a_folder_with_something_on_drive_is_not_empty(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Nobody has looked into it yet, so rmdir and rename over it look first."""
    folder = fake.put_folder("d")
    fake.put_file("x", b"1", folder.id)
    await world.changes.poll()
    await world.mkdir("other")
    await refused(errno.ENOTEMPTY, world.rmdir("d"))
    await refused(errno.ENOTEMPTY, world.rename("other", "d"))


async def test_another_folder_that_came_under_the_name_is_not_deleted_unseen(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """While rmdir waited for a listing the folder was moved away and another, full one got its name."""
    first = fake.put_folder("d")
    await world.changes.poll()
    await world.names.children(MY_DRIVE_INODE)
    gate = fake.hold("list_children")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused, errno.ENOTEMPTY, world.rmdir("d"))
        await gate.reached.wait()
        fake.edit(first.id, name="elsewhere")
        second = fake.put_folder("d")
        fake.put_file("x", b"1", second.id)
        await world.changes.poll()
        gate.open.set()
    assert not fake.items[second.id].item.trashed


async def test_known_folders_need_no_network(tree: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Everything about names is answered from local state, however long Drive takes, and takes no time at all."""
    await tree.walk()
    fake.delay = lambda _method: 1000.0
    start = trio.current_time()
    await tree.mkdir("full/new")
    await tree.rename("file", "full/new/file")
    await tree.unlink("full/inside")
    await tree.write("full/new/x", b"1")
    await tree.symlink("x", "full/link")
    assert set(await tree.walk()) == {"full", "empty", "full/new", "full/new/file", "full/new/x", "full/link"}
    assert trio.current_time() == start


async def test_a_folder_is_listed_once_for_all_who_look(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Single flight, all pages; a failure goes to all who wait, and the next look tries again."""
    folder = fake.put_folder("d")
    for n in range(7):
        fake.put_file(str(n), b"", folder.id)
    await world.changes.poll()
    inode = (await world.node("d")).inode
    fake.calls.clear()
    fake.fail("list_children", RemoteUnreachable("no connection"))
    failed = 0

    async def fail() -> None:
        nonlocal failed
        with pytest.raises(RemoteUnreachable):
            await world.names.children(inode)
        failed += 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(fail)
    assert failed == 3
    assert fake.calls["list_children"] == 1
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(world.names.children, inode)
    assert fake.calls["list_children"] == 1 + 3
    assert len(await world.names.children(inode)) == 7
