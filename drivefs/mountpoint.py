"""Is this a place to mount at, and can this machine mount at all? Asked before anything is started.

The four "Mountpoint must ..." sentences are those of google.colab, because programs look for them; the line after each is ours.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drivefs.base.errors import FuseUnavailable, MountpointUnusable
from drivefs.look import look

__all__ = [
    "FUSE_ADVICE",
    "MountEntry",
    "detach_if_dead",
    "mount_at",
    "prepare",
    "require_fuse",
    "require_no_space",
    "require_usable",
]

FUSE_DEVICE: Final = Path("/dev/fuse")
FUSE_ADVICE: Final = (
    "On a machine of your own: sudo apt-get install fuse3 && sudo modprobe fuse. "
    "In a container: start it with --device /dev/fuse --cap-add SYS_ADMIN (docker run)."
)
# What /proc/self/mountinfo says of a mount of ours; the same words as on Colab.
_OUR_TYPE: Final = "fuse.drive"
_PROBE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One mount, as the kernel lists it. kind: file system type with its subtype, as in ``fuse.drive``.  device: its st_dev."""

    path: str
    kind: str
    source: str
    device: int = 0

    @property
    def is_ours(self) -> bool:
        return self.kind == _OUR_TYPE


def mount_at(path: Path, table: Path = Path("/proc/self/mountinfo")) -> MountEntry | None:
    """The uppermost mount at exactly ``path`` (canonical), or None. Source: proc_pid_mountinfo(5)."""
    wanted, found = os.fspath(path), None
    for line in table.read_bytes().splitlines():
        fields, _, rest = line.partition(b" - ")
        _, _, numbers, _, place, *_ = fields.split(b" ")
        where = _unescape(place)
        if where == wanted:
            kind, source = rest.split(b" ")[:2]
            major, _, minor = numbers.partition(b":")
            found = MountEntry(where, _unescape(kind), _unescape(source), os.makedev(int(major), int(minor)))
    return found


def _unescape(field: bytes) -> str:
    """The kernel writes space, tab, newline, backslash and # as three octal digits after a backslash."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field))


def require_no_space(typed: str) -> None:
    """Colab's first check; it keeps every ``!ls /content/drive`` of a notebook working unquoted."""
    if not typed:
        raise MountpointUnusable("Mountpoint must not be empty.")
    if " " in typed:
        raise MountpointUnusable("Mountpoint must not contain a space.")


def require_fuse(device: Path = FUSE_DEVICE) -> None:
    """FuseUnavailable, with what to do, where the device or the helper program is missing or closed to us."""
    if shutil.which("fusermount3") is None:
        raise FuseUnavailable(f"The program fusermount3 is missing, without which nothing can be mounted. {FUSE_ADVICE}")
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise FuseUnavailable(f"FUSE cannot be used: {device}: {error.strerror}. {FUSE_ADVICE}") from error


def detach_if_dead(entry: MountEntry) -> None:
    """Remove what a killed daemon of ours left; MountpointUnusable for any mount that is foreign or still alive."""
    name = repr(entry.path)
    if not entry.is_ours:
        raise MountpointUnusable(f"{name} is already a mountpoint (of type {entry.kind}). Choose another, or unmount it first.")
    number = look(entry.path, _PROBE_SECONDS).error
    if number != errno.ENOTCONN:
        state = "does not respond" if number == errno.ETIMEDOUT else "was mounted by a drivefs that listens elsewhere"
        raise MountpointUnusable(
            f"{name} is already mounted and {state}. Use the DRIVEFS_RUNTIME_DIR it was mounted with, or detach it: "
            f"fusermount3 -uz {entry.path}"
        )
    done = subprocess.run(["fusermount3", "-uz", entry.path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise MountpointUnusable(f"{name} is a dead mount that could not be removed: {done.stderr.strip()}.")


def require_usable(path: Path) -> None:
    """Colab's four checks, in Colab's order; the first line of each refusal is Colab's own sentence."""
    try:
        mode: int | None = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except OSError as error:
        raise MountpointUnusable(f"{str(path)!r} cannot be looked at: {error.strerror}. Choose another mountpoint.") from error
    if mode is None:
        if not path.parent.is_dir():
            raise _refusal("Mountpoint must be in a directory that exists", f"Make it first: mkdir -p {str(path.parent)!r}")
    elif stat.S_ISLNK(mode):
        raise _refusal("Mountpoint must not be a symlink", f"Give the directory that {str(path)!r} points to.")
    elif not stat.S_ISDIR(mode):
        raise _refusal("Mountpoint must either be a directory or not exist", f"{str(path)!r} is a file: choose another name.")
    elif _has_entries(path):
        raise _refusal("Mountpoint must not already contain files", f"Empty {str(path)!r}, or choose another directory.")


def _refusal(colab: str, advice: str) -> MountpointUnusable:
    return MountpointUnusable(f"{colab}\n{advice}")


def _has_entries(path: Path) -> bool:
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is not None
    except OSError as error:
        raise MountpointUnusable(f"{str(path)!r} cannot be read: {error.strerror}. Choose another mountpoint.") from error


def prepare(path: Path) -> bool:
    """Check ``path`` and make the directory where it is absent. True where it was made."""
    require_usable(path)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return False
    except OSError as error:
        raise MountpointUnusable(f"{str(path)!r} cannot be made: {error.strerror}. Choose another mountpoint.") from error
    return True
