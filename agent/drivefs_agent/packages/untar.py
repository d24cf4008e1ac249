"""Reads the archives that ``pack`` writes, as they arrive, and nothing else: whatever else a tar may hold is hostile.

Python's tarfile is not used: it is made to understand all tars, with their links, sparse files and global headers, and its guards
have been led out of the target before (CVE-2025-4517). Source of the format: POSIX.1-2001, pax.

Invariants: no more is decompressed than is asked for; a header is 512 bytes, or has one pax record of bounded length before it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Final, NamedTuple, cast

import zstandard

from drivefs_agent.packages.errors import Hostile, StoreDamaged

__all__ = ["Archive", "Member"]

_BLOCK: Final = 512
_AT_ONCE: Final = 1 << 20
_WINDOW: Final = 8 << 20  # bytes of memory that a frame may ask for; ours ask for two MiB
_LONGEST_PAX: Final = 64 << 10
_LONGEST_NAME: Final = 255  # of a component: NAME_MAX of Linux's file systems
_LONGEST_PATH: Final = 4096
_END: Final = bytes(_BLOCK)
# A header behind the name, as tarfile writes it: mode, owner, size, time, checksum, kind, link, magic and version, the owner's
# names and a device, a prefix of the name.
_HEADER: Final = re.compile(
    rb"([0-7]{7})\0.{16}([0-7]{11})\0.{12}([0-7]{6})\0 ([025x])(.{100})ustar\x0000.{80}\0{155}.{12}", re.DOTALL
)
_NAME: Final = slice(0, 100)
_CHECKSUM: Final = slice(148, 156)
_PAX_RECORD: Final = re.compile(rb"(\d{1,6}) (path|linkpath|size)=")
_UNSOUND: Final = re.compile(r"[\x00-\x1f\x7f]")
_KINDS: Final = {b"0": "file", b"2": "link", b"5": "directory", b"x": "pax"}


class Member(NamedTuple):
    """name: a sound relative path.  kind: "file", "directory", or "link", which points to ``link``.  size: of the content."""

    name: str
    kind: str
    size: int
    mode: int
    link: str


class Archive:
    """An archive that comes in pieces.

    size and sha256 speak of the bytes that came until now; unpacked of those that they stood for. After each member, its content
    is read to its end before the next one.
    """

    def __init__(self, chunks: Iterable[bytes], most: Callable[[int], int]) -> None:
        """``most``: how many bytes may come of so many packed ones."""
        self._most = most
        self._source = _Source(chunks)
        reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        # It takes whatever has ``read``; what is behind the first frame must not go unseen.
        self._reader = reader.stream_reader(cast(IO[bytes], self._source), read_size=_AT_ONCE, read_across_frames=True)
        self._buffer = b""
        self._position = 0
        self.unpacked = 0

    @property
    def size(self) -> int:
        return self._source.size

    @property
    def sha256(self) -> str:
        return self._source.digest.hexdigest()

    def members(self) -> Iterator[Member]:
        """Hostile for what none of ours holds; StoreDamaged for what is cut short or damaged."""
        while (block := self.take(_BLOCK)) != _END:
            header, extended = _header(block), None
            if header.kind == "pax":
                extended = self._pax(header.size)
                header = _header(self.take(_BLOCK))
            yield _member(header, extended)
        if self.take(_BLOCK) != _END or self._fill(1):
            raise Hostile("The archive goes on behind its end.")
        self._source.drain()

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        if len(self._buffer) - self._position < size and not self._fill(size):
            raise StoreDamaged("The archive ends too soon: it was not sent completely.")
        start = self._position
        self._position += size
        return self._buffer[start : self._position]

    def peek(self, size: int) -> bytes:
        """The next ``size`` bytes, or as many as there are, which stay the next."""
        if len(self._buffer) - self._position < size:
            self._fill(size)
        return self._buffer[self._position : self._position + size]

    def whole(self, size: int) -> bytes:
        """The content of a member of ``size`` bytes, at once."""
        return self.take(size + -size % _BLOCK)[:size]

    def content(self, size: int) -> Iterator[bytes]:
        """The content of a member of ``size`` bytes, in pieces."""
        left = size
        while left:
            if self._position == len(self._buffer):
                self._fill(1)
            piece = self.take(min(left, max(1, len(self._buffer) - self._position)))
            left -= len(piece)
            yield piece
        self.take(-size % _BLOCK)

    def _fill(self, size: int) -> bool:
        """Have ``size`` bytes in the buffer; false where the archive ends before."""
        pieces = [self._buffer[self._position :]]
        have = len(pieces[0])
        try:
            while have < size:
                piece = self._reader.read(max(_AT_ONCE, size - have))
                if not piece:
                    break
                pieces.append(piece)
                have += len(piece)
                self.unpacked += len(piece)
                if self.unpacked > self._most(self._source.size):
                    raise Hostile(f"The archive becomes {self.unpacked} bytes and more: no environment does.")
        except zstandard.ZstdError as error:
            raise StoreDamaged(f"The archive is damaged, or none of ours ({error}).") from error
        self._buffer, self._position = b"".join(pieces), 0
        return have >= size

    def _pax(self, size: int) -> dict[str, str]:
        if not 0 < size <= _LONGEST_PAX:
            raise Hostile(f"The archive has a header of {size} bytes.")
        content = self.whole(size)
        records: dict[str, str] = {}
        while content:
            match = _PAX_RECORD.match(content)
            length = int(match[1]) if match else 0
            if match is None or not match.end() < length <= len(content) or content[length - 1 : length] != b"\n":
                raise Hostile("The archive has a header with something that ours never have.")
            key = match[2].decode()
            if key in records:
                raise Hostile("The archive has a header that says something twice.")
            records[key] = _text(content[match.end() : length - 1])
            content = content[length:]
        return records


class _Source:
    """What the decompressor reads: the pieces, hashed and counted."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")
        self.digest = hashlib.sha256()
        self.size = 0

    def read(self, size: int) -> bytes:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self.digest.update(chunk)
            self.size += len(chunk)
            self._rest = memoryview(chunk)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)

    def drain(self) -> None:
        """The decompressor may not have asked for what holds nothing; there is nothing like that in ours."""
        if self._rest or any(self._chunks):
            raise Hostile("Something comes behind the archive.")


def _header(block: bytes) -> Member:
    """What a header says, with the name as it is."""
    match = _HEADER.fullmatch(block, _NAME.stop)
    if match is None:
        raise Hostile("The archive holds something that is no header of ours.")
    mode, size, checksum, kind, link = match.groups()
    # Its own field counts as blanks.
    if int(checksum, 8) != sum(block) - sum(block[_CHECKSUM]) + 8 * 0x20:
        raise StoreDamaged("A header in the archive is damaged.")
    name = _text(block[_NAME].rstrip(b"\0"))
    return Member(name, _KINDS[kind], int(size, 8), int(mode, 8) & 0o777, _text(link.rstrip(b"\0")))


def _member(header: Member, extended: dict[str, str] | None) -> Member:
    if extended is not None:
        size = _decimal(extended["size"]) if "size" in extended else header.size
        link = extended.get("linkpath", header.link)
        header = header._replace(name=extended.get("path", header.name), link=link, size=size)
    name, kind, size, _, link = header
    if kind == "pax" or (kind == "link") != bool(link) or (kind != "file" and size):
        raise Hostile("The archive holds a member with a header that ours never have.")
    if kind == "directory":
        header = header._replace(name=name.removesuffix("/"))
    _require_sound(header.name)
    return header


def _decimal(text: str) -> int:
    """Pax writes decimal."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise Hostile("The archive has a header with a size that is none.")
    return int(text)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Hostile(f"The archive has a name that is no UTF-8: {raw[:100]!r}.") from None


def _require_sound(name: str) -> None:
    encoded = len(name.encode())
    if not name or encoded > _LONGEST_PATH or _UNSOUND.search(name):
        raise Hostile(f"The archive has a name that none of ours can be: {name[:100]!r}.")
    for component in name.split("/"):
        if component in ("", ".", "..") or (encoded > _LONGEST_NAME and len(component.encode()) > _LONGEST_NAME):
            raise Hostile(f"The archive has a path that leads elsewhere, or that no file can have: {name[:100]!r}.")
