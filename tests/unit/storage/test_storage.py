"""Whole files for programs: what list, stat, put, get and trash promise, on a fake Drive and virtual time."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from drivefs.base.config import Config
from drivefs.base.errors import (
    AccessDenied,
    DriveFull,
    ExitCode,
    NotOnDrive,
    RemoteError,
    RemoteUnreachable,
    SignInRefused,
    UsageError,
)
from drivefs.base.model import Invalidation, RemoteItem, StorageQuota
from drivefs.storage import STORAGE_VERBS, Storage
from drivefs.store.tree import MY_DRIVE_INODE
from tests.support.fake_drive import ROOT_ID, FakeDrive, Lost, Refused, md5_of
from tests.support.world import World, clone_cache, open_world

SENDING = ("create_with_content", "update_with_content", "open_upload")
FULL = DriveFull("The account's storage is full.", status=403)


async def nothing(_news: Mapping[str, Any]) -> None:
    """Progress that nobody watches."""


def storage_of(world: World, *, read_only: bool = False) -> Storage:
    config = Config(
        mountpoint=world.directory,
        serves="socket",
        cache_dir=world.directory,
        runtime_dir=world.directory,
        read_only=read_only,
    )
    drive = world.fake.drive
    return Storage(
        config, drive, world.tree, world.merger, world.listing, world.fs, world.account, world.uploader, world.stale.extend
    )


@pytest.fixture
def storage(world: World) -> Storage:
    return storage_of(world)


async def put(storage: Storage, path: str, data: bytes, timeout: float = 60.0) -> dict[str, Any]:
    request = {"path": path, "data": base64.b64encode(data).decode(), "timeout": timeout}
    return await storage.put(request, nothing)


async def names(storage: Storage, path: str) -> list[str]:
    return [item["name"] for item in await storage.list({"path": path}, nothing)]


async def trash(storage: Storage, file_id: str) -> None:
    await storage.trash({"id": file_id, "timeout": 60.0}, nothing)


def nothing_is_left(world: World) -> None:
    """No row, no content file and no name tells of something that did not come about."""
    assert not list(world.tree.pending())
    assert world.db.execute("SELECT count(*) FROM content WHERE dirty").fetchone()[0] == 0


# -- putting -----------------------------------------------------------------------------------------------------------


async def test_put_returns_when_drive_has_the_bytes(
    world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Folders and file are on Drive, under the id, size and checksum that are returned, without waiting for the upload delay."""
    began = trio.current_time()
    done = await put(storage, "MyDrive/a/b/c.bin", b"content")
    assert fake.files() == {"a/b/c.bin": b"content"}
    assert done == {"id": done["id"], "size": 7, "md5": md5_of(b"content")}
    assert fake.content(done["id"]) == b"content"
    assert trio.current_time() - began < 1
    assert await world.read("a/b/c.bin") == b"content"


async def test_an_empty_file_is_put_too(storage: Storage, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Nothing to write is not nothing to send."""
    assert (await put(storage, "MyDrive/empty", b""))["size"] == 0
    assert fake.files() == {"empty": b""}


async def test_an_existing_file_gets_a_new_revision(storage: Storage, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """The item keeps its id and its former content as a revision; nothing goes to the trash."""
    first = await put(storage, "MyDrive/f", b"one")
    second = await put(storage, "MyDrive/f", b"two")
    assert second["id"] == first["id"]
    assert sorted(fake.items[first["id"]].revisions.values()) == [b"one", b"two"]
    assert not [entry for entry in fake.items.values() if entry.item.trashed]


async def test_missing_folders_are_made_once(storage: Storage, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Many puts at the same time into folders that nobody has made yet make each of them once; the uploads overlap."""
    fake.delay = lambda method: 5.0 if method in SENDING else 0.01
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for n in range(4):
            nursery.start_soon(put, storage, f"MyDrive/a/b/{n}", b"%d" % n)
    assert fake.files() == {f"a/b/{n}": b"%d" % n for n in range(4)}
    assert trio.current_time() - began < 15


async def test_a_folder_that_was_made_elsewhere_a_moment_ago_is_used(
    world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Drive is asked before a folder is made, for the feed may not have told of another machine's yet."""
    await world.names.children(MY_DRIVE_INODE)
    theirs = fake.put_folder("shared")
    await put(storage, "MyDrive/shared/f", b"x")
    assert [item.id for item in fake.tree()["shared"]] == [theirs.id]


async def test_a_folder_that_exists_here_only_is_used(
    world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """A folder that the mount made and has not sent yet is the same folder."""
    await world.mkdir("local")
    await put(storage, "MyDrive/local/f", b"x")
    assert fake.files() == {"local/f": b"x"}


async def test_a_file_on_this_machine_is_read_in_blocks(
    tmp_path: Path, storage: Storage, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """``source`` names a file; progress tells how much of it has been taken."""
    data = os.urandom((9 << 20) + 5)
    (tmp_path / "big").write_bytes(data)
    heard: list[Mapping[str, Any]] = []

    async def progress(news: Mapping[str, Any]) -> None:
        heard.append(news)

    done = await storage.put({"path": "MyDrive/big", "source": str(tmp_path / "big"), "timeout": 600.0}, progress)
    assert done["md5"] == md5_of(data)
    assert fake.content(done["id"]) == data
    assert [news["written"] for news in heard] == [4 << 20, 8 << 20, len(data)]
    assert {news["size"] for news in heard} == {len(data)}


async def test_until_all_bytes_are_here_there_is_no_such_file(
    world: World, storage: Storage, fake: FakeDrive, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A put that is given up half-way leaves nothing: no name, no row to send, no content, nothing on Drive."""
    (tmp_path / "big").write_bytes(bytes(9 << 20))
    with trio.CancelScope() as scope:

        async def give_up(news: Mapping[str, Any]) -> None:
            assert await names(storage, "MyDrive") == []
            assert await world.walk() == {}
            assert not world.uploader.unsent()
            if news["written"] >= 8 << 20:
                scope.cancel()

        await storage.put({"path": "MyDrive/big", "source": str(tmp_path / "big"), "timeout": 600.0}, give_up)
    assert scope.cancelled_caught
    await world.settle(600)
    nothing_is_left(world)
    assert fake.files() == {}


async def test_a_kill_leaves_the_old_bytes_or_the_new(
    world: World, storage: Storage, fake: FakeDrive, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What a kill in the middle of a put leaves on the disk starts as a world that has the old file and sends nothing."""
    await put(storage, "MyDrive/f", b"old")
    (tmp_path / "big").write_bytes(bytes(9 << 20))
    killed = tmp_path / "killed"

    with trio.CancelScope() as scope:

        async def kill(news: Mapping[str, Any]) -> None:
            if news["written"] == 8 << 20:
                clone_cache(world.directory, killed)
                scope.cancel()

        await storage.put({"path": "MyDrive/f", "source": str(tmp_path / "big"), "timeout": 600.0}, kill)
    async with open_world(killed, fake) as after:
        assert not after.lost
        await after.settle(600)
        assert await after.read("f") == b"old"
        nothing_is_left(after)
    assert fake.files()["f"] == b"old"


@pytest.mark.parametrize(
    "error",
    [FULL, AccessDenied("You may not edit this folder.", status=403), SignInRefused("Sign in again.", status=401)],
    ids=lambda error: type(error).__name__,
)
async def test_what_drive_refuses_is_raised_at_once(
    world: World, storage: Storage, fake: FakeDrive, error: RemoteError, autojump_clock: MockClock
) -> None:
    """Exit code 3 and Drive's reason, long before the timeout; the bytes are kept, and the next put tries anew and succeeds."""
    await put(storage, "MyDrive/other", b"x")
    fake.fault = lambda method: Refused(error) if method in SENDING else None
    began = trio.current_time()
    with pytest.raises(NotOnDrive, match=str(error)) as caught:
        await put(storage, "MyDrive/f", b"content", timeout=600)
    assert caught.value.exit_code == ExitCode.NOT_ON_DRIVE
    assert trio.current_time() - began < 5
    assert [entry.path for entry in world.uploader.unsent()] == ["MyDrive/f"]
    fake.fault = lambda _method: None
    await put(storage, "MyDrive/f", b"content", timeout=600)
    assert trio.current_time() - began < 10
    assert fake.files() == {"other": b"x", "f": b"content"}


async def test_who_is_offline_waits_for_the_timeout_and_is_told_why(
    world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """What may pass is waited for, as long as the caller has allowed, and sent later where it does not."""
    await put(storage, "MyDrive/other", b"x")
    fake.fault = lambda method: Refused(RemoteUnreachable("No network.")) if method in SENDING else None
    began = trio.current_time()
    with pytest.raises(NotOnDrive, match="No network") as caught:
        await put(storage, "MyDrive/f", b"content", timeout=100)
    assert "kept in the cache" in str(caught.value)
    assert 99 < trio.current_time() - began < 102
    fake.fault = lambda _method: None
    await world.settle(120)
    assert fake.files() == {"other": b"x", "f": b"content"}


async def test_trouble_that_passes_in_time_is_nobody_s_business(
    storage: Storage, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """A broken connection, with or without effect on Drive, ends in one file."""
    await put(storage, "MyDrive/other", b"x")
    fake.fail("create_with_content", Lost(applied=False), Lost(applied=True))
    await put(storage, "MyDrive/f", b"content", timeout=600)
    assert fake.files() == {"other": b"x", "f": b"content"}


async def test_a_drive_that_was_full_minutes_ago_is_asked_again(
    world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Room that was made on Drive counts at once: a put does not believe an old quota."""
    fake.limit = 10
    await world.account.renew()
    with pytest.raises(NotOnDrive, match="full"):
        await put(storage, "MyDrive/f", bytes(11))
    await world.settle(1)
    nothing_is_left(world)
    fake.limit = None
    await put(storage, "MyDrive/f", bytes(11))
    assert world.account.quota == StorageQuota(None, 0)


async def test_two_puts_of_one_name_leave_one_file(
    world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """The later one wins; the earlier one is told, unless Drive had taken it before."""
    fake.delay = lambda method: 5.0 if method in SENDING else 0.01
    told: list[str] = []

    async def one(data: bytes) -> None:
        try:
            await put(storage, "MyDrive/f", data)
            told.append("confirmed")
        except NotOnDrive as error:
            told.append(str(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, b"first")
        await trio.sleep(1)
        nursery.start_soon(one, b"second")
    assert "confirmed" in told
    assert fake.content(fake.tree()["f"][-1].id) == b"second"
    await world.drain()
    assert fake.files() == {"f": b"second"}


async def test_a_stranger_s_edit_at_the_same_moment_is_told(
    world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Both contents are kept, as always, and the caller learns that the name stands for the other."""
    done = await put(storage, "MyDrive/f", b"old")
    fake.edit(done["id"], b"theirs")
    with pytest.raises(NotOnDrive, match=r"changed elsewhere.*conflict"):
        await put(storage, "MyDrive/f", b"ours")
    assert sorted(fake.files().values()) == [b"ours", b"theirs"]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("", "below it"),
        ("MyDrive", "folder has this name"),
        ("Elsewhere/f", "only what lies in MyDrive"),
        ("MyDrive/folder", "folder has this name"),
        ("MyDrive/file/f", "no folder"),
        ("MyDrive/../f", "plain path"),
        ("MyDrive/\udcff", "not text"),
        ("MyDrive/a\0b", "plain path"),
        ("MyDrive/" + "x" * 256, "255 bytes"),
    ],
)
async def test_places_where_nothing_can_be_put(
    world: World, storage: Storage, fake: FakeDrive, path: str, sentence: str, autojump_clock: MockClock
) -> None:
    """Exit code 2, a sentence that says what to do, and nothing is changed."""
    await world.mkdir("folder")
    await world.write("file", b"x")
    await world.drain()
    with pytest.raises(UsageError, match=sentence):
        await put(storage, path, b"y")
    await world.settle(60)
    assert fake.files() == {"file": b"x"}


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"source": "relative"}, "absolute"),
        ({"source": "/no/such/file"}, "cannot read"),
        ({"source": "/"}, "regular file"),
        ({"source": "/dev/null"}, "regular file"),
        ({"source": "/a\0b"}, "cannot read"),
        ({"data": "not base64!"}, "base64"),
        ({"data": 7}, "base64"),
        ({}, "absolute"),
    ],
)
async def test_sources_that_are_none(
    storage: Storage, fake: FakeDrive, request_: dict[str, Any], sentence: str, autojump_clock: MockClock
) -> None:
    """Refused before anything is made, folders neither."""
    with pytest.raises(UsageError, match=sentence):
        await storage.put({"path": "MyDrive/a/f", "timeout": 60.0, **request_}, nothing)
    assert fake.tree() == {}


async def test_a_folder_of_somebody_who_lets_us_read_only(
    world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """No right is exit code 3, and said at once."""
    folder = fake.put_folder("theirs")
    await world.names.children(MY_DRIVE_INODE)
    node = await world.node("theirs")
    world.tree.update(node.inode, can_edit=0)
    with pytest.raises(NotOnDrive, match="may not change"):
        await put(storage, "MyDrive/theirs/f", b"x")
    assert fake.tree().keys() == {"theirs"}
    assert fake.items[folder.id].item == folder


async def test_a_read_only_daemon_takes_nothing(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Neither new files nor deletions; looking is allowed."""
    item = fake.put_file("f", b"x")
    world.names._read_only = True
    storage = storage_of(world, read_only=True)
    with pytest.raises(NotOnDrive, match="read-only"):
        await put(storage, "MyDrive/g", b"x")
    with pytest.raises(NotOnDrive, match="read-only"):
        await trash(storage, item.id)
    assert await names(storage, "MyDrive") == ["f"]
    assert fake.files() == {"f": b"x"}


async def test_a_mount_s_kernel_is_told(world: World, storage: Storage, autojump_clock: MockClock) -> None:
    """It may remember for minutes that there is no such name, or which file had it."""
    await put(storage, "MyDrive/a/f", b"x")
    folder = await world.node("a")
    assert Invalidation(MY_DRIVE_INODE, "a") in world.stale
    assert Invalidation(folder.inode, "f") in world.stale


# -- asking ------------------------------------------------------------------------------------------------------------


async def test_list_tells_what_drive_has_now(world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """All pages, oldest first, twins and folders; also what came a moment ago and the tree has not heard of."""
    folder = fake.put_folder("objects")
    assert await names(storage, "MyDrive/objects") == []
    made = [fake.put_file(name, b"x" * n, folder.id) for n, name in enumerate(["b", "a", "b", "c", "d"])]
    made.append(fake.put_folder("sub", folder.id))
    found = await storage.list({"path": "MyDrive/objects"}, nothing)
    assert [item["id"] for item in found] == [item.id for item in made]
    assert found[1] == {
        "name": "a",
        "id": made[1].id,
        "size": 1,
        "md5": md5_of(b"x"),
        "folder": False,
        "owned": True,
        "created": made[1].created_ms / 1000,
    }
    assert (found[5]["folder"], found[5]["size"], found[5]["md5"]) == (True, None, None)
    fake.destroy(made[0].id)
    assert len(await names(storage, "/My Drive//objects/")) == 5


async def test_folders_that_two_machines_made_at_once_are_one(
    world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """What is in any of them is listed, at each level; a folder that only looks like one by its number is another."""
    first, second = fake.put_folder("env"), fake.put_folder("env")
    fake.put_folder("env (7)")
    inner = [fake.put_folder("objects", folder.id) for folder in (first, second)]
    made = [fake.put_file(name, b"x", folder.id) for name, folder in zip("ab", inner, strict=True)]
    assert [item["id"] for item in await storage.list({"path": "MyDrive/env/objects"}, nothing)] == [item.id for item in made]
    assert await names(storage, "MyDrive/env") == ["objects", "objects"]
    await put(storage, "MyDrive/env/objects/c", b"new")
    assert await names(storage, "MyDrive/env/objects") == ["a", "b", "c"]
    assert await names(storage, "MyDrive") == ["env", "env", "env (7)"]


async def test_list_of_what_is_not_there(world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """A missing folder, and one that exists here only, are empty; a file is no folder; a folder deleted elsewhere is empty."""
    await world.mkdir("local")
    gone = fake.put_folder("gone")
    fake.put_file("file", b"x")
    await world.names.children(MY_DRIVE_INODE)
    fake.destroy(gone.id)
    for path in ("MyDrive/none", "MyDrive/none/below", "MyDrive/local", "MyDrive/gone", "Nowhere"):
        assert await names(storage, path) == []
    with pytest.raises(UsageError, match="no folder"):
        await names(storage, "MyDrive/file")
    with pytest.raises(UsageError, match="below it"):
        await names(storage, "/")


async def test_a_folder_made_elsewhere_a_moment_ago_is_found(
    world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Also where all folders above it have been listed before."""
    top = fake.put_folder("top")
    assert await names(storage, "MyDrive/top/new") == []
    new = fake.put_folder("new", top.id)
    fake.put_file("f", b"x", new.id)
    assert await names(storage, "MyDrive/top/new") == ["f"]


async def test_stat(world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """The item as Drive has it now; None for what is missing, unsent, trashed or deleted elsewhere."""

    async def stat(path: str) -> Any:
        return await storage.stat({"path": path}, nothing)

    folder = fake.put_folder("folder")
    file = fake.put_file("f", b"one", folder.id)
    assert (await stat("MyDrive/folder"))["folder"]
    assert (await stat("MyDrive"))["id"] == ROOT_ID
    assert (await stat("MyDrive/folder/f"))["md5"] == md5_of(b"one")
    fake.edit(file.id, b"three")
    assert (await stat("MyDrive/folder/f"))["size"] == 5
    fake.edit(file.id, trashed=True)
    assert await stat("MyDrive/folder/f") is None
    fake.destroy(folder.id)
    assert await stat("MyDrive/folder") is None
    await world.mkdir("local")
    assert await stat("MyDrive/local") is None
    assert await stat("MyDrive/none/f") is None


async def test_whose_an_item_is(storage: Storage, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """``owned`` is what Drive says, in a listing as in a stat."""
    folder = fake.put_folder("shared")
    file = fake.put_file("f", b"x", folder.id)
    _disown(fake, file)
    assert [item["owned"] for item in await storage.list({"path": "MyDrive/shared"}, nothing)] == [False]
    theirs = await storage.stat({"path": "MyDrive/shared/f"}, nothing)
    assert theirs is not None
    assert theirs["owned"] is False


def _disown(fake: FakeDrive, item: RemoteItem) -> None:
    fake.items[item.id].item = replace(fake.items[item.id].item, owned_by_me=False)


# -- deleting ----------------------------------------------------------------------------------------------------------


async def test_trash_shows_at_once(world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """On Drive when it returns, and in the mount, whose kernel is told; once more, and of what is not there, is fine."""
    done = await put(storage, "MyDrive/f", b"x")
    node = await world.node("f")
    world.stale.clear()
    await trash(storage, done["id"])
    assert fake.items[done["id"]].item.trashed
    assert await world.walk() == {}
    assert any(stale.inode == node.local_parent for stale in world.stale)
    await trash(storage, done["id"])
    await trash(storage, "never-heard-of")
    nothing_is_left(world)


async def test_trash_of_what_the_tree_does_not_know(storage: Storage, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """An id from a listing is enough; a folder goes with all below it."""
    folder = fake.put_folder("folder")
    fake.put_file("f", b"x", folder.id)
    await trash(storage, folder.id)
    assert fake.tree() == {}


async def test_trash_of_a_file_that_was_changed_here(
    world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Elsewhere a deletion would lose against unsent changes; this one is meant."""
    done = await put(storage, "MyDrive/f", b"x")
    await world.write("f", b"changed")
    await trash(storage, done["id"])
    await world.settle(60)
    assert fake.tree() == {}
    assert await world.walk() == {}
    nothing_is_left(world)


async def test_a_deletion_that_drive_refuses_changes_nothing(
    world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """Exit code 3 with the reason, and the file is where it was, here too."""
    done = await put(storage, "MyDrive/f", b"x")
    fake.fail("update", AccessDenied("Only the owner may do that.", status=403))
    with pytest.raises(NotOnDrive, match="Only the owner"):
        await trash(storage, done["id"])
    assert list(await world.walk()) == ["f"]
    nothing_is_left(world)


# -- getting -----------------------------------------------------------------------------------------------------------


async def test_get_streams_past_the_cache(world: World, storage: Storage, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """All bytes in order; nothing of them lies in the cache afterwards."""
    data = os.urandom(40 << 20)
    item = fake.put_file("big", data)
    got: list[bytes] = []

    async def take(pieces: Any) -> None:
        got.extend(pieces)

    await storage.get({"id": item.id, "size": len(data), "md5": md5_of(data)}, take)
    assert b"".join(got) == data
    assert world.cache.clean_bytes == 0


async def test_the_verbs_have_their_names(storage: Storage) -> None:
    """What the daemon answers to before it is ready is what it answers to afterwards."""
    assert tuple(storage.verbs()) == STORAGE_VERBS
