"""What the uploader is to do next for one node: decided from the row alone, so the answer after a crash is the same."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from enum import Enum
from typing import Any

from drivefs.base.model import ItemPatch, Kind, NewItem
from drivefs.store.merging import properties_of
from drivefs.store.names import legal_name, unique_name
from drivefs.store.tree import MY_DRIVE_INODE, Node, Tree

__all__ = ["Outbox", "Step", "Unsent"]


class Step(Enum):
    """The next call for a pending node. Each is safe to repeat."""

    NOTHING = "nothing"
    WAIT_FOR_PARENT = "wait for parent"
    CREATE = "create"
    UPDATE_CONTENT = "update content"
    UPDATE_METADATA = "update metadata"
    TRASH = "trash"

    @property
    def carries_content(self) -> bool:
        return self in (Step.CREATE, Step.UPDATE_CONTENT)


@dataclass(frozen=True, slots=True)
class Unsent:
    """Something of the user's that Drive does not have. path is relative to the mountpoint; size in bytes, age in seconds.

    deletion: Drive still has what the user has deleted.
    """

    path: str
    size: int
    age_s: float
    reason: str
    inode: int
    kind: Kind
    deletion: bool = False


class Outbox:
    """Reads and completes the pending rows of the tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def next_step(self, node: Node) -> Step:
        """Parents come before children; everything else has no order, because items are named by id."""
        if not node.pending:
            return Step.NOTHING
        if node.local_trashed:
            return Step.TRASH
        if self.awaited(node) is not None:
            return Step.WAIT_FOR_PARENT
        if not node.remote_exists:
            return Step.CREATE
        return Step.UPDATE_CONTENT if node.content_dirty else Step.UPDATE_METADATA

    def awaited(self, node: Node) -> int | None:
        """The folder that must be dealt with before ``node``, which is not trashed, can go to its place, if there is one."""
        if node.local_parent is None and node.remote_exists:
            return None  # an item that hangs in a folder we do not know stays there
        parent = self._tree.find(node.local_parent or 0)
        if parent is None or not parent.remote_exists or parent.remote_trashed:
            return node.local_parent or 0
        if node.is_folder and node.remote_exists and self._holds_remotely(node.inode, parent):
            return self._first_to_move(parent)
        return None

    def _holds_remotely(self, folder: int, node: Node | None) -> bool:
        """Whether on Drive ``node`` still lies in ``folder``, or is it: Drive refuses to move a folder into itself."""
        seen: set[int] = set()
        while node is not None and node.inode not in seen:
            if node.inode == folder:
                return True
            seen.add(node.inode)
            node = self._tree.find(node.remote_parent or 0)
        return False

    def _first_to_move(self, folder: Node | None) -> int | None:
        """The lowest of ``folder`` and those above it that is to leave its place on Drive.

        Here nothing lies in itself, so waiting for folders above never goes in a circle.
        """
        seen: set[int] = set()
        while folder is not None and folder.inode not in seen:
            if folder.local_parent != folder.remote_parent and folder.pending:
                return folder.inode
            seen.add(folder.inode)
            folder = self._tree.find(folder.local_parent or 0)
        return None

    def new_item(self, node: Node, remote_id: str, mime_type: str) -> NewItem:
        """The metadata of a create. The id is written down first, so that a repeat after a crash cannot make a second item."""
        if node.remote_id != remote_id:
            self._tree.update(node.inode, remote_id=remote_id)
        properties = {key: value for key, value in properties_of(node.local_mode, node.target).items() if value is not None}
        return NewItem(remote_id, node.local_name, self._parent_id(node), mime_type, node.local_mtime_ms, properties)

    def patch(self, node: Node) -> ItemPatch:
        """What differs. The time is always stated, because Drive sets its own with every other change.

        What is sent is written down first, and stands until ``answered``: the call may be applied and its answer lost.
        """
        fields: dict[str, Any] = {"modified_ms": node.local_mtime_ms}
        sent = {"mtime_ms", *filter(None, node.sent.split(","))}
        if node.local_name != node.remote_name:
            fields["name"] = node.local_name
            sent.add("name")
        if node.local_mode != node.remote_mode:
            fields["app_properties"] = properties_of(node.local_mode, None)
            sent.add("mode")
        if node.remote_trashed:
            fields["trashed"] = False
        if node.local_parent != node.remote_parent:
            old = self._tree.find(node.remote_parent) if node.remote_parent is not None else None
            fields |= {"add_parent": self._parent_id(node), "remove_parent": None if old is None else old.remote_id}
            sent.add("parent")
        self._tree.update(node.inode, sent=",".join(sorted(sent)))
        return ItemPatch(**fields)

    def size_of(self, node: Node) -> int:
        """Bytes that are to be sent of it."""
        return node.size if node.content_dirty and not node.local_trashed else 0

    def unsent(self, node: Node, reason: str) -> Unsent:
        age = 0.0 if node.local_trashed else max(0.0, time.time() - node.mtime_ns / 1e9)
        path, deletion = self._tree.path(node), bool(node.local_trashed)
        return Unsent(path, self.size_of(node), age, reason, node.inode, node.kind, deletion)

    def answered(self, remote_id: str) -> None:
        """Drive has stated the item after everything we sent of it; to be called with the statement merged.

        A resumable session carries the fields it was opened with until its last byte arrives, whatever Drive states before.
        """
        node = self._tree.by_remote_id(remote_id)
        if node is not None and node.sent and node.session_uri is None:
            self._tree.update(node.inode, sent="")

    def must_wait(self, deletion: Node, *, ignoring: set[int]) -> bool:
        """A deletion waits for older changes, so that ``cp a b; rm a`` never leaves Drive with neither.

        ignoring: inodes that are stuck or still being written; a deletion must not wait for those for ever. A folder waits
        even for them where they still lie in it on Drive: they would be deleted with it.
        """
        inside = "SELECT 1 FROM node WHERE remote_parent = ? AND pending AND local_trashed = 0 AND remote_exists LIMIT 1"
        if deletion.is_folder and self._tree.db.execute(inside, (deletion.inode,)).fetchone():
            return True
        sql = "SELECT inode FROM node WHERE pending AND local_trashed = 0 AND sequence < ? ORDER BY sequence LIMIT ?"
        older = self._tree.db.execute(sql, (deletion.sequence, len(ignoring) + 1))
        return any(row["inode"] not in ignoring for row in older)

    def split_conflict(self, node: Node) -> tuple[Node, str]:
        """Drive's version keeps id and name in a row of its own; the user's unsent version becomes a new file beside it.

        Returns the row of Drive's version and the name of the conflict copy.
        """
        tree = self._tree
        parent = node.local_parent or 0
        copy_name = self._copy_name(node, parent)
        taken_over = (
            "kind, remote_id, mime_type, created_ms, can_edit, shortcut_target, remote_exists, remote_parent, "
            "remote_name, remote_mtime_ms, remote_mode, remote_trashed, remote_size, remote_md5, remote_revision, remote_version"
        )
        row = dict(tree.db.execute(f"SELECT {taken_over} FROM node WHERE inode = ?", (node.inode,)).fetchone())
        views = ("parent", "name", "mtime_ms", "mode", "trashed")
        for view in ("local", "synced"):
            row |= {f"{view}_{column}": row[f"remote_{column}"] for column in views}
        row |= {"mtime_ns": row["remote_mtime_ms"] * 10**6, "size": row["remote_size"] or 0}
        with tree.db.transaction():
            tree.update(
                node.inode,
                local_name=copy_name,
                shown_name=copy_name,
                remote_id=None,
                remote_exists=0,
                remote_revision=None,
                remote_version=0,
                synced_name=None,
                synced_mtime_ms=None,
                session_uri=None,
                session_generation=None,
                sent_md5=None,
                sent="",
            )
            row["shown_name"] = legal_name(node.remote_name or "", node.kind, node.mime_type)
            if node.remote_parent is not None:
                row["shown_name"] = tree.free_name(node.remote_parent, row["shown_name"])
                tree.touch_folder(node.remote_parent)
            theirs = tree.db.insert("node", row)
            tree.touch_folder(parent)
        return tree.get(theirs), copy_name

    def new_copy(self, node: Node, modified_ms: int) -> Node:
        """A new file beside ``node``, for another content that somebody has made of it. Its content is the caller's to give."""
        parent = self._tree.find(node.local_parent or 0)
        folder = MY_DRIVE_INODE if parent is None or parent.local_trashed else parent.inode
        copy = self._tree.create(folder, self._copy_name(node, folder), node.kind, node.mode)
        self._tree.update(copy.inode, local_mtime_ms=modified_ms, mtime_ns=modified_ms * 10**6)
        return self._tree.get(copy.inode)

    def _copy_name(self, node: Node, parent: int) -> str:
        stem, extension = os.path.splitext(node.shown_name)
        day = time.strftime("%Y-%m-%d %H.%M.%S", time.localtime())
        wanted = legal_name(f"{stem} (conflict {os.uname().nodename} {day}){extension}", node.kind, node.mime_type)
        return unique_name(wanted, lambda name: self._tree.child(parent, name) is not None)

    def _parent_id(self, node: Node) -> str:
        parent = self._tree.get(node.local_parent or 0)
        if parent.remote_id is None:
            raise AssertionError(f"the folder of inode {node.inode} is not on Drive yet")
        return parent.remote_id
