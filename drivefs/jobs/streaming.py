"""A whole content from Drive to somebody who takes it in order, past the cache: nothing of it comes to lie on this disk.

Several requests are under way at once, each for a portion, because one alone is slow on the real Drive. Memory is bounded: no
portion is asked for before there are fewer than ``_AHEAD`` that the taker has not had.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from drivefs.base.errors import RangeNotSatisfiable, RemoteError
from drivefs.remote.drive import Drive

__all__ = ["stream_content"]

# Bytes of a portion, and how many are under way or wait for the taker. As large as what a reader of a mount gets to.
_PORTION: Final = 16 << 20
_AHEAD: Final = 4
# Bytes given to the taker at a time.
_PIECE: Final = 1 << 20

Take = Callable[[memoryview], Awaitable[None]]


class _Portion:
    """Bytes [start, end) of the content, as far as they have come."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.data = bytearray(end - start)
        self.here = 0
        self._moved = trio.Event()

    def sink(self, offset: int, data: bytes) -> None:
        at = offset - self.start
        self.data[at : at + len(data)] = data
        self.here = at + len(data)
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    async def beyond(self, size: int) -> int:
        """How many bytes are here, once there are more than ``size``."""
        while self.here <= size:
            await self._moved.wait()
        return self.here


async def stream_content(drive: Drive, file_id: str, size: int, md5: str | None, take: Take) -> None:
    """Give the ``size`` bytes of an item to ``take``, in order, in pieces of at most 1 MiB.

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
    async with trio.open_nursery() as nursery:
        send, receive = trio.open_memory_channel[_Portion](_AHEAD - 1)
        nursery.start_soon(_ask, drive, file_id, size, revision, nursery, send)
        async with receive:
            async for portion in receive:
                await _give(portion, found.update, take)
    if found.hexdigest() != md5:
        raise RemoteError(
            f"The bytes of the item {file_id!r} came with the checksum {found.hexdigest()}, not {md5}. Get it anew."
        )


async def _ask(
    drive: Drive,
    file_id: str,
    size: int,
    revision: str | None,
    nursery: trio.Nursery,
    portions: trio.MemorySendChannel[_Portion],
) -> None:
    async def download(portion: _Portion) -> None:
        await drive.download(file_id, portion.start, portion.end, portion.sink, revision=revision, size=size)

    async with portions:
        for start in range(0, size, _PORTION):
            portion = _Portion(start, min(start + _PORTION, size))
            nursery.start_soon(download, portion)
            await portions.send(portion)


async def _give(portion: _Portion, update: Callable[[memoryview], None], take: Take) -> None:
    given, whole = 0, memoryview(portion.data)
    while given < len(whole):
        end = min(await portion.beyond(given), given + _PIECE)
        piece = whole[given:end]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, update, piece)
            await take(piece)
        given = end
