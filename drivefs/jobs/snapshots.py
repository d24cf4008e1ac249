"""When a file that stays open for writing is sent as it is. Pure: the clock is the caller's.

Logs and TensorBoard files stay open for days; without this nothing of them would be on Drive before the last close.
"""

from __future__ import annotations

__all__ = ["Snapshots"]


class Snapshots:
    """interval: seconds from the first unsent change to the snapshot; 0: none is taken."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._due: dict[int, float] = {}

    def arm(self, inode: int, now: float) -> float | None:
        """The file holds unsent changes: when its snapshot is due. Repeated, it changes nothing."""
        return self._due.setdefault(inode, now + self.interval) if self.interval else None

    def is_due(self, inode: int, now: float) -> bool:
        return self._due.get(inode, now + 1) <= now

    def reset(self, inode: int) -> None:
        """One was taken, or the file did not stand still, or was closed: what changes from now on counts anew."""
        self._due.pop(inode, None)
