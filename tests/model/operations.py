"""What programs do to files, folders and links, to the file system and to the reference alike."""

from __future__ import annotations

import errno
import os

import pytest

from drivefs.base.errors import PathError
from drivefs.base.model import Kind
from drivefs.store.tree import DEFAULT_MODE
from tests.model.common import (
    FILES,
    FOLDERS,
    LINKS,
    MODES,
    closing,
    data_of,
    file_of,
    has_room,
    item_of,
    items_below,
    operation,
    put,
    refused,
    renamed,
)
from tests.model.reference import Entry
from tests.model.schedule import Schedule, Step
from tests.support.world import World


@operation
async def write(s: Schedule, world: World, step: Step) -> None:
    path = FILES[step.i % len(FILES)]
    if not has_room(s.model, path):
        return
    if path in s.model:
        handle = await world.open(path, os.O_WRONLY | os.O_TRUNC)
        entry = s.model[path]
        entry.data, entry.mtime_ms = b"", None
    else:
        handle = await world.create(path)
        entry = s.model[path] = Entry(Kind.FILE)
    s.acknowledged()
    with closing(world, handle):
        await put(s, world, handle, entry, 0, data_of(s, step))


@operation
async def append(s: Schedule, world: World, step: Step) -> None:
    if path := file_of(step.i, s):
        handle = await world.open(path, os.O_WRONLY | os.O_APPEND)
        entry = s.model[path]
        with closing(world, handle):
            await put(s, world, handle, entry, len(entry.data), data_of(s, step))


@operation
async def overwrite(s: Schedule, world: World, step: Step) -> None:
    if path := file_of(step.i, s):
        handle = await world.open(path, os.O_WRONLY)
        with closing(world, handle):
            await put(s, world, handle, s.model[path], step.j * 5, data_of(s, step)[:9])


@operation
async def truncate(s: Schedule, world: World, step: Step) -> None:
    if path := file_of(step.i, s):
        await world.truncate(path, step.k)
        entry = s.model[path]
        entry.data, entry.mtime_ms = entry.data[: step.k].ljust(step.k, b"\0"), None
        s.acknowledged()


@operation
async def unlink(s: Schedule, world: World, step: Step) -> None:
    if path := file_of(step.i, s):
        await world.unlink(path)
        del s.model[path]
        s.acknowledged()


@operation
async def rename(s: Schedule, world: World, step: Step) -> None:
    """Also over an existing file."""
    old, new = file_of(step.i, s), FILES[step.j % len(FILES)]
    if old is None or not has_room(s.model, new):
        return
    await world.rename(old, new)
    renamed(s, old, new)
    s.acknowledged()


@operation
async def there_and_back(s: Schedule, world: World, step: Step) -> None:
    """Renamed, and renamed back about when the first rename is on its way to Drive."""
    path = file_of(step.i, s)
    if path is None or f"{path}.away" in s.model:
        return
    for old, new in ((path, f"{path}.away"), (f"{path}.away", path)):
        await world.rename(old, new)
        renamed(s, old, new)
        s.acknowledged()
        await world.settle(1 + step.k / 100)


@operation
async def save(s: Schedule, world: World, step: Step) -> None:
    """As editors do: a temporary file beside it, then renamed over it."""
    path = FILES[step.i % len(FILES)]
    if not has_room(s.model, path):
        return
    temporary = f"{path}.tmp{len(s.model)}"
    if temporary in s.model:  # a kill left it
        return
    handle = await world.create(temporary)
    s.model[temporary] = Entry(Kind.FILE)
    s.acknowledged()
    with closing(world, handle):
        await put(s, world, handle, s.model[temporary], 0, data_of(s, step))
    await world.rename(temporary, path)
    renamed(s, temporary, path)
    s.acknowledged()


@operation
async def mkdir(s: Schedule, world: World, step: Step) -> None:
    path = FOLDERS[step.i % len(FOLDERS)]
    if not has_room(s.model, path):
        return
    if path in s.model:
        with pytest.raises(PathError):
            await world.mkdir(path)
        return
    await world.mkdir(path)
    s.model[path] = Entry(Kind.FOLDER)
    s.acknowledged()


@operation
async def rmdir(s: Schedule, world: World, step: Step) -> None:
    path = FOLDERS[step.i % len(FOLDERS)]
    if path not in s.model:
        return
    if items_below(s.model, path):
        await refused(errno.ENOTEMPTY, world.rmdir(path))
        return
    await world.rmdir(path)
    del s.model[path]
    s.acknowledged()


@operation
async def move_folder(s: Schedule, world: World, step: Step) -> None:
    old, new = FOLDERS[step.i % len(FOLDERS)], FOLDERS[step.j % len(FOLDERS)]
    if old not in s.model or old == new or not has_room(s.model, new):
        return
    if new.startswith(old + "/"):
        await refused(errno.EINVAL, world.rename(old, new))
        return
    if items_below(s.model, new):
        await refused(errno.ENOTEMPTY, world.rename(old, new))
        return
    await world.rename(old, new)
    for path in [old, *items_below(s.model, old)]:
        s.model[new + path.removeprefix(old)] = s.model.pop(path)
    s.acknowledged()


@operation
async def chmod(s: Schedule, world: World, step: Step) -> None:
    path = item_of(step.i, s)
    if path and path not in LINKS:
        entry, mode = s.model[path], MODES[step.j % len(MODES)]
        await world.chmod(path, mode)
        entry.mode = None if mode == DEFAULT_MODE[entry.kind] else mode
        s.acknowledged()


@operation
async def utime(s: Schedule, world: World, step: Step) -> None:
    if path := file_of(step.i, s):
        await world.utime(path, step.k * 10**9)
        s.model[path].mtime_ms = step.k * 1000
        s.acknowledged()


@operation
async def symlink(s: Schedule, world: World, step: Step) -> None:
    """Made, removed, or moved to the other place."""
    path, other = LINKS[step.i % 2], LINKS[(step.i + 1) % 2]
    if not has_room(s.model, path):
        return
    if path not in s.model:
        target = "t" * (200 if step.k == 63 else 1 + step.k)
        await world.symlink(target, path)
        s.model[path] = Entry(Kind.SYMLINK, target=target)
    elif step.j % 2 or not has_room(s.model, other):
        await world.unlink(path)
        del s.model[path]
    else:
        await world.rename(path, other)
        renamed(s, path, other)
    s.acknowledged()


@operation
async def read(s: Schedule, world: World, step: Step) -> None:
    if path := file_of(step.i, s):
        handle = await world.open(path)
        try:
            data = await world.files.read(handle, step.j * 5, 7)
        finally:
            world.close(handle)
        assert data == s.model[path].data[step.j * 5 : step.j * 5 + 7], path
