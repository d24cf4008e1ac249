"""A content file that is open, and the checksum of one. No database here: store/cache.py keeps rows and files in step."""

from __future__ import annotations

import hashlib
import os

import trio

from drivefs.base.ranges import Range, RangeSet

__all__ = ["Content", "checksum"]


class Content:
    """A content file that somebody has open. Shared by all handles that see the same bytes; counted by ``references``.

    Holes are filled from ``revision`` (``remote_size`` bytes, checksum ``md5``) of the item ``remote_id``.
    """

    def __init__(
        self,
        id_: int,
        inode: int,
        fd: int,
        *,
        dirty: bool,
        base_size: int = 0,
        remote_id: str | None = None,
        revision: str | None = None,
        md5: str | None = None,
        remote_size: int = 0,
    ) -> None:
        self.id = id_
        self.inode = inode
        self.fd = fd
        self.remote_id = remote_id
        self.revision = revision
        self.md5 = md5
        self.remote_size = remote_size
        self.base_size = base_size
        self.dirty = dirty
        # Held while bytes are changed, and when an upload takes its snapshot: a large write awaits a thread between marking the
        # content dirty and recording what was written, and an upload must begin before that or after.
        self.lock = trio.Lock()
        self.size = os.fstat(fd).st_size
        self.present = RangeSet()
        self.references = 0
        # When the user last wrote, until that is saved in the node's row (at the latest by close).
        self.mtime_ns: int | None = None
        # True while the row's generation may not change without being bumped: from the start of an upload to the next write.
        self.frozen_generation = True
        # The first ``intact`` bytes are as they were at the last freeze: an append changes nothing of what is being sent.
        self.intact = 0
        # Filled ranges that the database does not know yet; losing that knowledge costs a download, nothing else.
        self.unsaved = RangeSet()

    def missing(self, start: int, end: int) -> list[Range]:
        """The holes in [start, end)."""
        return self.present.missing(start, min(end, self.base_size))

    @property
    def complete(self) -> bool:
        return self.present.covers(0, self.base_size)

    def __repr__(self) -> str:
        state = "dirty" if self.dirty else "clean"
        return f"<Content {self.id} of inode {self.inode}: {state}, {self.size} bytes, {self.references} open>"


def checksum(fd: int, size: int) -> str:
    """MD5 of the first ``size`` bytes, in hexadecimal; it is what Drive states of a blob. Blocks: run it in a thread."""
    digest = hashlib.md5(usedforsecurity=False)
    offset = 0
    while offset < size:
        block = os.pread(fd, min(1 << 20, size - offset), offset)
        if not block:
            break
        digest.update(block)
        offset += len(block)
    return digest.hexdigest()
