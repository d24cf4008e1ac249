"""What a scan finds: files, the parts that they make, and the keys that tell parts apart.

Invariant: the key of a part is over the bytes that an archive of it would hold.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drivefs_agent.packages.errors import Conflict
from drivefs_agent.packages.model import Part

__all__ = ["Changed", "File", "Found", "Place", "Scan", "content_of", "inner_identity", "key_of"]

# What an installer writes of itself, and of where it had the package from: not what the package is.
_NOT_IN_KEY: Final = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
_INFO: Final = re.compile(r"purelib/[^/]+\.(dist|egg)-info/(?P<name>[^/]+)")
_CHUNK: Final = 1 << 20


class Changed(Conflict):
    """Files are not what they were a moment ago, or not what RECORD says. paths: their scheme paths, where they are known."""

    def __init__(self, message: str, paths: Collection[str] = ()) -> None:
        super().__init__(message)
        self.paths = frozenset(paths)


@dataclass(frozen=True, slots=True)
class File:
    """A file as an archive holds it.

    path: where its bytes are (a text: there are tens of thousands).  scheme: its scheme path.  size, sha256 (hexadecimal): of the
    bytes as they are stored.  mode: permissions.  link: where it is a symbolic link, what it points to; it has no SHA-256.
    content: the bytes to store, where they are not those in the file.
    """

    path: str
    scheme: str
    size: int
    mode: int
    sha256: str | None
    link: str | None = None
    content: bytes | None = None

    @property
    def source(self) -> Path:
        return Path(self.path)


@dataclass(frozen=True, slots=True)
class Found:
    """A part, and its files sorted by scheme path."""

    part: Part
    files: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """warnings: sentences about what cannot be saved, or not as it is."""

    found: tuple[Found, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where packages lie: site-packages, bin, the root, and the Python that scripts name ("" for any).

    A tree of ``pip install --target DIR`` is ``Place(DIR, DIR / "bin", DIR, python)``.
    """

    site: Path
    scripts: Path
    data: Path
    python: str

    @property
    def is_target(self) -> bool:
        return self.site == self.data


def key_of(files: Iterable[tuple[str, str, int]], *, also: str = "") -> str:
    """The key of a part from the scheme paths, SHA-256 and sizes of its files. ``also``: what else tells it apart."""
    rows = sorted(f"{scheme}\0{sha256}\0{size}\n" for scheme, sha256, size in files if not _is_installers(scheme))
    return hashlib.sha256("".join([*rows, also]).encode()).hexdigest()


def inner_identity(mode: int, link: str | None, sha256: str | None) -> str:
    """What stands for a file's SHA-256 in the key of a declared directory: there, permissions and links count."""
    return f"{mode:o} {sha256 if link is None else f'-> {link}'}"


def content_of(file: File) -> Iterator[bytes]:
    """The bytes to store, in pieces. Changed where there are other bytes than ``size`` and ``sha256`` say."""
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(file):
        size += len(chunk)
        digest.update(chunk)
        if size > file.size:
            break
        yield chunk
    if size != file.size or digest.hexdigest() != file.sha256:
        raise Changed(f"{file.path} is changing, or is not what RECORD says. Save again.", [file.scheme])


def _chunks(file: File) -> Iterator[bytes]:
    if file.content is not None:
        yield file.content
        return
    try:
        with io.FileIO(file.path) as opened:
            while chunk := opened.read(_CHUNK):
                yield chunk
    except FileNotFoundError as error:
        raise Changed(f"{file.path} has just been removed. Save again.", [file.scheme]) from error


def _is_installers(scheme: str) -> bool:
    match = _INFO.fullmatch(scheme) if "-info/" in scheme else None
    return match is not None and match["name"] in _NOT_IN_KEY
