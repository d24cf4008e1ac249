"""Content files: which bytes of an item lie here, which of them exist nowhere else, and how much room they take.

One row and one sparse file (store/files.py) for each revision that somebody reads, or that the user is changing.

Invariants:
- A content row says dirty before the first changed byte is written, so no kill leaves changed bytes in a file called clean.
- Bytes below ``base_size`` that no extent covers are holes and are filled from the row's revision only, never from a newer one;
  all bytes at and beyond ``base_size`` are local.
- ``fill`` writes into holes only: what the user wrote is never overwritten by what was downloaded.
- A file whose row says dirty is deleted only after the user deleted the item.

Everything here is synchronous and runs on the trio thread, but for ``sync`` and ``write_bytes``, which may run in a thread.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from typing import Final

from drivefs.base.crashpoints import crash_point
from drivefs.base.errors import LocalDiskFull, PathError
from drivefs.base.model import RemoteItem
from drivefs.base.ranges import RangeSet
from drivefs.store.content import Content
from drivefs.store.db import Database
from drivefs.store.files import ContentFiles
from drivefs.store.tree import Node, Tree

__all__ = ["Cache"]

_USED_RESOLUTION_MS: Final = 60_000
_DEFAULT_LIMIT: Final = 50 * 10**9


class Cache:
    """All content files of one cache directory. ``limit``: bytes of clean data to keep; None: a fifth of the free space."""

    def __init__(self, db: Database, tree: Tree, limit: int | None = None) -> None:
        self._db = db
        self._tree = tree
        self._files = ContentFiles(db.cache_dir, db.reserve)
        self._open: dict[int, Content] = {}
        self.limit = min(_DEFAULT_LIMIT, shutil.disk_usage(db.cache_dir).free // 5) if limit is None else limit
        self.clean_bytes = self._sum_clean()

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
        return content

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
        del self._open[content.id]
        os.close(content.fd)
        node = self._tree.find(content.inode)
        if node is None or node.content != content.id or node.local_trashed:
            self._discard(content.id, node)
        elif self.clean_bytes > self.limit:
            self.evict(self.limit * 9 // 10)

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
        if content.size < content.base_size:  # a kill came between the cut of the file and that of the rows
            self._cut(content)
        if _now_ms() - row["used_ms"] > _USED_RESOLUTION_MS:
            self._db.execute("UPDATE content SET used_ms = ? WHERE id = ?", (_now_ms(), content_id))
        self._open[content_id] = content
        return content

    # -- changing --------------------------------------------------------------------------------------------------

    def begin_change(self, content: Content, start: int) -> None:
        """To be called before every change of bytes, none of them before ``start``.

        Marks content and node dirty, and voids an upload that has begun.
        """
        content.intact = min(content.intact, start)
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
            self._files.move(content.id, dirty=True)
        content.frozen_generation = False

    def wrote(self, content: Content, start: int, end: int) -> None:
        """The user's bytes [start, end) lie in the file; only now may the write be acknowledged."""
        content.size = max(content.size, end)
        content.mtime_ns = time.time_ns()
        self._record(content, start, min(end, content.base_size))

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
        self.begin_change(content, min(size, content.size))
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
                self.evict(0)
                self.write_bytes(content, piece, gap.start)
            content.present.add(gap.start, gap.end)
            content.unsaved.add(gap.start, gap.end)
            if not content.dirty:
                self.clean_bytes += gap.size

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
            sql = (
                "UPDATE content SET dirty = 0, remote_id = ?, revision = ?, md5 = ?, remote_size = ?, base_size = ? WHERE id = ?"
            )
            self._db.execute(sql, (item.id, item.revision, md5, size, size, content.id))
            self._tree.update(content.inode, content_dirty=0, session_uri=None, session_generation=None, size=size)
            self._show_newer(content, item)
        self.clean_bytes += size - (0 if was_dirty else content.present.size)
        content.remote_id, content.revision, content.md5, content.remote_size = item.id, item.revision, md5, size
        content.base_size, content.dirty = size, False
        content.present = RangeSet([(0, size)])
        content.unsaved = RangeSet()
        crash_point("upload-recorded")
        if was_dirty:
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

    def sync(self, content: Content) -> None:
        """Make content and rows survive a power cut. Blocks: run it in a thread."""
        self._files.sync(content.fd, content.id, dirty=content.dirty)
        crash_point("data-synced")
        self._db.commit_durably()

    # -- room ------------------------------------------------------------------------------------------------------

    def evict(self, target: int) -> None:
        """Delete clean content that nobody has open, longest unused first, until at most ``target`` bytes are left."""
        sql = "SELECT id, inode FROM content WHERE NOT dirty ORDER BY used_ms"
        for row in self._db.execute(sql).fetchall():
            if self.clean_bytes <= target:
                return
            if row["id"] not in self._open:
                self._discard(row["id"], self._tree.find(row["inode"]))

    def _discard(self, content_id: int, node: Node | None) -> None:
        """Remove row and file. Of a dirty one only where the user deleted the item."""
        row = self._db.execute("SELECT dirty FROM content WHERE id = ?", (content_id,)).fetchone()
        if row is None:
            return
        if row["dirty"] and not (node is not None and node.local_trashed):
            raise AssertionError(f"content {content_id} is dirty and its item lives: it must not be discarded")
        held = self._held(content_id)
        with self._db.transaction():
            self._db.execute("DELETE FROM extent WHERE content = ?", (content_id,))
            self._db.execute("DELETE FROM content WHERE id = ?", (content_id,))
            if node is not None and node.content == content_id:
                self._tree.update(node.inode, content=None, content_dirty=0)
        self.clean_bytes -= 0 if row["dirty"] else held
        crash_point("row-dropped")
        self._files.remove(content_id)

    def _held(self, content_id: int) -> int:
        """Bytes that the rows call present."""
        sql = "SELECT coalesce(sum(end - start), 0) FROM extent WHERE content = ?"
        return int(self._db.execute(sql, (content_id,)).fetchone()[0])

    # -- recovery --------------------------------------------------------------------------------------------------

    def recover(self) -> list[tuple[Node, str]]:
        """After a start, before anything is open: what a kill left half-done. Returns unsent files whose content is missing."""
        self._discard_superseded()
        self._sort_files()
        lost: list[tuple[Node, str]] = []
        for node in list(self._tree.pending()):
            crash_point("recovery-entry")
            if node.content_dirty and node.content is not None and not self._recover_size(node):
                lost.append((node, "its content file is missing from the cache directory"))
        return lost

    def _discard_superseded(self) -> None:
        sql = """SELECT c.id, c.inode FROM content c LEFT JOIN node n USING (inode)
                 WHERE n.inode IS NULL AND NOT c.dirty OR n.local_trashed OR n.content IS NOT c.id AND NOT c.dirty"""
        for row in self._db.execute(sql).fetchall():
            self._discard(row["id"], self._tree.find(row["inode"]))
            crash_point("recovery-discarded")

    def _sort_files(self) -> None:
        rows = {int(row["id"]): bool(row["dirty"]) for row in self._db.execute("SELECT id, dirty FROM content")}
        sequence = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'content'").fetchone()
        self._files.sort(rows, 0 if sequence is None else int(sequence["seq"]))

    def _recover_size(self, node: Node) -> bool:
        """The length of an unsent file is the length of its content file: writes after the last close are kept too."""
        status = self._files.find(node.content or 0)
        if status is None:
            return False
        if status.st_size != node.size:
            mtime = status.st_mtime_ns
            self._tree.update(node.inode, size=status.st_size, mtime_ns=mtime, local_mtime_ms=mtime // 10**6)
        return True

    def check_invariants(self) -> None:
        """Raise AssertionError where rows contradict each other. For tests."""
        sql = "SELECT n.inode FROM node n JOIN content c ON c.id = n.content WHERE n.content_dirty != c.dirty"
        assert not self._db.execute(sql).fetchall(), "node and content disagree about dirty"
        for content in self._open.values():
            content.present.check_invariants()
            assert content.references > 0, content


def _now_ms() -> int:
    return time.time_ns() // 10**6
