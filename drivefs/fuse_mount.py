"""A mount's life: attaching and detaching, and telling the kernel what it must forget."""

from __future__ import annotations

import errno
import logging
import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyfuse3
from pyfuse3 import FileNameT, InodeT

from drivefs.base.errors import FuseUnavailable
from drivefs.base.model import Invalidation

__all__ = ["Notifier", "mount", "release", "tune"]

log = logging.getLogger(__name__)

_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
# Reads under way at a time, and from how many on the kernel reads ahead less.
_LIMITS: Final = {"max_background": 1000, "congestion_threshold": 750}
_TUNING_TIME: Final = 5.0  # seconds


class Notifier:
    """Tells the kernel what it must forget, in order, from a thread of its own."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Invalidation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="kernel notifier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notify(self, stale: Sequence[Invalidation]) -> None:
        """Never blocks."""
        for one in stale:
            self._queue.put(one)

    def stop(self) -> None:
        """After the mount has ended: what is still queued is of no interest any more."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while (one := self._queue.get()) is not None:
            try:
                if one.name is None:
                    pyfuse3.invalidate_inode(InodeT(one.inode), attr_only=not one.pages)
                else:
                    pyfuse3.invalidate_entry(InodeT(one.inode), FileNameT(one.name.encode()))
            except OSError as error:
                # ENOENT: the kernel did not know it. ENODEV, EBADF, ENOTCONN: the mount has just ended.
                if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EBADF, errno.ENOTCONN, errno.ENOTDIR):
                    log.warning("the kernel could not be told of a change: %s", error)


def mount(door: pyfuse3.Operations, mountpoint: Path, *, read_only: bool) -> None:
    """Attach the file system. ``drive`` as source and subtype make it ``type fuse.drive``, which notebooks look for."""
    options = {"fsname=drive", "subtype=drive", "default_permissions", "nosuid", "nodev"}
    if read_only:
        options.add("ro")
    try:
        pyfuse3.init(door, os.fspath(mountpoint), options)
    except RuntimeError as error:
        raise FuseUnavailable(
            f"FUSE refused to mount at {mountpoint} ({error}). In a container, start it with "
            "--device /dev/fuse --cap-add SYS_ADMIN; elsewhere see that /dev/fuse and fusermount3 are there."
        ) from error


def release() -> None:
    """Release what ``mount`` took; unmounts where nobody has yet."""
    pyfuse3.close(unmount=True)


def tune(device: int) -> None:
    """Let the kernel read ahead further, and keep more reads under way, where it allows that. Blocks for a moment.

    device: the mount's st_dev, as the kernel's table of mounts has it: asking the mount itself would be asking ourselves.
    By default it sends us 12 reads ahead at a time (fuse.rst, "max_background"); were those all of files that Drive does not
    give, every other file would have to wait for them.
    """
    _write(Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"), 1024)
    connection = _CONNECTIONS / str(os.minor(device))
    if not connection.exists():
        _tune_unseen(connection)
        return
    for name, value in _LIMITS.items():
        _write(connection / name, value)


def _write(path: Path, value: int) -> None:
    try:
        path.write_text(str(value))
    except OSError as error:
        log.debug("%s stays as it is: %s", path, error)


def _tune_unseen(connection: Path) -> None:
    """As in containers, the kernel's controls are mounted nowhere: root may, where only this command sees it."""
    if os.geteuid() != 0:
        return
    writes = " && ".join(f'echo {value} > "$1/{name}"' for name, value in _LIMITS.items())
    script = f"mount -t fusectl fusectl {_CONNECTIONS} && {writes}"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", os.fspath(connection)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TUNING_TIME, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.debug("the kernel's limits stay as they are: %s", error)
        return
    if done.returncode:
        log.debug("the kernel's limits stay as they are: %s", done.stderr.strip())
