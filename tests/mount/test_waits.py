"""Waiting for Drive has an end: by time, or at once for a program told to end; and one who waits holds up nobody else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..support.mounts import Mount, errno_of, eventually
from ..support.server import Server
from .conftest import NewMount

SLOW = b"s" * 3_000_000
DEAD = ("file", *(f"file {number}" for number in range(1, 13)))
SHORT = 3.0
READ = "import sys; open(sys.argv[1], 'rb', buffering=0).read()"
LIST = "import os, sys; os.listdir(sys.argv[1])"
# Of a program that handles Ctrl-C itself, as a notebook's kernel does.
READ_AND_SAY = """
import sys
try:
    open(sys.argv[1], 'rb', buffering=0).read()
except KeyboardInterrupt:
    print('interrupted')
"""
LOGGED = r"sent nothing for|did not answer in time|broke off|broke \("


def strike(server: Server, **rule: Any) -> None:
    server.ask("POST", "/_emulator/faults", rule)


@pytest.fixture
def stalled(new_mount: NewMount, server: Server) -> Iterator[Mount]:
    """Mounted; ``dead/file`` stalls when it is read, ``hung`` when it is listed, all else works."""
    dead = server.make("dead")
    for name in DEAD:
        server.create(name, SLOW, dead)
    hung = server.make("hung")
    server.create("inside", b"1", hung)
    server.create("alive", b"a" * 1000, server.make("other"))
    mount = new_mount().mount()
    assert sorted(os.listdir(mount.my)) == ["dead", "hung", "other"]
    assert sorted(os.listdir(mount.my / "dead")) == sorted(DEAD)
    strike(server, name="file*", stall={"seconds": 600, "at": 1000})
    strike(server, method="files.list", stall=600)
    mount.expect_log(LOGGED)
    yield mount
    server.ask("DELETE", "/_emulator/faults")


@contextmanager
def program(code: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is in the middle of its call, and surely waits in it."""
    process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        time.sleep(1.5)  # for the interpreter to start and to be in its call: there is no event to see from outside
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("code", "path"), [(READ, "dead/file"), (LIST, "hung")], ids=["read", "listing"])
def test_a_signal_ends_a_program_that_waits(stalled: Mount, code: str, path: str, number: int) -> None:
    """Reading a stalled file, listing a hung folder: the program ends within two seconds of the signal."""
    with program(code, stalled.my / path) as process:
        begin = time.monotonic()
        process.send_signal(number)
        process.wait(10)
        assert time.monotonic() - begin < 2


def test_a_program_s_own_handling_of_ctrl_c_runs(stalled: Mount) -> None:
    """The read fails with EINTR, and Python turns it into KeyboardInterrupt: a notebook's kernel survives."""
    with program(READ_AND_SAY, stalled.my / "dead/file") as process:
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=10)
        assert time.monotonic() - begin < 2
        assert (said, process.returncode) == (b"interrupted\n", 0)


def test_one_who_waits_holds_up_nobody_else(stalled: Mount, server: Server) -> None:
    """While thirteen programs hang in as many files of one folder, the others are listed, read, written and made as ever."""
    server.ask("DELETE", "/_emulator/faults")
    assert os.listdir(stalled.my / "other") == ["alive"]
    strike(server, name="file*", stall={"seconds": 600, "at": 1000})
    readers = [subprocess.Popen([sys.executable, "-c", READ, stalled.my / "dead" / name]) for name in DEAD]
    try:
        eventually(lambda: len({entry["path"] for entry in stalled.status()["waiting"]}) == len(DEAD), 4)
        begin = time.monotonic()
        assert (stalled.my / "other/alive").read_bytes() == b"a" * 1000
        assert os.listdir(stalled.my / "other") == ["alive"]
        (stalled.my / "other/new").write_bytes(b"new")
        (stalled.my / "folder").mkdir()
        assert time.monotonic() - begin < 2
    finally:
        for reader in readers:
            reader.kill()
            reader.wait(10)


def timed(action: Callable[[], object]) -> tuple[int, float]:
    begin = time.monotonic()
    return errno_of(action), time.monotonic() - begin


def test_without_a_signal_waiting_ends_by_itself(new_mount: NewMount, server: Server) -> None:
    """After --io-timeout seconds without a byte: ETIMEDOUT, with the reason in status and on the file; later it works again."""
    server.create("file", SLOW)
    mount = new_mount().mount("--io-timeout", str(SHORT))
    mount.expect_log(LOGGED)
    strike(server, name="file", stall={"seconds": 600, "at": 1000})
    path = mount.my / "file"
    os.stat(path)
    number, seconds = timed(path.read_bytes)
    assert number == errno.ETIMEDOUT
    assert SHORT * 0.9 < seconds < SHORT + 2
    assert "sent nothing" in os.getxattr(path, "user.drive.error").decode()
    assert any("file" in error["subject"] and "sent nothing" in error["what"] for error in mount.status()["last_errors"])
    server.ask("DELETE", "/_emulator/faults")
    assert mount.status()["waiting"] == []
    assert path.read_bytes() == SLOW
    assert errno_of(lambda: os.getxattr(path, "user.drive.error")) == errno.ENODATA


def test_an_answer_that_is_an_error_is_not_a_silence(new_mount: NewMount, server: Server) -> None:
    """Drive answers, with nothing but 503 or 429: EIO after --io-timeout, and never EAGAIN, with what Drive said."""
    folder = server.make("folder")
    server.create("file", SLOW)
    server.create("inside", b"1", folder)
    mount = new_mount().mount("--io-timeout", str(SHORT))
    mount.expect_log("HTTP 503|HTTP 429")
    os.stat(mount.my / "file")
    strike(server, method="*.get_media", status=503)
    strike(server, method="files.list", status=429, reason="rateLimitExceeded")
    for action in ((mount.my / "file").read_bytes, lambda: os.listdir(mount.my / "folder")):
        number, seconds = timed(action)
        assert (number, seconds < SHORT + 2) == (errno.EIO, True)
    assert "HTTP 429" in os.getxattr(mount.my / "folder", "user.drive.error").decode()


def test_bytes_that_trickle_are_progress(new_mount: NewMount, server: Server) -> None:
    """A download that takes much longer than --io-timeout, and never stops for so long, is not given up."""
    server.create("file", SLOW)
    mount = new_mount().mount("--io-timeout", "1.5")
    strike(server, name="file", bandwidth={"down": 500_000})
    begin = time.monotonic()
    assert (mount.my / "file").read_bytes() == SLOW
    assert time.monotonic() - begin > 4


def test_status_says_who_waits_for_what(stalled: Mount) -> None:
    """Operation, path, seconds and reason of what waits for more than a second."""
    with program(READ, stalled.my / "dead/file"):
        waiting = eventually(lambda: stalled.status()["waiting"])
        assert {entry["operation"] for entry in waiting} == {"read"}
        assert {entry["path"] for entry in waiting} == {"MyDrive/dead/file"}
        assert all(entry["seconds"] > 1 and "bytes" in entry["what"] for entry in waiting)


# A file that is on its way to Drive, and one that needs its room.
FILL = """
import sys
open(sys.argv[1] + '.sent', 'wb').write(bytes(12 << 20))
file = open(sys.argv[1], 'wb', buffering=0)
for _ in range(8):
    file.write(bytes(1 << 20))
"""
SYNC = "import os, sys; fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY); os.write(fd, b'1'); os.fsync(fd)"


@pytest.mark.parametrize(
    ("code", "flags"), [(FILL, ("--cache-size", "16M")), (SYNC, ("--fsync=remote",))], ids=["write", "fsync"]
)
def test_a_signal_ends_a_program_that_waits_for_uploads(new_mount: NewMount, server: Server, code: str, flags: Any) -> None:
    """No upload gets through: a writer for whom the cache has no room, and an fsync that waits for Drive, end when killed."""
    mount = new_mount().mount(*flags)
    mount.expect_log("not on Drive yet|HTTP 503|is full")
    strike(server, route="/upload/*", latency=30)
    with program(code, mount.my / "file") as process:
        eventually(lambda: mount.status()["waiting"], 5)
        begin = time.monotonic()
        process.kill()
        process.wait(10)
        assert time.monotonic() - begin < 2
    server.ask("DELETE", "/_emulator/faults")
