"""What the server states is merged into the tree, and what the kernel must forget because of it is returned.

Three sources state the same kind of thing, a RemoteItem: listings, the changes feed, answers to our own calls. They may arrive
in any order and late; the item's version decides, so an old statement never undoes a newer one. Only the changes feed and a
get by id can say that an item is gone; that a listing lacks it, or that the server cannot be reached, says nothing.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from cachetools import LRUCache

from drivefs.base.model import Invalidation, Kind, RemoteItem
from drivefs.store.names import legal_name
from drivefs.store.tree import MY_DRIVE_INODE, Node, Tree
from drivefs.store.views import View, merge

__all__ = ["LINK_PROPERTY", "MODE_PROPERTY", "Merger", "properties_of"]

log = logging.getLogger(__name__)

# Private properties of an item (appProperties); Drive allows 124 bytes for key and value together.
MODE_PROPERTY: Final = "drivefsMode"
LINK_PROPERTY: Final = "drivefsLink"
_PROPERTY_ROOM: Final = 124


def properties_of(mode: int | None, target: str | None) -> dict[str, str | None]:
    """The appProperties that carry permission bits and link target; None removes. A long target is in the content only."""
    fits = target is not None and len(target.encode()) + len(LINK_PROPERTY) <= _PROPERTY_ROOM
    properties: dict[str, str | None] = {MODE_PROPERTY: None if mode is None else f"{mode:o}"}
    if fits:
        properties[LINK_PROPERTY] = target
    return properties


def _mode_of(item: RemoteItem) -> int | None:
    text = item.app_properties.get(MODE_PROPERTY, "")
    return int(text, 8) & 0o777 if text and all(c in "01234567" for c in text) else None


def _target_of(item: RemoteItem, known: str | None) -> str | None:
    """The link's target, as far as the metadata tells it: a long one is in the content only, and may be known already."""
    if known is not None and hashlib.md5(known.encode(), usedforsecurity=False).hexdigest() == item.md5:
        return known
    return item.app_properties.get(LINK_PROPERTY)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a node is shown: to tell what the kernel must forget."""

    parent: int | None
    name: str
    live: bool


def _place(node: Node) -> _Place:
    return _Place(node.local_parent, node.shown_name, not node.local_trashed and node.local_parent is not None)


class Merger:
    """Writes the server's statements into the tree. Every method is one transaction, or part of the caller's."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        # Folders being listed for the first time: a change below them must be kept although they are not listed yet.
        self.listing: set[int] = set()
        # Versions of items we were told of and did not keep: a page of a listing may be older than what the feed said.
        self._overlooked: LRUCache[str, float] = LRUCache(maxsize=10_000)
        # Nodes that got a number to their name because a sibling still showed it, which may have lost it by now.
        self._numbered: set[int] = set()

    def apply(self, item: RemoteItem, *, listed: bool = False) -> list[Invalidation]:
        """Merge one statement of the server; returns what the kernel must forget.

        listed: it comes from a listing, whose index lags and which has no order relative to the feed.
        """
        tree = self._tree
        node = tree.by_remote_id(item.id)
        if node is not None and (node.is_virtual or (node.remote_exists and item.version < node.remote_version)):
            return []
        if listed and item.version < self._overlooked.get(item.id, 0):
            return []
        self._overlooked.pop(item.id, None)
        parent = self._parent_inode(item)
        with tree.db.transaction():
            if node is None:
                return self._insert(item, parent)
            return self._merge(node, item, parent)

    def apply_gone(self, remote_id: str) -> list[Invalidation]:
        """The item was deleted for good or access to it was lost; unsent changes of the user's make it be created anew."""
        tree = self._tree
        node = tree.by_remote_id(remote_id)
        self._overlooked[remote_id] = math.inf
        if node is None or node.is_virtual:
            return []
        if not node.remote_exists:
            if node.local_trashed:  # the create that may have made it never did
                tree.update(node.inode, remote_id=None)
            return []
        with tree.db.transaction():
            if self._holds_unsent(node):
                self._become_new(node)
                return []
            now = time.time_ns() // 10**6
            tree.update(node.inode, local_trashed=1, remote_trashed=1, synced_trashed=1, deleted_ms=now, listed=0)
            after = tree.get(node.inode)
            self._touch_folders(_place(node), _place(after))
            return self._invalidations(node, after, pages=False)

    def settle_names(self) -> list[Invalidation]:
        """To be called when a batch of statements is merged: where two items changed names in it, neither needs a number."""
        tree, stale = self._tree, []
        numbered, self._numbered = self._numbered, set()
        for node in filter(None, map(tree.find, sorted(numbered))):
            wanted = legal_name(node.local_name, node.kind, node.mime_type)
            if node.local_trashed or node.local_parent is None or node.shown_name == wanted or node.is_virtual:
                continue
            if tree.child(node.local_parent, wanted) is None:
                tree.update(node.inode, shown_name=wanted)
                stale += [Invalidation(node.local_parent, node.shown_name), Invalidation(node.local_parent, wanted)]
                stale.append(Invalidation(node.local_parent))
        return stale

    def finish_listing(self, folder: int, seen: Iterable[str]) -> list[str]:
        """All pages of ``folder`` were applied. Returns ids that were known to be there and were not listed."""
        self._tree.update(folder, listed=1)
        listed = set(seen)
        known = self._tree.remote_children(folder)
        return [node.remote_id for node in known if node.remote_id is not None and node.remote_id not in listed]

    # -- private ---------------------------------------------------------------------------------------------------

    def _parent_inode(self, item: RemoteItem) -> int | None:
        if not item.parents:
            return None
        parent = self._tree.by_remote_id(item.parents[0])
        return None if parent is None else parent.inode

    def _remote_columns(self, item: RemoteItem, parent: int | None) -> dict[str, Any]:
        return {
            "mime_type": item.mime_type,
            "remote_exists": 1,
            "remote_parent": parent,
            "remote_name": item.name,
            "remote_mtime_ms": item.modified_ms,
            "remote_mode": _mode_of(item),
            "remote_trashed": int(item.trashed),
            "remote_size": item.size,
            "remote_md5": item.md5,
            "remote_revision": item.revision,
            "remote_version": item.version,
            "can_edit": int(item.can_edit),
            "shortcut_target": item.shortcut_target,
        }

    def _insert(self, item: RemoteItem, parent: int | None) -> list[Invalidation]:
        """An item we never saw: shown where its folder is known and its other children are, or are being, learnt."""
        tree = self._tree
        folder = None if parent is None else tree.find(parent)
        known = folder is not None and not folder.local_trashed and (folder.listed or parent in self.listing)
        if folder is None or parent is None or item.trashed or not known:
            self._overlooked[item.id] = item.version
            return []
        shown = tree.free_name(parent, legal_name(item.name, item.kind, item.mime_type))
        view = View(parent, item.name, item.modified_ms, _mode_of(item))
        target = _target_of(item, None) if item.kind is Kind.SYMLINK else None
        values = {
            "kind": item.kind.value,
            "remote_id": item.id,
            "created_ms": item.created_ms,
            "shown_name": shown,
            "mtime_ns": item.modified_ms * 10**6,
            "size": item.size or 0,
            "target": target,
            **_columns("local", view),
            **_columns("synced", view),
            **self._remote_columns(item, parent),
        }
        tree.db.insert("node", values)
        if not folder.listed:
            # No lookup in it was answered yet, so the kernel knows nothing that would be wrong; and to invalidate an entry that
            # it has learnt meanwhile would cut off whoever works in there (getcwd(2) would give ENOENT).
            return []
        tree.touch_folder(parent)
        return [Invalidation(parent, shown), Invalidation(parent)]

    def _merge(self, node: Node, item: RemoteItem, parent: int | None) -> list[Invalidation]:
        tree = self._tree
        content_changed = item.revision != node.remote_revision
        theirs = View(parent, item.name, item.modified_ms, _mode_of(item), item.trashed)
        local, synced = merge(node.local, node.synced, theirs, node.sent.split(","))
        if local.trashed and not node.local_trashed and self._holds_unsent(node):
            local = View(local.parent, local.name, local.mtime_ms, local.mode, trashed=False)
        columns = self._remote_columns(item, parent) | _columns("local", local) | _columns("synced", synced)
        if local.mtime_ms != node.local_mtime_ms:
            columns["mtime_ns"] = local.mtime_ms * 10**6
        if local.trashed and not node.local_trashed:
            columns["deleted_ms"] = time.time_ns() // 10**6
            columns["listed"] = 0  # nothing is learnt of its children while it is in the trash
        if content_changed and not node.content_dirty:
            # The cached content, if any, stays with those who have it open; the next open sees the new one.
            columns |= {"content": None, "size": item.size or 0}
            if node.kind is Kind.SYMLINK:
                columns["target"] = _target_of(item, node.target)
        columns["shown_name"] = self._shown_name(node, local, item)
        tree.update(node.inode, **columns)
        after = tree.get(node.inode)
        self._touch_folders(_place(node), _place(after))
        stale = self._invalidations(node, after, pages=content_changed and not node.content_dirty)
        if node.is_folder and after.local_parent not in (None, node.local_parent):
            stale += self._break_circle(after)
        return stale

    def _break_circle(self, moved: Node) -> list[Invalidation]:
        """Drive has ``moved`` in a folder that the user's own move, not sent yet, puts into ``moved``: that move is given up.

        Drive would refuse it, and meanwhile both would hang in each other and nowhere else.
        """
        tree = self._tree
        seen: set[int] = set()
        folder = tree.find(moved.local_parent or 0)
        unsent: Node | None = None
        while folder is not None and folder.inode not in seen and folder.inode != moved.inode:
            seen.add(folder.inode)
            if folder.remote_exists and folder.local_parent != folder.remote_parent:
                unsent = folder
            folder = tree.find(folder.local_parent or 0)
        if folder is None or folder.inode != moved.inode or unsent is None or unsent.remote_parent is None:
            return []
        log.warning("%r stays where Drive has it, for its new folder was moved elsewhere: into it", unsent.shown_name)
        shown = tree.free_name(unsent.remote_parent, unsent.shown_name, unsent.inode)
        tree.update(unsent.inode, local_parent=unsent.remote_parent, synced_parent=unsent.remote_parent, shown_name=shown)
        after = tree.get(unsent.inode)
        self._touch_folders(_place(unsent), _place(after))
        return self._invalidations(unsent, after, pages=False)

    def _shown_name(self, node: Node, local: View, item: RemoteItem) -> str:
        """The name stays while its cause does; a changed or returning one must be free among the siblings."""
        moved = local.parent != node.local_parent or (node.local_trashed and not local.trashed)
        if local.name == node.local_name and not moved:
            return node.shown_name
        wanted = node.shown_name if local.name == node.local_name else legal_name(local.name, item.kind, item.mime_type)
        if local.parent is None or local.trashed:
            return wanted
        shown = self._tree.free_name(local.parent, wanted, node.inode)
        if shown != wanted:
            self._numbered.add(node.inode)
        return shown

    def _holds_unsent(self, node: Node) -> bool:
        """Whether following a remote deletion would hide something of the user's that Drive does not have."""
        if node.unlinked:
            return False  # the user deleted it too; what an open handle still writes to it is nobody's
        return bool(node.content_dirty) or (node.is_folder and self._tree.pending_below(node.inode))

    def _become_new(self, node: Node) -> None:
        """Forget the Drive identity: the uploader will create the item again under a fresh id, and so its folder before it."""
        void = {"session_uri": None, "session_generation": None, "remote_version": 0, "remote_parent": None}
        gone = {"remote_id": None, "remote_exists": 0, "synced_name": None, "synced_mtime_ms": None, "remote_revision": None}
        place: dict[str, Any] = {"sent_md5": None, "sent": "", "remote_trashed": 0, "local_trashed": 0}
        if node.is_folder:
            place["listed"] = 1  # what we have of it is all there will be
        if node.local_parent is None:  # it was last in a folder that we do not know
            shown = self._tree.free_name(MY_DRIVE_INODE, node.shown_name)
            place |= {"local_parent": MY_DRIVE_INODE, "shown_name": shown}
        self._tree.update(node.inode, **void, **gone, **place)

    def _touch_folders(self, before: _Place, after: _Place) -> None:
        if before != after:
            for place in (before, after):
                if place.live and place.parent is not None:
                    self._tree.touch_folder(place.parent)

    def _invalidations(self, old: Node, new: Node, *, pages: bool) -> list[Invalidation]:
        stale: list[Invalidation] = []
        if pages or (old.mtime_ns, old.size, old.mode) != (new.mtime_ns, new.size, new.mode):
            stale.append(Invalidation(new.inode, pages=pages))
        before, after = _place(old), _place(new)
        if before != after:
            for place in (before, after):
                if place.parent is not None:
                    stale += [Invalidation(place.parent, place.name), Invalidation(place.parent)]
        return stale


def _columns(prefix: str, view: View) -> dict[str, Any]:
    return {
        f"{prefix}_parent": view.parent,
        f"{prefix}_name": view.name,
        f"{prefix}_mtime_ms": view.mtime_ms,
        f"{prefix}_mode": view.mode,
        f"{prefix}_trashed": int(view.trashed),
    }
