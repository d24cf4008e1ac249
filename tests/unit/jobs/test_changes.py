"""The changes feed when Drive no longer knows our place in it: a new beginning, and nothing of the gap is missed."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from drivefs.base.errors import AccessDenied, BadRequest, RemoteError, RemoteNotFound, RemoteUnreachable
from drivefs.base.model import Invalidation
from tests.support.fake_drive import FakeDrive
from tests.support.world import World, clone_cache, open_world


async def scene(fake: FakeDrive, world: World) -> list[Invalidation]:
    """Three known folders, and one of everything a stranger can do, in a part of the feed that Drive then no longer has.

    Returns what the kernel must forget in any case.
    """
    d, e = fake.put_folder("d"), fake.put_folder("e")
    fake.put_folder("never looked into")
    edited, renamed, gone, moved = (fake.put_file(name, b"old", d.id) for name in ("edited", "renamed", "gone", "moved"))
    fake.put_file("untouched", b"u", e.id)
    await world.changes.poll()
    for folder in ("", "d", "e"):
        await world.names.children((await world.node(folder)).inode)
    await world.write("d/mine", b"mine")
    await world.drain()
    await world.changes.poll()
    fake.edit(edited.id, b"newer")
    fake.edit(renamed.id, name="renamed 2")
    fake.destroy(gone.id)
    fake.edit(moved.id, add_parent=e.id, remove_parent=d.id)
    fake.put_file("fresh", b"fresh", d.id)
    world.stale.clear()
    inode = (await world.node("d")).inode
    return [Invalidation(inode, name) for name in ("renamed", "renamed 2", "gone", "moved", "fresh")]


async def require_all_seen(world: World) -> None:
    assert await world.contents() == {
        "d/edited": b"newer",
        "d/renamed 2": b"old",
        "d/fresh": b"fresh",
        "d/mine": b"mine",
        "e/moved": b"old",
        "e/untouched": b"u",
    }


def lose_place(fake: FakeDrive, error: RemoteError) -> None:
    fake.fail("changes", error)


@pytest.mark.parametrize("error", [BadRequest("Invalid Value", status=400), RemoteNotFound("Not found", status=404)])
async def test_a_lost_feed_is_begun_anew_and_nothing_is_missed(
    fake: FakeDrive, world: World, error: RemoteError, autojump_clock: MockClock
) -> None:
    """An edit, a rename, a deletion, a move and a new file of the gap are seen, the kernel forgets them, and the feed goes on."""
    forgotten = await scene(fake, world)
    lose_place(fake, error)
    await world.changes.poll()
    await world.settle()
    assert [one for one in forgotten if one not in world.stale] == []
    await require_all_seen(world)
    fake.put_file("later", b"later")
    await world.changes.poll()
    assert await world.read("later") == b"later"


async def test_known_folders_stay_usable_while_they_are_listed_again(
    fake: FakeDrive, world: World, autojump_clock: MockClock
) -> None:
    """Drive does not answer: what is known is still shown; once it answers, the new state is."""
    await scene(fake, world)
    lose_place(fake, BadRequest("Invalid Value", status=400))
    fake.fail("list_children", *[RemoteUnreachable("no network")] * 3)
    await world.changes.poll()
    await trio.sleep(1)
    names = {node.shown_name for node in await world.names.children((await world.node("d")).inode)}
    assert names == {"edited", "renamed", "gone", "moved", "mine"}
    await world.settle()
    await require_all_seen(world)


async def test_a_folder_that_is_closed_to_us_does_not_keep_the_others(
    fake: FakeDrive, world: World, autojump_clock: MockClock
) -> None:
    """The first listing is refused for good: the error is recorded, and the others are listed."""
    await scene(fake, world)
    lose_place(fake, BadRequest("Invalid Value", status=400))
    fake.fail("list_children", AccessDenied("not yours", status=403))
    await world.changes.poll()
    await world.settle()
    await require_all_seen(world)
    assert any("not yours" in str(one) for one in world.stats.snapshot()["last_errors"])


async def test_an_end_in_the_middle_loses_nothing(fake: FakeDrive, tmp_path: Path, autojump_clock: MockClock) -> None:
    """Killed after the feed was begun anew and before any folder was listed: the next session lists them."""
    async with open_world(tmp_path / "cache", fake) as world:
        await scene(fake, world)
        lose_place(fake, BadRequest("Invalid Value", status=400))
        fake.fail("list_children", *[RemoteUnreachable("no network")] * 100)
        await world.changes.poll()
        await trio.sleep(1)
        clone_cache(tmp_path / "cache", tmp_path / "killed")
        fake._script.pop("list_children")
    async with open_world(tmp_path / "killed", fake) as world:
        await world.settle()
        await require_all_seen(world)


async def test_without_a_fresh_place_the_old_one_is_kept(fake: FakeDrive, world: World, autojump_clock: MockClock) -> None:
    """Drive refuses the old token and fails to give a new one: the error is raised, and the next poll begins anew."""
    await scene(fake, world)
    lose_place(fake, BadRequest("Invalid Value", status=400))
    fake.fail("start_page_token", RemoteUnreachable("no network"))
    with pytest.raises(RemoteUnreachable):
        await world.changes.poll()
    lose_place(fake, BadRequest("Invalid Value", status=400))
    await world.changes.poll()
    await world.settle()
    await require_all_seen(world)
