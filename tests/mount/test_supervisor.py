"""A daemon that crashes comes back by itself, and one that was asked to end does not."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivefs import guard

from ..support.mounts import Mount, end_process, errno_of, eventually, mounted_at
from ..support.server import TOKEN, Server

LATER = ("--upload-delay", "600")
CRASH = r"drivefs\.supervisor: the daemon was ended by SIGKILL"


@pytest.fixture
def watched(home: Path, server: Server) -> Iterator[Mount]:
    """As people mount: with a supervisor. Not mounted yet."""
    mount = Mount(home, server, supervise=True)
    yield mount
    mount.end()
    mount.expect_log(CRASH)
    mount.judge_log()


def comes_back(mount: Mount, dead: int, within: float = 5) -> int:
    """The pid of the next daemon, once its mount answers."""

    def look() -> int | None:
        return mount.pid if mount.pid not in (None, dead) and mount.answers() and mount.my.is_dir() else None

    return eventually(look, within) or 0


def test_a_crashed_daemon_is_back_within_5_seconds(server: Server, watched: Mount) -> None:
    """SIGKILL: the mount answers again at its place, with what was not sent yet, which then reaches Drive once."""
    watched.mount(*LATER)
    (watched.my / "f").write_bytes(b"survives")
    (watched.my / "d").mkdir()
    held = os.open(watched.my / "f", os.O_RDONLY)  # a program that has the dead mount open
    begin, pid = time.monotonic(), watched.pid
    assert pid is not None
    try:
        watched.kill()
        comes_back(watched, pid)
        assert time.monotonic() - begin < 5
    finally:
        assert errno_of(lambda: os.close(held)) == errno.ENOTCONN
    assert len([line for line in Path("/proc/mounts").read_text().splitlines() if f" {watched.point} " in line]) == 1
    assert (watched.my / "f").read_bytes() == b"survives"
    watched.flush()
    assert server.paths().keys() == {"f", "d"}
    assert server.requests()["files.create"] == 2
    assert watched.status()["supervised"] is True
    watched.unmount()
    eventually(lambda: watched.supervisor is None)


def test_a_crash_in_the_middle_of_uploads_repeats_none(server: Server, watched: Mount) -> None:
    """Killed while files are being sent: each is on Drive once, and has one revision."""
    watched.mount()
    for n in range(40):
        (watched.my / f"{n}").write_bytes(b"%d" % n * 1000)
    pid = watched.pid
    assert pid is not None
    eventually(lambda: server.requests()["files.create"] >= 3)
    watched.kill()
    comes_back(watched, pid)
    watched.flush()
    items = server.paths()
    assert items.keys() == {str(n) for n in range(40)}
    assert {len(server.revisions(item["id"])) for item in items.values()} == {1}
    watched.unmount()


def test_the_end_of_the_supervisor_leaves_the_daemon(watched: Mount) -> None:
    """Killed alone: the mount goes on, and status says that nobody starts it again."""
    watched.mount()
    supervisor = watched.supervisor
    assert supervisor is not None
    assert TOKEN.encode() not in Path(f"/proc/{supervisor}/cmdline").read_bytes()
    end_process(supervisor)
    (watched.my / "f").write_bytes(b"goes on")
    watched.flush()
    assert watched.status()["supervised"] is False
    assert "not supervised" in watched.run("status", watched.point).stdout
    watched.unmount()


def test_sigterm_to_the_supervisor_drains(server: Server, watched: Mount) -> None:
    """It is passed on: what is pending is sent, the mount is gone, both have ended, and nothing comes back."""
    watched.mount(*LATER)
    (watched.my / "f").write_bytes(b"x" * 100_000)
    supervisor = watched.supervisor
    assert supervisor is not None
    end_process(supervisor, signal.SIGTERM)
    assert watched.pid is None
    assert not mounted_at(watched.point)
    assert server.paths()["f"]["size"] == 100_000


def test_an_unmount_by_somebody_is_no_crash(server: Server, watched: Mount) -> None:
    """``drivefs unmount`` and SIGTERM to the daemon itself end the supervisor too."""
    watched.mount(*LATER)
    (watched.my / "f").write_bytes(b"x")
    watched.signal(signal.SIGTERM)
    eventually(lambda: watched.supervisor is None)
    assert server.paths().keys() == {"f"}
    watched.mount().unmount()
    eventually(lambda: watched.supervisor is None)
    assert not mounted_at(watched.point)


def test_it_gives_up_where_the_daemon_keeps_crashing(watched: Mount) -> None:
    """After five crashes within a minute status says so and what to do (exit code 3), nothing is mounted, and mounting works."""
    watched.expect_log("the 5th time within a minute")
    watched.mount(*LATER)
    (watched.my / "f").write_bytes(b"kept")
    for crash in range(1, 6):
        pid = watched.pid
        assert pid is not None
        watched.kill()
        if crash < 5:
            comes_back(watched, pid, 10)
    eventually(lambda: watched.supervisor is None)
    assert not mounted_at(watched.point)
    assert guard.is_closed(watched.point)
    for command in (("status", watched.point), ("status",)):
        said = watched.run(*command)
        assert said.returncode == 3
        assert said.stdout.startswith("safe to power off: no (not mounted: its daemon crashed")
        assert "the 5th time within a minute" in said.stdout
    watched.mount()
    assert (watched.my / "f").read_bytes() == b"kept"
    watched.expect_log("the 5th time within a minute")
    watched.unmount()
    assert watched.run("status").returncode == 10


def test_unmounting_a_dead_mount_keeps_it_from_coming_back(watched: Mount) -> None:
    """While the supervisor waits between two starts, ``drivefs unmount`` means what it says."""
    watched.mount()
    for _ in range(2):  # the second crash is answered after a second
        pid = watched.pid
        assert pid is not None
        last = pid
        watched.kill()
        if _ == 0:
            comes_back(watched, last)
    done = watched.run("unmount", watched.point)
    assert done.returncode == 10
    eventually(lambda: watched.supervisor is None)
    assert watched.pid is None
    assert not mounted_at(watched.point)
