"""The table of block checksums, kept in step with the open contents.

Invariant: a row, and its entry in ``Content.sums``, tells the CRC-32 of a block all of whose bytes are here and have not changed
since it was taken. A change deletes the rows of the blocks it touches before the first byte is changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from drivefs.store.content import Content, blocks
from drivefs.store.db import Database

__all__ = ["Blocks"]


class Blocks:
    """Synchronous, on the trio thread. Where the caller has a transaction, it is part of that."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def load(self, content: Content) -> None:
        """What an earlier process noted; the disk has to prove it before it is believed."""
        for number, crc, own in self._db.execute("SELECT number, crc, own FROM block WHERE content = ?", (content.id,)):
            content.sums[number] = crc
            if own:
                content.own.add(number)
        content.unchecked = set(content.sums)

    def record(self, content: Content, sums: Mapping[int, int], *, own: bool) -> None:
        rows = [(content.id, number, crc, int(own)) for number, crc in sums.items()]
        with self._db.transaction():
            for row in rows:
                self._db.execute("INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?)", row)
        content.sums.update(sums)
        if own:
            content.own.update(sums)

    def touch(self, content: Content, start: int, end: int) -> None:
        """The user is about to change [start, end); the file may become longer by it, or shorter."""
        if not content.sums:
            return
        if end > content.size:
            start = min(start, content.size)  # the block that holds the end grows
        touched = blocks(start, end)
        self.forget(
            content, [n for n in touched if n in content.sums] if len(touched) < 64 else content.sums.keys() & set(touched)
        )

    def forget(self, content: Content, numbers: Collection[int]) -> None:
        if not numbers:
            return
        with self._db.transaction():
            for number in numbers:
                self._db.execute("DELETE FROM block WHERE content = ? AND number = ?", (content.id, number))
        for number in list(numbers):
            del content.sums[number]
            content.own.discard(number)
            content.unchecked.discard(number)

    def on_drive(self, content: Content) -> None:
        """Drive has all of it now: nothing is the user's alone."""
        self._db.execute("UPDATE block SET own = 0 WHERE content = ? AND own", (content.id,))
        content.own.clear()

    def delete(self, content_id: int) -> None:
        self._db.execute("DELETE FROM block WHERE content = ?", (content_id,))

    @staticmethod
    def passed(content: Content, numbers: Iterable[int]) -> None:
        """The disk gave back what was put there."""
        content.unchecked.difference_update(numbers)
