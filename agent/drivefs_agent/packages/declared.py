"""Declared directories as parts: one for each child, with its permissions, and with the links that stay inside it."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from drivefs_agent.packages.found import Changed, File, Found, Scan, inner_identity, key_of
from drivefs_agent.packages.looking import Trouble, hashed
from drivefs_agent.packages.model import Kind, Part
from drivefs_agent.packages.schemes import DATA, OURS, UNSOUND

__all__ = ["scan_directory"]

_PLAIN_CHILD: Final = re.compile(r"[A-Za-z0-9._ +-]{1,100}")


def scan_directory(name: str, directory: Path) -> Scan:
    """A declared directory: a part "dir/NAME/CHILD" for each child, whose scheme paths are "data/CHILD/…".

    Symbolic links are kept where they are relative, or can be, and stay inside the child. A directory that does not exist holds
    nothing.
    """
    trouble = Trouble()
    found = []
    for child in sorted(os.listdir(directory)) if directory.is_dir() else []:
        if child.startswith(OURS):
            continue
        files = sorted(_tree(directory, child, trouble), key=lambda file: file.scheme)
        if files:
            found.append(_child(name, child, files))
    return Scan(tuple(found), tuple(trouble.sentences(f"The directory {directory}")))


def _child(name: str, child: str, files: list[File]) -> Found:
    plain = child if _PLAIN_CHILD.fullmatch(child) else ""
    if not plain:
        unlike = hashlib.sha256(os.fsencode(child)).hexdigest()[:8]
        plain = f"{re.sub('[^A-Za-z0-9._ +-]+', '_', child)[:80]}-{unlike}"
    key = key_of((file.scheme, inner_identity(file.mode, file.link, file.sha256), file.size) for file in files)
    installed = max(_changed(file.path) for file in files)
    size = sum(file.size for file in files)
    return Found(
        Part(f"dir/{name}/{plain}", "", key, Kind.DIRECTORY, size=size, files=len(files), installed=installed), tuple(files)
    )


def _changed(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except FileNotFoundError as error:
        raise Changed(f"{path} has just been removed. Try again.") from error


def _tree(directory: Path, child: str, trouble: Trouble) -> Iterator[File]:
    waiting = [child]
    while waiting:
        below = waiting.pop()
        path = directory / below
        try:
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode):
                waiting += [f"{below}/{name}" for name in os.listdir(path)]
            elif (file := _kept(directory, below, found, trouble)) is not None:
                yield file
        except FileNotFoundError:
            trouble.add("files vanished while they were looked at", below)
        except PermissionError:
            trouble.add("these are not saved, because they cannot be read", below)


def _kept(directory: Path, below: str, found: os.stat_result, trouble: Trouble) -> File | None:
    path = directory / below
    scheme = DATA + below
    if UNSOUND.search(scheme):
        trouble.add("files are not saved, because their names hold control characters or are no UTF-8", below)
    elif stat.S_ISLNK(found.st_mode):
        if (link := _inner_link(directory, below)) is not None:
            return File(str(path), scheme, 0, 0o777, None, link=link)
        trouble.add("links are not saved, because they lead out of the directory", below)
    elif stat.S_ISREG(found.st_mode):
        return _file(str(path), scheme, found.st_mode & 0o755 | 0o600)
    else:
        trouble.add("these are not saved, because they are no files", below)
    return None


def _file(path: str, scheme: str, mode: int) -> File:
    with io.FileIO(path) as file:
        sha256, size, _ = hashed(file)
    return File(path, scheme, size, mode, sha256)


def _inner_link(directory: Path, below: str) -> str | None:
    """What the link points to, with dots at its beginning only; None where that is not inside the child of ``directory``."""
    path = directory / below
    folder = os.path.realpath(path.parent)
    top = os.path.realpath(directory / below.split("/")[0]) if "/" in below else ""
    target = os.readlink(path)
    lexical = os.path.normpath(os.path.join(folder, target))
    # Dots behind a name mean another place where that name is a link. Then the two differ.
    if not top or not (lexical + os.sep).startswith(top + os.sep) or UNSOUND.search(target):
        return None
    if os.path.realpath(path) != os.path.realpath(lexical) or not (os.path.realpath(path) + os.sep).startswith(top + os.sep):
        return None
    return os.path.relpath(lexical, folder)
