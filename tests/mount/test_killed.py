"""A killed daemon is always gone: no moment to kill it leaves a process that cannot end, and a mount that hangs for everybody."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drivefs import stuck

from ..support.mounts import Mount, eventually, mounted_at
from ..support.server import Server
from .conftest import NewMount

ROUNDS = 10
REMOVE = "import os, sys; os.rmdir(sys.argv[1])"
CREATE = """
import itertools, os, sys
for n in itertools.count():
    try:
        os.close(os.open(f"{sys.argv[1]}/{n % 50}", os.O_CREAT | os.O_WRONLY))
        os.unlink(f"{sys.argv[1]}/{n % 50}")
    except OSError:
        pass
"""


def state(path: Path) -> str:
    """Source: proc_pid_stat(5)."""
    try:
        return path.joinpath("stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


def has_stuck_thread(pid: int) -> bool:
    """Whether a thread sleeps where no signal reaches it, and still does a moment later."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        if state(thread) == "D":
            time.sleep(0.2)
            if state(thread) == "D":
                return True
    return False


@contextmanager
def program(code: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", code, path], stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def begin_notification_that_waits(mount: Mount, server: Server) -> int:
    """``d/sub`` is being removed, which waits for Drive and holds the lock of ``d``, while the kernel is told of a change.

    Returns the daemon's pid.
    """
    mount.expect_log(r"sent nothing for|did not answer in time|broke off|broke \(")
    pid = mount.pid
    assert pid is not None
    eventually(lambda: any(one["operation"] == "rmdir" for one in mount.status()["waiting"]))
    server.change(server.paths()["d/other"]["id"], {"name": "renamed"})
    eventually(lambda: has_stuck_thread(pid))
    return pid


@pytest.fixture
def drive(server: Server) -> Iterator[Server]:
    folder = server.make("d")
    server.create("inside", b"1", server.make("sub", parent=folder))
    server.create("other", b"2", folder)
    yield server
    server.ask("DELETE", "/_emulator/faults")


def stall_listings(mount: Mount, server: Server) -> None:
    assert sorted(os.listdir(mount.my / "d")) == ["other", "sub"]
    server.ask("POST", "/_emulator/faults", {"method": "files.list", "stall": 600})


def test_a_supervisor_frees_a_daemon_that_is_stuck_in_a_notification(home: Path, drive: Server) -> None:
    """Killed with a thread in the kernel that no signal reaches: the program gets an error, and the mount is back soon."""
    mount = Mount(home, drive, supervise=True)
    try:
        mount.mount()
        stall_listings(mount, drive)
        with program(REMOVE, mount.my / "d" / "sub") as remover:
            pid = begin_notification_that_waits(mount, drive)
            os.kill(pid, signal.SIGKILL)
            assert remover.wait(20) == 1
            eventually(lambda: not Path(f"/proc/{pid}").exists())
            eventually(lambda: mount.pid not in (None, pid) and mount.answers(), 20)
        drive.ask("DELETE", "/_emulator/faults")
        eventually(lambda: sorted(os.listdir(mount.my / "d")) == ["renamed", "sub"], 30)
    finally:
        mount.end()
    mount.expect_log("the daemon was killed, but is stuck in the kernel, so its connection is aborted")
    mount.expect_log("the daemon was ended by SIGKILL")
    mount.judge_log()


@pytest.mark.parametrize("verb", ["mount", "unmount"])
def test_a_command_frees_a_daemon_that_is_stuck(new_mount: NewMount, drive: Server, verb: str) -> None:
    """Nobody supervises: ``drivefs mount`` and ``drivefs unmount`` see that the daemon is dead, and remove what is left."""
    mount = new_mount().mount()
    stall_listings(mount, drive)
    with program(REMOVE, mount.my / "d" / "sub") as remover:
        pid = begin_notification_that_waits(mount, drive)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: stuck.is_stuck(pid))
        assert mount.client.dead_daemon() == pid
        assert remover.poll() is None
        if verb == "mount":
            mount.mount()
            assert mount.pid not in (None, pid)
        else:
            done = mount.run("unmount", mount.point)
            assert (done.returncode, "had been killed" in done.stderr) == (10, True), done
            assert not mounted_at(mount.point)
        assert remover.wait(20) == 1
        assert remover.stderr is not None
        said = remover.stderr.read().decode()
        assert any(os.strerror(number) in said for number in (errno.ECONNABORTED, errno.ENOTCONN)), said
    eventually(lambda: state(Path(f"/proc/{pid}")) in ("gone", "Z") and not stuck.is_stuck(pid))


def test_killed_at_any_moment_it_is_gone(home: Path, server: Server) -> None:
    """Programs create and delete where changes are told to the kernel: killed ten times, it ends and is back each time."""
    folder = server.make("busy")
    ids = [server.create(f"theirs {n}", b"x", folder) for n in range(20)]
    mount = Mount(home, server)
    mount.mount("--upload-delay", "600")
    try:
        seen = os.listdir(mount.my / "busy")
        assert len(seen) == len(ids)
        with program(CREATE, mount.my / "busy"), program(CREATE, mount.my / "busy"):
            for turn in range(ROUNDS):
                for item in ids:
                    server.change(item, {"name": f"{item} {turn}"})
                time.sleep(random.uniform(0, 0.6))  # any moment is as good as another
                pid = mount.pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                eventually(lambda pid=pid: state(Path(f"/proc/{pid}")) in ("Z", "gone"))  # type: ignore[misc]
                mount.mount("--upload-delay", "600")  # which would refuse were the cache still held
                eventually(lambda pid=pid: not stuck.is_stuck(pid))  # type: ignore[misc]
                assert len(os.listdir(mount.my / "busy")) >= len(ids)
    finally:
        mount.end()
    mount.judge_log()
