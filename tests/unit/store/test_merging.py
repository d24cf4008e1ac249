"""What the server states is merged into the tree: each row of the table of cases, without any network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from drivefs.base.model import FOLDER_MIME, Invalidation, Kind, RemoteItem
from drivefs.store.cache import Cache
from drivefs.store.db import Database
from drivefs.store.merging import MODE_PROPERTY, Merger
from drivefs.store.tree import MY_DRIVE_INODE, Tree

ROOT = "root0"


class Store:
    """Tree, cache and merger of one fresh directory, with MyDrive listed."""

    def __init__(self, directory: Path) -> None:
        self.db = Database(directory)
        self.tree = Tree(self.db)
        self.tree.bind_account("me", "me@example.org", ROOT)
        self.cache = Cache(self.db, self.tree, 1 << 30)
        self.merger = Merger(self.tree)
        self.tree.update(MY_DRIVE_INODE, listed=1)

    def apply(self, *items: RemoteItem) -> list[Invalidation]:
        return [stale for item in items for stale in self.merger.apply(item)]

    def names(self, folder: int = MY_DRIVE_INODE) -> dict[str, str | None]:
        return {node.shown_name: node.remote_id for node in self.tree.children(folder)}

    def folder(self, id_: str, name: str) -> int:
        self.apply(replace(item(id_, name), mime_type=FOLDER_MIME, size=None, md5=None, revision=None))
        node = self.tree.by_remote_id(id_)
        assert node is not None
        self.tree.update(node.inode, listed=1)
        return node.inode


def item(id_: str, name: str, version: int = 1, parent: str = ROOT, created_ms: int = 5) -> RemoteItem:
    return RemoteItem(id_, name, "text/plain", (parent,), version, created_ms, 7, 3, "m", "r1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.cache.check_invariants()
    opened.db.__exit__(None, None, None)


def test_a_new_item_is_shown(store: Store) -> None:
    """It appears under its name with Drive's size and time, and the kernel is told of entry and folder."""
    stale = store.apply(item("i", "a"))
    node = store.tree.child(MY_DRIVE_INODE, "a")
    assert node is not None
    assert (node.remote_id, node.size, node.mtime_ns, node.kind, node.pending) == ("i", 3, 7_000_000, Kind.FILE, 0)
    assert stale == [Invalidation(MY_DRIVE_INODE, "a"), Invalidation(MY_DRIVE_INODE)]


def test_items_of_folders_nobody_looked_into_are_not_kept(store: Store) -> None:
    """Their folder's listing will bring them."""
    folder = store.folder("f", "d")
    store.tree.update(folder, listed=0)
    assert store.apply(item("i", "a", parent="f")) == []
    assert store.tree.by_remote_id("i") is None


def test_a_rename_is_followed(store: Store) -> None:
    """Old and new entry are stale, the inode stays."""
    store.apply(item("i", "a"))
    before = store.tree.by_remote_id("i")
    stale = store.apply(item("i", "b", 2))
    after = store.tree.by_remote_id("i")
    assert before is not None
    assert after is not None
    assert before.inode == after.inode
    assert store.names() == {"b": "i"}
    assert {Invalidation(MY_DRIVE_INODE, "a"), Invalidation(MY_DRIVE_INODE, "b")} <= set(stale)


def test_a_rename_of_ours_stands_against_theirs(store: Store) -> None:
    """Field by field: our name stays and is pending, their new mode is taken."""
    store.apply(item("i", "a"))
    node = store.tree.by_remote_id("i")
    assert node is not None
    store.tree.move(node, MY_DRIVE_INODE, "ours")
    store.apply(replace(item("i", "theirs", 2), app_properties={MODE_PROPERTY: "755"}))
    node = store.tree.by_remote_id("i")
    assert node is not None
    assert (node.shown_name, node.local_mode, node.pending) == ("ours", 0o755, 1)


def test_a_move_out_of_sight_and_back(store: Store) -> None:
    """In a folder we do not know the item is not shown; when it returns it has its inode, and nothing is pending."""
    store.apply(item("i", "a"))
    inode = store.tree.by_remote_id("i")
    store.apply(item("i", "a", 2, parent="elsewhere"))
    assert store.names() == {}
    store.apply(item("b", "a", 3))
    store.apply(item("i", "a", 4))
    node = store.tree.by_remote_id("i")
    assert node is not None
    assert inode is not None
    assert node.inode == inode.inode
    assert store.names() == {"a": "b", "a (1)": "i"}
    assert not list(store.tree.pending())


@pytest.mark.parametrize("gone", [True, False])
def test_a_deletion_is_followed(store: Store, gone: bool) -> None:
    """Trashed or deleted for good: the name is free again and nothing is pending."""
    store.apply(item("i", "a"))
    stale = store.merger.apply_gone("i") if gone else store.apply(replace(item("i", "a", 2), trashed=True))
    assert store.names() == {}
    assert Invalidation(MY_DRIVE_INODE, "a") in stale
    assert not list(store.tree.pending())


@pytest.mark.parametrize("gone", [True, False])
def test_a_deletion_of_what_has_unsent_content_is_not_followed(store: Store, gone: bool) -> None:
    """The user's bytes exist nowhere else: the file stays and is pending, under its id or as a new item."""
    store.apply(item("i", "a"))
    node = store.tree.child(MY_DRIVE_INODE, "a")
    assert node is not None
    content = store.cache.open(node.inode)
    store.cache.begin_change(content, 0, 1 << 40)
    store.cache.close(content)
    if gone:
        store.merger.apply_gone("i")
    else:
        store.apply(replace(item("i", "a", 2), trashed=True))
    (node,) = store.tree.pending()
    assert (node.shown_name, node.content_dirty, node.remote_exists, node.remote_id) == (
        "a",
        1,
        *((0, None) if gone else (1, "i")),
    )


def test_a_folder_with_unsent_content_below_is_not_deleted(store: Store) -> None:
    """What lies in it could not be reached any more."""
    folder = store.folder("f", "d")
    store.tree.create(folder, "new", Kind.FILE, 0o600)
    store.merger.apply_gone("f")
    assert set(store.names()) == {"d"}
    assert {node.shown_name for node in store.tree.pending()} == {"d", "new"}


def test_an_old_statement_is_ignored(store: Store) -> None:
    """Versions order statements, whichever way they come."""
    store.apply(item("i", "new", 5))
    assert store.apply(item("i", "old", 4)) == []
    assert store.names() == {"new": "i"}


@pytest.mark.parametrize("version", [5, 6])
def test_a_listing_does_not_bring_back_what_was_deleted(store: Store, version: int) -> None:
    """A listing's index lags; only the feed, or the item itself, can say that it is there again."""
    store.apply(item("i", "a", 5))
    store.merger.apply_gone("i")
    assert store.merger.apply(item("i", "a", version), listed=True) == []
    assert store.names() == {}
    store.apply(item("i", "a", 7))
    assert store.names() == {"a": "i"}


def test_content_changed_on_drive_is_what_the_next_open_sees(store: Store) -> None:
    """Those who have the old content open keep it; row, size and kernel's pages follow."""
    store.apply(item("i", "a"))
    node = store.tree.child(MY_DRIVE_INODE, "a")
    assert node is not None
    old = store.cache.open(node.inode)
    stale = store.apply(replace(item("i", "a", 2), revision="r2", md5="n", size=9))
    new = store.cache.open(node.inode)
    assert (old.revision, old.size, new.revision, new.size) == ("r1", 3, "r2", 9)
    assert Invalidation(node.inode, pages=True) in stale
    store.cache.close(old)
    store.cache.close(new)


def test_a_change_of_metadata_keeps_the_content(store: Store) -> None:
    """Same revision, same bytes: what is cached stays."""
    store.apply(item("i", "a"))
    node = store.tree.child(MY_DRIVE_INODE, "a")
    assert node is not None
    content = store.cache.open(node.inode)
    store.cache.fill(content, 0, b"abc")
    store.cache.close(content)
    store.apply(item("i", "b", 2))
    assert store.cache.is_whole(store.tree.get(node.inode))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_items_of_one_name_are_all_shown(store: Store, order: tuple[int, ...]) -> None:
    """Each has a name of its own that stays, and applying the same again changes nothing."""
    items = [item(f"i{n}", "a", created_ms=n) for n in range(3)]
    store.apply(*(items[n] for n in order))
    names = store.names()
    assert set(names) == {"a", "a (1)", "a (2)"}
    assert store.apply(*items) == []
    assert store.names() == names


def test_a_mode_that_is_no_mode_is_ignored(store: Store) -> None:
    """Properties are data from strangers."""
    store.apply(replace(item("i", "a"), app_properties={MODE_PROPERTY: "rwx"}))
    node = store.tree.child(MY_DRIVE_INODE, "a")
    assert node is not None
    assert node.local_mode is None
