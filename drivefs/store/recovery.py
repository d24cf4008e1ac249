"""What a kill or a power cut left half-done is put right at the next start, before anything is open.

After a **kill** the rows are the truth and all bytes are there; a file may lie in the wrong folder, or have lost its row.

After a **power cut** the rows are those of some earlier moment, and what was not synced may be there, in part, or not at all. For
each dirty content the row says what it is worth:

1. settled: just these bytes are on the disk, and their checksums will be compared when they are first read;
2. synced: a program has called fsync, or the content was settled before it was changed again: back to what was there then;
3. it took the place of other dirty content, which was kept: back to that;
4. otherwise back to what Drive has, or to nothing where the file was never there.

What is given up by that goes to ``lost+found`` with a note. Every step may be cut off and is then simply done again.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drivefs.base.crashpoints import crash_point
from drivefs.base.ranges import RangeSet
from drivefs.store.content import BLOCK
from drivefs.store.db import Database, Row
from drivefs.store.extents import Extents
from drivefs.store.files import ContentFiles
from drivefs.store.tree import Node, Tree

__all__ = ["Lost", "recover", "tidy"]

log = logging.getLogger(__name__)

_NOT_SYNCED: Final = "the power failed before it was on the disk"


@dataclass(frozen=True, slots=True)
class Lost:
    """Something of the user's that came to harm. path: from the mountpoint; reason: for people."""

    path: str
    reason: str


def recover(db: Database, tree: Tree, files: ContentFiles, discard: Callable[[int, Node | None], None]) -> list[Lost]:
    """discard: removes a content's row and file (``Cache``). Returns what is not as the user left it."""
    db.commit_durably()  # what the rows say now is what the files may be deleted by
    if db.power_lost:
        _leave_lost_numbers(db, files)
    lost = _Aftermath(db, tree, files).roll_back() if db.power_lost else []
    db.rolled_back()
    _discard_superseded(db, tree, discard)
    for node in list(tree.pending()):
        crash_point("recovery-entry")
        if node.content_dirty and node.content is not None and not _recover_size(tree, files, node):
            lost.append(Lost(tree.path(node), "its content file is missing from the cache directory"))
    return lost


def _leave_lost_numbers(db: Database, files: ContentFiles) -> None:
    """A power cut may take rows whose files are there. Those go at once, and nothing new comes under their numbers:

    who found a file of one number in each folder could not tell which of the two the row means.
    """
    given_out = last = _given_out(db)
    for path, dirty in files.all():
        if (number := int(path.name)) > given_out:
            last = max(last, number)
            _remove_unknown(files, path, dirty=dirty, known=False)
    if last > given_out:
        with db.transaction():
            db.execute("DELETE FROM sqlite_sequence WHERE name = 'content'")
            db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('content', ?)", (last,))


def _given_out(db: Database) -> int:
    """The last number that a content has got."""
    sequence = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'content'").fetchone()
    return 0 if sequence is None else int(sequence["seq"])


def _discard_superseded(db: Database, tree: Tree, discard: Callable[[int, Node | None], None]) -> None:
    """Content that no node shows, but for what is kept in case its successor is torn, and for dirty bytes of no node at all."""
    sql = """SELECT c.id, c.inode FROM content c LEFT JOIN node n USING (inode)
             WHERE (n.local_trashed OR n.content IS NOT c.id) AND NOT (n.inode IS NULL AND c.dirty)
                   AND c.id NOT IN (SELECT replaces FROM content WHERE replaces IS NOT NULL)"""
    for row in db.execute(sql).fetchall():
        discard(row["id"], tree.find(row["inode"]))
        crash_point("recovery-discarded")


def _recover_size(tree: Tree, files: ContentFiles, node: Node) -> bool:
    """The length of an unsent file is the length of its content file: writes after the last close are kept too."""
    status = files.find(node.content or 0)
    if status is None:
        return False
    if status.st_size != node.size:
        mtime = status.st_mtime_ns
        tree.update(node.inode, size=status.st_size, mtime_ns=mtime, local_mtime_ms=mtime // 10**6)
    return True


class _Aftermath:
    """Goes through the dirty contents once after a power cut."""

    def __init__(self, db: Database, tree: Tree, files: ContentFiles) -> None:
        self._db = db
        self._tree = tree
        self._files = files
        self._extents = Extents(db)

    def roll_back(self) -> list[Lost]:
        sql = """SELECT c.* FROM content c JOIN node n ON n.inode = c.inode AND n.content = c.id
                 WHERE c.dirty AND NOT n.local_trashed"""
        reports = [self._judge(row) for row in self._db.execute(sql).fetchall()]
        return [report for report in reports if report is not None]

    def _judge(self, row: Row) -> Lost | None:
        path = self._files.locate(row["id"])
        if path is not None and row["settled"]:
            self._reopen_holes(row["id"], json.loads(row["synced"]))
            return None
        if path is not None and row["synced"] is not None:
            self._cut_back(row["id"], row["inode"], row["synced"], path)
            return None
        node = self._tree.get(row["inode"])
        aside = self._files.put_aside(row["id"], {"path": self._tree.path(node), "reason": _NOT_SYNCED})
        kept = "" if aside is None else f"; what there was of it is kept as {aside}"
        with self._db.transaction():
            now = self._restore_replaced(row, node) or self._restore_drives(node) or self._undo_creation(node)
            self._forget(row["id"])
        return Lost(self._tree.path(node), f"{_NOT_SYNCED}: it is {now} again{kept}")

    def _reopen_holes(self, content_id: int, synced: tuple[int, list[list[int]]]) -> None:
        """What was fetched into holes after the content was settled, for its upload, was never synced."""
        there, kept = self._listed(content_id), self._kept(content_id, synced)
        if kept == there:
            return
        with self._db.transaction():
            base = self._db.execute("SELECT base_size FROM content WHERE id = ?", (content_id,)).fetchone()["base_size"]
            for row in self._db.execute("SELECT number FROM block WHERE content = ?", (content_id,)).fetchall():
                start = row["number"] * BLOCK
                if not kept.covers(start, min(start + BLOCK, base)):
                    self._db.execute("DELETE FROM block WHERE content = ? AND number = ?", (content_id, row["number"]))
            self._extents.replace(content_id, kept)

    def _listed(self, content_id: int) -> RangeSet:
        sql = "SELECT start, end FROM extent WHERE content = ?"
        return RangeSet(tuple(one) for one in self._db.execute(sql, (content_id,)))

    def _kept(self, content_id: int, synced: tuple[int, list[list[int]]]) -> RangeSet:
        """Of what the rows call present below the base size, what the last sync put on the disk."""
        size, listed = synced
        kept = self._listed(content_id).intersection(RangeSet((start, end) for start, end in listed))
        kept.truncate(size)
        return kept

    def _cut_back(self, content_id: int, inode: int, synced: str, path: Path) -> None:
        """To the length, and the bytes that had come in place of holes, of the last sync."""
        size = json.loads(synced)[0]
        if path.stat().st_size > size:
            os.truncate(path, size)
        kept = self._kept(content_id, json.loads(synced))
        with self._db.transaction():
            self._forget_blocks(content_id)
            self._extents.replace(content_id, kept)
            self._db.execute("UPDATE content SET base_size = min(base_size, ?) WHERE id = ?", (size, content_id))
            self._renew(self._tree.get(inode), size=path.stat().st_size)

    def _restore_replaced(self, row: Row, node: Node) -> str | None:
        """The content that this one took the place of was on the disk."""
        former = self._db.execute("SELECT * FROM content WHERE id = ?", (row["replaces"],)).fetchone()
        path = None if former is None else self._files.locate(former["id"])
        if former is None or path is None:
            return None
        mtime = path.stat().st_mtime_ns
        self._renew(node, content=former["id"], content_dirty=1, mtime_ns=mtime, local_mtime_ms=mtime // 10**6)
        if former["settled"]:
            self._reopen_holes(former["id"], json.loads(former["synced"]))
        else:
            self._cut_back(former["id"], node.inode, former["synced"], path)
        return "its former version"

    def _restore_drives(self, node: Node) -> str | None:
        if not node.remote_exists:
            return None
        mtime = node.remote_mtime_ms or node.local_mtime_ms
        self._renew(node, content=None, content_dirty=0, size=node.remote_size or 0, mtime_ns=mtime * 10**6, local_mtime_ms=mtime)
        return "what Drive has"

    def _undo_creation(self, node: Node) -> str:
        """It never was; unless an earlier version was on its way to Drive, which the uploader then asks for under its id."""
        self._renew(node, content=None, content_dirty=0, size=0)
        if node.remote_id is None:
            self._tree.trash(node)
        return "gone" if node.remote_id is None else "what Drive may have"

    def _renew(self, node: Node, **columns: object) -> None:
        """Nothing that was under way with the given-up state may be gone on with."""
        self._tree.update(node.inode, generation=node.generation + 1, session_uri=None, session_generation=None, **columns)

    def _forget(self, content_id: int) -> None:
        self._forget_blocks(content_id)
        self._db.execute("DELETE FROM content WHERE id = ?", (content_id,))

    def _forget_blocks(self, content_id: int) -> None:
        self._db.execute("DELETE FROM block WHERE content = ?", (content_id,))
        self._extents.delete(content_id)


def tidy(db: Database, files: ContentFiles, spared: Callable[[int], bool]) -> Iterator[None]:
    """Bring each file to where its row says, and remove what has no row; a file a step. May run while all goes on.

    spared: tells which contents are in good hands: open, or about to be deleted.
    """
    given_out = _given_out(db)
    for path, dirty in files.all():
        crash_point("recovery-file")
        number = int(path.name)
        if spared(number):
            continue
        row = db.execute("SELECT dirty FROM content WHERE id = ?", (number,)).fetchone()
        if row is None:
            _remove_unknown(files, path, dirty=dirty, known=number <= given_out)
        elif bool(row["dirty"]) != dirty and path.exists():
            _bring_home(db, files, number, path)
        yield


def _remove_unknown(files: ContentFiles, path: Path, *, dirty: bool, known: bool) -> None:
    """known: its row was there and was deleted; otherwise it was never committed, and so was nothing that is in the file."""
    try:
        if dirty and not known and path.stat().st_size:
            files.put_stray_aside(path)
        else:
            path.unlink()
    except FileNotFoundError:  # it was deleted meanwhile
        return


def _bring_home(db: Database, files: ContentFiles, number: int, path: Path) -> None:
    """The file lies in the other folder. Dirty bytes whose row says clean are Drive's, unless their checksums say otherwise."""
    dirty = path.parent.parent.name == "dirty"
    if dirty and not _sums_match(db, number, path):
        files.put_stray_aside(path)
    else:
        files.move(number, dirty=not dirty)


def _sums_match(db: Database, number: int, path: Path) -> bool:
    with open(path, "rb") as file:
        for block, crc in db.execute("SELECT number, crc FROM block WHERE content = ?", (number,)):
            file.seek(block * BLOCK)
            if zlib.crc32(file.read(BLOCK)) != crc:
                return False
    return True
