"""A private copy of a file's bytes, for a reader who takes longer than the file stays as it is."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Final

__all__ = ["private_copy"]

# ioctl_ficlonerange(2): the copy shares the blocks, so it costs neither time nor room (btrfs, XFS).
_FICLONE: Final = 0x40049409
_PIECE: Final = 64 << 20


def private_copy(fd: int, size: int, directory: Path) -> int | None:
    """Descriptor of a nameless file with the first ``size`` bytes of ``fd``.

    None where it would take more than half the room, or the file system cannot do it: nobody depends on a copy. The caller closes
    it, and the kernel then drops the file, also after a crash. Blocks: run it in a thread.
    """
    try:
        copy = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        if _share(fd, copy) or (size * 2 < shutil.disk_usage(directory).free and _copy(fd, copy, size)):
            return copy
    except OSError:
        pass  # full after all, or a file system without copy_file_range(2)
    os.close(copy)
    return None


def _share(fd: int, copy: int) -> bool:
    try:
        fcntl.ioctl(copy, _FICLONE, fd)
    except OSError:  # not this file system: each has another errno for it
        return False
    return True


def _copy(fd: int, copy: int, size: int) -> bool:
    offset = 0
    while offset < size:
        moved = os.copy_file_range(fd, copy, min(_PIECE, size - offset), offset, offset)
        if not moved:
            return False  # it became shorter
        offset += moved
    return True
