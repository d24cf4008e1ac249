"""A whole content from Drive to somebody who takes it in order, past the cache: nothing of it comes to lie on this disk.

Several requests are under way at once, each for a portion, because one alone is slow on the real Drive. Memory is bounded: no
portion is asked for before there are fewer than ``_AHEAD`` that the taker has not had.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

import trio

from drivefs.base.errors import DriveFSError, RangeNotSatisfiable, RemoteError
from drivefs.remote.drive import Drive

__all__ = ["stream_content"]

# Bytes of a portion, and how many are under way or wait for the taker. As large as what a reader of a mount gets to.
_PORTION: Final = 16 << 20
_AHEAD: Final = 4
# Bytes given to the taker at a time, or a little more.
_PIECE: Final = 1 << 20

# Takes bytes that belong one after another.
Take = Callable[[Sequence[bytes]], Awaitable[None]]


class _Portion:
    """Bytes [start, end) of the content. They come in order, are not copied, and are kept until they are taken."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self._taken = start
        self._here: deque[bytes] = deque()
        self._moved = trio.Event()

    def sink(self, _offset: int, data: bytes) -> None:
        self._here.append(data)
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    async def pieces(self) -> AsyncGenerator[list[bytes], None]:
        while self._taken < self.end:
            while not self._here:
                await self._moved.wait()
            taken, size = [], 0
            while self._here and size < _PIECE:
                taken.append(self._here.popleft())
                size += len(taken[-1])
            self._taken += size
            yield taken


async def stream_content(drive: Drive, file_id: str, size: int, md5: str | None, take: Take) -> None:
    """Give the ``size`` bytes of an item to ``take``, in order, about 1 MiB at a time.

    md5: what they must sum up to, in hex; None: what Drive says.  Whoever takes them may believe them when this has returned.
    RangeNotSatisfiable: the item has another size.  RemoteError: the sum differs, or what Drive says.
    """
    revision = None
    if md5 is None:
        item = await drive.get(file_id)
        if item.size != size:
            raise RangeNotSatisfiable(f"The item {file_id!r} has {item.size} bytes on Drive, not {size}. List its folder again.")
        md5, revision = item.md5, item.revision
    found = hashlib.md5(usedforsecurity=False)
    failures: list[DriveFSError] = []

    async def download(portion: _Portion) -> None:
        try:
            await drive.download(file_id, portion.start, portion.end, portion.sink, revision=revision, size=size)
        except DriveFSError as error:  # the first is the cause, whatever the others say until they are cancelled
            failures.append(error)
            nursery.cancel_scope.cancel()

    async def ask(portions: trio.MemorySendChannel[_Portion]) -> None:
        async with portions:
            for start in range(0, size, _PORTION):
                portion = _Portion(start, min(start + _PORTION, size))
                nursery.start_soon(download, portion)
                await portions.send(portion)

    async with trio.open_nursery() as nursery:
        send, receive = trio.open_memory_channel[_Portion](_AHEAD - 1)
        nursery.start_soon(ask, send)
        async with receive:
            async for portion in receive:
                async with aclosing(portion.pieces()) as pieces:
                    async for piece in pieces:
                        await _give(piece, found, take)
    if failures:
        raise failures[0]
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
