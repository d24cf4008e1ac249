"""What is left after a power cut or on a disk that lies: each dirty content is worth what its row says, and no more."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from drivefs.base.errors import CacheUnusable
from drivefs.base.model import Kind, RemoteItem, Revision
from drivefs.store.content import BLOCK, Content, block_sums
from drivefs.store.db import Database
from drivefs.store.merging import Merger
from drivefs.store.tree import MY_DRIVE_INODE
from tests.unit.store.test_cache import DATA, Store


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def first_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIVEFS_BOOT_ID", "first")


def after_power_cut(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The machine went down with everything on the disk that could be: nastier than it sounds, for nothing may rely on that."""
    left = store.directory.with_name("left")
    os.system(f"cp -a {store.directory} {left}")
    store.close()
    monkeypatch.setenv("DRIVEFS_BOOT_ID", "second")
    return Store(left)


def new_file(store: Store, name: str, data: bytes) -> Content:
    node = store.tree.create(MY_DRIVE_INODE, name, Kind.FILE, 0o600)
    content = store.cache.create(node.inode)
    store.write(content, 0, data)
    return content


def test_settled_content_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are on the disk, and their checksums are compared before anybody uses them."""
    store = Store(place)
    content = new_file(store, "new", b"settled")
    store.settle(content)
    store.cache.close(content)
    store = after_power_cut(store, monkeypatch)
    assert store.lost == []
    content = store.open("new")
    assert content.unchecked == {0}
    assert store.cache.judge(content, block_sums(content.fd, [0], content.size)) == []
    assert content.unchecked == set()
    store.cache.close(content)
    assert store.bytes_of("new") == b"settled"
    store.close()


def test_what_was_added_after_the_last_sync_is_cut_off(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that was synced, and then grew: back to what it was, instead of to whatever part of the addition came through."""
    store = Store(place)
    content = new_file(store, "log", b"synced")
    store.cache.record_synced(content, content.size, [], settled=False)
    store.write(content, 6, b" and not")
    store.cache.close(content)
    store = after_power_cut(store, monkeypatch)
    assert store.bytes_of("log") == b"synced"
    assert store.node("log").size == 6
    store.close()


def test_holes_that_were_written_over_after_the_last_sync_are_holes_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether those bytes are there, so they are Drive's once more."""
    store = Store(place)
    content = store.open("far")
    store.write(content, 0, b"ours")
    store.cache.record_synced(content, content.size, list(content.present), settled=False)
    store.write(content, 50, b"late")
    store.cache.close(content)
    store = after_power_cut(store, monkeypatch)
    assert store.bytes_of("far") == b"ours" + DATA[4:]
    store.close()


def test_a_new_file_that_was_never_on_the_disk_is_gone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it may be there: it is kept under lost+found with a note, the name is gone, and the loss is reported."""
    store = Store(place)
    store.cache.close(new_file(store, "new", b"torn?"))
    store = after_power_cut(store, monkeypatch)
    assert [lost.path for lost in store.lost] == ["MyDrive/new"]
    assert store.tree.child(MY_DRIVE_INODE, "new") is None
    assert not list(store.tree.pending())
    kept = sorted((store.directory / "lost+found").iterdir())
    assert kept[0].read_bytes() == b"torn?"
    assert json.loads(kept[1].read_text())["path"] == "MyDrive/new"
    store.close()


def test_a_change_that_was_never_on_the_disk_leaves_what_drive_has(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is what it was before it was opened."""
    store = Store(place)
    content = store.open("far")
    store.write(content, 10, b"torn?")
    store.cache.close(content)
    store = after_power_cut(store, monkeypatch)
    assert [lost.path for lost in store.lost] == ["MyDrive/far"]
    assert store.bytes_of("far") == DATA
    assert not store.node("far").pending
    store.close()


def test_a_file_written_anew_falls_back_to_its_former_version(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither version is on Drive; the older one was kept because the newer one was not on the disk yet."""
    store = Store(place)
    content = new_file(store, "model", b"old and settled")
    store.settle(content)
    newer = store.cache.begin_anew(content)
    store.cache.close(content)
    store.write(newer, 0, b"new")
    again = store.cache.begin_anew(newer)
    store.cache.close(newer)
    store.write(again, 0, b"newest")
    store.cache.close(again)
    assert store.bytes_of("model") == b"newest"
    store = after_power_cut(store, monkeypatch)
    assert store.bytes_of("model") == b"old and settled"
    assert store.node("model").content_dirty
    store.cache.check_invariants()
    store.close()


def test_once_the_newer_version_is_on_the_disk_the_older_one_goes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept for ever."""
    store = Store(place)
    content = new_file(store, "model", b"old and settled")
    store.settle(content)
    newer = store.cache.begin_anew(content)
    store.cache.close(content)
    store.write(newer, 0, b"new")
    store.settle(newer)
    store.cache.close(newer)
    assert len(list(place.glob("dirty/*/*"))) == 1
    store = after_power_cut(store, monkeypatch)
    assert store.bytes_of("model") == b"new"
    store.close()


def test_what_was_synced_before_it_was_sent_says_nothing_of_later_changes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent and clean, then changed and not synced: back to what Drive has, not to a mixture with the length of long ago."""
    store = Store(place)
    content = store.open("far")
    store.cache.fill(content, 0, DATA)
    store.write(content, 0, b"first")
    store.settle(content)
    item = RemoteItem("id-far", "far", "", ("root0",), 9, 1, 1, 100, "m", "r9")
    Merger(store.tree).apply(item)
    store.cache.mark_uploaded(content, item, "m", current=True)
    store.durable()
    store.write(content, 5, b"later")
    store.cache.close(content)
    store = after_power_cut(store, monkeypatch)
    assert [lost.path for lost in store.lost] == ["MyDrive/far"]
    node = store.node("far")
    assert (node.content, node.content_dirty, node.remote_revision) == (None, 0, "r9")
    store.close()


def test_a_strangers_content_that_is_owed_outlives_a_power_cut(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is here yet, and it is still to be fetched and kept as a file of its own."""
    store = Store(place)
    node = store.tree.create(MY_DRIVE_INODE, "far (conflict)", Kind.FILE, 0o600)
    store.cache.create_from(node.inode, "id-far", Revision("r1", "md5-1", 100, 1))
    store = after_power_cut(store, monkeypatch)
    assert store.lost == []
    assert store.bytes_of("far (conflict)") == DATA
    store.close()


def test_files_go_only_when_the_rows_that_say_so_are_on_the_disk(place: Path) -> None:
    """Otherwise a power cut could bring back a row whose file is gone."""
    store = Store(place)
    content = new_file(store, "new", b"unsent")
    store.settle(content)
    store.cache.close(content)
    store.tree.trash(store.node("new"))
    store.cache.drop_deleted(store.tree.get(content.inode))
    assert len(list(place.glob("dirty/*/*"))) == 1
    store.durable()
    assert not list(place.glob("dirty/*/*"))
    store.close()


def test_a_block_of_drives_that_the_disk_changed_is_fetched_again(place: Path) -> None:
    """Bytes that were fetched by an earlier process are held against their checksums; a flipped bit makes a hole."""
    store = Store(place)
    content = store.open("far")
    store.cache.fill(content, 0, DATA)
    store.cache.record_sums(content, block_sums(content.fd, content.unsummed(), content.size))
    store.cache.close(content)
    store.close()
    (path,) = place.glob("clean/*/*")
    path.write_bytes(b"\xff" + DATA[1:])
    store = Store(place)
    content = store.open("far")
    assert content.to_check(0, 1) == [0]
    assert store.cache.judge(content, block_sums(content.fd, [0], content.size)) == []
    assert content.missing(0, 100) != []
    assert store.cache.clean_bytes == 0
    store.cache.close(content)
    assert store.bytes_of("far") == DATA
    store.close()


def test_a_damaged_block_of_the_users_is_never_believed(place: Path) -> None:
    """It stays unchecked for ever, and all bytes of the file get a second name under lost+found."""
    store = Store(place)
    content = new_file(store, "new", b"a" * BLOCK + b"b")
    store.settle(content)
    store.cache.close(content)
    store.close()
    (path,) = place.glob("dirty/*/*")
    with open(path, "r+b") as file:
        file.seek(BLOCK)
        file.write(b"c")
    store = Store(place)
    content = store.open("new")
    for _ in range(2):
        assert store.cache.judge(content, block_sums(content.fd, content.to_check(0, content.size), content.size)) == [1]
        assert content.to_check(0, content.size) == [1]
        store.cache.keep_copy(content, "flipped")
    kept = [path for path in (place / "lost+found").iterdir() if path.suffix != ".json"]
    assert [path.read_bytes() for path in kept] == [b"a" * BLOCK + b"c"]
    store.cache.close(content)
    store.close()


def test_what_was_fetched_without_a_checksum_is_fetched_again_after_a_restart(place: Path) -> None:
    """A part of a block cannot be held against anything."""
    store = Store(place)
    content = store.open("far")
    store.cache.fill(content, 10, DATA[10:20])
    store.cache.close(content)
    store.close()
    store = Store(place)
    content = store.open("far")
    assert [tuple(hole) for hole in content.missing(0, 100)] == [(0, 100)]
    store.cache.close(content)
    store.close()


_FIRST_FORMAT = """
DROP TABLE content; DROP TABLE block;
CREATE TABLE content (id INTEGER PRIMARY KEY AUTOINCREMENT, inode INTEGER NOT NULL, remote_id TEXT, revision TEXT, md5 TEXT,
    remote_size INTEGER NOT NULL DEFAULT 0, base_size INTEGER NOT NULL, dirty INTEGER NOT NULL, used_ms INTEGER NOT NULL);
CREATE INDEX content_inode ON content (inode);
INSERT INTO content (inode, base_size, dirty, used_ms) VALUES (99, 0, 1, 5);
PRAGMA user_version = 1;
"""


def test_a_cache_of_the_first_format_is_brought_up_to_date(place: Path) -> None:
    """Its tables become those of a new cache, and what is unsent in it stays unsent, at the mercy of the power until settled."""
    with Database(place) as db:
        fresh = _columns(db)
    connection = sqlite3.connect(place / "state.db")
    connection.executescript(_FIRST_FORMAT)
    connection.close()
    with Database(place) as db:
        assert _columns(db) == fresh
        (row,) = db.execute("SELECT inode, dirty, settled, synced FROM content")
        assert tuple(row) == (99, 1, 0, None)


def _columns(db: Database) -> set[tuple[str, str]]:
    tables = [row["name"] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns = {(table, row["name"]) for table in tables for row in db.execute(f"PRAGMA table_info({table})")}
    indexes = {("index", row["name"]) for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    return columns | indexes


def test_a_database_that_cannot_be_read_is_kept_and_begun_anew(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is overwritten: the former database lies aside, whole."""
    with Database(place):
        pass
    path = place / "state.db"
    damaged = path.read_bytes()[:100] + os.urandom(path.stat().st_size - 100)
    path.write_bytes(damaged)
    with Database(place) as db:
        assert db.damaged is not None
        assert (db.damaged / "state.db").read_bytes() == damaged
        assert db.fresh
    assert "it is kept in" in caplog.text


def test_a_newer_format_is_refused_and_left_alone(place: Path) -> None:
    """Another program's truth is not ours to judge."""
    with Database(place) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(CacheUnusable, match="newer drivefs"):
        Database(place)


def test_unsent_files_of_a_lost_database_come_back(place: Path) -> None:
    """As new files in a folder of their own, by what was noted beside their bytes; a kill in the middle changes nothing."""
    store = Store(place)
    folder = store.tree.create(MY_DRIVE_INODE, "deep", Kind.FOLDER, 0o700)
    for number, (parent, name) in enumerate([(MY_DRIVE_INODE, "a"), (folder.inode, "b"), (folder.inode, "c")]):
        content = store.cache.create(store.tree.create(parent, name, Kind.FILE, 0o600).inode)
        store.write(content, 0, name.encode() * 3)
        if number < 2:
            store.settle(content)
        store.cache.close(content)
    store.close()
    (place / "state.db").write_bytes(b"not a database at all, whatever it was before")
    store = Store(place)
    assert not list(place.glob("dirty/*/*"))
    orphan = next(place.glob("orphans/*/*/1"))
    os.link(orphan, place / "as-if-killed")
    orphan.with_name("77").write_bytes(b"")
    adopted = store.cache.adopt_orphans()
    assert [path.split("/")[2:] for path in adopted] == [["deep", "b"]]
    (place / "as-if-killed").rename(_made(place / "orphans" / "1" / "01") / "1")
    adopted += store.cache.adopt_orphans()
    assert [path.split("/")[2:] for path in adopted] == [["deep", "b"], ["a"]]
    assert [node.size for node in store.tree.pending() if node.kind is Kind.FILE] == [3, 3]
    kept = [path.read_bytes() for path in (place / "lost+found").iterdir()]
    assert b"ccc" in kept  # it was closed a moment ago, and nothing was noted beside it yet
    assert not (place / "orphans").exists()
    store.cache.check_invariants()
    store.close()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_new_content_never_takes_the_file_of_lost_content(place: Path) -> None:
    """A power cut took the row, so its number is given out again: the file of that number is put out of the way."""
    store = Store(place)
    stray = _made(place / "dirty" / "01") / "1"
    stray.write_bytes(b"whose?")
    content = new_file(store, "new", b"mine")
    assert content.id == 1
    assert (place / "dirty" / "01" / "1").read_bytes() == b"mine"
    assert [path.read_bytes() for path in (place / "lost+found").iterdir()] == [b"whose?"]
    store.cache.close(content)
    store.close()


def test_numbers_whose_rows_a_power_cut_took_are_not_given_out_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a file of that number might lie in both folders, and tidying would take the wrong one for the row's."""
    store = Store(place)
    (_made(place / "clean" / "01") / "1").write_bytes(b"")
    (_made(place / "dirty" / "02") / "2").write_bytes(b"whose?")
    store = after_power_cut(store, monkeypatch)
    assert [path.read_bytes() for path in (store.directory / "lost+found").iterdir()] == [b"whose?"]
    content = new_file(store, "new", b"mine")
    assert content.id == 3
    store.cache.close(content)
    list(store.cache.tidy())
    assert [path.read_bytes() for path in store.directory.glob("[cd]*/*/*")] == [b"mine"]
    store.close()


def test_tidying_spares_what_is_in_use_and_keeps_strays(place: Path) -> None:
    """Files without a row go, unless they hold unsent bytes that no row ever named; those are kept aside."""
    store = Store(place)
    content = new_file(store, "new", b"mine")
    (_made(place / "clean" / "63") / "99").write_bytes(b"clean, no row")
    (_made(place / "dirty" / "63") / "99").write_bytes(b"dirty, no row")
    assert len(list(store.cache.tidy())) >= 2
    assert [path.read_bytes() for path in place.glob("*/*/*")] == [b"mine"]
    assert [path.read_bytes() for path in (place / "lost+found").iterdir()] == [b"dirty, no row"]
    store.cache.close(content)
    store.close()
