"""A content file that is open, and its checksums. No database here: store/cache.py keeps rows and files in step.

Two kinds of checksums: the MD5 that Drive states of a whole file, and the CRC-32 that we keep of each block, so that what a disk
gives back later can be told from what was put there. A block without a sum has been changed, or filled in part, since it was
last looked at, and is taken as it is.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable
from typing import Final

import trio

from drivefs.base.ranges import Range, RangeSet

__all__ = ["BLOCK", "Content", "block_sums", "blocks", "checksum"]

# Bytes that share a CRC-32.
BLOCK: Final = 1 << 20


def blocks(start: int, end: int) -> range:
    """The numbers of the blocks that [start, end) touches."""
    return range(start // BLOCK, -(-end // BLOCK))


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
        # CRC-32 by block; of those in ``own`` the bytes are the user's, and Drive does not have them.
        self.sums: dict[int, int] = {}
        self.own: set[int] = set()
        # Blocks whose sum was taken by an earlier process: what the disk gives back has not been held against it yet.
        self.unchecked: set[int] = set()
        # Bytes that only we had are not what they were. Nothing may be changed any more: the file has a name in lost+found too.
        self.damaged = False
        # Of dirty content: just these bytes are on the disk, each block with its sum.
        self.settled = False
        # Counts changes of bytes by the user, to tell whether something that took a while was about what is here now.
        self.changes = 0
        # ``changes`` when it was last put on the disk, and whether something was fetched since it was last summed.
        self.kept = 0
        self.filled = False
        # Bytes written since it was last looked how much room the file takes.
        self.uncounted = 0
        # Reads under way, and where the last one ended: while a thread reads, no byte may vanish under it.
        self.readers = 0
        self.read_to = 0
        # ``changes`` when just these bytes were last known to be on the disk; -1: never since it was opened.
        self.synced = -1
        # Handles that may write.
        self.writers = 0
        # Filled ranges that the database does not know yet; losing that knowledge costs a download, nothing else.
        self.unsaved = RangeSet()

    def missing(self, start: int, end: int) -> list[Range]:
        """The holes in [start, end)."""
        return self.present.missing(start, min(end, self.base_size))

    def unsummed(self) -> list[int]:
        """Blocks all of whose bytes are here and that have no sum."""
        if len(self.sums) == len(blocks(0, self.size)):
            return []
        wanted = (number for number in blocks(0, self.size) if number not in self.sums)
        return [number for number in wanted if not self.missing(number * BLOCK, min((number + 1) * BLOCK, self.size))]

    def to_check(self, start: int, end: int) -> list[int]:
        """Blocks that must be checked before [start, end) may be used."""
        return [number for number in blocks(start, min(end, self.size)) if number in self.unchecked] if self.unchecked else []

    @property
    def complete(self) -> bool:
        return self.present.covers(0, self.base_size)

    def __repr__(self) -> str:
        state = "dirty" if self.dirty else "clean"
        return f"<Content {self.id} of inode {self.inode}: {state}, {self.size} bytes, {self.references} open>"


def block_sums(fd: int, numbers: Iterable[int], size: int) -> dict[int, int]:
    """CRC-32 of blocks of a file of ``size`` bytes. Blocks: run it in a thread."""
    return {number: zlib.crc32(os.pread(fd, min(BLOCK, size - number * BLOCK), number * BLOCK)) for number in numbers}


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
