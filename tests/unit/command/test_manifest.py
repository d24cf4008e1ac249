"""The list of what is not on Drive, and the record of a mount that is no more."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from drivefs import manifest
from drivefs.manifest import read_manifest, remove_manifest, write_manifest
from drivefs.record import Record, records

ENTRIES = [
    {"path": "MyDrive/a", "size": 5, "age_s": 2.5, "reason": "being sent"},
    {"path": "MyDrive/\udcff", "size": 7, "age_s": 9.0, "reason": "Drive is full"},
]


def write(folder: Path) -> None:
    write_manifest(folder, ENTRIES, mountpoint=Path("/content/drive"), account="a@b")


def test_the_list_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Also with names that are no text; private; and nothing else is left in the directory."""
    write(tmp_path)
    read = read_manifest(tmp_path)
    assert read is not None
    assert (read["version"], read["files"], read["bytes"], read["entries"]) == (1, 2, 12, ENTRIES)
    assert (read["mountpoint"], read["account"]) == ("/content/drive", "a@b")
    assert os.listdir(tmp_path) == ["unsent.json"]
    assert (tmp_path / "unsent.json").stat().st_mode & 0o777 == 0o600
    remove_manifest(tmp_path)
    remove_manifest(tmp_path)
    assert read_manifest(tmp_path) is None


def test_a_list_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk while the new one is written: the old one is whole, and no piece of the new one lies about."""
    write(tmp_path)
    before = (tmp_path / "unsent.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        manifest.write_manifest(tmp_path, [], mountpoint=Path("/m"), account=None)
    assert os.listdir(tmp_path) == ["unsent.json"]
    assert (tmp_path / "unsent.json").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 2}', b"\xff"])
def test_what_is_no_list_of_ours_is_none(tmp_path: Path, content: bytes) -> None:
    """It is a report only: one that is torn, or a later version's, keeps nothing from working."""
    (tmp_path / "unsent.json").write_bytes(content)
    assert read_manifest(tmp_path) is None


def test_a_record_tells_of_the_last_session(tmp_path: Path) -> None:
    """With a list: its figures. Without: that nothing is known. Removed: nothing at all."""
    sockets = tmp_path / "run"
    sockets.mkdir()
    record = Record(sockets / "0123.sock")
    record.add(gave_up="not even begun")
    assert record.read() == {}
    record.begin(Path("/content/drive"), tmp_path)
    assert [found.mountpoint for found in records(sockets)] == ["/content/drive"]
    crashed = record.last_session()
    assert (crashed["mounted"], crashed["pending_files"], crashed["pending"]) == (False, None, [])
    write(tmp_path)
    record.add(gave_up="five times")
    ended = record.last_session()
    assert (ended["pending_files"], ended["pending_bytes"], ended["oldest_pending_age_s"]) == (2, 12, 9.0)
    assert (ended["gave_up"], ended["pending"]) == ("five times", ENTRIES)
    record.begin(Path("/content/drive"), tmp_path)
    assert record.last_session()["gave_up"] is None
    record.remove()
    record.remove()
    assert records(sockets) == []


def test_a_directory_of_sockets_may_hold_anything(tmp_path: Path) -> None:
    """What is no record is passed over; what is no directory holds none."""
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "other.json").write_text(json.dumps(["mountpoint"]))
    Record(tmp_path / "0.sock").begin(Path("/content/drive"), tmp_path / "a removed cache")
    assert records(tmp_path) == []
    assert records(tmp_path / "absent") == []
