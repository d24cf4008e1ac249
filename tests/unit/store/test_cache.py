"""Content files: holes, changes, kills between two steps, eviction, recovery. No network and no loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefs.base.errors import CacheUnusable, PathError
from drivefs.base.model import Kind, RemoteItem
from drivefs.base.ranges import Range
from drivefs.store.cache import Cache
from drivefs.store.content import Content, block_sums
from drivefs.store.db import Database
from drivefs.store.merging import Merger
from drivefs.store.tree import MY_DRIVE_INODE, Node, Tree
from tests.support.world import clone_cache

DATA = bytes(range(1, 101))


class Store:
    """An opened cache directory; with a file ``far`` of 100 bytes on Drive, of which nothing is here."""

    def __init__(self, directory: Path, limit: int = 1 << 30) -> None:
        self.directory = directory
        self.db = Database(directory)
        self.tree = Tree(self.db)
        if self.tree.account is None:
            self.tree.bind_account("me", "me@example.org", "root0")
            self.tree.update(MY_DRIVE_INODE, listed=1)
            self.remote("far")
        self.cache = Cache(self.db, self.tree, limit)
        self.lost = self.cache.recover()

    def remote(self, name: str, version: int = 1) -> Node:
        item = RemoteItem(f"id-{name}", name, "", ("root0",), version, 1, 1, len(DATA), f"md5-{version}", f"r{version}")
        Merger(self.tree).apply(item)
        return self.node(name)

    def node(self, name: str) -> Node:
        node = self.tree.child(MY_DRIVE_INODE, name)
        assert node is not None
        return node

    def open(self, name: str) -> Content:
        return self.cache.open(self.node(name).inode)

    def write(self, content: Content, offset: int, data: bytes) -> None:
        self.cache.begin_change(content, offset, offset + len(data))
        self.cache.write_bytes(content, data, offset)
        self.cache.wrote(content, offset, offset + len(data))

    def settle(self, content: Content) -> None:
        """What the keeper does some time after a close (drivefs/jobs/keeping.py)."""
        self.cache.record_sums(content, block_sums(content.fd, content.unsummed(), content.size))
        self.cache.sync_bytes(content)
        self.cache.record_synced(content, content.size, list(content.present), settled=True)
        self.durable()

    def durable(self) -> None:
        doomed, fresh = list(self.cache.doomed), set(self.cache.fresh)
        self.db.commit_durably()
        self.cache.made_durable(doomed, fresh)

    def bytes_of(self, name: str) -> bytes:
        """What a reader sees, the holes filled from Drive."""
        content = self.open(name)
        for gap in content.missing(0, content.size):
            assert content.remote_size == len(DATA)
            self.cache.fill(content, gap.start, DATA[gap.start : gap.end])
        data = os.pread(content.fd, content.size + 1, 0)
        self.cache.close(content)
        return data

    def close(self) -> None:
        self.cache.check_invariants()
        self.db.__exit__(None, None, None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "cache")
    yield opened
    opened.close()


def test_nothing_is_here_until_it_is_filled(store: Store) -> None:
    """A file of which nothing is cached is one hole; what was filled is known after closing and opening again."""
    content = store.open("far")
    assert content.missing(0, 1000) == [Range(0, 100)]
    store.cache.fill(content, 10, DATA[10:20])
    assert content.missing(0, 100) == [Range(0, 10), Range(20, 100)]
    store.cache.close(content)
    content = store.open("far")
    assert content.missing(0, 100) == [Range(0, 10), Range(20, 100)]
    store.cache.close(content)


def test_what_was_downloaded_never_overwrites_what_was_written(store: Store) -> None:
    """An answer that comes after a write goes around it."""
    content = store.open("far")
    store.write(content, 40, b"MINE")
    store.cache.fill(content, 0, DATA)
    store.cache.close(content)
    assert store.bytes_of("far") == DATA[:40] + b"MINE" + DATA[44:]


def test_an_extension_reads_as_zeros_and_needs_no_download(store: Store) -> None:
    """Bytes beyond what Drive has are local at once."""
    content = store.open("far")
    store.cache.truncate(content, 50)
    store.cache.truncate(content, 70)
    store.cache.save_times(content)
    store.cache.close(content)
    assert store.bytes_of("far") == DATA[:50] + bytes(20)
    assert store.node("far").size == 70


_change = st.tuples(st.sampled_from(["write", "truncate", "fill", "reopen"]), st.integers(0, 130), st.integers(0, 40))


@settings(max_examples=60, deadline=None)
@given(st.lists(_change, max_size=12))
def test_content_is_that_of_an_ordinary_file(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int, int]]
) -> None:
    """Whatever is written, cut, downloaded and reopened in whatever order, the bytes are those of a plain file."""
    directory = tmp_path_factory.mktemp("cache")
    store, expected = Store(directory), bytearray(DATA)
    for what, offset, length in changes:
        if what == "reopen":
            store.close()
            store = Store(directory)
            continue
        content = store.open("far")
        if what == "write" and length:
            store.write(content, offset, b"w" * length)
            expected.extend(bytes(max(0, offset - len(expected))))
            expected[offset : offset + length] = b"w" * length
        elif what == "truncate":
            store.cache.truncate(content, offset)
            expected = expected[:offset].ljust(offset, b"\0")
        elif what == "fill":
            store.cache.fill(content, offset, DATA[offset : offset + length])
        store.cache.close(content)
    assert store.bytes_of("far") == bytes(expected)
    store.close()


def _kill_at(store: Store, act: Callable[[], None], directory: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> list[Store]:
    """The stores that kills just before and just after each call of ``os.NAME`` during ``act`` would leave."""
    copies: list[Path] = []
    original = getattr(os, name)

    def copy() -> None:
        copies.append(directory / f"copy{len(copies)}")
        clone_cache(store.directory, copies[-1])

    def watched(*arguments: object) -> object:
        copy()
        result = original(*arguments)
        copy()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(os, name, watched)
        act()
    assert copies, f"os.{name} was not called"
    return [Store(path) for path in copies]


def test_a_kill_around_becoming_dirty_loses_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row says dirty before the file is moved; whichever of the two a kill leaves, the file is found and is as on Drive."""
    content = store.open("far")
    store.cache.fill(content, 0, DATA[:30])
    for left in _kill_at(store, lambda: store.cache.begin_change(content, 0, 1 << 40), tmp_path, "rename", monkeypatch):
        assert left.lost == []
        assert left.bytes_of("far") == DATA
        left.close()
    store.cache.close(content)


def test_a_kill_around_becoming_clean_loses_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on the way back: after the upload the file is there, in whichever folder, with the bytes that were sent."""
    content = store.open("far")
    store.cache.truncate(content, 0)
    store.write(content, 0, b"sent")
    store.settle(content)
    item = RemoteItem("id-far", "far", "", ("root0",), 9, 1, 1, 4, "m", "r9")
    store.tree.update(content.inode, remote_revision="r9", remote_md5="m", remote_size=4)

    def record() -> None:
        store.cache.mark_uploaded(content, item, "m", current=True)

    for left in _kill_at(store, record, tmp_path, "rename", monkeypatch):
        assert left.bytes_of("far") == b"sent"
        left.close()
    store.cache.close(content)


@pytest.mark.parametrize("size", [0, 40])
def test_a_kill_around_a_cut_leaves_the_old_bytes_or_the_new(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Never zeros where bytes of Drive were not fetched yet."""
    content = store.open("far")
    store.cache.fill(content, 20, DATA[20:60])
    for left in _kill_at(store, lambda: store.cache.truncate(content, size), tmp_path, "ftruncate", monkeypatch):
        assert left.bytes_of("far") in (DATA, DATA[:size])
        left.close()
    store.cache.close(content)


def test_writes_after_the_last_close_survive_a_kill(store: Store, tmp_path: Path) -> None:
    """An acknowledged write is in the file although the row's length was not brought up to date yet."""
    node = store.tree.create(MY_DRIVE_INODE, "new", Kind.FILE, 0o600)
    content = store.cache.create(node.inode)
    store.write(content, 0, b"acknowledged")
    clone_cache(store.directory, tmp_path / "copy")
    left = Store(tmp_path / "copy")
    assert left.node("new").size == 12
    assert left.bytes_of("new") == b"acknowledged"
    left.close()
    store.cache.close(content)


def test_eviction_takes_the_longest_unused_first_and_only_clean_closed_files(tmp_path: Path) -> None:
    """Dirty files and open files stay, whatever the limit."""
    store = Store(tmp_path / "cache")
    for age, name in enumerate(["old", "new", "dirty", "open"]):
        content = store.cache.open(store.remote(name).inode)
        store.cache.fill(content, 0, DATA)
        if name == "dirty":
            store.write(content, 0, b"x")
        if name != "open":
            store.cache.close(content)
        store.db.execute("UPDATE content SET used_ms = ? WHERE id = ?", (age, content.id))
    assert store.cache.clean_bytes == 300
    store.cache.evict(200)
    assert [store.cache.is_whole(store.node(name)) for name in ("old", "new", "dirty", "open")] == [False, True, True, True]
    store.cache.evict(0)
    assert [store.cache.is_whole(store.node(name)) for name in ("old", "new", "dirty", "open")] == [False, False, True, True]
    assert store.cache.clean_bytes == 100
    opened = store.cache.find_open(store.node("open"))
    assert opened is not None
    store.cache.close(opened)
    store.close()
    again = Store(tmp_path / "cache")
    assert again.cache.clean_bytes == 100
    assert again.bytes_of("dirty") == b"x" + DATA[1:]
    again.close()


def test_closing_beyond_the_limit_evicts(tmp_path: Path) -> None:
    """The limit is kept by whoever closes last."""
    store = Store(tmp_path / "cache", limit=150)
    for name in ("one", "two"):
        content = store.cache.open(store.remote(name).inode)
        store.cache.fill(content, 0, DATA)
        store.cache.close(content)
    assert store.cache.clean_bytes <= 150
    store.close()


def test_a_clean_file_of_the_wrong_length_is_fetched_anew(tmp_path: Path) -> None:
    """Somebody cut or removed a cached file behind our back: its bytes are holes again."""
    store = Store(tmp_path / "cache")
    assert store.bytes_of("far") == DATA
    (path,) = (tmp_path / "cache" / "clean").glob("*/*")
    os.truncate(path, 10)
    assert store.bytes_of("far") == DATA
    path.unlink()
    assert store.bytes_of("far") == DATA
    assert store.cache.clean_bytes == 100
    store.close()


def test_missing_unsent_content_is_reported(tmp_path: Path) -> None:
    """Somebody removed a dirty file: it is listed at start, and opening it says so instead of showing an empty file."""
    store = Store(tmp_path / "cache")
    content = store.open("far")
    store.write(content, 0, b"x")
    store.cache.close(content)
    store.close()
    (path,) = (tmp_path / "cache" / "dirty").glob("*/*")
    path.unlink()
    store = Store(tmp_path / "cache")
    assert [lost.path for lost in store.lost] == ["MyDrive/far"]
    with pytest.raises(CacheUnusable, match="somebody removed it"):
        store.open("far")
    store.close()


def test_content_of_a_deleted_file_goes_with_its_last_close(store: Store) -> None:
    """An unlinked file stays readable and writable while it is open, and leaves nothing behind."""
    content = store.open("far")
    store.write(content, 0, b"x")
    store.tree.trash(store.node("far"))
    store.cache.drop_deleted(store.tree.get(content.inode))
    store.write(content, 1, b"y")
    assert os.pread(content.fd, 2, 0) == b"xy"
    store.cache.close(content)
    store.durable()
    assert list(store.directory.glob("dirty/*/*")) == []


def test_of_two_versions_only_one_can_be_changed(store: Store) -> None:
    """Who has the older version open and writes after the newer was written to is told so (ESTALE): nothing is mixed."""
    old = store.open("far")
    store.remote("far", 2)
    new = store.open("far")
    assert new.id != old.id
    store.write(new, 0, b"new")
    with pytest.raises(PathError, match="ESTALE"):
        store.cache.begin_change(old, 0, 1)
    store.cache.close(old)
    store.cache.close(new)
    assert store.bytes_of("far")[:3] == b"new"


def test_a_failed_note_of_a_write_is_not_taken_for_done(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the row cannot be written, the same write again must write it: else a kill would bring the old bytes back."""
    content = store.open("far")
    store.cache.begin_change(content, 0, 1 << 40)

    def fail(*_arguments: object) -> None:
        raise OSError("disk")

    with monkeypatch.context() as patch:
        patch.setattr(store.db, "execute", fail)
        with pytest.raises(OSError, match="disk"):
            store.cache.wrote(content, 10, 20)
    store.cache.write_bytes(content, b"x" * 10, 10)
    store.cache.wrote(content, 10, 20)
    rows = [tuple(row) for row in store.db.execute("SELECT start, end FROM extent WHERE content = ?", (content.id,))]
    assert rows == [(10, 20)]
    store.cache.close(content)
