"""A mount's life: attaching and detaching, and telling the kernel what it must forget."""

from __future__ import annotations

import errno
import logging
import os
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

import pyfuse3
from pyfuse3 import FileNameT, InodeT

from drivefs.base.errors import FuseUnavailable
from drivefs.base.model import Invalidation

__all__ = ["Notifier", "mount", "release", "tune"]

log = logging.getLogger(__name__)


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


def tune(mountpoint: Path) -> None:
    """Let the kernel read ahead further and queue more where it allows that; our own read-ahead does not depend on it."""
    device = os.stat(mountpoint).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    wishes = {
        f"/sys/class/bdi/{name}/read_ahead_kb": "1024",
        f"/sys/fs/fuse/connections/{os.minor(device)}/max_background": "64",
    }
    for path, value in wishes.items():
        try:
            Path(path).write_text(value)
        except OSError as error:
            log.debug("%s stays as it is: %s", path, error)
