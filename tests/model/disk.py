"""What a power cut leaves of a cache directory.

Each change of a name (create, rename, unlink) and of a file's bytes that was not synced is lost or kept by chance, one
independently of the other, as POSIX allows: real file systems are kinder, because they keep some order. What was synced stays:
bytes by fsync or fdatasync of the file, names by fsync of the directory they are in. A rename is lost or kept as a whole.

SQLite writes its files itself, and is known to sync the log before it moves pages into the database, so of the database only the
end of its log can be lost: cut at a frame, or with a frame missing in the middle (https://www.sqlite.org/fileformat2.html#walformat).
"""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

__all__ = ["Disk"]

_CHANGES = ("rename", "replace", "ftruncate", "pwrite", "unlink", "remove")
_IGNORED = frozenset({"lock", "reserve", "state.db-shm", "state.db-wal"})
_LOG = "state.db-wal"
_LOG_HEADER, _FRAME_HEADER = 32, 24
_PIECE = 8  # bytes that reach the disk together


@dataclass
class _Change:
    """Of one name, not synced yet. ``number`` is the file's; source: of a rename."""

    path: str
    number: int
    source: str | None = None
    gone: bool = False

    def touches(self, folder: str) -> bool:
        return folder in (os.path.dirname(self.path), os.path.dirname(self.source or self.path))


class Disk:
    """Watches one directory at a time; ``before_change`` is called just before each change of bytes or names in it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._root = ""
        self._numbers = 0
        self._names: dict[str, int] = {}  # as programs see them, relative to the root
        self._safe_names: dict[str, int] = {}
        self._safe_bytes: dict[int, bytes | None] = {}  # None: a directory
        self._doomed: dict[int, bytes] = {}  # bytes of files whose last name was removed, while that is not synced
        self._changes: list[_Change] = []
        self._log_synced = (b"", 0)
        self._log_named = False
        self.before_change: Callable[[], None] = lambda: None

    # -- watching --------------------------------------------------------------------------------------------------

    @contextmanager
    def watching(self) -> Iterator[None]:
        """All that this process does to the directory passes here."""
        system: dict[str, Any] = {name: self._counted(name) for name in _CHANGES}
        system |= {"open": self._open(os.open), "mkdir": self._mkdir(os.mkdir)}
        system |= {name: self._sync(getattr(os, name)) for name in ("fsync", "fdatasync")}
        with mock.patch.multiple(os, **system):
            yield

    def move_to(self, root: Path) -> None:
        """The same disk, from now on at another place: what the former process still does concerns nobody."""
        self._root = os.fspath(root)

    def _relative(self, path: Any) -> str | None:
        text = os.fspath(path)
        inside = isinstance(text, str) and text.startswith(self._root + "/") and bool(self._root)
        name = text[len(self._root) + 1 :] if inside else None
        return None if name is None or name.startswith(tuple(_IGNORED)) else name

    def _counted(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def changed(first: Any, *arguments: Any, **options: Any) -> Any:
            self.before_change()
            note = self._note(name, first, arguments)
            result = real(first, *arguments, **options)
            note()
            return result

        return changed

    def _note(self, name: str, first: Any, arguments: tuple[Any, ...]) -> Callable[[], None]:
        """What is to be written down once the call has succeeded; what is about to vanish is read before."""
        path = self._relative(first) if not isinstance(first, int) else None
        if path is None or path not in self._names:
            return lambda: None
        if name in ("unlink", "remove"):
            self._keep_doomed(path)
            return lambda: self._changed(_Change(path, self._names.pop(path), gone=True))
        target = self._relative(arguments[0])
        if target is None:
            return lambda: None
        if target in self._names:
            self._keep_doomed(target)
        return lambda: self._renamed(path, target)

    def _keep_doomed(self, path: str) -> None:
        self._doomed[self._names[path]] = Path(self._root, path).read_bytes()

    def _renamed(self, path: str, target: str) -> None:
        number = self._names[target] = self._names.pop(path)
        self._changed(_Change(target, number, source=path))

    def _changed(self, change: _Change) -> None:
        self._changes.append(change)

    def _open(self, real: Callable[..., int]) -> Callable[..., int]:
        def opened(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            name = self._relative(path) if flags & os.O_CREAT and "dir_fd" not in options else None
            fd = real(path, flags, *arguments, **options)
            if name is not None and name not in self._names:
                self._made(name, b"")
            return fd

        return opened

    def _mkdir(self, real: Callable[..., None]) -> Callable[..., None]:
        def made(path: Any, *arguments: Any, **options: Any) -> None:
            real(path, *arguments, **options)
            name = self._relative(path)
            if name is not None:
                self._made(name, None)

        return made

    def _made(self, name: str, data: bytes | None) -> None:
        self._numbers += 1
        self._names[name] = self._numbers
        self._safe_bytes[self._numbers] = data
        self._changed(_Change(name, self._numbers))

    def _sync(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def synced(fd: int) -> None:
            self.before_change()
            real(fd)
            self._synced(os.readlink(f"/proc/self/fd/{fd}"))

        return synced

    def _synced(self, path: str) -> None:
        if path == f"{self._root}/{_LOG}":
            self._log_synced = _read_log(Path(path))
        elif path == self._root:
            self._log_named = Path(self._root, _LOG).exists()
            self._sync_names("")
        elif (name := self._relative(path)) is not None and name in self._names:
            if os.path.isdir(path):
                self._sync_names(name)
            else:
                self._safe_bytes[self._names[name]] = Path(path).read_bytes()

    def _sync_names(self, folder: str) -> None:
        """With a change goes all that was done to the same file before it."""
        last = max((i for i, change in enumerate(self._changes) if change.touches(folder)), default=-1)
        numbers = {change.number for change in self._changes if change.touches(folder)}
        done = [change for change in self._changes[: last + 1] if change.number in numbers]
        for change in done:
            _apply(change, self._safe_names)
        self._changes = [change for change in self._changes if change not in done]

    # -- the power cut ---------------------------------------------------------------------------------------------

    def cut_power(self, remains: Path) -> None:
        """Turn ``remains``, a copy of the directory as programs saw it, into what is on the disk; go on there."""
        kept = self._surviving_names()
        whole = remains.with_name(remains.name + "-before")
        remains.rename(whole)
        remains.mkdir(mode=0o700)
        named = {number: path for path, number in self._names.items()}
        placed: dict[str, int] = {}
        for path, number in sorted(kept.items()):
            parent = os.path.dirname(path)
            if parent and parent not in placed:
                continue  # the directory itself is lost
            placed[path] = number
            if self._safe_bytes[number] is None:
                (remains / path).mkdir(mode=0o700)
            elif path == "state.db":
                shutil.copy(whole / path, remains / path)
            else:
                seen = (whole / named[number]).read_bytes() if number in named else self._doomed.get(number, b"")
                (remains / path).write_bytes(self._mixed(self._safe_bytes[number] or b"", seen))
        if "state.db" in placed:
            self._cut_log(whole, remains)
        shutil.rmtree(whole)
        self._begin_anew(remains, placed)

    def _surviving_names(self) -> dict[str, int]:
        kept, luck = dict(self._safe_names), self._rng.choice((0.0, 0.3, 0.7, 1.0))
        for change in self._changes:
            if self._rng.random() < luck:
                _apply(change, kept)
        return kept

    def _mixed(self, safe: bytes, seen: bytes) -> bytes:
        """Bytes that were not synced: all, none, some, or zeros where room was given out and nothing written.

        A file that was merely cut has its former length or the new one: file systems change that at once, before any byte.
        """
        if safe == seen:
            return safe
        if safe.startswith(seen):
            return self._rng.choice((safe, seen))
        how = self._rng.choice(("safe", "seen", "zeros", "mixed"))
        if how in ("safe", "seen"):
            return safe if how == "safe" else seen
        size = self._rng.randint(*sorted((len(safe), len(seen))))
        old = safe[:size].ljust(size, b"\0")
        new = old if how == "zeros" else seen[:size].ljust(size, b"\0")
        pieces = [self._rng.choice((old, new))[at : at + _PIECE] for at in range(0, size, _PIECE)]
        return b"".join(pieces)

    def _cut_log(self, whole: Path, remains: Path) -> None:
        log = whole / _LOG
        if not log.exists():
            return
        salt, frames = _read_log(log)
        moved = _frames_moved(whole / "state.db-shm")
        synced = max(self._log_synced[1] if salt == self._log_synced[0] else 0, moved)
        named = self._log_named or moved or self._rng.random() < 0.5
        if not frames or not named:
            return
        data = log.read_bytes()
        size = _FRAME_HEADER + _page_size(data)
        kept = self._rng.randint(synced, frames)
        if kept == 0 and self._rng.random() < 0.3:
            return
        end = _LOG_HEADER + kept * size
        tail = b"" if self._rng.random() < 0.5 else bytes(size) + data[end + size :]
        (remains / _LOG).write_bytes(data[:end] + tail)

    def _begin_anew(self, root: Path, names: dict[str, int]) -> None:
        """What was found after the power cut is on the disk."""
        self._root = os.fspath(root)
        self._names, self._safe_names = dict(names), dict(names)
        for path, number in names.items():
            if self._safe_bytes[number] is not None:
                self._safe_bytes[number] = (root / path).read_bytes()
        self._changes, self._doomed = [], {}
        log = root / _LOG
        self._log_synced, self._log_named = (_read_log(log) if log.exists() else (b"", 0)), log.exists()


def _apply(change: _Change, names: dict[str, int]) -> None:
    """As far as what came before was kept."""
    if change.gone:
        if names.get(change.path) == change.number:
            del names[change.path]
    elif change.source is None:
        names[change.path] = change.number
    elif names.get(change.source) == change.number:
        del names[change.source]
        names[change.path] = change.number


def _page_size(log: bytes) -> int:
    return int(struct.unpack_from(">I", log, 8)[0])


def _read_log(path: Path) -> tuple[bytes, int]:
    """The salt of SQLite's log, and how many frames of that salt it has."""
    data = path.read_bytes()
    if len(data) < _LOG_HEADER:
        return b"", 0
    salt, size, frames = data[16:24], _FRAME_HEADER + _page_size(data), 0
    while data[(at := _LOG_HEADER + frames * size) + 8 : at + 16] == salt and len(data) >= at + size:
        frames += 1
    return salt, frames


def _frames_moved(index: Path) -> int:
    """How many frames the database has taken over: nBackfill of the log's index (https://www.sqlite.org/walformat.html)."""
    data = index.read_bytes() if index.exists() else b""
    return int(struct.unpack_from("=I", data, 96)[0]) if len(data) >= 100 else 0
