"""How full the disks are, asked so that no mount can hang us.

statvfs(2) on a mount whose server or daemon is gone never returns. Every mount is therefore asked apart, and what has not
answered in time is reported as silent.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from drivefs_agent.host import Mount
from drivefs_agent.patience import Patience

__all__ = ["Disk", "DiskReader", "Space", "measure"]

_DISK_TIMEOUT: Final = 1.0


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes; available is what an ordinary user may still write. All None, and ``error`` says why, where it did not answer.

    kind: see Mount.kind. What is on "overlay" and "memory" is gone with the container or the machine.
    """

    mountpoint: str
    source: str
    fstype: str
    kind: str
    total: int | None = None
    used: int | None = None
    available: int | None = None
    error: str | None = None


class Space(NamedTuple):
    """Bytes of a file system; available: to an ordinary user."""

    total: int
    free: int
    available: int


_MEASURE: Final = """
import os, stat, sys
try:
    found = os.statvfs(sys.argv[1]) if stat.S_ISDIR(os.stat(sys.argv[1]).st_mode) else None
except OSError as error:
    print(error.errno)
else:
    print(0, *[found.f_frsize * n for n in (found.f_blocks, found.f_bfree, found.f_bavail)] if found else [])
"""
# A child that has run for so many seconds is taken to wait for a mount that hangs.
_PATIENT: Final = 3.0


def measure(mount: Mount) -> Space | None:
    """The file system's numbers; None for a single mounted file, as containers have at /etc/hosts. May block for ever."""
    if mount.fstype.startswith("fuse"):
        return _measure_apart(mount)
    if not stat.S_ISDIR(os.stat(mount.mountpoint).st_mode):
        return None
    found = os.statvfs(mount.mountpoint)
    return Space(*(found.f_frsize * blocks for blocks in (found.f_blocks, found.f_bfree, found.f_bavail)))


def _measure_apart(mount: Mount) -> Space | None:
    """A FUSE mount is asked by a child process: once its daemon has taken a request and hangs, the kernel lets nobody out of the
    wait, not even a thread of a process that was killed, and so a thread of ours would keep this whole process from ending.

    The child holds none of our descriptors; where it never ends, init inherits it and it goes when the mount does. While one
    waits no other is sent after it, by whomever: else a command run every minute would fill the memory with them.
    """
    arguments = ["-I", "-S", "-c", _MEASURE, mount.mountpoint]
    if _waits_already(arguments):
        raise OSError(errno.ETIMEDOUT, "no answer to an earlier question yet; its server or daemon may be gone")
    child = subprocess.Popen(
        [sys.executable, *arguments],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    number, *sizes = [int(word) for word in child.communicate()[0].split()] or [errno.EIO]
    if number:
        raise OSError(number, os.strerror(number))
    return Space(*sizes) if sizes else None


def _waits_already(arguments: list[str]) -> bool:
    """Whether a process with these arguments has run for longer than a mount that is well would let it."""
    tail = b"\0".join(map(os.fsencode, arguments)) + b"\0"
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path("/proc", pid, "cmdline").read_bytes().endswith(tail):
                # The 22nd field, counted from behind the name, which may hold blanks. Source: proc_pid_stat(5)
                begun = int(Path("/proc", pid, "stat").read_bytes().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
                if since_boot - begun > _PATIENT:
                    return True
        except OSError:  # it ended while we looked
            continue
    return False


class DiskReader:
    """Sizes of mounts, again and again. Each is asked in a thread of its own, because a dead server behind a network or FUSE
    mount never answers; what has not answered within ``timeout`` seconds, for all together, is reported so.
    """

    def __init__(self, ask: Callable[[Mount], Space | None] = measure, timeout: float = _DISK_TIMEOUT) -> None:
        self._ask = ask
        self._patience: Patience[Space | OSError | None] = Patience(timeout)

    def read(self, mounts: Iterable[Mount]) -> tuple[Disk, ...]:
        """A device mounted in several places appears once, at its shortest path."""
        mounts = list(mounts)
        answers = self._patience.ask({mount.mountpoint: functools.partial(self._answer, mount) for mount in mounts})
        silent = TimeoutError(f"no answer within {self._patience.timeout:g} s; its server or daemon may be gone")
        disks = (_disk(mount, answers.get(mount.mountpoint, silent)) for mount in mounts)
        return tuple(_once_a_device(disk for disk in disks if disk))

    def _answer(self, mount: Mount) -> Space | OSError | None:
        try:
            return self._ask(mount)
        except OSError as error:
            return error


def _disk(mount: Mount, answer: Space | OSError | None) -> Disk | None:
    """None for what is no disk: a single file, or a file system without size."""
    if isinstance(answer, OSError):
        return Disk(mount.mountpoint, mount.source, mount.fstype, mount.kind, error=answer.strerror or str(answer))
    if answer is None or answer.total == 0:
        return None
    return Disk(
        mount.mountpoint, mount.source, mount.fstype, mount.kind, answer.total, answer.total - answer.free, answer.available
    )


def _once_a_device(disks: Iterable[Disk]) -> list[Disk]:
    kept: dict[str, Disk] = {}
    for disk in sorted(disks, key=lambda disk: len(disk.mountpoint)):
        device = disk.source if disk.source.startswith("/dev/") else disk.mountpoint
        kept.setdefault(device, disk)
    return sorted(kept.values(), key=lambda disk: disk.mountpoint)
