"""The host's side: recorded /proc and /sys shapes, mounts that do not answer, and this machine's own truth."""

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

from drivefs_agent import host
from drivefs_agent.host import Mount, Space

X86 = """\
processor\t: {index}
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9554 64-Core Processor
cpu MHz\t\t: 3100.000
physical id\t: {package}
"""
GRACE = "processor\t: {index}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {part}\nCPU revision\t: 0\n"


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def add_topology(root: Path, index: int, package: str, siblings: str) -> None:
    write(root, f"sys/devices/system/cpu/cpu{index}/topology/physical_package_id", f"{package}\n")
    write(root, f"sys/devices/system/cpu/cpu{index}/topology/thread_siblings_list", f"{siblings}\n")


def test_two_sockets_with_hyperthreading(tmp_path: Path) -> None:
    """Eight threads that share four cores on two sockets are counted as such."""
    write(tmp_path, "proc/cpuinfo", "\n".join(X86.format(index=i, package=i // 4) for i in range(8)))
    for index in range(8):
        add_topology(tmp_path, index, str(index // 4), f"{index // 2 * 2}-{index // 2 * 2 + 1}")
    cpu = host.read_cpu(tmp_path)
    assert (cpu.model, cpu.sockets, cpu.cores, cpu.threads) == ("AMD EPYC 9554 64-Core Processor", 2, 4, 8)


@pytest.mark.parametrize(("part", "model"), [("0xd4f", "Arm Neoverse-V2"), ("0xfff", "Arm core (implementer 0x41, part 0xfff)")])
def test_arm_has_no_model_name(tmp_path: Path, part: str, model: str) -> None:
    """Grace and Graviton kernels give numbers only; known ones are named, unknown ones shown. Package -1 is not known."""
    write(tmp_path, "proc/cpuinfo", "\n".join(GRACE.format(index=i, part=part) for i in range(2)))
    add_topology(tmp_path, 0, "-1", "0")
    add_topology(tmp_path, 1, "-1", "1")
    cpu = host.read_cpu(tmp_path)
    assert (cpu.model, cpu.sockets, cpu.cores, cpu.threads) == (model, None, 2, 2)


def test_a_board_that_names_itself(tmp_path: Path) -> None:
    """Without core numbers, the board's own line is the best name there is."""
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\n\nHardware\t: Tegra\nModel\t\t: NVIDIA Jetson\n")
    assert host.read_cpu(tmp_path).model == "NVIDIA Jetson"


def test_nothing_readable_still_answers(tmp_path: Path) -> None:
    """An empty /proc and /sys lead to the architecture's name and unknowns, not to an error."""
    cpu = host.read_cpu(tmp_path)
    assert (cpu.model, cpu.sockets, cpu.cores) == (os.uname().machine, None, None)
    assert cpu.threads >= 1


def test_os_release_is_shell_quoted(tmp_path: Path) -> None:
    """os-release(5) holds shell assignments; quotes are not part of the name."""
    write(tmp_path, "etc/os-release", 'ID=x\nPRETTY_NAME="Ubuntu 22.04 \\"Jammy\\""\n')
    write(tmp_path, "proc/uptime", "61.90 100.00\n")
    system = host.read_system(tmp_path)
    assert (system.os, system.uptime_seconds) == ('Ubuntu 22.04 "Jammy"', 61)


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
    root, hung = host.read_disks(mounts, ask, timeout=0.2)
    assert 0.2 <= time.monotonic() - begun < 2
    assert (root.total, root.used, root.available, root.error) == (100, 59, 40, None)
    assert (hung.mountpoint, hung.total) == ("/hung", None)
    assert "no answer within 0.2 s" in str(hung.error)


def test_many_hung_mounts_cost_one_timeout(release: threading.Event) -> None:
    """The timeout is for all together."""

    def ask(mount: Mount) -> Space:
        release.wait()
        return Space(1, 1, 1)

    begun = time.monotonic()
    disks = host.read_disks([Mount(f"/m{i}", "srv", "nfs") for i in range(8)], ask, timeout=0.2)
    assert time.monotonic() - begun < 1
    assert all(disk.error for disk in disks)
    assert len(disks) == 8


def test_a_dead_fuse_mount_shows_the_kernels_word() -> None:
    """A FUSE mount whose daemon died answers ENOTCONN at once; that is what is shown."""

    def ask(mount: Mount) -> Space:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    (disk,) = host.read_disks([Mount("/content/drive", "drivefs", "fuse.drive")], ask)
    assert disk.error == "Transport endpoint is not connected"


def test_bind_mounts_of_one_device_appear_once() -> None:
    """The same device in several places is one disk, shown at the shortest path; file systems without size are none."""
    mounts = [Mount("/var/lib/x", "/dev/sda1", "ext4"), Mount("/", "/dev/sda1", "ext4"), Mount("/sys/x", "none", "odd")]
    disks = host.read_disks(mounts, lambda mount: Space(0 if mount.source == "none" else 9, 1, 1))
    assert [disk.mountpoint for disk in disks] == ["/"]


def test_a_single_mounted_file_is_no_disk(tmp_path: Path) -> None:
    """Containers bind single files (/etc/hosts); the real probe leaves them out and asks directories."""
    (tmp_path / "hosts").touch()
    mounts = [Mount(str(tmp_path / "hosts"), "/dev/a", "ext4"), Mount(str(tmp_path), "/dev/b", "ext4")]
    (disk,) = host.read_disks(mounts)
    truth = os.statvfs(tmp_path)
    assert (disk.mountpoint, disk.total) == (str(tmp_path), truth.f_blocks * truth.f_frsize)


def test_a_fuse_mount_is_measured_by_a_child_with_the_same_result(tmp_path: Path) -> None:
    """The child that asks FUSE mounts tells the same size, the same error, and knows a single file, as asking directly does."""
    (tmp_path / "file").touch()
    truth = os.statvfs(tmp_path)
    space = host.measure(Mount(str(tmp_path), "x", "fuse.drive"))
    assert space is not None
    assert space.total == truth.f_blocks * truth.f_frsize
    assert host.measure(Mount(str(tmp_path / "file"), "x", "fuse.drive")) is None
    with pytest.raises(FileNotFoundError):
        host.measure(Mount(str(tmp_path / "missing"), "x", "fuse.drive"))


def test_mounts_of_this_machine() -> None:
    """The root directory's file system is among the mounts, pseudo file systems are not."""
    mounts = host.read_mounts()
    assert "/" in [mount.mountpoint for mount in mounts]
    assert not {"proc", "sysfs", "cgroup2", "devpts"} & {mount.fstype for mount in mounts}


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


@pytest.mark.mount
def test_a_daemon_that_hangs_keeps_no_command_from_ending(tmp_path: Path) -> None:
    """On a real FUSE mount whose daemon took the question and never answers, ``specs`` ends, and says which mount it was."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse here")
    with subprocess.Popen([sys.executable, "-c", HANGS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == "mounted\n"
            command = [sys.executable, "-c", "from drivefs_agent.cli import main; main()", "specs"]
            run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
            assert daemon.stdout.readline() == "asked\n"
        finally:
            daemon.kill()
            subprocess.run(["fusermount3", "-uz", str(tmp_path)], check=True)
    (line,) = (line for line in run.stdout.splitlines() if str(tmp_path) in line)
    assert "no answer within 1 s" in line
