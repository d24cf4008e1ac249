"""How much the cache may still take: within its own limit, and with something left free on the disk for everybody else.

``limit`` bounds clean data, ``bound`` all data; ``bound`` is set where the user has named a size. Without one, unsent data may
take all that the floor leaves, because a checkpoint that cannot be saved costs more than a disk that is fuller than planned.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["Room"]

_DEFAULT_LIMIT: Final = 50 * 10**9
_DEFAULT_FLOOR: Final = 10**9
# Bytes that may be written between two looks at the disk, which others fill too.
_STRIDE: Final = 16 << 20


class Room:
    """All figures in bytes. bound, floor: None for the defaults."""

    def __init__(self, directory: Path, bound: int | None, floor: int | None) -> None:
        self._directory = directory
        status = os.statvfs(directory)
        total, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
        self.bound = bound
        self.limit = min(_DEFAULT_LIMIT, free // 5) if bound is None else bound
        self.floor = min(_DEFAULT_FLOOR, total // 20) if floor is None else floor
        # Bytes that unsent contents take on the disk, by content.
        self._unsent: dict[int, int] = {}
        self.unsent = 0
        self._left = 0

    def charge(self, content_id: int, size: int) -> None:
        """An unsent content takes ``size`` bytes on the disk now."""
        self.unsent += size - self._unsent.get(content_id, 0)
        self._unsent[content_id] = size

    def discharge(self, content_id: int) -> None:
        self.unsent -= self._unsent.pop(content_id, 0)

    def taken_by(self, content_id: int) -> int:
        return self._unsent.get(content_id, 0)

    def take(self, size: int) -> bool:
        """Whether ``size`` more bytes fit as far as was last looked; cheap, for every write."""
        self._left -= size
        return self._left >= 0

    def lacking(self, size: int, clean: int) -> int:
        """Look anew: how much must go before ``size`` more bytes fit beside ``clean`` bytes of clean data; 0: they fit."""
        status = os.statvfs(self._directory)
        left = status.f_bavail * status.f_frsize - self.floor
        if self.bound is not None:
            left = min(left, self.bound - clean - self.unsent)
        self._left = min(left - size, _STRIDE)
        return max(0, size - left)
