"""The files below a cache directory: where each lies, how it is made, moved, written, synced and sorted after a kill. No rows.

``clean/XX/N`` may be deleted at any time, ``dirty/XX/N`` never; N is the number of a content row, never a remote name. The
database is told first which folder a file belongs to, and then the file is moved; so after a kill a file may lie in the other
folder, and everybody who opens one looks there too.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from drivefs.base.errors import CacheUnusable, LocalDiskFull
from drivefs.store.reserve import Reserve

__all__ = ["LOST_AND_FOUND", "ORIGIN", "ContentFiles", "sync_directory"]

log = logging.getLogger(__name__)

# The folder for bytes that nothing shows any more.
LOST_AND_FOUND: Final = "lost+found"
# The extended attribute of a dirty file that says what it is: JSON with path, remote_id, complete.
ORIGIN: Final = "user.drivefs.origin"

_PUNCH_HOLE: Final = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE

_libc = ctypes.CDLL(None, use_errno=True)


class ContentFiles:
    """``write`` and ``sync`` block and may run in any thread."""

    def __init__(self, directory: Path, reserve: Reserve) -> None:
        self._root = directory
        self._directory = os.fspath(directory)
        self._reserve = reserve
        for name in ("clean", "dirty"):
            os.makedirs(os.path.join(self._directory, name), mode=0o700, exist_ok=True)
        # What ``sync`` makes safe further down would be lost with a folder whose name is not on the disk.
        sync_directory(self._directory)

    def _path(self, number: int, *, dirty: bool) -> str:
        return os.path.join(self._directory, "dirty" if dirty else "clean", f"{number % 256:02x}", str(number))

    def create(self, number: int, *, dirty: bool) -> int:
        """A descriptor of the file, which is new. One of that number whose row a power cut took is put out of the way."""
        path = self._path(number, dirty=dirty)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with self._translated():
            try:
                return os.open(path, flags, 0o600)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            except FileExistsError:
                if os.stat(path).st_size:
                    self.put_stray_aside(Path(path))
                else:
                    os.unlink(path)
            return os.open(path, flags, 0o600)

    def take_in(self, number: int, path: Path) -> None:
        """A second name for ``path``: dirty content ``number``."""
        target = self._path(number, dirty=True)
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        os.link(path, target)

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
        if dirty and os.path.exists(target):  # a power cut took the row of this one
            self.put_stray_aside(Path(target))
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
        path = self.locate(number)
        return None if path is None else path.stat()

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

    def punch(self, fd: int, start: int, end: int) -> None:
        """Give the room of these bytes back: they read as zeros. Some file systems cannot. Source: fallocate(2)."""
        if _libc.fallocate(fd, _PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(end - start)):
            log.debug("no hole could be made: %s", os.strerror(ctypes.get_errno()))

    def sync_everything(self) -> None:
        """All files of the file system that holds the cache survive a power cut: for many at once cheaper than one by one."""
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(fd):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        finally:
            os.close(fd)

    def sync(self, fd: int, number: int, *, dirty: bool) -> None:
        """Make bytes and name survive a power cut."""
        with self._translated():
            os.fdatasync(fd)
            folder = os.path.dirname(self._path(number, dirty=dirty))
            for directory in (folder, os.path.dirname(folder)):
                sync_directory(directory)

    def all(self) -> Iterator[tuple[Path, bool]]:
        """Every content file and whether it lies among the dirty ones, folder by folder."""
        for dirty in (False, True):
            for folder in sorted((self._root / ("dirty" if dirty else "clean")).iterdir()):
                for path in list(folder.iterdir()):
                    yield path, dirty

    def put_stray_aside(self, path: Path) -> None:
        """Unsent bytes that no row claims. Nobody may come to write over them, so they are kept under another name."""
        place = self._aside(path.name)
        path.rename(place)
        log.error("unsent content that no file belongs to was found; it is kept as %s", place)

    def _aside(self, name: str) -> Path:
        place = self._root / LOST_AND_FOUND / f"{time.time_ns()}-{name}"
        place.parent.mkdir(mode=0o700, exist_ok=True)
        return place

    def put_aside(self, number: int, note: Mapping[str, str]) -> Path | None:
        """Take a dirty file out of use, with a note of what it was. None: there is no such file, or nothing in it."""
        path = self.locate(number)
        if path is None or not path.stat().st_size:
            return None
        place = self._aside(path.name)
        path.rename(place)
        place.with_name(f"{place.name}.json").write_text(json.dumps(note, indent=1) + "\n")
        return place

    def link_aside(self, number: int, note: Mapping[str, str]) -> Path | None:
        """A second name for a damaged file, which keeps its bytes whatever becomes of the first. None where it has one."""
        path = self.locate(number)
        if path is None or path.stat().st_nlink > 1:
            return None
        place = self._aside(path.name)
        os.link(path, place)
        place.with_name(f"{place.name}.json").write_text(json.dumps(note, indent=1) + "\n")
        return place

    def locate(self, number: int) -> Path | None:
        """Where the file lies, in whichever folder."""
        for dirty in (True, False):
            path = Path(self._path(number, dirty=dirty))
            if path.exists():
                return path
        return None

    def note_origin(self, fd: int, origin: Mapping[str, object]) -> None:
        """Write beside the bytes what they are, so that they can be found again without the database (store/rebuilding.py)."""
        try:
            os.setxattr(fd, ORIGIN, json.dumps(origin).encode())
        except OSError as error:  # ENOTSUP: no such attributes here; ENOSPC, E2BIG: no room for this one
            log.debug("what a dirty file is cannot be noted beside it: %s", error)

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


def sync_directory(path: str | Path) -> None:
    """Which files there are in it survives a power cut. Source: fsync(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
