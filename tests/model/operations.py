"""What a schedule's steps do, to the file system and to the reference alike."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable

import pytest

from drivefs.base.errors import PathError
from drivefs.base.model import Kind
from drivefs.store.tree import DEFAULT_MODE
from tests.model.schedule import FAR, Entry, Model, Open, Operation, Schedule, Step
from tests.support.world import World

__all__ = ["OPERATIONS"]

FILES = ("a", "b", "d/a", "d/b", "e/a", "d/f/a")
FOLDERS = ("d", "e", "d/f")
MODES = (0o600, 0o644, 0o755)

OPERATIONS: dict[str, Operation] = {}


def operation(function: Operation) -> Operation:
    OPERATIONS[function.__name__] = function
    return function


def _has_room(model: Model, path: str) -> bool:
    """Whether the folder that is to hold ``path`` exists."""
    parent = path.rpartition("/")[0]
    return not parent or parent in model


def _file(step_number: int, s: Schedule) -> str | None:
    path = FILES[step_number % len(FILES)]
    return path if path in s.model else None


def _below(model: Model, folder: str) -> list[str]:
    return [path for path in model if path.startswith(folder + "/")]


def _data(step: Step) -> bytes:
    return bytes([65 + step.j % 26]) * (step.k % 41)


def _overwritten(old: bytes, offset: int, data: bytes) -> bytes:
    if not data:
        return old
    return old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]


async def _refused(number: int, call: Awaitable[None]) -> None:
    with pytest.raises(PathError) as caught:
        await call
    assert caught.value.errno == number


async def _put(s: Schedule, world: World, handle: int, entry: Entry, offset: int, data: bytes) -> None:
    await world.files.write(handle, offset, data)
    entry.data, entry.mtime_ms = _overwritten(entry.data, offset, data), None
    s.acknowledged()


@operation
async def write(s: Schedule, world: World, step: Step) -> None:
    path = FILES[step.i % len(FILES)]
    if not _has_room(s.model, path):
        return
    if path in s.model:
        handle = await world.open(path, os.O_WRONLY | os.O_TRUNC)
        entry = s.model[path]
        entry.data, entry.mtime_ms = b"", None
    else:
        handle = await world.create(path)
        entry = s.model[path] = Entry(False)
    s.acknowledged()
    await _put(s, world, handle, entry, 0, _data(step))
    world.close(handle)


@operation
async def append(s: Schedule, world: World, step: Step) -> None:
    if path := _file(step.i, s):
        handle = await world.open(path, os.O_WRONLY | os.O_APPEND)
        entry = s.model[path]
        await _put(s, world, handle, entry, len(entry.data), _data(step))
        world.close(handle)


@operation
async def overwrite(s: Schedule, world: World, step: Step) -> None:
    if path := _file(step.i, s):
        handle = await world.open(path, os.O_WRONLY)
        await _put(s, world, handle, s.model[path], step.j * 5, _data(step)[:9])
        world.close(handle)


@operation
async def truncate(s: Schedule, world: World, step: Step) -> None:
    if path := _file(step.i, s):
        await world.truncate(path, step.k)
        entry = s.model[path]
        entry.data, entry.mtime_ms = entry.data[: step.k].ljust(step.k, b"\0"), None
        s.acknowledged()


@operation
async def unlink(s: Schedule, world: World, step: Step) -> None:
    if path := _file(step.i, s):
        await world.unlink(path)
        del s.model[path]
        s.acknowledged()


@operation
async def rename(s: Schedule, world: World, step: Step) -> None:
    """Also over an existing file."""
    old, new = _file(step.i, s), FILES[step.j % len(FILES)]
    if old is None or not _has_room(s.model, new):
        return
    await world.rename(old, new)
    s.model[new] = s.model.pop(old)
    s.acknowledged()


@operation
async def there_and_back(s: Schedule, world: World, step: Step) -> None:
    """Renamed, and renamed back about when the first rename is on its way to Drive."""
    path = _file(step.i, s)
    if path is None or f"{path}.away" in s.model:
        return
    for old, new in ((path, f"{path}.away"), (f"{path}.away", path)):
        await world.rename(old, new)
        s.model[new] = s.model.pop(old)
        s.acknowledged()
        await world.settle(1 + step.k / 100)


@operation
async def save(s: Schedule, world: World, step: Step) -> None:
    """As editors do: a temporary file beside it, then renamed over it."""
    path = FILES[step.i % len(FILES)]
    if not _has_room(s.model, path):
        return
    temporary = f"{path}.tmp{len(s.model)}"
    if temporary in s.model:  # a kill left it
        return
    handle = await world.create(temporary)
    s.model[temporary] = Entry(False)
    s.acknowledged()
    await _put(s, world, handle, s.model[temporary], 0, _data(step))
    world.close(handle)
    await world.rename(temporary, path)
    s.model[path] = s.model.pop(temporary)
    s.acknowledged()


@operation
async def mkdir(s: Schedule, world: World, step: Step) -> None:
    path = FOLDERS[step.i % len(FOLDERS)]
    if not _has_room(s.model, path):
        return
    if path in s.model:
        with pytest.raises(PathError):
            await world.mkdir(path)
        return
    await world.mkdir(path)
    s.model[path] = Entry(True)
    s.acknowledged()


@operation
async def rmdir(s: Schedule, world: World, step: Step) -> None:
    path = FOLDERS[step.i % len(FOLDERS)]
    if path not in s.model:
        return
    if _below(s.model, path):
        await _refused(errno.ENOTEMPTY, world.rmdir(path))
        return
    await world.rmdir(path)
    del s.model[path]
    s.acknowledged()


@operation
async def move_folder(s: Schedule, world: World, step: Step) -> None:
    old, new = FOLDERS[step.i % len(FOLDERS)], FOLDERS[step.j % len(FOLDERS)]
    if old not in s.model or old == new or not _has_room(s.model, new):
        return
    if new.startswith(old + "/"):
        await _refused(errno.EINVAL, world.rename(old, new))
        return
    if _below(s.model, new):
        await _refused(errno.ENOTEMPTY, world.rename(old, new))
        return
    await world.rename(old, new)
    for path in [old, *_below(s.model, old)]:
        s.model[new + path.removeprefix(old)] = s.model.pop(path)
    s.acknowledged()


@operation
async def chmod(s: Schedule, world: World, step: Step) -> None:
    path = (*FILES, *FOLDERS)[step.i % (len(FILES) + len(FOLDERS))]
    if path in s.model:
        entry, mode = s.model[path], MODES[step.j % len(MODES)]
        kind = Kind.FOLDER if entry.folder else Kind.FILE
        await world.chmod(path, mode)
        entry.mode = None if mode == DEFAULT_MODE[kind] else mode
        s.acknowledged()


@operation
async def utime(s: Schedule, world: World, step: Step) -> None:
    if path := _file(step.i, s):
        await world.utime(path, step.k * 10**9)
        s.model[path].mtime_ms = step.k * 1000
        s.acknowledged()


@operation
async def read(s: Schedule, world: World, step: Step) -> None:
    if path := _file(step.i, s):
        handle = await world.open(path)
        try:
            data = await world.files.read(handle, step.j * 5, 7)
        finally:
            world.close(handle)
        assert data == s.model[path].data[step.j * 5 : step.j * 5 + 7], path


@operation
async def hold(s: Schedule, world: World, step: Step) -> None:
    if (path := _file(step.i, s)) and len(s.handles) < 3:
        s.handles.append(Open(await world.open(path, os.O_RDWR), s.model[path]))


@operation
async def write_held(s: Schedule, world: World, step: Step) -> None:
    if s.handles:
        held = s.handles[step.i % len(s.handles)]
        await _put(s, world, held.number, held.entry, step.j * 5, _data(step)[:9])


@operation
async def read_held(s: Schedule, world: World, step: Step) -> None:
    """Also of files that were deleted or replaced since."""
    if s.handles:
        held = s.handles[step.i % len(s.handles)]
        assert await world.read_all(held.number) == held.entry.data


@operation
async def release(s: Schedule, world: World, step: Step) -> None:
    if s.handles:
        world.close(s.handles.pop(step.i % len(s.handles)).number)


@operation
async def wait(s: Schedule, world: World, step: Step) -> None:
    await world.settle(step.k / 4)


@operation
async def flush(s: Schedule, world: World, step: Step) -> None:
    await world.uploader.drain(step.k / 4)


@operation
async def evict(s: Schedule, world: World, step: Step) -> None:
    world.cache.evict(0)


@operation
async def far_edit(s: Schedule, world: World, step: Step) -> None:
    """Somebody else changes, adds, renames or deletes."""
    mine = [entry.item for entry in s.fake.items.values() if s.far in entry.item.parents and not entry.item.trashed]
    if not mine or step.j % 4 == 0:
        s.put_far(f"n{step.k}-{len(s.fake.items)}")
        return
    item = mine[step.i % len(mine)]
    if step.j % 4 == 1:
        data = s.rng.randbytes(30)
        s.far_versions.add(data)
        s.fake.edit(item.id, data)
    elif step.j % 4 == 2:
        s.fake.edit(item.id, name=f"m{step.k}-{len(s.fake.log)}")
    else:
        s.fake.edit(item.id, trashed=True)


@operation
async def far_read(s: Schedule, world: World, step: Step) -> None:
    """One version, whichever, but never parts of two."""
    names = [path for path, node in (await world.walk(FAR)).items() if not node.is_folder]
    if names:
        assert await world.read(names[step.i % len(names)]) in s.far_versions
