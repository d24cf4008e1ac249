"""Cost units: how fast this process may call Drive. Pure, with an injected clock.

Since 2026 Drive charges each call in units against an allowance a minute and user. One Pacer is shared by all calls of an
account. Invariants: with burst B and rate R units a second, B + 60 R is the budget, so no window of a minute spends more than
that; the bulk lane leaves the last tenth of the bucket to metadata, so a listing never waits for a queue of downloads.
Source: https://developers.google.com/workspace/drive/api/guides/limits
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

__all__ = ["COST_DOWNLOAD", "COST_EDIT", "COST_GET", "COST_LIST", "COST_OTHER", "DEFAULT_BUDGET", "Lane", "Pacer"]

DEFAULT_BUDGET: Final = 325_000.0  # units a minute, user and project
COST_GET: Final = 5
COST_LIST: Final = 100
COST_DOWNLOAD: Final = 200
COST_EDIT: Final = 50
COST_OTHER: Final = 5


class Lane(Enum):
    """METADATA: someone waits at a prompt. BULK: content, up and down."""

    METADATA = "metadata"
    BULK = "bulk"


class Pacer:
    """A token bucket with two lanes, which slows down when Drive throttles (additive increase, multiplicative decrease).

    budget: units a minute.  clock: seconds, monotonic.
    """

    _BURST_PART: Final = 0.1
    _METADATA_PART: Final = 0.1  # of the bucket
    _SLOWEST: Final = 1 / 64
    _RECOVERY: Final = 1 / 64  # of full speed, gained back each second

    def __init__(self, clock: Callable[[], float], budget: float = DEFAULT_BUDGET) -> None:
        self._clock = clock
        self._burst = max(budget * self._BURST_PART, 2.0 * COST_DOWNLOAD)
        self._full_rate = (budget - self._burst) / 60.0
        if self._full_rate <= 0:
            raise ValueError(f"a budget of {budget} units a minute is too small for a single call at a time")
        self._level = self._burst
        self._speed = 1.0
        self._updated = self._slowed = clock()

    @property
    def speed(self) -> float:
        """The part of full speed allowed now: 1 unless Drive throttled us lately."""
        self._refill()
        return self._speed

    def _refill(self) -> None:
        now = self._clock()
        elapsed, self._updated = max(0.0, now - self._updated), max(now, self._updated)
        self._level = min(self._burst, self._level + elapsed * self._full_rate * self._speed)
        self._speed = min(1.0, self._speed + elapsed * self._RECOVERY)

    def take(self, lane: Lane, units: int) -> float:
        """0.0: the units are taken, go ahead. Otherwise nothing is taken, and it is worth asking again after so many seconds."""
        self._refill()
        needed = units if lane is Lane.METADATA else units + self._burst * self._METADATA_PART
        if self._level >= needed:
            self._level -= units
            return 0.0
        return max((needed - self._level) / (self._full_rate * self._speed), 1e-3)

    def slow_down(self) -> None:
        """Drive throttled a call: halve the speed, once for all calls that were under way together, and spend the burst."""
        self._refill()
        now = self._clock()
        if now - self._slowed >= 1.0 or self._speed == 1.0:
            self._speed = max(self._SLOWEST, self._speed / 2)
            self._slowed = now
        self._level = min(self._level, self._burst * self._METADATA_PART)
