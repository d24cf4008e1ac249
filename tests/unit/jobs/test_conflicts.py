"""Somebody else changes a file that we change: both contents are there in the end, and it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from drivefs.base.errors import AccessDenied
from drivefs.base.model import Revision
from drivefs.jobs.conflicts import later_than
from tests.support.fake_drive import FakeDrive, Lost
from tests.support.world import World, open_world


def reported(world: World) -> bool:
    return any("the other content is kept as" in error.what for error in world.stats.last_errors)


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_edit_between_our_look_and_our_upload_is_kept(
    world: World, fake: FakeDrive, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    """Drive lets the last writer win without a word; the list of revisions shows what was overwritten, and it becomes a copy."""
    if chunked:
        monkeypatch.setattr("drivefs.jobs.transfer._MULTIPART_LIMIT", 4)
        monkeypatch.setattr("drivefs.jobs.transfer._CHUNK", 4)
    await world.write("a.txt", b"base")
    await world.drain()
    (item,) = fake.tree()["a.txt"]
    await world.write("a.txt", b"our bytes")
    gate = fake.hold("send_chunk" if chunked else "update_with_content")
    await gate.reached.wait()
    fake.edit(item.id, b"their bytes")
    gate.open.set()
    await world.drain()
    files = fake.files()
    assert files.pop("a.txt") == b"our bytes"
    ((name, content),) = files.items()
    assert name.startswith("a (conflict ")
    assert name.endswith(").txt")
    assert content == b"their bytes"
    assert await world.contents() == fake.files()
    assert reported(world)


async def test_the_check_survives_a_kill(tmp_path: Path, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Killed between Drive's answer and the look at the revisions: the next start looks."""
    async with open_world(tmp_path / "cache", fake) as world:
        await world.write("a", b"base")
        await world.drain()
        (item,) = fake.tree()["a"]
        await world.write("a", b"ours")
        gate = fake.hold("update_with_content")
        await gate.reached.wait()
        fake.edit(item.id, b"theirs")
        asked = fake.hold("revisions")
        gate.open.set()
        await asked.reached.wait()
        fake.dead = True
    fake.dead = False
    async with open_world(tmp_path / "cache", fake) as world:
        await world.drain()
        assert fake.files()["a"] == b"ours"
        assert sorted(fake.files().values()) == [b"ours", b"theirs"]
        assert await world.contents() == fake.files()


async def test_the_check_is_repeated_where_it_failed(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """An unreachable list of revisions says nothing: the answer stays in doubt until it was read, and nothing is sent twice."""
    await world.write("a", b"base")
    await world.drain()
    (item,) = fake.tree()["a"]
    fake.fail("revisions", Lost(applied=False), Lost(applied=False))
    await world.write("a", b"ours")
    gate = fake.hold("update_with_content")
    await gate.reached.wait()
    fake.edit(item.id, b"theirs")
    gate.open.set()
    await world.drain()
    assert sorted(fake.files().values()) == [b"ours", b"theirs"]
    assert fake.calls["update_with_content"] == 1


async def test_a_repeat_of_our_own_upload_is_no_stranger(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """The same bytes twice, as a retry of a lost answer makes them, are no conflict; nor are equal bytes from elsewhere."""
    await world.write("a", b"base")
    await world.drain()
    (item,) = fake.tree()["a"]
    await world.write("a", b"ours")
    gate = fake.hold("update_with_content")
    await gate.reached.wait()
    fake.edit(item.id, b"ours")
    gate.open.set()
    await world.drain()
    assert fake.files() == {"a": b"ours"}
    assert not reported(world)


async def test_an_undisturbed_update_asks_once(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """One call an update, none for a new file."""
    await world.write("a", b"base")
    await world.drain()
    assert fake.calls["revisions"] == 0
    await world.write("a", b"ours")
    await world.drain()
    assert fake.calls["revisions"] == 1
    assert fake.files() == {"a": b"ours"}


async def test_where_revisions_are_hidden_the_upload_counts(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Who may write but not see revisions still gets his files sent, and is told that the check was not possible."""
    await world.write("a", b"base")
    await world.drain()
    fake.fail("revisions", AccessDenied("no", status=403))
    await world.write("a", b"ours")
    await world.drain()
    assert fake.files() == {"a": b"ours"}
    assert any("cannot be seen" in error.what for error in world.stats.last_errors)


async def test_somebody_who_comes_right_after_us_is_a_conflict(
    world: World, fake: FakeDrive, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drive's answer to our upload may state a stranger's content already: ours was taken and replaced, and both are kept."""
    await world.write("a", b"base")
    await world.drain()
    original = fake._write

    def overtaken(file_id: str, content: bytes) -> None:
        monkeypatch.setattr(fake, "_write", original)
        original(file_id, content)
        original(file_id, b"theirs")

    monkeypatch.setattr(fake, "_write", overtaken)
    await world.write("a", b"ours")
    await world.drain()
    assert fake.files()["a"] == b"theirs"
    assert sorted(fake.files().values()) == [b"ours", b"theirs"]
    assert await world.contents() == fake.files()


async def test_equal_content_is_no_conflict(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """Drive has our very bytes already (a power cut may take the row that says so): nothing is sent, nothing is split."""
    await world.write("a", b"base")
    await world.drain()
    (item,) = fake.tree()["a"]
    await world.write("a", b"the same")
    fake.edit(item.id, b"the same")
    await world.drain()
    assert fake.files() == {"a": b"the same"}
    assert fake.calls["update_with_content"] == 0
    assert not world.stats.last_errors


def test_which_revisions_are_later() -> None:
    """Those between base and head; without the base, only the one before the head can have been overwritten unseen."""
    one, two, three = (Revision(name, name, 1, 0) for name in ("one", "two", "three"))
    assert later_than("one", [one, two, three], "three") == [two]
    assert later_than("one", [one, two], "three") == [two]
    assert later_than("two", [one, two, three], "three") == []
    assert later_than("one", [one, two, three], "two") == []
    assert later_than("gone", [one, two, three], "three") == [two]
    assert later_than("gone", [three], "three") == []
    assert later_than(None, [one, three], "three") == [one]


async def test_what_a_stranger_deletes_for_good_before_we_could_fetch_it_is_given_up(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """No byte of it is left anywhere, so nothing stays behind that could never be read or sent; and it is said."""
    await world.write("a", b"base")
    await world.drain()
    (item,) = fake.tree()["a"]
    await world.write("a", b"ours")
    gate = fake.hold("update_with_content")
    await gate.reached.wait()
    fake.edit(item.id, b"theirs")
    fetching = fake.hold("download")
    gate.open.set()
    await fetching.reached.wait()
    assert len(await world.walk()) == 2
    fake.destroy(item.id)
    fetching.open.set()
    await world.drain()
    await world.changes.poll()
    assert fake.files() == await world.contents() == {}
    assert any("given up" in error.what for error in world.stats.last_errors)
