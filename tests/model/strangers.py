"""What somebody else does on Drive meanwhile, the state that Drive is in, and time."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from drivefs.base.errors import PathError
from tests.model.common import operation, overwritten
from tests.model.schedule import FAR, SHARED, Schedule, Step
from tests.support.world import World

WEATHER = (None, None, "offline", "full", "signed out")


@operation
async def far_edit(s: Schedule, world: World, step: Step) -> None:
    """Somebody else changes, adds, renames or deletes."""
    theirs = s.server.files_in(FAR)
    if not theirs or step.j % 4 == 0:
        s.server.put_far(f"n{step.k}-{s.fresh_name()}")
        return
    file = theirs[step.i % len(theirs)]
    if step.j % 4 == 1:
        data = s.rng.randbytes(30)
        s.server.far_versions.add(data)
        s.server.edit(file.id, data)
    elif step.j % 4 == 2:
        s.server.edit(file.id, name=f"m{step.k}-{s.fresh_name()}")
    elif step.k % 3:
        s.server.edit(file.id, trashed=True)
    else:
        s.server.destroy(file.id)


@operation
async def far_read(s: Schedule, world: World, step: Step) -> None:
    """One version, whichever, but never parts of two."""
    names = [path for path, node in (await world.walk(FAR)).items() if not node.is_folder]
    if names:
        assert await world.read(names[step.i % len(names)]) in s.server.far_versions


@contextmanager
def _gone_meanwhile() -> Iterator[None]:
    """Somebody else may have deleted it between our look and our call."""
    try:
        yield
    except FileNotFoundError:
        return
    except PathError as error:
        if error.errno != errno.ENOENT:
            raise


async def _shared(world: World, step: Step) -> str | None:
    names = sorted(path for path, node in (await world.walk(SHARED)).items() if not node.is_folder)
    return names[step.i % len(names)] if names else None


@operation
async def shared_write(s: Schedule, world: World, step: Step) -> None:
    """We overwrite, or change a part of, what we have read; others may come between."""
    if (path := await _shared(world, step)) is None:
        return
    handle = await world.open(path, os.O_RDWR)
    try:
        seen = await world.read_all(handle)
        assert seen in s.claims.known
        await world.settle(step.j / 8)
        data = s.fresh_bytes(12 + step.k % 30)
        new = data if step.j % 2 else overwritten(seen, step.k % 20, data)
        s.claims.writing(seen, new)
        if step.j % 2:
            await world.cut(handle, 0)
        await world.files.write(handle, 0 if step.j % 2 else step.k % 20, data)
        s.claims.written(new)
    finally:
        world.close(handle)


@operation
async def shared_create(s: Schedule, world: World, step: Step) -> None:
    await world.node(SHARED)
    path, data = f"{SHARED}/n{s.fresh_name()}", s.fresh_bytes(20)
    s.claims.writing(None, data)
    handle = await world.create(path)
    await world.files.write(handle, 0, data)
    s.claims.written(data)
    world.close(handle)


@operation
async def shared_read(s: Schedule, world: World, step: Step) -> None:
    """Some version that somebody wrote, and no mixture."""
    if path := await _shared(world, step):
        assert await world.read(path) in s.claims.known, path


@operation
async def shared_rename(s: Schedule, world: World, step: Step) -> None:
    if path := await _shared(world, step):
        with _gone_meanwhile():
            await world.rename(path, f"{SHARED}/r{s.fresh_name()}")


@operation
async def shared_unlink(s: Schedule, world: World, step: Step) -> None:
    if path := await _shared(world, step):
        with _gone_meanwhile():
            node = await world.node(path)
            seen = await world.read(path)
            s.claims.unlinked(seen, node.remote_id)
            await world.unlink(path)


@operation
async def stranger(s: Schedule, world: World, step: Step) -> None:
    """Somebody else writes to a file that we may have open, or changed, or renames or deletes it."""
    meddle(s, step.i, step.j)


def meddle(s: Schedule, i: int, j: int) -> None:
    files = s.server.files_in(SHARED)
    if not files:
        return
    file = files[i % len(files)]
    if j % 8 < 5:
        data = s.fresh_bytes(15 + i % 20)
        s.claims.stranger_wrote(file.content, data)
        s.server.edit(file.id, data)
    elif j % 8 == 5:
        s.server.edit(file.id, name=f"z{s.fresh_name()}")
    elif j % 8 == 6:
        s.claims.stranger_removed(file.content)
        s.server.edit(file.id, trashed=True)
    else:
        s.claims.stranger_destroyed(file.content, s.server.revisions_of(file.id))
        s.server.destroy(file.id)


@operation
async def meddling(s: Schedule, world: World, step: Step) -> None:
    """From now on, until it is called again, somebody else may write in the middle of any call."""
    if step.j % 2:
        s.server.meddle = lambda: meddle(s, s.rng.randrange(8), s.rng.randrange(6))
    else:
        s.server.meddle = lambda: None


@operation
async def wait(s: Schedule, world: World, step: Step) -> None:
    await world.settle(step.k / 4 if step.j % 8 else step.k * 4)


@operation
async def flush(s: Schedule, world: World, step: Step) -> None:
    if not await world.uploader.drain(step.k / 4):
        s.past.all_on_drive()
        s.claims.all_on_drive()


@operation
async def evict(s: Schedule, world: World, step: Step) -> None:
    world.cache.evict(0)


@operation
async def weather(s: Schedule, world: World, step: Step) -> None:
    """From now on Drive cannot be reached, or is full, or has withdrawn the sign-in; or all is well again."""
    s.server.weather = WEATHER[step.i % len(WEATHER)]
