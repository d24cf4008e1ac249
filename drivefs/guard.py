"""The directory under the mount is closed to writers, so that no program fills the local disk believing that it writes to Drive.

A closed directory has no write permission for anybody, and where the file system and our rights allow it the immutable
attribute (ioctl_iflags(2)), because permissions do not bind root. It stays closed after the mount has gone, whichever way it
went: a training run that goes on gets an error instead of a local directory of checkpoints. Nothing but these two marks is
kept, so closing twice is closing once, and ``release`` needs to know nothing of the past. Mounting and unmounting work on a
closed directory, but for users other than root, whom fusermount3 lets mount only where they may write: for them it is open
while they mount.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import struct
import sys
from pathlib import Path
from typing import Final

from drivefs.base.errors import MountpointUnusable

__all__ = ["BareMountpoint", "is_closed", "release"]

logger = logging.getLogger(__name__)

# linux/fs.h: _IOR('f', 1, long) and _IOW('f', 2, long), though the kernel reads and writes an int.
_GETFLAGS: Final = 0x80006601 | struct.calcsize("l") << 16
_SETFLAGS: Final = 0x40006602 | struct.calcsize("l") << 16
_IMMUTABLE: Final = 0x10
# The file system has no such attribute, or not for us: permissions alone must do.
_NOT_HERE: Final = frozenset({errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES})
_WRITE: Final = 0o222


class BareMountpoint:
    """The directory itself, opened before it is mounted over, so that it can be closed from under the mount."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._path = path
        self._was_closed = _is_closed(self._fd)

    def admit(self) -> None:
        """Let fusermount3 mount here for a user; root needs no permission."""
        if os.geteuid() and self._was_closed:
            _open_up(self._fd)

    def close_up(self) -> bool:
        """Close it to writers. False where that does not bind root, which we are."""
        try:
            mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
            if mode & _WRITE:
                os.fchmod(self._fd, mode & ~_WRITE)
        except OSError as error:
            logger.info("the directory %r stays writable while nothing is mounted there: %s", str(self._path), error.strerror)
            return False
        if _set_immutable(self._fd, immutable=True) or os.geteuid():
            return True
        logger.info("the directory %r keeps root from writing only while it is mounted: no immutable attribute", str(self._path))
        return False

    def put_back(self) -> None:
        """The mount did not come about: as it was before."""
        if self._was_closed:
            self.close_up()

    def forget(self) -> None:
        os.close(self._fd)


def is_closed(path: Path) -> bool:
    """Whether ``path`` is a directory that was closed, and nothing is mounted there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _is_closed(fd)
    finally:
        os.close(fd)


def release(path: Path) -> bool:
    """Make a plain directory of a closed one again, writable for its owner. False where it was not closed."""
    if not is_closed(path):
        return False
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _open_up(fd)
    except OSError as error:
        raise MountpointUnusable(
            f"{str(path)!r} cannot be opened to writers again: {error.strerror}. As root: chattr -i {path} && chmod u+w {path}"
        ) from error
    finally:
        os.close(fd)
    return True


def _is_closed(fd: int) -> bool:
    return not os.fstat(fd).st_mode & _WRITE or bool((_flags(fd) or 0) & _IMMUTABLE)


def _open_up(fd: int) -> None:
    _set_immutable(fd, immutable=False)
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    os.fchmod(fd, mode | stat.S_IWUSR)


def _flags(fd: int) -> int | None:
    """The attributes of ioctl_iflags(2); None where the file system keeps none."""
    buffer = bytearray(8)
    try:
        fcntl.ioctl(fd, _GETFLAGS, buffer)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        return None
    return int.from_bytes(buffer[:4], sys.byteorder)


def _set_immutable(fd: int, *, immutable: bool) -> bool:
    """True where the attribute now is as asked."""
    flags = _flags(fd)
    if flags is None:
        return not immutable
    wanted = flags | _IMMUTABLE if immutable else flags & ~_IMMUTABLE
    if wanted == flags:
        return True
    try:
        fcntl.ioctl(fd, _SETFLAGS, wanted.to_bytes(4, sys.byteorder) + bytes(4))
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        logger.debug("no immutable attribute: %s", error)
        return False
    return True
