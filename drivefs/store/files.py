"""The files below a cache directory: where each lies, how it is made, moved, written, synced and sorted after a kill. No rows.

``clean/XX/N`` may be deleted at any time, ``dirty/XX/N`` never; N is the number of a content row, never a remote name. The
database is told first which folder a file belongs to, and then the file is moved; so after a kill a file may lie in the other
folder, and everybody who opens one looks there too.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from drivefs.base.crashpoints import crash_point
from drivefs.base.errors import CacheUnusable, LocalDiskFull
from drivefs.store.reserve import Reserve

__all__ = ["ContentFiles"]

log = logging.getLogger(__name__)


class ContentFiles:
    """``write`` and ``sync`` block and may run in any thread."""

    def __init__(self, directory: Path, reserve: Reserve) -> None:
        self._root = directory
        self._directory = os.fspath(directory)
        self._reserve = reserve
        for name in ("clean", "dirty"):
            os.makedirs(os.path.join(self._directory, name), mode=0o700, exist_ok=True)

    def _path(self, number: int, *, dirty: bool) -> str:
        return os.path.join(self._directory, "dirty" if dirty else "clean", f"{number % 256:02x}", str(number))

    def create(self, number: int, *, dirty: bool) -> int:
        """A descriptor of the file, which is new."""
        path = self._path(number, dirty=dirty)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with self._translated():
            try:
                return os.open(path, flags, 0o600)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                return os.open(path, flags, 0o600)

    def open(self, number: int, *, dirty: bool, size: int) -> tuple[int, bool]:
        """(descriptor, whether clean bytes were lost). size: the length that a clean file must have."""
        path, other = self._path(number, dirty=dirty), self._path(number, dirty=not dirty)
        if not os.path.exists(path) and os.path.exists(other):
            self.move(number, dirty=dirty)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            if dirty:
                raise CacheUnusable(
                    f"The unsent content {path} is missing from the cache directory; somebody removed it. "
                    "Restore it from a backup, or delete the file in the mount to get rid of this message."
                ) from None
            fd = self.create(number, dirty=False)
        damaged = not dirty and os.fstat(fd).st_size != size
        if damaged:
            self.truncate(fd, 0)
            self.truncate(fd, size)
        return fd, damaged

    def move(self, number: int, *, dirty: bool) -> None:
        """Bring the file into the folder that its row names; the database has been told before."""
        target = self._path(number, dirty=dirty)
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        os.rename(self._path(number, dirty=not dirty), target)

    def remove(self, number: int) -> None:
        for dirty in (False, True):
            try:
                os.unlink(self._path(number, dirty=dirty))
            except FileNotFoundError:
                continue

    def find(self, number: int) -> os.stat_result | None:
        """What stat says of the file, in whichever folder it lies."""
        for dirty in (True, False):
            try:
                return os.stat(self._path(number, dirty=dirty))
            except FileNotFoundError:
                continue
        return None

    def truncate(self, fd: int, size: int) -> None:
        with self._translated():
            os.ftruncate(fd, size)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """pwrite the whole of ``data``; LocalDiskFull where there is no room, or none beyond what is reserved for the journal."""
        view = memoryview(data)
        if not self._reserve.hold():
            raise self._disk_full()
        while view:
            try:
                written = os.pwrite(fd, view, offset)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self._reserve.release()
                raise self._disk_full() from error
            view, offset = view[written:], offset + written

    def sync(self, fd: int, number: int, *, dirty: bool) -> None:
        """Make bytes and name survive a power cut."""
        with self._translated():
            os.fdatasync(fd)
            folder = os.path.dirname(self._path(number, dirty=dirty))
            for directory in (folder, os.path.dirname(folder)):
                _sync_directory(directory)

    def sort(self, rows: Mapping[int, bool], given_out: int) -> None:
        """After a start: bring each file to where its row says, and remove what has no row.

        rows: whether dirty, by number.  given_out: the highest number that any row ever had.
        """
        for dirty in (False, True):
            for path in list((self._root / ("dirty" if dirty else "clean")).glob("*/*")):
                number = int(path.name)
                crash_point("recovery-file")
                if number in rows:
                    if rows[number] != dirty:
                        self.move(number, dirty=not dirty)
                elif not dirty or number <= given_out or not path.stat().st_size:
                    path.unlink()
                else:
                    self._put_aside(path)

    def _put_aside(self, path: Path) -> None:
        """Unsent bytes of a database that is gone. Nobody may come to write over them, so they are kept under another name."""
        place = self._root / "lost+found" / f"{time.time_ns()}-{path.name}"
        place.parent.mkdir(mode=0o700, exist_ok=True)
        path.rename(place)
        log.error("unsent content that no file belongs to was found; it is kept as %s", place)

    def _disk_full(self) -> LocalDiskFull:
        return LocalDiskFull(f"The file system that holds the cache {self._directory} is full. Free some space there.")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn a full disk into LocalDiskFull; anything else is a defect or broken hardware and stays what it is."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._disk_full() from error
            raise


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
