"""Inodes and names: the rows of ``node``, what the user does to them, and where they hang.

All methods are synchronous and atomic. Every change of a row goes through ``update``, which keeps the small write-through cache
of hot rows true; the database is the only truth.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

from cachetools import LRUCache

from drivefs.base.errors import CacheUnusable, PathError
from drivefs.base.model import FOLDER_MIME, SYMLINK_MIME, Kind
from drivefs.store.db import LAST_VIRTUAL_INODE, Database, Row
from drivefs.store.names import chosen_name, legal_name, unique_name
from drivefs.store.views import View

__all__ = ["ALIAS_INODE", "ALIAS_NAME", "MY_DRIVE_INODE", "MY_DRIVE_NAME", "TOP_INODE", "Node", "Tree"]

# The furniture. The alias keeps paths from before 2020 working ("My Drive" with a space); as a symbolic link, because Linux
# allows a directory only one place in the tree, and hidden from listings, as on Colab.
TOP_INODE: Final = 1
MY_DRIVE_INODE: Final = 2
ALIAS_INODE: Final = 3
MY_DRIVE_NAME: Final = "MyDrive"
ALIAS_NAME: Final = "My Drive"

DEFAULT_MODE: Final = {Kind.FOLDER: 0o700, Kind.SYMLINK: 0o777, Kind.SHORTCUT: 0o777, Kind.FILE: 0o600, Kind.DOCUMENT: 0o600}


@dataclass(frozen=True, slots=True)
class Node:
    """One row of the table ``node``; store/db.py says what each column means."""

    inode: int
    kind: Kind
    remote_id: str | None
    mime_type: str
    created_ms: int
    can_edit: int
    local_parent: int | None
    local_name: str
    shown_name: str
    local_mtime_ms: int
    local_mode: int | None
    local_trashed: int
    deleted_ms: int | None
    unlinked: int
    synced_parent: int | None
    synced_name: str | None
    synced_mtime_ms: int | None
    synced_mode: int | None
    synced_trashed: int
    remote_exists: int
    remote_parent: int | None
    remote_name: str | None
    remote_mtime_ms: int | None
    remote_mode: int | None
    remote_trashed: int
    remote_size: int | None
    remote_md5: str | None
    remote_revision: str | None
    remote_version: int
    mtime_ns: int
    size: int
    target: str | None
    shortcut_target: str | None
    listed: int
    content: int | None
    content_dirty: int
    generation: int
    session_uri: str | None
    session_generation: int | None
    sent_md5: str | None
    sent: str
    sequence: int
    pending: int

    @property
    def local(self) -> View:
        return View(self.local_parent, self.local_name, self.local_mtime_ms, self.local_mode, bool(self.local_trashed))

    @property
    def synced(self) -> View | None:
        if self.synced_name is None or self.synced_mtime_ms is None:
            return None
        return View(self.synced_parent, self.synced_name, self.synced_mtime_ms, self.synced_mode, bool(self.synced_trashed))

    @property
    def is_folder(self) -> bool:
        return self.kind is Kind.FOLDER

    @property
    def is_virtual(self) -> bool:
        return self.inode <= LAST_VIRTUAL_INODE

    @property
    def mode(self) -> int:
        """Permission bits as shown; never set-user-id, set-group-id or sticky, whoever asked for them."""
        chosen = DEFAULT_MODE[self.kind] if self.local_mode is None else self.local_mode & 0o777
        return chosen if self.can_edit or self.is_virtual else chosen & 0o555


_COLUMNS: Final = tuple(field.name for field in fields(Node))
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM node "
_LIVE: Final = "NOT local_trashed"


def _to_node(row: Row) -> Node:
    values: list[Any] = list(row)
    values[1] = Kind(values[1])
    return Node(*values)


class Tree:
    """The tree of one account. ``root_id`` and ``account`` are checked against what the cache holds, never mixed."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._hot: LRUCache[int, Node] = LRUCache(maxsize=20_000)
        db.on_rollback.append(self._hot.clear)
        self._sequence = int(db.execute("SELECT coalesce(max(sequence), 0) FROM node").fetchone()[0])

    # -- account ---------------------------------------------------------------------------------------------------

    @property
    def account(self) -> str | None:
        """Permission id of the account that the cache belongs to; None in a fresh cache."""
        return self.db.get_meta("account")

    def bind_account(self, permission_id: str, email: str, root_id: str) -> None:
        """Remember whose cache this is, and hang up MyDrive; raise CacheUnusable where it is another account's."""
        if self.account == permission_id:
            return
        if self.account is not None:
            raise CacheUnusable(
                f"The cache directory {self.db.cache_dir} belongs to another account ({self.db.get_meta('email')}). "
                "Choose another with --cache-dir; it was left as it is."
            )
        with self.db.transaction():
            for key, value in (("account", permission_id), ("email", email), ("root_id", root_id)):
                self.db.set_meta(key, value)
            self._hang_furniture(root_id)

    def _hang_furniture(self, root_id: str) -> None:
        now = time.time_ns()
        common = {"created_ms": now // 10**6, "local_mtime_ms": now // 10**6, "mtime_ns": now}
        folder = {"kind": Kind.FOLDER.value, "mime_type": FOLDER_MIME, **common}
        top: dict[str, Any] = {"inode": TOP_INODE, "local_name": "", "shown_name": "", "listed": 1, "can_edit": 0}
        self.db.insert("node", folder | top | {"local_mode": 0o700})
        names = {"local_parent": TOP_INODE, "local_name": MY_DRIVE_NAME, "shown_name": MY_DRIVE_NAME}
        self.db.insert("node", folder | names | {"inode": MY_DRIVE_INODE, "remote_id": root_id, "remote_exists": 1})
        alias: dict[str, Any] = {"inode": ALIAS_INODE, "kind": Kind.SYMLINK.value, "mime_type": SYMLINK_MIME}
        alias |= {"local_parent": TOP_INODE, "local_name": ALIAS_NAME, "shown_name": ALIAS_NAME, "target": MY_DRIVE_NAME}
        self.db.insert("node", common | alias | {"size": len(MY_DRIVE_NAME)})

    # -- looking ---------------------------------------------------------------------------------------------------

    def get(self, inode: int) -> Node:
        """The row of ``inode``; PathError(ESTALE) where there is none any more."""
        node = self.find(inode)
        if node is None:
            raise PathError(errno.ESTALE)
        return node

    def find(self, inode: int) -> Node | None:
        node = self._hot.get(inode)
        if node is None:
            node = self._one("WHERE inode = ?", inode)
        return node

    def by_remote_id(self, remote_id: str) -> Node | None:
        return self._one("WHERE remote_id = ?", remote_id)

    def child(self, parent: int, shown_name: str) -> Node | None:
        return self._one(f"WHERE local_parent = ? AND shown_name = ? AND {_LIVE}", parent, shown_name)

    def children(self, parent: int) -> list[Node]:
        """The live children of a folder, the hidden alias left out, in the order of their inodes."""
        where = f"WHERE local_parent = ? AND {_LIVE} AND inode != {ALIAS_INODE} ORDER BY inode"
        return [_to_node(row) for row in self.db.execute(_SELECT + where, (parent,))]

    def has_children(self, parent: int) -> bool:
        return self._one(f"WHERE local_parent = ? AND {_LIVE} LIMIT 1", parent) is not None

    def remote_children(self, parent: int) -> list[Node]:
        """What the server, as far as we were told, has in this folder."""
        where = "WHERE remote_parent = ? AND remote_exists AND NOT remote_trashed"
        return [_to_node(row) for row in self.db.execute(_SELECT + where, (parent,))]

    def pending(self) -> Iterator[Node]:
        """Every row whose local view differs from the remote one, oldest change first."""
        for row in self.db.execute(_SELECT + "WHERE pending ORDER BY sequence").fetchall():
            yield _to_node(row)

    def count_pending(self) -> int:
        """How many rows differ; cheap, so that it may be asked after each of many uploads."""
        return int(self.db.execute("SELECT count(*) FROM node WHERE pending").fetchone()[0])

    def pending_below(self, folder: int) -> bool:
        """Whether something in or under ``folder`` has not reached the server."""
        row = self.db.execute(
            """WITH RECURSIVE below (inode) AS (
                   SELECT inode FROM node WHERE local_parent = ? AND NOT local_trashed
                   UNION SELECT n.inode FROM node n JOIN below b ON n.local_parent = b.inode WHERE NOT n.local_trashed)
               SELECT 1 FROM below JOIN node USING (inode) WHERE pending LIMIT 1""",
            (folder,),
        ).fetchone()
        return row is not None

    def path(self, node: Node) -> str:
        """Where the node hangs, from the mountpoint, as in ``MyDrive/a/b``; for people, not for lookups."""
        parts = [node.shown_name]
        seen = {node.inode}
        while node.local_parent not in (None, TOP_INODE):
            parent = self.find(node.local_parent or 0)
            if parent is None or parent.inode in seen:
                break
            node = parent
            seen.add(node.inode)
            parts.append(node.shown_name)
        return "/".join(reversed(parts))

    def is_ancestor(self, ancestor: int, inode: int | None) -> bool:
        """Whether ``ancestor`` is ``inode`` itself or lies on its way up."""
        seen: set[int] = set()
        while inode is not None and inode not in seen:
            if inode == ancestor:
                return True
            seen.add(inode)
            node = self.find(inode)
            inode = None if node is None else node.local_parent
        return False

    def _one(self, where: str, *parameters: object) -> Node | None:
        row = self.db.execute(_SELECT + where, parameters).fetchone()
        if row is None:
            return None
        node = _to_node(row)
        self._hot[node.inode] = node
        return node

    # -- changing --------------------------------------------------------------------------------------------------

    def update(self, inode: int, **columns: object) -> None:
        """Set columns of one row."""
        self._hot.pop(inode, None)
        assignments = ", ".join(f"{column} = ?" for column in columns)
        self.db.execute(f"UPDATE node SET {assignments} WHERE inode = ?", (*columns.values(), inode))

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def sequence_of_change(self, node: Node) -> int:
        """The order number of a change to ``node``: a change that joins an unsent one keeps that one's place in the order.

        Otherwise ``cp a b; rm a; chmod b`` would let the deletion of a overtake the content of b.
        """
        return node.sequence if node.pending and not node.local_trashed else self.next_sequence()

    def free_name(self, parent: int, wanted: str, inode: int | None = None) -> str:
        """``wanted`` or a numbered variant that no other live child of ``parent`` shows."""

        def taken(name: str) -> bool:
            child = self.child(parent, name)
            return child is not None and child.inode != inode

        return unique_name(wanted, taken)

    def touch_folder(self, folder: int) -> None:
        """A child came or went: stat must show it (import caches and build tools rely on that), Drive need not."""
        self.update(folder, mtime_ns=time.time_ns())

    def create(self, parent: int, name: str, kind: Kind, mode: int, target: str | None = None) -> Node:
        """A new item of the user's. PathError(EEXIST) where the name is taken."""
        if self.child(parent, name) is not None:
            raise PathError(errno.EEXIST)
        with self.db.transaction():
            inode = self._insert(parent, name, kind, mode, target)
            self.touch_folder(parent)
        return self.get(inode)

    def create_unnamed(self, parent: int, name: str, mode: int) -> Node:
        """A new file that nothing shows and Drive never hears of until ``move`` gives it its name: open(2)'s O_TMPFILE.

        To everybody it is one that was deleted while it is open, so a kill leaves nothing of it. name: the one it is meant for.
        """
        now = time.time_ns() // 10**6
        return self.get(self._insert(parent, name, Kind.FILE, mode, None, local_trashed=1, unlinked=1, deleted_ms=now))

    def _insert(self, parent: int, name: str, kind: Kind, mode: int, target: str | None, **columns: object) -> int:
        now = time.time_ns()
        mime_type = {Kind.FOLDER: FOLDER_MIME, Kind.SYMLINK: SYMLINK_MIME}.get(kind, "")
        values = {
            "kind": kind.value,
            "mime_type": mime_type,
            "created_ms": now // 10**6,
            "local_parent": parent,
            "local_name": name,
            "shown_name": name,
            "local_mtime_ms": now // 10**6,
            "local_mode": None if mode & 0o777 == DEFAULT_MODE[kind] else mode & 0o777,
            "mtime_ns": now,
            "size": len(target.encode()) if target is not None else 0,
            "target": target,
            "listed": int(kind is Kind.FOLDER),
            "sequence": self.next_sequence(),
        }
        return self.db.insert("node", values | columns)

    def set_mode(self, node: Node, mode: int) -> None:
        bits = mode & 0o777
        stored = None if bits == DEFAULT_MODE[node.kind] else bits
        self.update(node.inode, local_mode=stored, sequence=self.sequence_of_change(node))

    def set_mtime(self, node: Node, mtime_ns: int) -> None:
        self.update(node.inode, mtime_ns=mtime_ns, local_mtime_ms=mtime_ns // 10**6, sequence=self.sequence_of_change(node))

    def trash(self, node: Node) -> None:
        """The user deletes the item: it vanishes here at once, and goes to Drive's trash when its turn comes."""
        with self.db.transaction():
            now = time.time_ns() // 10**6
            self.update(node.inode, local_trashed=1, unlinked=1, deleted_ms=now, sequence=self.next_sequence())
            if node.local_parent is not None:
                self.touch_folder(node.local_parent)

    def move(self, node: Node, parent: int, shown_name: str) -> None:
        """Rename and/or move; the target name must be free. A name that merely shows Drive's illegal one leaves that alone.

        A file that has no name yet (``create_unnamed``) gets one.
        """
        keeps_name = shown_name == legal_name(node.local_name, node.kind, node.mime_type)
        with self.db.transaction():
            for folder in {node.local_parent, parent} - {None}:
                self.touch_folder(folder or 0)
            self.update(
                node.inode,
                local_parent=parent,
                local_name=node.local_name if keeps_name else chosen_name(shown_name, node.kind, node.mime_type),
                shown_name=shown_name,
                sequence=self.sequence_of_change(node),
                local_trashed=0,
                unlinked=0,
                deleted_ms=None,
            )

    def revive(self, inode: int) -> None:
        """Somebody else deleted the item or a folder above it, and it holds unsent bytes of the user's: bring all back."""
        seen: set[int] = set()
        node = self.find(inode)
        with self.db.transaction():
            while node is not None and not node.is_virtual and node.inode not in seen:
                seen.add(node.inode)
                if node.local_trashed:
                    self._restore(node)
                node = None if node.local_parent is None else self.find(node.local_parent)

    def _restore(self, node: Node) -> None:
        shown = node.shown_name
        if node.local_parent is not None:
            shown = self.free_name(node.local_parent, shown, node.inode)
            self.touch_folder(node.local_parent)
        sequence = self.next_sequence()
        self.update(node.inode, local_trashed=0, unlinked=0, deleted_ms=None, shown_name=shown, sequence=sequence)

    def swap_identity(self, newcomer: Node, victim: Node) -> None:
        """Let ``newcomer``, about to replace ``victim`` under its name, become the new content of the same Drive item.

        So a program that saves by writing a temporary file and renaming it keeps the item's id, and with it links, shares and
        revisions. The two rows exchange what the server knows of them; each row's local view then says what is to be done.
        """
        identity = [c for c in _COLUMNS if c.startswith(("remote_", "synced_"))] + ["created_ms", "sent_md5", "sent"]
        ours = {column: getattr(newcomer, column) for column in identity}
        theirs = {column: getattr(victim, column) for column in identity}
        void = {"session_uri": None, "session_generation": None}
        with self.db.transaction():
            self.update(victim.inode, remote_id=None)
            # A new generation each: an upload of either that is being prepared must not be committed to what is now the other's.
            self.update(newcomer.inode, **theirs, **void, generation=newcomer.generation + 1)
            self.update(victim.inode, **ours, **void, generation=victim.generation + 1)

    def forget_old_deletions(self, before_ms: int) -> None:
        """Drop rows of completed deletions that are so old that no late listing can bring the item back.

        To be called before anything is open: rows of unlinked open files are still needed.
        """
        done = "local_trashed AND NOT pending AND content IS NULL AND (remote_id IS NULL OR deleted_ms < ?)"
        self._hot.clear()
        self.db.execute(f"DELETE FROM node WHERE {done}", (before_ms,))
