"""Names in the cache directory that must be on the disk before anybody relies on them."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from drivefs.store.db import Database
from drivefs.store.files import ContentFiles


def test_the_folders_of_content_survive_a_power_cut_before_the_first_fsync(tmp_path: Path) -> None:
    """An fsync of a file in a folder whose own name is not on the disk would promise nothing."""
    events: list[str] = []
    fsync, mkdir = os.fsync, os.mkdir

    def synced(fd: int) -> None:
        events.append("synced " + os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    def made(path: str, mode: int = 0o777) -> None:
        events.append(f"made {path}")
        mkdir(path, mode)

    cache = tmp_path / "cache"
    with Database(cache) as db, mock.patch.object(os, "fsync", synced), mock.patch.object(os, "mkdir", made):
        ContentFiles(cache, db.reserve)
    assert events == [f"made {cache}/clean", f"made {cache}/dirty", f"synced {cache}"]
