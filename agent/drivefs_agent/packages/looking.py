"""Makes files of what lies in an environment, whatever it is, and gathers what cannot be saved, to be told in few sentences."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from typing import Final

from drivefs_agent.packages.found import Changed, File, Place
from drivefs_agent.packages.schemes import SCRIPTS, UNSOUND
from drivefs_agent.packages.scripts import to_placeholder

__all__ = ["Look", "Trouble", "hashed", "opened"]

_ELF: Final = b"\x7fELF"
_LARGEST_SCRIPT: Final = 16 << 20  # bytes; with a larger file in bin, the first line is no matter of ours
_CHUNK: Final = 1 << 20
_NAMED: Final = 3  # how many files a warning names


class Trouble:
    """Gathers what cannot be saved, to be told in few sentences."""

    def __init__(self) -> None:
        self._paths: dict[str, list[str]] = {}

    def add(self, what: str, path: str) -> None:
        self._paths.setdefault(what, []).append(path)

    def sentences(self, who: str) -> list[str]:
        return [f"{who}: {what}: {_listed(paths)}." for what, paths in self._paths.items()]


def _listed(paths: list[str]) -> str:
    shown = ", ".join(paths[:_NAMED]).encode("utf-8", "backslashreplace").decode()
    return shown if len(paths) <= _NAMED else f"{shown} and {len(paths) - _NAMED} more"


class Look:
    """Makes a ``File`` of a path, whatever is there."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._inside = tuple(os.path.realpath(each) + os.sep for each in (place.site, place.scripts, place.data))
        self.trouble = Trouble()
        self.native = False

    def look(self, path: str, scheme: str) -> tuple[str, os.stat_result] | None:
        """Where its bytes are, and their state; None where it cannot be saved."""
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            self.trouble.add("files are missing", path)
            return None
        is_link = stat.S_ISLNK(found.st_mode)
        if is_link:
            path, found = self._follow(path, found)
        if UNSOUND.search(scheme):
            self.trouble.add("files are not saved, because their names hold control characters or are no UTF-8", path)
        elif stat.S_ISREG(found.st_mode):
            return path, found
        elif stat.S_ISLNK(found.st_mode):
            self.trouble.add("links are not saved, because they lead out of the environment or nowhere", path)
        elif is_link:
            self.trouble.add("links to directories are not saved", path)
        elif not stat.S_ISDIR(found.st_mode):
            self.trouble.add("these are not saved, because they are no files", path)
        return None

    def _follow(self, path: str, found: os.stat_result) -> tuple[str, os.stat_result]:
        """A link to a file inside is stored as that file."""
        real = os.path.realpath(path)
        try:
            return (real, os.lstat(real)) if real.startswith(self._inside) else (path, found)
        except FileNotFoundError:
            return path, found

    def of(self, path: str, scheme: str, found: os.stat_result, sha256: str | None) -> File | None:
        """``sha256``: of the bytes, where it is known already. None where it cannot be read."""
        try:
            return self._of(path, scheme, found, sha256)
        except PermissionError:
            self.trouble.add("these are not saved, because they cannot be read", path)
            return None

    def _of(self, path: str, scheme: str, found: os.stat_result, sha256: str | None) -> File:
        mode = 0o755 if found.st_mode & 0o100 else 0o644
        small = found.st_size <= _LARGEST_SCRIPT
        if scheme.startswith(SCRIPTS) and small and (content := self._script(path)) is not None:
            return File(path, scheme, len(content), mode, hashlib.sha256(content).hexdigest(), content=content)
        if sha256 is None:
            with opened(path) as file:
                sha256, size, head = hashed(file)
            self.native = self.native or head == _ELF
            return File(path, scheme, size, mode, sha256)
        return File(path, scheme, found.st_size, mode, sha256)

    def _script(self, path: str) -> bytes | None:
        """Its content with the placeholder; None where it is no script that names the layer's Python."""
        with opened(path) as file:
            head = os.read(file.fileno(), 4)
            self.native = self.native or head == _ELF
            if head[:2] != b"#!":
                return None
            content = head + file.read()
        placed = to_placeholder(content, self._place.python)
        return None if placed == content else placed


def opened(path: str) -> io.FileIO:
    try:
        return io.FileIO(path)
    except FileNotFoundError as error:
        raise Changed(f"{path} has just been removed. Try again when pip is done.") from error


def hashed(file: io.FileIO) -> tuple[str, int, bytes]:
    """The SHA-256 of what is in the file, its size, and its first bytes."""
    digest, size, head = hashlib.sha256(), 0, b""
    while chunk := file.read(_CHUNK):
        head = head or chunk[: len(_ELF)]
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size, head
