"""How long uploads take, learnt from the last ones: a price for each call, and one for each byte. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["SMALL", "Pace"]

# Bytes; up to this the time of an upload is that of its calls.
SMALL: Final = 1 << 20
# How much the last upload counts against all before it.
_WEIGHT: Final = 0.2


class Pace:
    """seconds_per_file and bytes_per_second are those of one worker, while as many others work as usually do; None: unknown."""

    def __init__(self) -> None:
        self.seconds_per_file: float | None = None
        self.bytes_per_second: float | None = None

    def note(self, size: int, seconds: float) -> None:
        """One upload of ``size`` bytes took so long."""
        if size <= SMALL:
            self.seconds_per_file = _mean(self.seconds_per_file, seconds)
        else:
            net = max(seconds - (self.seconds_per_file or 0.0), 1e-3)
            self.bytes_per_second = _mean(self.bytes_per_second, size / net)

    def estimate(self, sizes: Sequence[int], workers: int) -> float | None:
        """Seconds until uploads of these sizes are done; None where nothing like them was measured yet.

        Never less than the largest takes alone, because one file is sent by one worker.
        """
        times = [self._of(size) for size in sizes]
        known = [time for time in times if time is not None]
        if len(known) < len(times):
            return None
        return max(sum(known) / workers, max(known, default=0.0))

    def _of(self, size: int) -> float | None:
        if size <= SMALL:
            return self.seconds_per_file
        if self.bytes_per_second is None:
            return None
        return (self.seconds_per_file or 0.0) + size / self.bytes_per_second


def _mean(before: float | None, now: float) -> float:
    return now if before is None else before + _WEIGHT * (now - before)
