"""The table of operations, and what several of them need."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

import pytest

from drivefs.base.errors import PathError
from tests.model.reference import Entry, Model
from tests.model.schedule import Operation, Schedule, Step
from tests.support.world import World

__all__ = [
    "FILES",
    "FOLDERS",
    "LINKS",
    "MODES",
    "OPERATIONS",
    "closing",
    "data_of",
    "file_of",
    "has_room",
    "item_of",
    "items_below",
    "operation",
    "overwritten",
    "put",
    "refused",
    "renamed",
]

FILES = ("a", "b", "d/a", "d/b", "e/a", "d/f/a")
FOLDERS = ("d", "e", "d/f")
LINKS = ("l", "d/l")
MODES = (0o600, 0o644, 0o755)

OPERATIONS: dict[str, Operation] = {}


def operation(function: Operation) -> Operation:
    OPERATIONS[function.__name__] = function
    return function


def has_room(model: Model, path: str) -> bool:
    """Whether the folder that is to hold ``path`` exists."""
    parent = path.rpartition("/")[0]
    return not parent or parent in model


def file_of(step_number: int, s: Schedule) -> str | None:
    path = FILES[step_number % len(FILES)]
    return path if path in s.model else None


def items_below(model: Model, folder: str) -> list[str]:
    return [path for path in model if path.startswith(folder + "/")]


def item_of(step_number: int, s: Schedule) -> str | None:
    """Also a folder or a link."""
    path = (*FILES, *FOLDERS, *LINKS)[step_number % (len(FILES) + len(FOLDERS) + len(LINKS))]
    return path if path in s.model else None


def data_of(s: Schedule, step: Step) -> bytes:
    """Bytes that are nowhere else, so that what is found tells where it comes from."""
    return s.fresh_bytes(200 if step.k == 63 else step.k % 41)


def overwritten(old: bytes, offset: int, data: bytes) -> bytes:
    if not data:
        return old
    return old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]


def renamed(s: Schedule, old: str, new: str) -> None:
    entry = s.model.pop(old)
    if new in s.model and old != new:
        s.past.replaced(s.model[new], entry)
    s.model[new] = entry


@contextmanager
def closing(world: World, handle: int) -> Iterator[int]:
    """Also where a call in between fails."""
    try:
        yield handle
    finally:
        world.close(handle)


async def refused(number: int, call: Awaitable[None]) -> None:
    with pytest.raises(PathError) as caught:
        await call
    assert caught.value.errno == number


async def put(s: Schedule, world: World, handle: int, entry: Entry, offset: int, data: bytes) -> None:
    await world.files.write(handle, offset, data)
    entry.data, entry.mtime_ms = overwritten(entry.data, offset, data), None
    s.acknowledged()
