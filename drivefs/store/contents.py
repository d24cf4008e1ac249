"""Which contents there are: rows, files, and the open ones among them; how one takes another's place, and how one goes.

One row and one sparse file (store/files.py) for each revision that somebody reads, or that the user is changing.

Invariants:
- A file whose row says dirty is deleted only after the user deleted the item, or gave it another content.
- Files are deleted once the rows that say so have survived a power cut (``doomed``), or else after one a row could ask for them.
- Dirty content that takes the place of other dirty content keeps that one (``replaces``) until its own bytes are on the disk.

Everything here is synchronous and runs on the trio thread.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from drivefs.base.crashpoints import crash_point
from drivefs.base.model import Revision
from drivefs.base.ranges import RangeSet
from drivefs.store.blocks import Blocks
from drivefs.store.content import BLOCK, Content
from drivefs.store.db import Database
from drivefs.store.extents import Extents
from drivefs.store.files import ContentFiles
from drivefs.store.rebuilding import adopt_orphans, set_orphans_aside
from drivefs.store.recovery import Lost, recover, tidy
from drivefs.store.room import Room
from drivefs.store.tree import Node, Tree

__all__ = ["Contents"]

_USED_RESOLUTION_MS: Final = 60_000


class Contents:
    """All content files of one cache directory. size, min_free: see Config.cache_size and Config.min_free."""

    def __init__(self, db: Database, tree: Tree, size: int | None = None, min_free: int | None = None) -> None:
        self._db = db
        self._tree = tree
        set_orphans_aside(db)
        self._files = ContentFiles(db.cache_dir, db.reserve)
        self._blocks = Blocks(db)
        self._extents = Extents(db)
        self._open: dict[int, Content] = {}
        # Of content that was open since the start: the blocks not checked when it was closed. The rest is as we put it there.
        self._known: dict[int, frozenset[int]] = {}
        # Content files that no row names any more; they go once the rows are on the disk.
        self.doomed: list[int] = []
        # Clean content that the disk may still call dirty: not to be evicted before the rows are on the disk.
        self.fresh: set[int] = set()
        # Content with something to be put on the disk or summed, by id.
        unsettled = db.execute("SELECT id FROM content WHERE dirty AND NOT settled")
        self.unkept: set[int] = {row["id"] for row in unsettled}
        self.room = Room(db.cache_dir, size, min_free)
        # Called where unsent content has become clean or was deleted, for those who wait for room.
        self.on_room: Callable[[], None] = lambda: None
        self.clean_bytes = self._extents.clean_size()
        # Told of the inode whenever a content that was as Drive has it, or as an upload takes it, is about to change.
        self.on_change: Callable[[int], None] = lambda _inode: None

    def find_open(self, node: Node) -> Content | None:
        """The open content that ``node`` shows, if anybody has it open."""
        return self._open.get(node.content) if node.content is not None else None

    def open(self, inode: int) -> Content:
        """The content that ``inode`` shows now, counted once more; an empty sparse file where nothing is cached yet."""
        node = self._tree.get(inode)
        content_id = self._begin_clean(node) if node.content is None else node.content
        content = self._open.get(content_id) or self._load(content_id)
        content.references += 1
        return content

    def create(self, inode: int) -> Content:
        """New, empty content of the user's own."""
        with self._db.transaction():
            row = {"inode": inode, "base_size": 0, "dirty": 1, "used_ms": _now_ms()}
            content_id = self._db.insert("content", row)
            generation = self._tree.get(inode).generation + 1
            self._tree.update(inode, content=content_id, content_dirty=1, generation=generation)
            fd = self._files.create(content_id, dirty=True)
            crash_point("content-created")
        content = Content(content_id, inode, fd, dirty=True)
        content.frozen_generation = False
        content.references = 1
        self._open[content_id] = content
        self.unkept.add(content_id)
        self.room.charge(content_id, 0)
        return content

    def begin_anew(self, old: Content) -> Content:
        """Empty content in the place of ``old``, which is dirty and comes back should a power cut leave the new one torn.

        To be used where nobody but the caller has ``old`` open by a handle: those who have would not see the new one.
        """
        with self._db.transaction():
            content = self.create(old.inode)
            sql = "UPDATE content SET remote_id = ?, revision = ?, md5 = ?, remote_size = ? WHERE id = ?"
            self._db.execute(sql, (old.remote_id, old.revision, old.md5, old.remote_size, content.id))
            self._supersede(content.id, old.id)
            sequence = self._tree.sequence_of_change(self._tree.get(old.inode))
            self._tree.update(old.inode, session_uri=None, session_generation=None, sequence=sequence)
        content.remote_id, content.revision, content.md5, content.remote_size = (
            old.remote_id,
            old.revision,
            old.md5,
            old.remote_size,
        )
        content.mtime_ns = time.time_ns()
        return content

    def create_from(self, inode: int, remote_id: str, revision: Revision) -> None:
        """Content that ``inode`` owes to a revision of another item: unsent, and all of it still to be fetched from there."""
        size = revision.size
        row = {"inode": inode, "base_size": size, "dirty": 1, "used_ms": _now_ms()}
        source = {"remote_id": remote_id, "revision": revision.id, "md5": revision.md5, "remote_size": size}
        with self._db.transaction():
            content_id = self._db.insert("content", row | source)
            self._tree.update(inode, content=content_id, content_dirty=1, size=size)
            fd = self._files.create(content_id, dirty=True)
            try:
                self._files.truncate(fd, size)
                self._files.sync(fd, content_id, dirty=True)
            finally:
                os.close(fd)
            self._db.execute("UPDATE content SET synced = ? WHERE id = ?", (json.dumps([size, []]), content_id))

    def hold(self, content: Content) -> None:
        """Count an open content once more, for a task that outlives its caller."""
        content.references += 1

    def close(self, content: Content) -> None:
        """Give back what ``open`` or ``create`` gave."""
        content.references -= 1
        if content.references:
            return
        self.save_times(content)
        self.save_filled(content)
        if content.changes != content.kept or content.filled:
            self.unkept.add(content.id)
        if content.dirty:
            self._count(content)
        del self._open[content.id]
        self._known[content.id] = frozenset(content.unchecked)
        os.close(content.fd)
        node = self._tree.find(content.inode)
        if node is None or node.content != content.id or node.local_trashed:
            self._discard(content.id, node)
        elif self.clean_bytes > self.room.limit:
            self.evict(self.room.limit * 9 // 10)

    def reopen(self, content_id: int) -> Content | None:
        """A content by its number, counted once more; None where it is gone."""
        if content_id not in self._open and not self._db.execute("SELECT 1 FROM content WHERE id = ?", (content_id,)).fetchone():
            return None
        content = self._open.get(content_id) or self._load(content_id)
        content.references += 1
        return content

    def drop_deleted(self, node: Node) -> None:
        """The user deleted the item: its content goes too, as soon as nobody has it open."""
        if node.content is not None and node.content not in self._open:
            self._discard(node.content, node)

    def _begin_clean(self, node: Node) -> int:
        size = node.remote_size or 0
        row = {"inode": node.inode, "base_size": size, "dirty": 0, "used_ms": _now_ms()}
        source = {"remote_id": node.remote_id, "revision": node.remote_revision, "md5": node.remote_md5, "remote_size": size}
        with self._db.transaction():
            content_id = self._db.insert("content", row | source)
            self._tree.update(node.inode, content=content_id)
        return content_id

    def _load(self, content_id: int) -> Content:
        row = self._db.execute("SELECT * FROM content WHERE id = ?", (content_id,)).fetchone()
        fd, damaged = self._files.open(content_id, dirty=bool(row["dirty"]), size=row["base_size"])
        if damaged:
            self.clean_bytes -= self._extents.size(content_id)
            self._extents.delete(content_id)
            self._blocks.delete(content_id)
        values = {column: row[column] for column in ("remote_id", "revision", "md5", "remote_size", "base_size")}
        content = Content(content_id, row["inode"], fd, dirty=bool(row["dirty"]), **values)
        content.settled = bool(row["settled"])
        self._extents.load(content)
        self._blocks.load(content)
        if content_id in self._known:
            content.unchecked &= self._known[content_id]
        elif not content.dirty:
            self._forget_unsummed(content)
        if content.size < content.base_size:  # a kill came between the cut of the file and that of the rows
            self._cut(content)
        if _now_ms() - row["used_ms"] > _USED_RESOLUTION_MS:
            self._db.execute("UPDATE content SET used_ms = ? WHERE id = ?", (_now_ms(), content_id))
        self._open[content_id] = content
        return content

    def _forget_unsummed(self, content: Content) -> None:
        """Of what was fetched earlier, only blocks with a checksum are believed; the rest is fetched again."""
        summed = RangeSet((n * BLOCK, min((n + 1) * BLOCK, content.base_size)) for n in sorted(content.sums))
        believed = content.present.intersection(summed)
        if believed == content.present:
            return
        self.clean_bytes -= content.present.size - believed.size
        content.present = believed
        self._extents.replace(content.id, believed)

    def _cut(self, content: Content) -> None:
        """The file has become shorter than what it began with: nothing beyond its end is a hole of the revision any more."""
        size = content.base_size = content.size
        with self._db.transaction():
            self._db.execute("UPDATE content SET base_size = ? WHERE id = ?", (size, content.id))
            self._extents.truncate(content, size)

    def save_times(self, content: Content) -> None:
        """Write length and time of the last change into the node's row, where listings and the uploader look."""
        if content.mtime_ns is None:
            return
        mtime = content.mtime_ns
        content.mtime_ns = None
        node = self._tree.find(content.inode)
        if node is not None and node.content == content.id:
            self._tree.update(content.inode, size=content.size, mtime_ns=mtime, local_mtime_ms=mtime // 10**6)

    def save_filled(self, content: Content) -> None:
        """Let the database know what was filled, so that a restart need not download it again."""
        self._extents.note_filled(content)

    def is_whole(self, node: Node) -> bool:
        """Whether every byte of what the node shows lies here."""
        if node.content is None:
            return False
        content = self.open(node.inode)
        try:
            return content.complete
        finally:
            self.close(content)

    def rebase(self, node: Node, revision: str | None) -> None:
        """The content, all of whose bytes are here, is to become the successor of ``revision``."""
        self._db.execute("UPDATE content SET revision = ? WHERE id = ?", (revision, node.content))
        content = self.find_open(node)
        if content is not None:
            content.revision = revision

    # -- taking the place of another ------------------------------------------------------------------------------------

    def _supersede(self, new: int, old: int) -> None:
        """Content ``new`` takes the place of dirty ``old``: whichever of those before it is on the disk is kept for now."""
        sql = "SELECT settled OR synced IS NOT NULL AS safe, replaces FROM content WHERE id = ?"
        before, now = (self._db.execute(sql, (number,)).fetchone() for number in (old, new))
        kept = old if before["safe"] else before["replaces"]
        if kept is None or now["safe"]:
            return
        self._release_replaced(new)
        if kept != old:
            self._db.execute("UPDATE content SET replaces = NULL WHERE id = ?", (old,))
        self._db.execute("UPDATE content SET replaces = ? WHERE id = ?", (kept, new))

    def _release_replaced(self, content_id: int) -> None:
        """The content can stand for itself: what it took the place of is not needed any more."""
        row = self._db.execute("SELECT replaces FROM content WHERE id = ?", (content_id,)).fetchone()
        if row is None or row["replaces"] is None:
            return
        self._db.execute("UPDATE content SET replaces = NULL WHERE id = ?", (content_id,))
        old = self._db.execute("SELECT inode FROM content WHERE id = ?", (row["replaces"],)).fetchone()
        if old is not None and row["replaces"] not in self._open:
            self._discard(row["replaces"], self._tree.find(old["inode"]))

    # -- going ----------------------------------------------------------------------------------------------------------

    def evict(self, target: int) -> None:
        """Delete clean content that nobody has open, longest unused first, until at most ``target`` bytes are left."""
        sql = "SELECT id, inode FROM content WHERE NOT dirty ORDER BY used_ms"
        for row in self._db.execute(sql).fetchall():
            if self.clean_bytes <= target:
                return
            if row["id"] not in self._open and row["id"] not in self.fresh:
                self._discard(row["id"], self._tree.find(row["inode"]))

    def _discard(self, content_id: int, node: Node | None) -> None:
        """Remove row and file. Of a dirty one only where the user deleted the item."""
        row = self._db.execute("SELECT dirty FROM content WHERE id = ?", (content_id,)).fetchone()
        if row is None or self._db.execute("SELECT 1 FROM content WHERE replaces = ?", (content_id,)).fetchone():
            return
        if row["dirty"] and node is not None and node.content == content_id and not node.local_trashed:
            raise AssertionError(f"content {content_id} is dirty and its item lives: it must not be discarded")
        held = 0 if row["dirty"] else self._extents.size(content_id)
        with self._db.transaction():
            self._release_replaced(content_id)
            self._extents.delete(content_id)
            self._blocks.delete(content_id)
            self._db.execute("DELETE FROM content WHERE id = ?", (content_id,))
            if node is not None and node.content == content_id:
                self._tree.update(node.inode, content=None, content_dirty=0)
        self.clean_bytes -= held
        self.unkept.discard(content_id)
        self._known.pop(content_id, None)
        self.room.discharge(content_id)
        self.on_room()
        crash_point("row-dropped")
        if row["dirty"] or content_id in self.fresh:
            self.doomed.append(content_id)
        else:
            self._files.remove(content_id)

    def made_durable(self, doomed: Iterable[int], fresh: Iterable[int]) -> None:
        """The rows are on the disk by now, so these files may go, and these clean ones may be evicted."""
        self.fresh.difference_update(fresh)
        for number in set(doomed).intersection(self.doomed):  # somebody may have been faster while the rows were synced
            self.doomed.remove(number)
            self._files.remove(number)

    def allocated(self, content: Content) -> int:
        """Bytes that the content takes on the disk; of a file with holes less than its length."""
        return os.fstat(content.fd).st_blocks * 512

    def _count(self, content: Content) -> None:
        content.uncounted = 0
        self.room.charge(content.id, self.allocated(content))

    # -- after a start --------------------------------------------------------------------------------------------------

    def recover(self) -> list[Lost]:
        """After a start, before anything is open: what a kill or a power cut left half-done. Returns what came to harm."""
        lost = recover(self._db, self._tree, self._files, self._discard)
        for row in self._db.execute("SELECT id FROM content WHERE dirty").fetchall():
            status = self._files.find(row["id"])
            self.room.charge(row["id"], 0 if status is None else status.st_blocks * 512)
        return lost

    def adopt_orphans(self) -> list[str]:
        """Unsent files of a database that was lost come back; to be called when it is known whose Drive this is."""
        adopted = adopt_orphans(self._db, self._tree, self._files)
        self.unkept.update(row["id"] for row in self._db.execute("SELECT id FROM content WHERE dirty AND NOT settled"))
        return adopted

    def tidy(self) -> Iterator[None]:
        """Look at every file, in small steps: the rest of a recovery, which can wait until the mount answers."""
        yield from tidy(self._db, self._files, lambda number: number in self._open or number in self.doomed)

    def check_invariants(self) -> None:
        """Raise AssertionError where rows contradict each other. For tests."""
        sql = "SELECT n.inode FROM node n JOIN content c ON c.id = n.content WHERE n.content_dirty != c.dirty"
        assert not self._db.execute(sql).fetchall(), "node and content disagree about dirty"
        for content in self._open.values():
            content.present.check_invariants()
            assert content.references > 0, content


def _now_ms() -> int:
    return time.time_ns() // 10**6
