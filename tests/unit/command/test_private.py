"""Private directories, made by several processes at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drivefs.base.errors import CacheUnusable
from drivefs.private import NO_ACCESS, private_directory


def test_two_that_make_it_at_once_both_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes the parent and the directory between our two tries: no error, for it is there."""
    real, place = os.mkdir, tmp_path / "parent" / "private"

    def mkdir(path: Path, mode: int) -> None:
        try:
            real(path, mode)
        finally:
            if path == place.parent:
                real(place, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    private_directory(place, "The directory", NO_ACCESS, CacheUnusable)
    assert place.stat().st_mode & 0o777 == 0o700
