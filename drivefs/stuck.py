"""Daemons that were killed and cannot end, and how to free them.

A notification to the kernel waits for the lock of a directory, which a program holds while it waits for us (fuse.rst; in the
kernel fuse_reverse_inval_entry). A daemon that is killed in such a moment keeps that one thread, which keeps the connection
open, so the program waits on, and so does the thread: the process stays a zombie that nobody can reap, its sockets and locks
stay taken, and the mount hangs for ever. Aborting the connection resolves it: the kernel then answers whoever waits.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from pathlib import Path
from typing import Final

from drivefs import mountpoint
from drivefs.base.errors import MountpointUnusable
from drivefs.mountpoint import MountEntry

__all__ = ["abort", "free", "is_stuck"]

_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
# Flags of umount2(2).
_MNT_FORCE, _MNT_DETACH, _UMOUNT_NOFOLLOW = 1, 2, 8
_ENDING: Final = 5.0  # seconds that threads may take to end once nothing holds them


def is_stuck(pid: int) -> bool:
    """Whether the process is dead but for threads that have not ended. For a moment that is so at the end of every process."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return _is_dead(f"/proc/{pid}/stat") and not all(_is_dead(f"/proc/{pid}/task/{thread}/stat") for thread in threads)


def _is_dead(path: str) -> bool:
    """Source: proc_pid_stat(5), the field ``state``, which follows the name in parentheses."""
    try:
        with open(path, "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return True


def abort(entry: MountEntry) -> None:
    """Let the kernel answer everything that waits for the daemon of ``entry``, with errors. OSError where we may not.

    Whoever mounted may do so through the kernel's controls (fuse.rst); those are missing in most containers, where only root
    may, by umount2(MNT_FORCE), which removes the mount too.
    """
    try:
        (_CONNECTIONS / str(os.minor(entry.device)) / "abort").write_text("1")
    except OSError:
        now = mountpoint.mount_at(Path(entry.path))
        if now is None or now.device != entry.device:
            return
        _unmount_by_force(entry.path)


def _unmount_by_force(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), _MNT_FORCE | _MNT_DETACH | _UMOUNT_NOFOLLOW):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def free(entry: MountEntry, pid: int) -> None:
    """Abort the connection of a stuck daemon, and wait for its end. MountpointUnusable where that cannot be done."""
    deadline = time.monotonic() + _ENDING
    try:
        abort(entry)
        while is_stuck(pid):
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            time.sleep(0.02)
    except OSError as error:
        raise MountpointUnusable(
            f"The daemon of {entry.path!r} (process {pid}) was killed, but the kernel cannot let it end: {error.strerror}. "
            f"As root: umount -f {entry.path}"
        ) from error
