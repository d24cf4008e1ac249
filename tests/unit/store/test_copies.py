"""Private copies: the same bytes, nameless, only where there is room."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from drivefs.store.copies import private_copy

_Usage = namedtuple("_Usage", "total used free")


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "original"
    path.write_bytes(os.urandom(300_000))
    return path


def test_a_copy_stays_as_it_is(original: Path) -> None:
    """What is written to the original afterwards does not reach it, and no name of it is left behind."""
    before = original.read_bytes()
    with open(original, "r+b") as file:
        copy = private_copy(file.fileno(), 200_000, original.parent)
        assert copy is not None
        file.write(b"changed")
        file.flush()
    assert os.pread(copy, 200_000, 0) == before[:200_000]
    os.close(copy)
    assert list(original.parent.iterdir()) == [original]


def test_no_copy_where_the_room_is_scarce(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache needs the room more; and no descriptor is left open."""
    monkeypatch.setattr("drivefs.store.copies._share", lambda _fd, _copy: False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: _Usage(1 << 30, 1 << 30, 300_000))
    before = set(os.listdir("/proc/self/fd"))
    with open(original, "rb") as file:
        assert private_copy(file.fileno(), 200_000, original.parent) is None
    assert set(os.listdir("/proc/self/fd")) == before


def test_no_copy_where_the_file_system_has_no_nameless_files(original: Path) -> None:
    """Not every one knows O_TMPFILE; /proc stands for those."""
    with open(original, "rb") as file:
        assert private_copy(file.fileno(), 10, Path("/proc/self")) is None


def test_no_copy_of_a_file_that_became_shorter(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a copy is none."""
    monkeypatch.setattr("drivefs.store.copies._share", lambda _fd, _copy: False)
    with open(original, "rb") as file:
        assert private_copy(file.fileno(), 300_001, original.parent) is None
