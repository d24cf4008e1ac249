"""What must be on the disk, or still be known, before anybody relies on it after a power cut."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from unittest import mock

import pytest

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


def test_a_kill_before_the_roll_back_does_not_make_a_power_cut_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start in the same boot has to do it again, or torn files would be taken for whole ones."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("DRIVEFS_BOOT_ID", "first")
    with Database(cache):
        shutil.copytree(cache, tmp_path / "cut")
    monkeypatch.setenv("DRIVEFS_BOOT_ID", "second")
    with Database(tmp_path / "cut") as db:
        assert db.power_lost
        shutil.copytree(tmp_path / "cut", tmp_path / "killed")
    with Database(tmp_path / "cut") as db:
        assert db.power_lost, "a start that ended before it had looked at the files has dealt with nothing"
        db.rolled_back()
    with Database(tmp_path / "cut") as db:
        assert not db.power_lost
    with Database(tmp_path / "killed") as db:
        assert db.power_lost
