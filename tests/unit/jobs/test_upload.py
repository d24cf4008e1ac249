"""The uploader: few calls, in the right order, each safe to repeat; nothing is given up and nothing waits for ever."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from drivefs.base.errors import AccessDenied, DriveFull, ServerFault
from tests.support.fake_drive import ROOT_ID, FakeDrive, Lost
from tests.support.world import World, open_world

CHANGING = ("create", "create_with_content", "update", "update_with_content", "open_upload", "send_chunk")


def changes(fake: FakeDrive) -> Counter[str]:
    """Calls that change something, counted since the last time."""
    counted = Counter({name: fake.calls[name] for name in CHANGING if fake.calls[name]})
    for name in CHANGING:
        del fake.calls[name]
    return counted


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of more than 4 bytes are sent resumably, in chunks of 4."""
    monkeypatch.setattr("drivefs.jobs.transfer._MULTIPART_LIMIT", 4)
    monkeypatch.setattr("drivefs.jobs.transfer._CHUNK", 4)


async def test_create_and_delete_cost_no_call(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """What Drive never had it need not be told of."""
    await world.write("a", b"1")
    await world.unlink("a")
    await world.mkdir("d")
    await world.rmdir("d")
    await world.settle()
    assert changes(fake) == {}
    assert not world.uploader.unsent()


async def test_ten_renames_cost_one_call(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Together with chmod and utime: one PATCH."""
    await world.write("a0", b"1")
    await world.drain()
    changes(fake)
    for n in range(10):
        await world.rename(f"a{n}", f"a{n + 1}")
    await world.chmod("a10", 0o644)
    await world.utime("a10", 5 * 10**9)
    await world.settle()
    assert changes(fake) == {"update": 1}
    assert fake.tree()["a10"][0].modified_ms == 5000


async def test_a_file_rewritten_every_second_reaches_drive_within_a_minute(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """A status file that never rests is sent now and then, not never."""
    for n in range(150):
        await world.write("a", str(n).encode())
        await world.settle(1)
    assert 1 <= sum(changes(fake).values()) <= 4
    assert int(fake.files()["a"]) >= 100


async def test_many_writes_cost_one_upload(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Each change puts the upload off, so that what changes often is sent once."""
    for n in range(20):
        await world.write("a", str(n).encode())
        await world.settle(1)
    await world.settle()
    assert changes(fake) == {"create_with_content": 1}
    assert fake.files() == {"a": b"19"}


async def test_a_folder_is_made_once_for_500_files(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """All wait for one create, also through its failures, and each is then sent once."""
    fake.fail("create", Lost(applied=False), ServerFault("trouble"))
    await world.mkdir("d")
    for n in range(500):
        await world.write(f"d/{n}", b"x")
    await world.drain()
    assert changes(fake) == {"create": 3, "create_with_content": 500}
    assert len(fake.files()) == 500


async def test_folders_go_before_what_is_in_them(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """However deep."""
    await world.mkdir("a")
    await world.mkdir("a/b")
    await world.mkdir("a/b/c")
    await world.write("a/b/c/f", b"x")
    await world.drain()
    assert [name for what, name in fake.log if what == "create"] == ["a", "b", "c", "f"]


async def test_a_deletion_does_not_wait_for_what_is_stuck(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """A full Drive would stay full if deletions waited for uploads that it refuses."""
    await world.write("old", b"1")
    await world.drain()
    fake.fail("create_with_content", *[DriveFull("full", status=403)] * 3)
    await world.write("new", b"2")
    await world.unlink("old")
    await world.settle(20)
    assert fake.files() == {}
    await world.settle(600)
    assert fake.files() == {"new": b"2"}


async def test_a_folder_is_not_deleted_with_what_still_has_to_leave_it(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """mv d/x .; rmdir d: while Drive refuses the move, deleting the folder would take the file along."""
    folder = fake.put_folder("d")
    fake.put_file("x", b"1", folder.id)
    await world.changes.poll()
    await world.walk()
    await world.rename("d/x", "x")
    fake.fail("update", *[AccessDenied("no", status=403)] * 5)
    await world.rmdir("d")
    await world.settle(60)
    assert not fake.items[folder.id].item.trashed
    await world.settle(1000)
    assert fake.files() == {"x": b"1"}
    assert fake.items[folder.id].item.trashed


async def test_a_create_whose_answer_was_lost_is_adopted(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """One item, one revision: the second attempt finds what the first has made."""
    fake.fail("create_with_content", Lost(applied=True))
    await world.write("a", b"1")
    await world.drain()
    assert changes(fake) == {"create_with_content": 1}
    (item,) = fake.tree()["a"]
    assert len(fake.items[item.id].revisions) == 1


async def test_a_folder_whose_answer_was_lost_is_adopted(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """And what waits for it goes into it."""
    fake.fail("create", Lost(applied=True))
    await world.mkdir("d")
    await world.write("d/a", b"1")
    await world.drain()
    assert fake.files() == {"d/a": b"1"}


async def test_an_update_whose_answer_was_lost_is_no_conflict(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """The revision that Drive has then is ours, also when the file has been changed again since."""
    await world.write("a", b"1")
    await world.drain()
    for again in (False, True):
        await world.write("a", b"second" if again else b"first")
        fake.fail("update_with_content", Lost(applied=True))
        gate = fake.hold("update_with_content", after=True)
        await gate.reached.wait()
        gate.open.set()
        await wait_all_tasks_blocked()
        if again:
            await world.write("a", b"third")
        await world.drain()
    assert fake.files() == {"a": b"third"}


async def test_a_real_conflict_keeps_both(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Changed here and there since both agreed: Drive's keeps name and id, ours becomes a copy beside it, and it is said."""
    await world.write("a.txt", b"base")
    await world.drain()
    (item,) = fake.tree()["a.txt"]
    await world.write("a.txt", b"ours")
    fake.edit(item.id, b"theirs")
    await world.drain()
    files = fake.files()
    assert files["a.txt"] == b"theirs"
    assert sorted(files.values()) == [b"ours", b"theirs"]
    assert fake.tree()["a.txt"][0].id == item.id
    assert await world.contents() == files
    assert any("changed here and on Drive" in error.what for error in world.stats.last_errors)


async def test_an_edit_of_other_fields_is_no_conflict(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """They renamed it, we wrote it: both happen to the one file."""
    await world.write("a", b"base")
    await world.drain()
    (item,) = fake.tree()["a"]
    await world.write("a", b"ours")
    fake.edit(item.id, name="b")
    await world.drain()
    assert fake.files() == {"b": b"ours"}
    assert set(await world.walk()) == {"b"}


async def test_a_write_during_the_upload_is_sent_too(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Whenever in the upload it comes, the last content arrives, and no mixture in between."""
    for after in (False, True):
        await world.write("a", b"first")
        gate = fake.hold("update_with_content" if after else "create_with_content", after=after)
        await gate.reached.wait()
        await world.write("a", b"SECOND")
        gate.open.set()
        await world.drain()
        assert fake.files() == {"a": b"SECOND"}
    (item,) = fake.tree()["a"]
    assert set(fake.items[item.id].revisions.values()) == {b"first", b"SECOND"}


@pytest.mark.usefixtures("chunks")
async def test_a_write_during_a_resumable_upload_supersedes_it(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """The session is dropped before its last byte, so Drive never has half of each."""
    await world.write("a", b"a" * 12)
    gate = fake.hold("send_chunk", after=True)
    await gate.reached.wait()
    await world.patch("a", 0, b"B")
    gate.open.set()
    await world.drain()
    (item,) = fake.tree()["a"]
    assert list(fake.items[item.id].revisions.values()) == [b"B" + b"a" * 11]
    assert fake.calls["cancel_upload"] == 1


async def test_replacing_keeps_the_id(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Write a temporary file, rename it over: links, shares and revisions of the name survive, and no second item is made."""
    await world.write("a", b"old")
    await world.drain()
    (item,) = fake.tree()["a"]
    changes(fake)
    await world.write("a.tmp", b"new")
    await world.rename("a.tmp", "a")
    await world.drain()
    assert fake.tree()["a"][0].id == item.id
    assert fake.files() == {"a": b"new"}
    assert changes(fake) == {"update_with_content": 1}


@pytest.mark.parametrize("after", [False, True])
async def test_replacing_while_the_newcomer_is_uploaded(
    world: World, fake: FakeDrive, autojump_clock: MockClock, after: bool
) -> None:
    """The temporary file was on its way already: it ends in the trash, and the name keeps its id."""
    await world.write("a", b"old")
    await world.drain()
    (item,) = fake.tree()["a"]
    await world.write("a.tmp", b"new")
    gate = fake.hold("create_with_content", after=after)
    await gate.reached.wait()
    await world.rename("a.tmp", "a")
    gate.open.set()
    await world.drain()
    assert fake.files() == {"a": b"new"}
    assert fake.tree()["a"][0].id == item.id
    assert await world.contents() == {"a": b"new"}


async def test_replacing_by_what_is_on_drive_never_leaves_the_name_empty(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """A clean newcomer is renamed first, then the victim goes: for a moment there are two, never none."""
    await world.write("a", b"old")
    await world.write("b", b"new")
    await world.drain()
    fake.log.clear()
    await world.rename("b", "a")
    await world.drain()
    assert fake.log == [("update", "a"), ("trash", "a")]
    assert fake.files() == {"a": b"new"}


@pytest.mark.usefixtures("chunks")
async def test_a_resumable_upload_goes_on_after_a_restart(tmp_path: Path, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """The session and what Drive has of it outlive the process; no byte is sent twice."""
    async with open_world(tmp_path / "cache", fake) as world:
        await world.write("a", b"0123456789AB")
        await world.settle(2.015)
        gate = fake.hold("send_chunk", after=True)
        await gate.reached.wait()
    sent = fake.calls["send_chunk"]
    async with open_world(tmp_path / "cache", fake) as world:
        await world.drain()
    assert fake.files() == {"a": b"0123456789AB"}
    assert fake.calls["open_upload"] == 1
    assert sent >= 1
    assert fake.calls["send_chunk"] == 3


@pytest.mark.usefixtures("chunks")
async def test_a_lost_session_begins_anew(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Drive forgets sessions after a week, or earlier."""
    await world.write("a", b"0123456789AB")
    gate = fake.hold("send_chunk", after=True)
    await gate.reached.wait()
    fake.drop_sessions()
    gate.open.set()
    await world.drain()
    assert fake.files() == {"a": b"0123456789AB"}
    assert fake.calls["open_upload"] == 2


@pytest.mark.usefixtures("chunks")
async def test_the_last_answer_of_a_session_may_be_lost(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """The server is asked what it has: it has the file, once."""
    fake.fail("send_chunk", Lost(applied=True), Lost(applied=False), Lost(applied=True))
    await world.write("a", b"0123456789AB")
    await world.drain()
    (item,) = fake.tree()["a"]
    assert list(fake.items[item.id].revisions.values()) == [b"0123456789AB"]
    assert fake.calls["open_upload"] == 1


async def test_a_full_drive_is_listed_and_tried_again(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Path, size and reason are told; the file stays readable and writable, and goes when there is room."""
    fake.fail("create_with_content", DriveFull("The account's storage is full.", status=403))
    await world.write("a", b"1234")
    await world.settle(5)
    (unsent,) = world.uploader.unsent()
    assert (unsent.path, unsent.size, unsent.reason) == ("MyDrive/a", 4, "The account's storage is full.")
    assert await world.read("a") == b"1234"
    before = fake.calls["create_with_content"]
    await world.settle(120)
    assert fake.calls["create_with_content"] == before + 1
    assert fake.files() == {"a": b"1234"}
    assert not world.uploader.unsent()


async def test_one_files_defect_does_not_stop_the_others(
    world: World, fake: FakeDrive, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception is counted and listed, and the file is tried again later."""
    failing = (await world.node("")).inode

    def fault(method: str) -> None:
        if method == "create" and len(fake.log) < 5:
            raise ZeroDivisionError(failing)

    fake.fault = fault
    await world.mkdir("bad")
    for n in range(5):
        await world.write(f"good{n}", b"1")
    await world.settle(2.5)
    assert len(fake.files()) == 5
    assert world.stats.internal_errors > 0
    await world.drain()
    assert "bad" in fake.tree()


async def test_a_drain_that_runs_out_of_time_lists_what_is_left(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """It returns at its deadline, with each file's reason."""
    fake.fault = lambda method: Lost(applied=False) if "content" in method else None
    await world.write("a", b"1")
    await world.mkdir("d")
    start = trio.current_time()
    unsent = await world.uploader.drain(30)
    assert trio.current_time() - start == pytest.approx(30, abs=0.1)
    assert [(entry.path, entry.reason) for entry in unsent] == [("MyDrive/a", "the connection broke")]
    assert "d" in fake.tree()


async def test_flushing_a_path_does_not_wait_for_others(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Only what was named, and the folders above it."""
    await world.mkdir("d")
    await world.write("d/a", b"1")
    await world.write("other", b"2")
    node = await world.node("d/a")
    assert await world.uploader.drain(1, [node.inode]) == []
    assert fake.files() == {"d/a": b"1"}


async def test_a_flush_sends_a_file_that_is_still_open(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Asked for, the present state is sent; what is written later is sent after the close."""
    handle = await world.create("a")
    await world.files.write(handle, 0, b"now")
    await world.drain()
    assert fake.files() == {"a": b"now"}
    await world.files.write(handle, 3, b" later")
    await world.settle()
    assert fake.files() == {"a": b"now"}
    world.close(handle)
    await world.settle()
    assert fake.files() == {"a": b"now later"}


async def test_an_empty_file_reaches_drive(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """touch is a promise too."""
    world.close(await world.create("empty"))
    await world.settle()
    assert fake.files() == {"empty": b""}


async def test_a_symbolic_link_reaches_drive_as_its_target(tmp_path: Path, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Long targets, which do not fit into a property, are read back from the content by a fresh cache."""
    targets = {"short": "../elsewhere", "long": "x" * 300}
    async with open_world(tmp_path / "one", fake) as world:
        for name, target in targets.items():
            await world.symlink(target, name)
        await world.drain()
    async with open_world(tmp_path / "two", fake) as world:
        for name, target in targets.items():
            assert await world.fs.readlink((await world.node(name)).inode) == target


async def test_what_an_earlier_process_left_is_due_at_once(tmp_path: Path, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Recovery is a query: no log, no delay."""
    async with open_world(tmp_path / "cache", fake) as world:
        await world.mkdir("d")
        await world.write("d/a", b"1")
        fake.dead = True
    fake.dead = False
    async with open_world(tmp_path / "cache", fake) as world:
        await world.settle(1)
        assert fake.files() == {"d/a": b"1"}


async def test_a_gone_parent_is_made_anew(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Deleted for good while we had a new file in it: folder and file are there in the end."""
    folder = fake.put_folder("d")
    await world.changes.poll()
    await world.walk()
    await world.write("d/a", b"1")
    fake.destroy(folder.id)
    await world.drain()
    assert fake.files() == {"d/a": b"1"}
    assert fake.tree()["d"][0].parents == (ROOT_ID,)


async def test_an_answer_with_another_checksum_is_not_believed(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Content is dirty until Drive's checksum of it is ours."""
    original = fake._write

    def garble(file_id: str, content: bytes) -> None:
        fake._write = original  # type: ignore[method-assign]
        original(file_id, content[:-1] + b"?")

    fake._write = garble  # type: ignore[method-assign]
    await world.write("a", os.urandom(20))
    await world.drain()
    assert fake.files() == await world.contents()


@pytest.mark.usefixtures("chunks")
async def test_a_name_taken_back_while_a_session_carries_it(tmp_path: Path, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """A session that is resumed after a restart still carries the name it was opened with; the user's last name stands."""
    async with open_world(tmp_path / "cache", fake) as world:
        await world.write("a", b"base")
        await world.drain()
        await world.write("a", b"0123456789AB")
        await world.rename("a", "away")
        gate = fake.hold("send_chunk", after=True)
        await gate.reached.wait()
        await world.rename("away", "a")
    async with open_world(tmp_path / "cache", fake) as world:
        await world.drain()
        assert await world.contents() == {"a": b"0123456789AB"}
    assert fake.files() == {"a": b"0123456789AB"}
