"""The table of extents, kept in step with the open contents: which bytes below a content's base size lie here.

What the user has written is noted before it is acknowledged. What was fetched is noted later (``Content.unsaved``), because
losing that knowledge costs a download and nothing else.
"""

from __future__ import annotations

from drivefs.base.ranges import RangeSet
from drivefs.store.content import Content
from drivefs.store.db import Database

__all__ = ["Extents"]


class Extents:
    """Synchronous, on the trio thread. Where the caller has a transaction, it is part of that."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def load(self, content: Content) -> None:
        for start, end in self._db.execute("SELECT start, end FROM extent WHERE content = ?", (content.id,)):
            content.present.add(start, end)

    def note(self, content: Content, start: int, end: int) -> None:
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

    def note_filled(self, content: Content) -> None:
        """Write the extents that fetching has changed. A row is keyed by its start, so merged neighbours are deleted."""
        if not content.unsaved:
            return
        with self._db.transaction():
            for start, end in content.unsaved:
                self._merge_row(content.id, start, end)
        content.unsaved = RangeSet()

    def _merge_row(self, content_id: int, start: int, end: int) -> None:
        touching = "FROM extent WHERE content = ? AND start <= ? AND end >= ?"
        known = self._db.execute(f"SELECT start, end {touching}", (content_id, end, start)).fetchall()
        self._db.execute(f"DELETE {touching}", (content_id, end, start))
        low, high = min([start, *(r[0] for r in known)]), max([end, *(r[1] for r in known)])
        self._db.execute("INSERT INTO extent VALUES (?, ?, ?)", (content_id, low, high))

    def truncate(self, content: Content, size: int) -> None:
        """Nothing at and beyond ``size`` is a hole, or can be one, any more."""
        content.present.truncate(size)
        content.unsaved.truncate(size)
        self._db.execute("DELETE FROM extent WHERE content = ? AND start >= ?", (content.id, size))
        self._db.execute("UPDATE extent SET end = ? WHERE content = ? AND end > ?", (size, content.id, size))

    def replace(self, content_id: int, present: RangeSet) -> None:
        """The rows say ``present`` from now on; what an open content knows is the caller's."""
        with self._db.transaction():
            self.delete(content_id)
            for start, end in present:
                self._db.execute("INSERT INTO extent VALUES (?, ?, ?)", (content_id, start, end))

    def delete(self, content_id: int) -> None:
        self._db.execute("DELETE FROM extent WHERE content = ?", (content_id,))

    def size(self, content_id: int) -> int:
        """Bytes that the rows call present."""
        sql = "SELECT coalesce(sum(end - start), 0) FROM extent WHERE content = ?"
        return int(self._db.execute(sql, (content_id,)).fetchone()[0])

    def clean_size(self) -> int:
        """The same for all clean content."""
        sql = "SELECT coalesce(sum(end - start), 0) FROM extent JOIN content ON content.id = extent.content WHERE NOT dirty"
        return int(self._db.execute(sql).fetchone()[0])
