"""Archives of parts: tar in one zstd frame, the same bytes for the same content.

Members are regular files, and relative symbolic links in declared directories, sorted, with owner 0 and time 0. Each has the name
"<the part's folder>/<scheme path>". Names that do not fit a header have a pax record (POSIX.1-2001), so that any tar unpacks an
archive by hand.

Invariant: what is written has the SHA-256 that the part's key was made of, or there is no archive (``found.Changed``).
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import zstandard

from drivefs_agent.packages.errors import Conflict
from drivefs_agent.packages.found import File, Found, content_of
from drivefs_agent.packages.model import Object

__all__ = ["write"]

_LEVEL: Final = 3  # 9 makes a layer 12 % smaller, and takes five times as long
# Any number but 0 gives the same bytes: zstd cuts the input into jobs by size, and its workers take them.
_WORKERS: Final = 2
_BLOCK: Final = tarfile.BLOCKSIZE
_BUFFER: Final = 1 << 20
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._+!-]+")
_LONGEST_NAME: Final = 150


def write(found: Sequence[Found], python: str, into: Path) -> Object:
    """Write the archive of ``found`` into the file ``into``.

    python: the layer's Python. What it says is in the files already (``File.content``).
    Changed where a file is not what it was when it was scanned; then, and at any other error, ``into`` is removed.
    """
    if len({each.part.folder for each in found}) != len(found):
        raise Conflict("Two packages would have one folder in an archive. Rename one of the declared directories.")
    try:
        with into.open("wb") as file:
            size, sha256 = _write(found, file)
    except BaseException:
        into.unlink(missing_ok=True)
        raise
    return Object(f"{_title(found)}-{sha256[:16]}.tar.zst", sha256, size)


def _title(found: Sequence[Found]) -> str:
    if len(found) != 1:
        return "pack"
    return _NOT_IN_NAMES.sub("_", found[0].part.folder).strip("_.+!-")[:_LONGEST_NAME]


def _write(found: Sequence[Found], file: BinaryIO) -> tuple[int, str]:
    hashed = _Hashed(file)
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, threads=_WORKERS)
    with compressor.stream_writer(hashed, closefd=False) as packed:  # type: ignore[arg-type]  # needs nothing but write
        buffer = bytearray()
        for piece in _pieces(found):
            # zstandard is called rarely, with much at once: most files are small.
            buffer += piece
            if len(buffer) >= _BUFFER:
                packed.write(buffer)
                buffer = bytearray()
        packed.write(buffer)
    return hashed.size, hashed.digest.hexdigest()


def _pieces(found: Sequence[Found]) -> Iterator[bytes]:
    for each in sorted(found, key=lambda each: each.part.folder):
        for member in sorted(each.files, key=lambda file: file.scheme):
            yield _header(f"{each.part.folder}/{member.scheme}", member)
            if member.link is None:
                yield from content_of(member)
                yield bytes(-member.size % _BLOCK)
    yield bytes(2 * _BLOCK)


def _header(name: str, member: File) -> bytes:
    info = tarfile.TarInfo(name)
    info.mode = member.mode
    if member.link is None:
        info.size = member.size
    else:
        info.type = tarfile.SYMTYPE
        info.linkname = member.link
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


class _Hashed:
    """A file that is hashed and counted as it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)
