"""Room on the disk for the journal alone: content may fill a disk, but names can always be changed and files deleted.

A file of ``SIZE`` bytes is held while there is room. The write that finds the disk full gives it up, so that what must be noted
still can be, and no content is taken until the room could be held again. May be used from any thread.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

__all__ = ["SIZE", "Reserve"]

# SQLite's journal grows to 4 MiB before it is folded back, and then the database itself may have to grow.
SIZE: Final = 8 << 20


class Reserve:
    def __init__(self, directory: Path) -> None:
        self._path = directory / "reserve"
        self._held = False
        self.hold()

    def hold(self) -> bool:
        """Whether the room is held now, after an attempt to take it where it is not."""
        if self._held:
            return True
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, SIZE)
            self._held = True
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)
        return self._held

    def release(self) -> None:
        """The disk is full: the journal may have the room."""
        self._held = False
        os.truncate(self._path, 0)
