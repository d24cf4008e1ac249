"""Small programs for the comparison with the local disk: each gets an empty directory and returns what can be compared."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Program = Callable[[Path], Any]
PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    """Register: it gets an empty directory and returns what can be compared; an OSError counts as the name of its errno."""
    PROGRAMS[function.__name__] = function
    return function


def outcome(run: Program, folder: Path) -> Any:
    try:
        return run(folder)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def tries(*actions: Callable[[], Any]) -> list[Any]:
    """What each action gave, errors as names; values that say nothing (None) as "ok"."""
    results = []
    for action in actions:
        try:
            value = action()
            results.append("ok" if value is None else value)
        except OSError as error:
            results.append(errno.errorcode[error.errno or 0])
    return results


@contextmanager
def opened(path: Path, flags: int, mode: int = 0o600) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def touch(path: Path, content: bytes = b"") -> Path:
    path.write_bytes(content)
    return path


def make(path: Path) -> None:
    """An empty file, which must not exist."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))


def tree(folder: Path) -> dict[str, Any]:
    """Everything below: contents of files, targets of links, None for directories."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = f"-> {path.readlink()}" if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found


def renameat2(old: Path, new: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")
