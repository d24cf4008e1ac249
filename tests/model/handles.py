"""Handles that stay open over several steps, and what programs do to be safe from a power cut."""

from __future__ import annotations

import os

from drivefs.base.model import Kind
from tests.model.common import FILES, closing, data_of, file_of, has_room, operation, put, renamed
from tests.model.reference import Entry
from tests.model.schedule import Open, Schedule, Step
from tests.support.world import World


@operation
async def hold(s: Schedule, world: World, step: Step) -> None:
    if (path := file_of(step.i, s)) and len(s.handles) < 3:
        s.handles.append(Open(await world.open(path, os.O_RDWR), s.model[path]))


@operation
async def write_held(s: Schedule, world: World, step: Step) -> None:
    if s.handles:
        held = s.handles[step.i % len(s.handles)]
        await put(s, world, held.number, held.entry, step.j * 5, data_of(s, step)[:9])


@operation
async def read_held(s: Schedule, world: World, step: Step) -> None:
    """Also of files that were deleted or replaced since."""
    if s.handles:
        held = s.handles[step.i % len(s.handles)]
        start = step.j * 4 if step.k % 2 else 0
        size = step.k if step.k % 2 else 1 << 20
        assert await world.files.read(held.number, start, size) == held.entry.data[start : start + size]


@operation
async def cut_held(s: Schedule, world: World, step: Step) -> None:
    """ftruncate, to any length."""
    if s.handles:
        held = s.handles[step.i % len(s.handles)]
        await world.cut(held.number, step.k * 3)
        held.entry.data, held.entry.mtime_ms = held.entry.data[: step.k * 3].ljust(step.k * 3, b"\0"), None
        s.acknowledged()


@operation
async def release(s: Schedule, world: World, step: Step) -> None:
    if s.handles:
        world.close(s.handles.pop(step.i % len(s.handles)).number)


@operation
async def fsync(s: Schedule, world: World, step: Step) -> None:
    """Of a file and of its directory, as those do who want to be safe."""
    if path := file_of(step.i, s):
        with closing(world, await world.open(path, os.O_RDWR)) as handle:
            await world.files.fsync(handle)
            s.past.content_synced(s.model[path])
            s.past.names_synced()
            await world.files.sync_names()


@operation
async def save_safely(s: Schedule, world: World, step: Step) -> None:
    """As databases do: a temporary file, fsync, rename, fsync of the directory."""
    path = FILES[step.i % len(FILES)]
    if not has_room(s.model, path):
        return
    temporary = f"{path}.new"
    handle = await world.open(temporary, os.O_RDWR) if temporary in s.model else await world.create(temporary)
    entry = s.model.setdefault(temporary, Entry(Kind.FILE))
    s.acknowledged()
    with closing(world, handle):
        await put(s, world, handle, entry, 0, data_of(s, step))
        await world.files.fsync(handle)
        s.past.content_synced(entry)
        s.past.names_synced()
    await world.rename(temporary, path)
    renamed(s, temporary, path)
    s.acknowledged()
    await world.files.sync_names()
    s.past.names_synced()
