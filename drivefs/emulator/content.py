"""Bytes: uploads on their way in, blobs at rest, and reading pieces of them.

A blob is immutable and named at random; the database says which revision it belongs to. A blob that no revision names
is waste of a crash and is swept at start. Blobs appear under their name only when complete (written, synced, renamed).
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio.to_thread

__all__ = ["EMPTY", "ContentFolder", "Landed", "Spool"]

PIECE: Final = 1 << 20
_INLINE: Final = 128 << 10  # hashing and writing this much takes less than handing it to a thread is worth


@dataclass(frozen=True, slots=True)
class Landed:
    """Complete bytes of an upload and their digests. path is None for the empty content."""

    path: Path | None
    size: int
    md5: str
    sha1: str
    sha256: str


class _Digests:
    def __init__(self) -> None:
        self._hashes = [hashlib.md5(usedforsecurity=False), hashlib.sha1(usedforsecurity=False), hashlib.sha256()]
        self.size = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        for one in self._hashes:
            one.update(data)
        self.size += len(data)

    def hex(self) -> tuple[str, str, str]:
        md5, sha1, sha256 = (one.hexdigest() for one in self._hashes)
        return md5, sha1, sha256


EMPTY: Final = Landed(None, 0, *_Digests().hex())


class Spool:
    """Receives bytes into a file. The file's length is the truth about how much was received, also after a kill -9.

    One writer at a time; callers see to it. Memory held: less than two pieces.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._buffer = bytearray()
        self._digests: _Digests | None = _Digests()
        self._written = os.fstat(self._fd).st_size
        if self._written:
            self._digests = None  # bytes of an earlier process: they are hashed when the upload is complete

    @property
    def size(self) -> int:
        """Bytes taken."""
        return self._written + len(self._buffer)

    @property
    def written(self) -> int:
        """Bytes that are in the file."""
        return self._written

    async def write(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= PIECE:
            await self.flush()

    async def flush(self) -> None:
        piece, self._buffer = self._buffer, bytearray()
        if len(piece) <= _INLINE:
            self._store(piece)
        else:
            await anyio.to_thread.run_sync(self._store, piece)

    def _store(self, piece: bytearray) -> None:
        view = memoryview(piece)
        while view:
            view = view[os.write(self._fd, view) :]
        self._written += len(piece)
        if self._digests is not None:
            self._digests.update(piece)

    async def cut(self, size: int) -> None:
        """Keep only the first ``size`` bytes."""
        await self.flush()
        if size < self._written:
            os.ftruncate(self._fd, size)
            self._written = size
            self._digests = None if size else _Digests()

    async def land(self) -> Landed:
        """What has arrived, hashed. The spool must not be written to afterwards."""
        await self.flush()
        if self._digests is None:
            self._digests = await anyio.to_thread.run_sync(self._hash_again)
        return Landed(self.path, self._written, *self._digests.hex())

    def _hash_again(self) -> _Digests:
        digests, offset = _Digests(), 0
        while piece := os.pread(self._fd, PIECE, offset):
            digests.update(piece)
            offset += len(piece)
        return digests

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)


class ContentFolder:
    """``blobs/`` (content at rest, 256 subfolders) and ``uploads/`` (content on its way in) under one private folder."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._blobs = folder / "blobs"
        self.uploads = folder / "uploads"
        self._durable = durable
        for one in (folder, self._blobs, self.uploads):
            one.mkdir(mode=0o700, exist_ok=True)

    def blob_path(self, blob: str) -> Path:
        return self._blobs / blob[:2] / blob

    def new_spool(self) -> Spool:
        return Spool(self.uploads / f"part-{secrets.token_hex(16)}")

    async def adopt(self, landed: Landed) -> str | None:
        """Make the bytes a blob: synced first, then renamed. Returns its name, or None for the empty content."""
        if landed.path is None or landed.size == 0:
            return None
        if self._durable:
            return await anyio.to_thread.run_sync(self._adopt, landed.path)
        return self._adopt(landed.path)

    def _adopt(self, path: Path) -> str:
        blob = secrets.token_hex(16)
        target = self.blob_path(blob)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        if self._durable:
            _sync(path)
        os.rename(path, target)
        if self._durable:
            _sync(target.parent)
        return blob

    def unlink(self, blobs: Iterable[str]) -> None:
        for blob in blobs:
            self.blob_path(blob).unlink(missing_ok=True)

    def sweep(self, blobs: set[str], uploads: set[str]) -> None:
        """Remove what nothing names: remains of a killed process. Only while nothing is in flight."""
        for path in self._blobs.glob("*/*"):
            if path.name not in blobs:
                path.unlink()
        for path in self.uploads.iterdir():
            if path.name not in uploads:
                path.unlink()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
