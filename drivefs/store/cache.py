"""Content files: which bytes of an item lie here, which of them exist nowhere else, and how much room they take.

One row and one sparse file (store/files.py) for each revision that somebody reads, or that the user is changing.

Invariants:
- A content row says dirty before the first changed byte is written, so no kill leaves changed bytes in a file called clean.
- Bytes below ``base_size`` that no extent covers are holes and are filled from the row's revision only, never from a newer one;
  all bytes at and beyond ``base_size`` are local.
- ``fill`` writes into holes only: what the user wrote is never overwritten by what was downloaded.
- A file whose row says dirty is deleted only after the user deleted the item, or gave it another content.
- Files are deleted once the rows that say so have survived a power cut (``doomed``), or else after one a row could ask for them.
- Dirty content that takes the place of other dirty content keeps that one (``replaces``) until its own bytes are on the disk.

Everything here is synchronous and runs on the trio thread, but for ``sync`` and ``write_bytes``, which may run in a thread.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from drivefs.base.crashpoints import crash_point
from drivefs.base.errors import LocalDiskFull, PathError
from drivefs.base.model import RemoteItem, Revision
from drivefs.base.ranges import RangeSet
from drivefs.store.blocks import Blocks
from drivefs.store.content import BLOCK, Content
from drivefs.store.db import Database
from drivefs.store.files import ContentFiles
from drivefs.store.rebuilding import adopt_orphans, set_orphans_aside
from drivefs.store.recovery import Lost, recover, tidy
from drivefs.store.room import Room
from drivefs.store.tree import Node, Tree

__all__ = ["Cache"]

log = logging.getLogger(__name__)

_USED_RESOLUTION_MS: Final = 60_000
# Bytes written to one content between two looks at the room it takes.
_COUNTED_EACH: Final = 4 << 20
# Around a reader's place, what is here is left alone when open content has to give way: it has just been asked for.
_LEFT_ALONE: Final = 192 << 20


class Cache:
    """All content files of one cache directory. size, min_free: see Config.cache_size and Config.min_free."""

    def __init__(self, db: Database, tree: Tree, size: int | None = None, min_free: int | None = None) -> None:
        self._db = db
        self._tree = tree
        set_orphans_aside(db)
        self._files = ContentFiles(db.cache_dir, db.reserve)
        self._blocks = Blocks(db)
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
        self.clean_bytes = self._sum_clean()
        # Told of the inode whenever a content that was as Drive has it, or as an upload takes it, is about to change.
        self.on_change: Callable[[int], None] = lambda _inode: None

    def _sum_clean(self) -> int:
        sql = "SELECT coalesce(sum(end - start), 0) FROM extent JOIN content ON content.id = extent.content WHERE NOT dirty"
        return int(self._db.execute(sql).fetchone()[0])

    # -- opening and closing ---------------------------------------------------------------------------------------

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
            self.clean_bytes -= self._held(content_id)
            self._db.execute("DELETE FROM extent WHERE content = ?", (content_id,))
        values = {column: row[column] for column in ("remote_id", "revision", "md5", "remote_size", "base_size")}
        content = Content(content_id, row["inode"], fd, dirty=bool(row["dirty"]), **values)
        for start, end in self._db.execute("SELECT start, end FROM extent WHERE content = ?", (content_id,)):
            content.present.add(start, end)
        content.settled = bool(row["settled"])
        if damaged:
            self._blocks.delete(content_id)
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
        self._write_extents(content)

    def _write_extents(self, content: Content) -> None:
        with self._db.transaction():
            self._db.execute("DELETE FROM extent WHERE content = ?", (content.id,))
            for start, end in content.present:
                self._db.execute("INSERT INTO extent VALUES (?, ?, ?)", (content.id, start, end))

    # -- changing --------------------------------------------------------------------------------------------------

    def begin_change(self, content: Content, start: int, end: int) -> None:
        """To be called before every change of bytes, all of them in [start, end).

        Marks content and node dirty, and voids an upload that has begun.
        """
        content.intact = min(content.intact, start)
        content.changes += 1
        self._blocks.touch(content, start, end)
        if content.settled:
            self.unsettle(content)
        if content.dirty and not content.frozen_generation:
            return
        node = self._tree.get(content.inode)
        if node.content_dirty and node.content != content.id:
            # A newer version of the file was opened and changed by somebody else: this one can only lose it.
            raise PathError(errno.ESTALE)
        was_clean = not content.dirty
        with self._db.transaction():
            if node.local_trashed and not node.unlinked:
                self._tree.revive(content.inode)
            self._save_filled(content)
            if was_clean:
                self._db.execute("UPDATE content SET dirty = 1 WHERE id = ?", (content.id,))
            self._tree.update(
                content.inode,
                content=content.id,
                content_dirty=1,
                generation=node.generation + 1,
                session_uri=None,
                session_generation=None,
                sequence=self._tree.sequence_of_change(node),
            )
        crash_point("change-noted")
        if was_clean:
            self.clean_bytes -= content.present.size
            content.dirty = True
            self._count(content)
            self._files.move(content.id, dirty=True)
            self.fresh.discard(content.id)
            self.unkept.add(content.id)
        content.frozen_generation = False
        self.on_change(content.inode)

    def unsettle(self, content: Content) -> None:
        """Just before a change: what is on the disk will not be just this any more.

        Who wants damage of the disk to be told from an unfinished change after a power cut makes this durable first.
        """
        self._db.execute("UPDATE content SET settled = 0 WHERE id = ?", (content.id,))
        content.settled = False
        self.unkept.add(content.id)

    def wrote(self, content: Content, start: int, end: int) -> None:
        """The user's bytes [start, end) lie in the file; only now may the write be acknowledged."""
        content.size = max(content.size, end)
        content.mtime_ns = time.time_ns()
        self._record(content, start, min(end, content.base_size))
        content.uncounted += end - start
        if content.uncounted >= _COUNTED_EACH:
            self._count(content)

    def _count(self, content: Content) -> None:
        content.uncounted = 0
        self.room.charge(content.id, self.allocated(content))

    def trim(self, content: Content) -> None:
        """A write failed half-way: what it added beyond the end never was, for the length of a dirty file is its own."""
        os.ftruncate(content.fd, content.size)

    def save_times(self, content: Content) -> None:
        """Write length and time of the last change into the node's row, where listings and the uploader look."""
        if content.mtime_ns is None:
            return
        mtime = content.mtime_ns
        content.mtime_ns = None
        node = self._tree.find(content.inode)
        if node is not None and node.content == content.id:
            self._tree.update(content.inode, size=content.size, mtime_ns=mtime, local_mtime_ms=mtime // 10**6)

    def truncate(self, content: Content, size: int) -> None:
        """Cut or extend; an extension reads as zeros and is local at once."""
        self.begin_change(content, min(size, content.size), max(size, content.size))
        # The file before the rows: a file shorter than its base_size says by itself that a cut was under way, while rows that
        # were cut before their file would call the old bytes, and the holes between them, local.
        self._files.truncate(content.fd, size)
        crash_point("file-cut")
        content.size = size
        content.mtime_ns = time.time_ns()
        if size < content.base_size:
            self._cut(content)

    def _cut(self, content: Content) -> None:
        """The file has become shorter than what it began with: nothing beyond its end is a hole of the revision any more."""
        size = content.base_size = content.size
        content.present.truncate(size)
        content.unsaved.truncate(size)
        with self._db.transaction():
            self._db.execute("UPDATE content SET base_size = ? WHERE id = ?", (size, content.id))
            self._db.execute("DELETE FROM extent WHERE content = ? AND start >= ?", (content.id, size))
            self._db.execute("UPDATE extent SET end = ? WHERE content = ? AND end > ?", (size, content.id, size))

    def fill(self, content: Content, offset: int, data: bytes | memoryview) -> None:
        """Downloaded bytes of the content's revision: written into holes only."""
        view = memoryview(data)
        for gap in content.missing(offset, offset + len(view)):
            piece = view[gap.start - offset : gap.end - offset]
            try:
                self.write_bytes(content, piece, gap.start)
            except LocalDiskFull:
                self.make_room()
                self.write_bytes(content, piece, gap.start)
            content.present.add(gap.start, gap.end)
            content.unsaved.add(gap.start, gap.end)
            content.filled = True
            if not content.dirty:
                self.clean_bytes += gap.size
        if self.clean_bytes > self.room.limit:
            self._keep_within_limit()

    def save_filled(self, content: Content) -> None:
        """Let the database know what was filled, so that a restart need not download it again."""
        if content.unsaved:
            with self._db.transaction():
                self._save_filled(content)

    def write_bytes(self, content: Content, data: bytes | memoryview, offset: int) -> None:
        """Touches no row, so it may run in a thread; LocalDiskFull where there is no room."""
        self._files.write(content.fd, data, offset)

    def _record(self, content: Content, start: int, end: int) -> None:
        """Make [start, end) known as present, in memory and in the database."""
        merged = content.present.add(start, end)
        if merged is None:
            return
        (new_start, new_end), replaced = merged
        try:
            with self._db.transaction():
                for old in replaced:
                    self._db.execute("DELETE FROM extent WHERE content = ? AND start = ?", (content.id, old.start))
                self._db.execute("INSERT OR REPLACE INTO extent VALUES (?, ?, ?)", (content.id, new_start, new_end))
        except BaseException:
            # Unless memory says what the rows say, the next write here would be acknowledged without being recorded.
            kept = [extent for extent in content.present if extent.start != new_start]
            content.present = RangeSet([*kept, *replaced])
            raise

    def _save_filled(self, content: Content) -> None:
        """Write the extents that changed. A row is keyed by its start, so merged neighbours are deleted."""
        for start, end in content.unsaved:
            known = self._db.execute(
                "SELECT start, end FROM extent WHERE content = ? AND start <= ? AND end >= ?", (content.id, end, start)
            ).fetchall()
            self._db.execute("DELETE FROM extent WHERE content = ? AND start <= ? AND end >= ?", (content.id, end, start))
            low, high = min([start, *(r[0] for r in known)]), max([end, *(r[1] for r in known)])
            self._db.execute("INSERT INTO extent VALUES (?, ?, ?)", (content.id, low, high))
        content.unsaved = RangeSet()

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

    # -- uploading -------------------------------------------------------------------------------------------------

    def freeze(self, content: Content) -> None:
        """An upload begins: the next change will get a generation of its own."""
        content.frozen_generation = True
        content.intact = content.size

    def mark_uploaded(self, content: Content, item: RemoteItem, md5: str, *, current: bool) -> None:
        """Drive has taken these bytes as ``item``. current: nothing was changed since, so the content is clean now."""
        if not current:
            # The user went on writing: what is newer builds on the revision that we ourselves have just made.
            self._db.execute("UPDATE content SET revision = ? WHERE id = ?", (item.revision, content.id))
            content.revision = item.revision
            return
        was_dirty = content.dirty
        size = content.size
        with self._db.transaction():
            self._db.execute("DELETE FROM extent WHERE content = ?", (content.id,))
            if size:
                self._db.execute("INSERT INTO extent VALUES (?, 0, ?)", (content.id, size))
            sql = """UPDATE content SET dirty = 0, settled = 0, synced = NULL,
                                        remote_id = ?, revision = ?, md5 = ?, remote_size = ?, base_size = ? WHERE id = ?"""
            self._db.execute(sql, (item.id, item.revision, md5, size, size, content.id))
            self._tree.update(content.inode, content_dirty=0, session_uri=None, session_generation=None, size=size)
            self._blocks.on_drive(content)
            self._release_replaced(content.id)
            self._show_newer(content, item)
        self.clean_bytes += size - (0 if was_dirty else content.present.size)
        content.remote_id, content.revision, content.md5, content.remote_size = item.id, item.revision, md5, size
        content.base_size, content.dirty, content.settled, content.synced = size, False, False, -1
        content.present = RangeSet([(0, size)])
        content.unsaved = RangeSet()
        crash_point("upload-recorded")
        self.room.discharge(content.id)
        self.on_room()
        if was_dirty:
            self.fresh.add(content.id)
            self._files.move(content.id, dirty=False)

    def _show_newer(self, content: Content, item: RemoteItem) -> None:
        """The feed may have told of a stranger's version newer than ``item`` before the answer to our upload came."""
        node = self._tree.get(content.inode)
        if node.remote_id == item.id and node.remote_revision != item.revision:
            self._tree.update(node.inode, content=None, size=node.remote_size or 0)

    # -- checking --------------------------------------------------------------------------------------------------

    def forget_filled(self, content: Content) -> None:
        """What was downloaded is wrong: make all of it holes again."""
        if content.dirty:
            raise AssertionError("downloaded and changed bytes are mixed; nothing may be forgotten")
        self.clean_bytes -= content.present.size
        content.present, content.unsaved = RangeSet(), RangeSet()
        self._db.execute("DELETE FROM extent WHERE content = ?", (content.id,))
        self._blocks.forget(content, list(content.sums))

    def judge(self, content: Content, found: Mapping[int, int]) -> list[int]:
        """Hold ``found``, the CRC-32 of blocks as they lie on the disk, against what they were.

        Blocks of Drive's that differ become holes again. Returns those of the user's that do; they stay unchecked.
        """
        bad = [number for number, crc in found.items() if number in content.unchecked and content.sums[number] != crc]
        self._blocks.passed(content, [number for number in found if number not in bad])
        theirs = [number for number in bad if number not in content.own]
        for number in theirs:
            before = content.present.size
            content.present.remove(number * BLOCK, (number + 1) * BLOCK)
            self.clean_bytes -= 0 if content.dirty else before - content.present.size
        if theirs:
            self.save_filled(content)
            self._write_extents(content)
            self._blocks.forget(content, theirs)
        ours = [number for number in bad if number in content.own]
        content.damaged = content.damaged or bool(ours)
        return ours

    def keep_copy(self, content: Content, reason: str) -> None:
        """A second name for a damaged file under lost+found, so that nothing is gone whatever becomes of the first."""
        node = self._tree.find(content.inode)
        path = "" if node is None else self._tree.path(node)
        if place := self._files.link_aside(content.id, {"path": path, "reason": reason}):
            log.error("%r is damaged on this disk; its bytes are kept as %s", path, place)

    # -- for the day after a power cut -----------------------------------------------------------------------------

    def record_sums(self, content: Content, sums: Mapping[int, int]) -> None:
        """CRC-32 of blocks that did not change while they were summed."""
        self._blocks.record(content, sums, own=content.dirty)

    def sync_bytes(self, content: Content) -> None:
        """The bytes and the file's name, as they are now, survive a power cut. Blocks: run it in a thread."""
        self._files.sync(content.fd, content.id, dirty=content.dirty)
        crash_point("data-synced")

    def sync_everything(self) -> None:
        """The same for all content at once. Blocks: run it in a thread."""
        self._files.sync_everything()

    def record_synced(self, content: Content, size: int, present: Iterable[tuple[int, int]], *, settled: bool) -> None:
        """``size`` bytes, of them ``present`` of what can be a hole, were on the disk; the rows are not yet.

        settled: nothing was changed since, and every block has its checksum.
        """
        if not content.dirty:
            return
        synced = json.dumps([size, [list(one) for one in present]])
        with self._db.transaction():
            sql = "UPDATE content SET synced = ?, settled = ? WHERE id = ?"
            self._db.execute(sql, (synced, int(settled), content.id))
            self._release_replaced(content.id)
        content.settled = settled
        if settled:
            self.unkept.discard(content.id)
            node = self._tree.get(content.inode)
            origin = {"path": self._tree.path(node), "remote_id": content.remote_id, "complete": content.complete}
            self._files.note_origin(content.fd, origin)

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

    def made_durable(self, doomed: Iterable[int], fresh: Iterable[int]) -> None:
        """The rows are on the disk by now, so these files may go, and these clean ones may be evicted."""
        self.fresh.difference_update(fresh)
        for number in set(doomed).intersection(self.doomed):  # somebody may have been faster while the rows were synced
            self.doomed.remove(number)
            self._files.remove(number)

    # -- room ------------------------------------------------------------------------------------------------------

    def make_room(self) -> None:
        """The disk is full: what was deleted goes, and what can be fetched again. Blocks while the rows are synced."""
        doomed, fresh = list(self.doomed), set(self.fresh)
        self._db.commit_durably()
        self.made_durable(doomed, fresh)
        self.evict(0)
        for content in list(self._open.values()):
            self._shed(content)

    def _keep_within_limit(self) -> None:
        """What was fetched goes beyond the limit: closed files go first, then what readers left behind or have not reached."""
        self.evict(self.room.limit * 9 // 10)
        for content in sorted(self._open.values(), key=lambda content: -content.present.size):
            if self.clean_bytes > self.room.limit:
                self._shed(content)

    def _shed(self, content: Content) -> None:
        """Make holes again of open clean content, but for what lies around its last reader."""
        if content.dirty or content.readers or content.remote_id is None:
            return
        self.save_filled(content)
        near = RangeSet([(max(0, content.read_to - _LEFT_ALONE // 4), content.read_to + _LEFT_ALONE)])
        kept = content.present.intersection(near)
        given_up = [hole for extent in content.present for hole in kept.missing(*extent)]
        if not given_up:
            return
        self._blocks.forget(content, [n for n in content.sums if not kept.covers(n * BLOCK, min((n + 1) * BLOCK, content.size))])
        self.clean_bytes -= content.present.size - kept.size
        content.present = kept
        self._write_extents(content)
        for start, end in given_up:
            self._files.punch(content.fd, start, end)

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
        held = 0 if row["dirty"] else self._held(content_id)
        with self._db.transaction():
            self._release_replaced(content_id)
            self._db.execute("DELETE FROM extent WHERE content = ?", (content_id,))
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

    def allocated(self, content: Content) -> int:
        """Bytes that the content takes on the disk; of a file with holes less than its length."""
        return os.fstat(content.fd).st_blocks * 512

    def _held(self, content_id: int) -> int:
        """Bytes that the rows call present."""
        sql = "SELECT coalesce(sum(end - start), 0) FROM extent WHERE content = ?"
        return int(self._db.execute(sql, (content_id,)).fetchone()[0])

    # -- recovery --------------------------------------------------------------------------------------------------

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
