"""Where the bytes of a ``put`` come from: the request itself, or a file on this machine. Read block by block, and summed."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, Final

import trio

from drivefs.base.config import Config
from drivefs.base.errors import UsageError
from drivefs.look import look
from drivefs.mountpoint import mount_at

__all__ = ["Source", "open_source"]

_BLOCK: Final = 4 << 20


class Source:
    """size: bytes that it had when it was opened; what is read, and summed, is what it has when it is read."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        self._file = file
        self._sum = hashlib.md5(usedforsecurity=False)

    @property
    def md5(self) -> str:
        """Of all that was read, in hex."""
        return self._sum.hexdigest()

    async def read(self) -> bytes:
        """The next block; empty at the end."""
        return await trio.to_thread.run_sync(self._read)

    def _read(self) -> bytes:
        data = self._file.read(_BLOCK)
        self._sum.update(data)
        return data


@asynccontextmanager
async def open_source(arguments: Mapping[str, Any], config: Config) -> AsyncIterator[Source]:
    """What a ``put`` asks to be taken: its ``data`` (base64), or the file ``source``. UsageError where there is no such thing."""
    if "data" in arguments:
        data = _decoded(arguments["data"])
        yield Source(io.BytesIO(data), len(data))
        return
    path = str(arguments.get("source", ""))
    if config.serves == "mount":
        await _require_elsewhere(path, config)
    file, size = await trio.to_thread.run_sync(_open, path)
    try:
        yield Source(file, size)
    finally:
        file.close()


def _decoded(data: Any) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise UsageError(f"The data of the request are not base64: {error}. Are both of one version?") from error


async def _require_elsewhere(path: str, config: Config) -> None:
    """A daemon makes no system call on its own mount (``look``)."""
    here = mount_at(config.mountpoint)
    seen = await trio.to_thread.run_sync(look, path, config.io_timeout)
    if here is not None and seen.error == 0 and seen.device == here.device:
        raise UsageError(f"{path!r} lies in this mount itself, so it is on Drive already. Copy it with: cp")


def _open(path: str) -> tuple[BinaryIO, int]:
    if not os.path.isabs(path):
        raise UsageError(f"{path!r} is not an absolute path, and the daemon works in another directory. Give the whole path.")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe that nobody writes to must not hold us
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"The daemon (user {os.geteuid()}) cannot read {path!r}: {reason}. Give a file that this user can read."
        ) from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise UsageError(f"{path!r} is not a regular file. Give one.")
    return open(fd, "rb", buffering=0), status.st_size
