"""A whole content from Drive to somebody who takes it in order, past the cache: nothing of it comes to lie on this disk.

Memory is bounded: where the taker is slower than the network, the connection is not read from, and Drive waits too.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from drivefs.base.errors import DriveFSError, RangeNotSatisfiable, RemoteError
from drivefs.remote.drive import Drive

__all__ = ["stream_content"]

# Bytes that may lie here before the taker has had them; a little more, for what is on its way comes all the same.
_BUFFER: Final = 8 << 20
# Bytes given to the taker at a time, or a little more: each time costs a thread's turn for the sum.
_PIECE: Final = 4 << 20

# Takes bytes that belong one after another.
Take = Callable[[Sequence[bytes]], Awaitable[None]]


class _Pipe:
    """What has come and was not taken yet, in order and as it came. ``go`` is cleared while that is enough for now."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._moved = trio.Event()
        self._ended = False

    def sink(self, _offset: int, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _BUFFER:
            self.go.clear()
        self._moved.set()

    def end(self) -> None:
        self._ended = True
        self._moved.set()

    async def take(self) -> list[bytes]:
        """The next pieces; none at the end."""
        while not self._pieces and not self._ended:
            self._moved = trio.Event()
            await self._moved.wait()
        taken: list[bytes] = []
        size = 0
        while self._pieces and size < _PIECE:
            taken.append(self._pieces.popleft())
            size += len(taken[-1])
        self._size -= size
        if self._size < _BUFFER:
            self.go.set()
        return taken


async def stream_content(drive: Drive, file_id: str, size: int, md5: str | None, take: Take) -> None:
    """Give the ``size`` bytes of an item to ``take``, in order, some MiB at a time.

    md5: what they must sum up to, in hex; None: what Drive says.  Whoever takes them may believe them when this has returned.
    RangeNotSatisfiable: the item has another size.  RemoteError: the sum differs, or what Drive says.
    """
    revision = None
    if md5 is None:
        item = await drive.get(file_id)
        if item.size != size:
            raise RangeNotSatisfiable(f"The item {file_id!r} has {item.size} bytes on Drive, not {size}. List its folder again.")
        md5, revision = item.md5, item.revision
    pipe, found = _Pipe(), hashlib.md5(usedforsecurity=False)
    failure: DriveFSError | None = None

    async def download() -> None:
        nonlocal failure
        try:
            await drive.download(file_id, 0, size, pipe.sink, revision=revision, size=size, go=pipe.go)
        except DriveFSError as error:
            failure = error
        pipe.end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(download)
        while pieces := await pipe.take():
            await _give(pieces, found, take)
    if failure is not None:
        raise failure
    if found.hexdigest() != md5:
        raise RemoteError(
            f"The bytes of the item {file_id!r} came with the checksum {found.hexdigest()}, not {md5}. Get it anew."
        )


async def _give(pieces: Sequence[bytes], found: hashlib._Hash, take: Take) -> None:
    def add() -> None:
        for piece in pieces:
            found.update(piece)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, add)
        await take(pieces)
