"""A store in a directory of this machine: a network share, a disk that survives the box, or a test.

Invariant: under its name a file is whole or not there. It is written aside, synced, and renamed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from drivefs_agent.packages.errors import StoreUnreachable
from drivefs_agent.packages.folder import Entry, Progress

__all__ = ["DirectoryFolder"]

_CHUNK: Final = 1 << 20
_TRASH: Final = ".trash"


class DirectoryFolder:
    """``Folder`` over ``root``, which is made at the first ``put``. An entry's id is its path below ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def address(self) -> str:
        return str(self._root)

    def owned(self) -> bool:
        try:
            status = os.lstat(self._root)
        except FileNotFoundError:
            return True
        except OSError as error:
            _fail(self._root, error)
        return stat.S_ISDIR(status.st_mode) and _is_ours(status)

    def files(self, path: str = "") -> list[Entry]:
        return [self._entry(each) for each in self._scan(path) if stat.S_ISREG(each.stat(follow_symlinks=False).st_mode)]

    def folders(self, path: str = "") -> list[str]:
        return [each.name for each in self._scan(path) if each.is_dir(follow_symlinks=False)]

    @contextmanager
    def open(self, entry: Entry, progress: Progress | None = None) -> Iterator[Iterator[bytes]]:
        path = self._root / entry.id
        try:
            file = path.open("rb")
        except OSError as error:
            _fail(path, error)
        with file:
            yield _chunks(file, path, progress)

    def put(self, path: str, source: Path | bytes, progress: Progress | None = None) -> Entry:
        final = self._root / path
        aside = final.parent / f".{final.name[:100]}.{secrets.token_hex(8)}.part"
        try:
            final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                digest = self._write(aside, source, progress)
                aside.replace(final)
            except BaseException:
                aside.unlink(missing_ok=True)
                raise
            _sync_directory(final.parent)
            status = os.lstat(final)
        except OSError as error:
            _fail(final, error)
        return Entry(final.name, path, status.st_size, digest, True, status.st_mtime)

    def trash(self, entry: Entry) -> None:
        source = self._root / entry.id
        try:
            (self._root / _TRASH).mkdir(mode=0o700, exist_ok=True)
            source.replace(self._root / _TRASH / f"{secrets.token_hex(4)}-{source.name}")
        except FileNotFoundError:
            return  # another box was quicker
        except OSError as error:
            _fail(source, error)

    def _write(self, aside: Path, source: Path | bytes, progress: Progress | None) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as file:
            for chunk in [source] if isinstance(source, bytes) else _chunks(source.open("rb"), source, progress):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _scan(self, path: str) -> list[os.DirEntry[str]]:
        folder = self._root / path
        try:
            with os.scandir(folder) as entries:
                return sorted((each for each in entries if not each.name.startswith(".")), key=lambda each: each.name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            _fail(folder, error)

    def _entry(self, found: os.DirEntry[str]) -> Entry:
        status = found.stat(follow_symlinks=False)
        path = os.path.relpath(found.path, self._root)
        return Entry(found.name, path, status.st_size, None, _is_ours(status), status.st_mtime)


def _is_ours(status: os.stat_result) -> bool:
    """Written by us or root, and by nobody else since."""
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & stat.S_IWOTH


def _chunks(file: BinaryIO, path: Path, progress: Progress | None) -> Iterator[bytes]:
    with file:
        while True:
            try:
                chunk = file.read(_CHUNK)
            except OSError as error:
                _fail(path, error)
            if not chunk:
                return
            if progress is not None:
                progress(len(chunk))
            yield chunk


def _sync_directory(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fail(path: Path, error: OSError) -> NoReturn:
    advice = "Free space on its disk." if error.errno in (errno.ENOSPC, errno.EDQUOT) else "See that it is there and yours."
    raise StoreUnreachable(f"The store at {str(path)!r} cannot be used: {error.strerror}. {advice}") from error
