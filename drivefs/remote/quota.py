"""Cost units: how fast this process may call Drive. Pure, with an injected clock.

Since 2026 Drive charges each call in units against an allowance a minute and user. One Pacer is shared by all calls of an
account. Invariants: with burst B and rate R units a second, B + 60 R is the budget, so no window of a minute spends more than
that; the last tenth of the bucket is left to calls that somebody waits for; a lane that Drive throttles does not slow down the
lanes before it, so a storm of refused uploads leaves a listing as fast as it was.
Source: https://developers.google.com/workspace/drive/api/guides/limits
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
    """INTERACTIVE: a program waits for the answer.  UPLOAD: what is sent.  BULK: what will be wanted, and news of changes."""

    INTERACTIVE = "interactive"
    UPLOAD = "upload"
    BULK = "bulk"


_BEHIND: Final = (Lane.UPLOAD, Lane.BULK)
_RESERVED: Final = 0.1  # of the bucket, for INTERACTIVE alone
_SLOWEST: Final = 1 / 64
_RECOVERY: Final = 1 / 64  # of full speed, gained back each second
_LONGEST_PAUSE: Final = 60.0  # seconds that one answer can close a lane for


@dataclass(slots=True)
class _Pace:
    """A lane's own state. level: units it may spend at once, which matters only while the lane is slower than full speed."""

    level: float
    slowed: float
    speed: float = 1.0
    closed_until: float = 0.0

    @property
    def steady(self) -> bool:
        return self.speed >= 1.0


class Pacer:
    """A token bucket that all lanes share, and for each lane a slower one while Drive throttles it.

    Additive increase, multiplicative decrease.  budget: units a minute.  clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float], budget: float = DEFAULT_BUDGET) -> None:
        self._clock = clock
        self._burst = max(budget * 0.1, 2.0 * COST_DOWNLOAD)
        self._full_rate = (budget - self._burst) / 60.0
        if self._full_rate <= 0:
            raise ValueError(f"a budget of {budget} units a minute is too small for a single call at a time")
        self._level = self._burst
        self._updated = clock()
        self._paces = {lane: _Pace(self._burst, self._updated) for lane in Lane}

    def speed(self, lane: Lane) -> float:
        """The part of full speed allowed to ``lane`` now: 1 unless Drive throttled it lately."""
        self._refill()
        return self._paces[lane].speed

    def _refill(self) -> None:
        now = self._clock()
        elapsed, self._updated = max(0.0, now - self._updated), max(now, self._updated)
        self._level = min(self._burst, self._level + elapsed * self._full_rate)
        for pace in self._paces.values():
            pace.level = min(self._burst, pace.level + elapsed * self._full_rate * pace.speed)
            pace.speed = min(1.0, pace.speed + elapsed * _RECOVERY)

    def take(self, lane: Lane, units: int) -> float:
        """0.0: the units are taken, go ahead. Otherwise nothing is taken, and it is worth asking again after so many seconds."""
        self._refill()
        pace = self._paces[lane]
        reserve = 0.0 if lane is Lane.INTERACTIVE else self._burst * _RESERVED
        delay = max(pace.closed_until - self._updated, (units + reserve - self._level) / self._full_rate)
        if not pace.steady:
            delay = max(delay, (units - pace.level) / (self._full_rate * pace.speed))
        if delay > 0.0:
            return max(delay, 1e-3)
        self._level -= units
        pace.level = max(0.0, pace.level - units)
        return 0.0

    def slow_down(self, lane: Lane, retry_after: float | None = None) -> None:
        """Drive throttled a call of ``lane``: halve its speed, and close it for the seconds that Drive asked for.

        Where it was INTERACTIVE's, the others make room first; it slows down itself only when that did not help.
        """
        self._refill()
        now = self._clock()
        self._paces[lane].closed_until = now + min(retry_after or 0.0, _LONGEST_PAUSE)
        if lane is not Lane.INTERACTIVE:
            self._halve(lane)
            return
        tried = all(self._paces[behind].speed <= 0.5 for behind in _BEHIND)
        recent = any(now - self._paces[behind].slowed < 1.0 for behind in _BEHIND)
        for behind in _BEHIND:
            self._halve(behind)
        if tried and not recent:
            self._halve(lane)

    def _halve(self, lane: Lane) -> None:
        """Once for all calls that were under way together; what was saved up is spent."""
        pace, now = self._paces[lane], self._clock()
        if now - pace.slowed >= 1.0 or pace.steady:
            pace.speed = max(_SLOWEST, pace.speed / 2)
            pace.slowed = now
        pace.level = min(pace.level, 0.0 if lane is not Lane.INTERACTIVE else self._burst * _RESERVED)
