"""The disk that holds the cache is full: the writer is told, nothing acknowledged is lost, and the way out stays open."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.mounts import Mount, errno_of
from ..support.server import Server
from .conftest import NewMount

MIB = 1 << 20


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = Path(tempfile.mkdtemp(prefix="dfs-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)
    place.rmdir()


@pytest.fixture
def cramped(small_disk: Path, new_mount: NewMount) -> Iterator[Mount]:
    """Mounted with its cache on the small disk; nothing is sent unasked."""
    mount = new_mount()
    mount.cache = small_disk / "cache"
    mount.mount("--upload-delay", "600")
    mount.expect_log("is full")
    yield mount
    mount.end()
    mount.judge_log()


def fill(path: Path) -> int:
    """Write until the disk is full; returns how many MiB were taken, the n-th of which holds the byte n."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        for number in range(64):
            try:
                written = os.write(fd, bytes([number]) * MIB)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return number
            if written < MIB:
                return number
    finally:
        os.close(fd)
    raise AssertionError("the disk never was full")


def filled(mebibytes: int) -> bytes:
    return b"".join(bytes([number]) * MIB for number in range(mebibytes))


def test_write_says_so_and_close_does_not_fail(cramped: Mount, server: Server) -> None:
    """write() gives ENOSPC, close() succeeds, and what write() had taken is there and reaches Drive."""
    taken = fill(cramped.my / "f")
    assert 10 <= taken < 24
    assert (cramped.my / "f").read_bytes()[: taken * MIB] == filled(taken)
    cramped.flush()
    assert server.content(server.paths()["f"]["id"])[: taken * MIB] == filled(taken)


def test_deleting_makes_room(cramped: Mount, server: Server) -> None:
    """On a full disk names can be changed and files deleted, and then there is room again, without a restart."""
    fill(cramped.my / "f")
    with open(cramped.my / "f", "ab"):  # so that it cannot be sent
        assert errno_of(lambda: (cramped.my / "g").write_bytes(bytes(MIB))) == errno.ENOSPC
    os.rename(cramped.my / "f", cramped.my / "h")
    (cramped.my / "d").mkdir()
    os.unlink(cramped.my / "h")
    (cramped.my / "d" / "after").write_bytes(filled(5))
    cramped.flush()
    assert server.content(server.paths()["d/after"]["id"]) == filled(5)
    assert "h" not in server.paths()


def test_a_writer_waits_until_drive_has_what_fills_the_disk(cramped: Mount, server: Server) -> None:
    """Unsent files are sent at once, whatever --upload-delay says, and the writer goes on as soon as there is room."""
    (cramped.my / "f").write_bytes(filled(10))
    (cramped.my / "g").write_bytes(filled(10))
    assert "f" in server.paths()
    cramped.flush()
    assert server.content(server.paths()["g"]["id"]) == filled(10)


def test_what_is_on_drive_makes_room(cramped: Mount, server: Server) -> None:
    """Clean content goes before a writer or a reader is told that the disk is full."""
    names = ("one", "two", "three")
    for name in names:
        (cramped.my / name).write_bytes(filled(10))
        cramped.flush()
    for name in names:
        assert (cramped.my / name).read_bytes() == filled(10)


def test_somebody_else_fills_the_disk(cramped: Mount, small_disk: Path, server: Server) -> None:
    """A foreign file takes all that is left: writing fails with ENOSPC, renaming works, and all is well when the file goes."""
    (cramped.my / "kept").write_bytes(filled(3))
    foreign = small_disk / "foreign"
    with foreign.open("wb", buffering=0) as file:
        while errno_of(lambda: file.write(bytes(64 << 10))) == 0:
            pass
    assert errno_of(lambda: (cramped.my / "g").write_bytes(bytes(MIB))) == errno.ENOSPC
    assert (cramped.my / "kept").read_bytes() == filled(3)
    os.rename(cramped.my / "kept", cramped.my / "moved")
    (cramped.my / "g").unlink(missing_ok=True)
    foreign.unlink()
    (cramped.my / "after").write_bytes(filled(2))
    cramped.flush()
    items = server.paths()
    assert items.keys() == {"moved", "after"}
    assert server.content(items["moved"]["id"]) == filled(3)
