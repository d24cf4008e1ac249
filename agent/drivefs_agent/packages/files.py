"""Files that are the former one or the new one, whatever happens while they are written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["ASIDE", "remove_asides", "sync_folder", "write_atomically"]

# In the name of a file that is being written. It says whose it is: it may be left, by a kill, in a folder that is not ours.
ASIDE: Final = "drivefs-new"


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """The file is the former one or the new one, also after a power cut."""
    aside = path.with_name(f".{path.name}.{ASIDE}-{secrets.token_hex(4)}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with open(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(content)
            file.flush()
            os.fsync(handle)
        aside.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            aside.unlink()
        raise
    sync_folder(path.parent)


def remove_asides(paths: Iterable[Path]) -> None:
    """What a kill left of writing one of ``paths``."""
    for path in paths:
        for aside in path.parent.glob(f".{path.name}.{ASIDE}-*"):
            aside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """The names in it are on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
