"""Directories that belong to this user alone: made 0700, or refused when somebody else could meddle with them."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from drivefs.base.errors import DriveFSError

__all__ = ["NO_ACCESS", "NO_WRITE", "private_directory"]

# What group and others must not be allowed to do.
NO_ACCESS: Final = 0o077
NO_WRITE: Final = 0o022


def private_directory(path: Path, purpose: str, forbidden: int, error: type[DriveFSError]) -> None:
    """Make ``path`` (and missing parents) 0700, or check the one that exists. ``error`` is what a refusal is raised as.

    An existing one must be a real directory, not a symlink (somebody may have laid it there to lead us elsewhere), belong to us,
    and grant none of the ``forbidden`` bits.  purpose: what it is for, as the subject of a sentence.
    """
    try:
        _make(path)
        status = os.lstat(path)
    except OSError as cause:
        raise error(f"{purpose} {str(path)!r} cannot be made: {cause.strerror}. Choose another place.") from cause
    if not stat.S_ISDIR(status.st_mode):
        kind = "a symlink: give the directory it points to" if stat.S_ISLNK(status.st_mode) else "not a directory"
        raise error(f"{purpose} {str(path)!r} is {kind}.")
    if status.st_uid != os.geteuid():
        raise error(f"{purpose} {str(path)!r} belongs to user {status.st_uid}. Choose a directory of your own.")
    if status.st_mode & forbidden:
        can = "enter" if forbidden == NO_ACCESS else "change"
        raise error(f"{purpose} {str(path)!r} is one that other users can {can}. Run: chmod 700 {str(path)!r}")


def _make(path: Path) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make(path.parent)
        with suppress(FileExistsError):  # another process needs it too, and was faster
            os.mkdir(path, 0o700)
