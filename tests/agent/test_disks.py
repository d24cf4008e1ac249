"""Disks: sizes as statvfs tells them, and mounts that never answer, real ones among them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivefs_agent import disks
from drivefs_agent.disks import DiskReader, Space
from drivefs_agent.host import Mount


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Set at the end, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()


def test_a_hung_mount_neither_blocks_nor_hides_the_others(release: threading.Event) -> None:
    """A mount whose server is gone is reported as silent after the timeout; the healthy one has its numbers."""

    def ask(mount: Mount) -> Space:
        if mount.mountpoint == "/hung":
            release.wait()
        return Space(total=100, free=41, available=40)

    mounts = [Mount("/", "/dev/sda1", "ext4"), Mount("/hung", "server:/export", "nfs4")]
    begun = time.monotonic()
    root, hung = DiskReader(ask, timeout=0.2).read(mounts)
    assert 0.2 <= time.monotonic() - begun < 2
    assert (root.kind, hung.kind) == ("local", "network")
    assert (root.total, root.used, root.available, root.error) == (100, 59, 40, None)
    assert (hung.mountpoint, hung.total) == ("/hung", None)
    assert "no answer within 0.2 s" in str(hung.error)


def test_many_hung_mounts_cost_one_timeout(release: threading.Event) -> None:
    """The timeout is for all together."""

    def ask(mount: Mount) -> Space:
        release.wait()
        return Space(1, 1, 1)

    begun = time.monotonic()
    found = DiskReader(ask, timeout=0.2).read([Mount(f"/m{i}", "srv", "nfs") for i in range(8)])
    assert time.monotonic() - begun < 1
    assert all(disk.error for disk in found)
    assert len(found) == 8


def test_a_mount_that_owes_an_answer_is_not_asked_again(release: threading.Event) -> None:
    """Looking at a hung mount for hours leaves one thread behind, not one a look, and costs the timeout once; when it comes
    back it is measured again.
    """
    asked: list[str] = []

    def ask(mount: Mount) -> Space:
        asked.append(mount.mountpoint)
        release.wait()
        return Space(9, 5, 5)

    reader = DiskReader(ask, timeout=0.2)
    mounts = [Mount("/hung", "srv", "nfs4")]
    assert reader.read(mounts)[0].error
    assert all(reader.read(mounts)[0].error for _ in range(5))
    assert asked == ["/hung"]
    release.set()
    deadline = time.monotonic() + 10
    while (disk := reader.read(mounts)[0]).error and time.monotonic() < deadline:
        pass
    assert (disk.total, asked) == (9, ["/hung", "/hung"])


def test_a_dead_fuse_mount_shows_the_kernels_word() -> None:
    """A FUSE mount whose daemon died answers ENOTCONN at once; that is what is shown."""

    def ask(mount: Mount) -> Space:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    (disk,) = DiskReader(ask).read([Mount("/content/drive", "drivefs", "fuse.drive")])
    assert disk.error == "Transport endpoint is not connected"


def test_bind_mounts_of_one_device_appear_once() -> None:
    """The same device in several places is one disk, shown at the shortest path; file systems without size are none."""
    mounts = [Mount("/var/lib/x", "/dev/sda1", "ext4"), Mount("/", "/dev/sda1", "ext4"), Mount("/sys/x", "none", "odd")]
    found = DiskReader(lambda mount: Space(0 if mount.source == "none" else 9, 1, 1)).read(mounts)
    assert [disk.mountpoint for disk in found] == ["/"]


def test_a_single_mounted_file_is_no_disk(tmp_path: Path) -> None:
    """Containers bind single files (/etc/hosts); the real probe leaves them out and asks directories."""
    (tmp_path / "hosts").touch()
    mounts = [Mount(str(tmp_path / "hosts"), "/dev/a", "ext4"), Mount(str(tmp_path), "/dev/b", "ext4")]
    (disk,) = DiskReader().read(mounts)
    truth = os.statvfs(tmp_path)
    assert (disk.mountpoint, disk.total) == (str(tmp_path), truth.f_blocks * truth.f_frsize)


def test_a_fuse_mount_is_measured_by_a_child_with_the_same_result(tmp_path: Path) -> None:
    """The child that asks FUSE mounts tells the same size, the same error, and knows a single file, as asking directly does."""
    (tmp_path / "file").touch()
    truth = os.statvfs(tmp_path)
    space = disks.measure(Mount(str(tmp_path), "x", "fuse.drive"))
    assert space is not None
    assert space.total == truth.f_blocks * truth.f_frsize
    assert disks.measure(Mount(str(tmp_path / "file"), "x", "fuse.drive")) is None
    with pytest.raises(FileNotFoundError):
        disks.measure(Mount(str(tmp_path / "missing"), "x", "fuse.drive"))


HANGS = """
import stat, sys, pyfuse3, trio
class Hangs(pyfuse3.Operations):
    async def getattr(self, inode, ctx=None):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode, entry.st_nlink = inode, stat.S_IFDIR | 0o755, 2
        return entry
    async def statfs(self, ctx):
        print("asked", flush=True)
        await trio.sleep_forever()
pyfuse3.init(Hangs(), sys.argv[1], {"fsname=hangs", "subtype=drive"})
print("mounted", flush=True)
trio.run(pyfuse3.main)
"""


def children(*arguments: str) -> int:
    """How many processes were started with these as their last arguments."""
    tail = [os.fsencode(argument) for argument in arguments]
    count = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            count += path.read_bytes().split(b"\0")[:-1][-len(tail) :] == tail
        except OSError:
            continue
    return count


@pytest.mark.slow
@pytest.mark.mount
def test_a_daemon_that_hangs_keeps_no_command_from_ending(tmp_path: Path) -> None:
    """On a real FUSE mount whose daemon took the question and never answers, ``specs`` ends, and says which mount it was.

    The question goes on waiting, and a second ``specs`` does not send another one after it.
    """
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse here")
    with subprocess.Popen([sys.executable, "-c", HANGS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == "mounted\n"
            command = [sys.executable, "-c", "from drivefs_agent.cli import main; main()", "specs"]
            run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
            assert daemon.stdout.readline() == "asked\n"
            time.sleep(disks._PATIENT)  # the first child's age is what counts
            before = children(disks._MEASURE, str(tmp_path))  # other agents on this machine may have asked at the same moment
            again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
            after = children(disks._MEASURE, str(tmp_path))
        finally:
            daemon.kill()
            subprocess.run(["fusermount3", "-uz", str(tmp_path)], check=True)
    (line,) = (line for line in run.stdout.splitlines() if line.startswith("Disk") and str(tmp_path) in line)
    assert "no answer within 1 s" in line
    (line,) = (line for line in again.stdout.splitlines() if line.startswith("Disk") and str(tmp_path) in line)
    assert "no answer to an earlier question yet" in line
    assert after == before >= 1
