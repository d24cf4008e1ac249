"""The bare mountpoint: closed without a trace but two marks, and opened again knowing nothing of the past."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivefs import guard
from drivefs.guard import BareMountpoint


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "drive"
    path.mkdir(0o755)
    yield path
    guard.release(path)


def close_up(path: Path) -> bool:
    bare = BareMountpoint(path)
    try:
        return bare.close_up()
    finally:
        bare.forget()


def has_immutable_attribute(path: Path) -> bool:
    """Whether this file system and our rights have it."""
    probe = path.parent / "probe"
    probe.mkdir()
    closed = close_up(probe)
    guard.release(probe)
    probe.rmdir()
    return closed and os.geteuid() == 0


def test_a_closed_directory_refuses_writers_root_too(place: Path) -> None:
    """Twice closing is closing once; once released it is a directory as any other."""
    if os.geteuid() == 0 and not has_immutable_attribute(place):
        pytest.skip("this file system has no immutable attribute, or we may not set it")
    assert not guard.is_closed(place)
    assert close_up(place)
    assert close_up(place)
    assert guard.is_closed(place)
    with pytest.raises(PermissionError):
        (place / "checkpoint").touch()
    assert guard.release(place)
    assert not guard.release(place)
    (place / "mine").touch()
    assert place.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(("mode", "closed"), [(0o700, 0o500), (0o755, 0o555), (0o777, 0o555)])
def test_only_write_permissions_are_taken(place: Path, mode: int, closed: int) -> None:
    """Whoever could look into it still can; releasing gives its owner the right to write."""
    place.chmod(mode)
    close_up(place)
    assert place.stat().st_mode & 0o777 == closed
    guard.release(place)
    assert place.stat().st_mode & 0o777 == closed | 0o200


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM])
def test_where_there_is_no_attribute_permissions_do(place: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As on tmpfs, on overlayfs, and in a container without the capability: no error, and the truth about root."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.ioctl", refuse)
    assert close_up(place) is (os.geteuid() != 0)
    assert place.stat().st_mode & 0o222 == 0
    assert guard.is_closed(place)
    assert guard.release(place)


def test_a_mount_that_does_not_come_about_changes_nothing(place: Path) -> None:
    """An open directory stays open, and a closed one closed."""
    for was_closed in (False, True):
        bare = BareMountpoint(place)
        bare.admit()
        bare.put_back()
        bare.forget()
        assert guard.is_closed(place) is was_closed
        close_up(place)


def test_a_user_may_mount_on_a_closed_directory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fusermount3 wants write permission of users other than root: they get it for that moment."""
    close_up(place)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    bare = BareMountpoint(place)
    bare.admit()
    assert place.stat().st_mode & 0o200
    assert bare.close_up()
    bare.forget()
    assert guard.is_closed(place)


def test_what_is_no_directory_is_not_closed(tmp_path: Path) -> None:
    """Neither what is absent, nor a file, nor a link to a directory."""
    (tmp_path / "file").touch(0o400)
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("absent", "file", "link"):
        assert not guard.is_closed(tmp_path / name)
        assert not guard.release(tmp_path / name)
