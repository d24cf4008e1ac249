"""When each node is to be worked on, and which one first of those whose time has come. Pure: the clock is the caller's."""

from __future__ import annotations

import heapq
import math
from typing import Final

__all__ = ["Agenda", "Rank"]

# Compared item by item; the lowest goes first.
Rank = tuple[float, ...]
_NO_RANK: Final[Rank] = (math.inf,)


class Agenda:
    """A node is on it once; putting it again moves it. Without a rank the time decides, and all ranks go before none."""

    def __init__(self) -> None:
        self._due: dict[int, float] = {}
        # Both heaps may hold outdated entries; the dict is right.
        self._later: list[tuple[float, int]] = []
        self._ready: list[tuple[Rank, float, int]] = []
        self._ranks: dict[int, Rank] = {}

    def __contains__(self, inode: int) -> bool:
        return inode in self._due

    def put(self, inode: int, due: float) -> None:
        self._due[inode] = due
        heapq.heappush(self._later, (due, inode))

    def rank(self, inode: int, rank: Rank | None) -> None:
        """From the next ``put`` on."""
        if rank is None:
            self._ranks.pop(inode, None)
        else:
            self._ranks[inode] = rank

    def next_time(self) -> float:
        """When ``pop`` may have something; infinity where there is nothing."""
        if self._ready:
            return -math.inf
        return self._later[0][0] if self._later else math.inf

    def pop(self, now: float) -> int | None:
        """Take the first of the nodes that are due."""
        while self._later and self._later[0][0] <= now:
            due, inode = heapq.heappop(self._later)
            if self._due.get(inode) == due:
                heapq.heappush(self._ready, (self._ranks.get(inode, _NO_RANK), due, inode))
        while self._ready:
            _, due, inode = heapq.heappop(self._ready)
            if self._due.get(inode) == due:
                del self._due[inode]
                return inode
        return None
