"""What happens to the bytes of contents: they are changed, filled, sent, checked, and make room for others.

Invariants:
- A content row says dirty before the first changed byte is written, so no kill leaves changed bytes in a file called clean.
- Bytes below ``base_size`` that no extent covers are holes and are filled from the row's revision only, never from a newer one;
  all bytes at and beyond ``base_size`` are local.
- ``fill`` writes into holes only: what the user wrote is never overwritten by what was downloaded.

Everything here is synchronous and runs on the trio thread, but for ``sync_bytes``, ``sync_everything`` and ``write_bytes``, which
may run in a thread.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from typing import Final

from drivefs.base.crashpoints import crash_point
from drivefs.base.errors import LocalDiskFull, PathError
from drivefs.base.model import RemoteItem
from drivefs.base.ranges import RangeSet
from drivefs.store.content import BLOCK, Content
from drivefs.store.contents import Contents

__all__ = ["Cache"]

log = logging.getLogger(__name__)

# Bytes written to one content between two looks at the room it takes.
_COUNTED_EACH: Final = 4 << 20
# Around a reader's place, what is here is left alone when open content has to give way: it has just been asked for.
_LEFT_ALONE: Final = 192 << 20


class Cache(Contents):
    """The contents of one cache directory, and all that may be done to them."""

    # -- changing -------------------------------------------------------------------------------------------------------

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
            self._extents.note_filled(content)
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
        self._extents.note(content, start, min(end, content.base_size))
        content.uncounted += end - start
        if content.uncounted >= _COUNTED_EACH:
            self._count(content)

    def trim(self, content: Content) -> None:
        """A write failed half-way: what it added beyond the end never was, for the length of a dirty file is its own."""
        os.ftruncate(content.fd, content.size)

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

    def write_bytes(self, content: Content, data: bytes | memoryview, offset: int) -> None:
        """Touches no row, so it may run in a thread; LocalDiskFull where there is no room."""
        self._files.write(content.fd, data, offset)

    # -- uploading ------------------------------------------------------------------------------------------------------

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
            self._extents.replace(content.id, RangeSet([(0, size)]))
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

    # -- checking -------------------------------------------------------------------------------------------------------

    def forget_filled(self, content: Content) -> None:
        """What was downloaded is wrong: make all of it holes again."""
        if content.dirty:
            raise AssertionError("downloaded and changed bytes are mixed; nothing may be forgotten")
        self.clean_bytes -= content.present.size
        content.present, content.unsaved = RangeSet(), RangeSet()
        self._extents.delete(content.id)
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
            self._extents.replace(content.id, content.present)
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

    # -- for the day after a power cut ----------------------------------------------------------------------------------

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

    # -- room -----------------------------------------------------------------------------------------------------------

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
        self._extents.replace(content.id, content.present)
        for start, end in given_up:
            self._files.punch(content.fd, start, end)
