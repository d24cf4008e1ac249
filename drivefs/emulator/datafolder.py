"""The folder that a server works in: used by one at a time, private, and telling where its server is."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

__all__ = ["EXIT_IN_USE", "InUse", "Refused", "former_port", "working_folder", "write_server_file"]

EXIT_USAGE: Final = 2
EXIT_IN_USE: Final = 8  # the data folder is used by another server


class Refused(click.ClickException):
    exit_code = EXIT_USAGE


class InUse(click.ClickException):
    exit_code = EXIT_IN_USE


def _lock(folder: Path) -> int:
    """Hold ``folder/lock`` for as long as the process lives. The file holds the owner's pid."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        message = f"{folder} is in use by another emulator (pid {pid}). Stop that one, or choose another --data folder."
        raise InUse(message) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def former_port(folder: Path) -> int:
    """The port of the last server on this folder, so that resumable session addresses stay good; 0 where none is known."""
    try:
        url = str(json.loads((folder / "server.json").read_text())["url"])
        return int(url.rsplit(":", 1)[1])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return 0


def write_server_file(folder: Path, ready: dict[str, Any]) -> None:
    """``folder/server.json``, all of it or none, for the owner only."""
    temporary = folder / f".server.json.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump({"url": ready["url"], "pid": ready["pid"]}, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, folder / "server.json")


@contextlib.contextmanager
def working_folder(data: Path | None) -> Iterator[Path]:
    """The folder to work in: the given one, locked, or a temporary one that goes at the end."""
    if data is None:
        with tempfile.TemporaryDirectory(prefix="drivefs-emulator-") as temporary:
            yield Path(temporary)
        return
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"cannot use {data} as data folder ({error.strerror}). Choose another --data folder.") from None
    owner = data.stat()
    if owner.st_uid not in (0, os.geteuid()) or owner.st_mode & 0o022:
        raise Refused(f"others may write in {data}. Choose a --data folder of your own, with mode 0700.")
    lock = _lock(data)
    try:
        yield data
    finally:
        os.close(lock)
