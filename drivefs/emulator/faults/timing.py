"""Time: clocks that tests can replace, spreads to draw durations from, and buckets that pace bytes."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

import anyio

__all__ = ["Bandwidth", "Bucket", "Shaper", "Spread", "Timer"]

_P90: Final = 1.2815515655446004  # the standard normal distribution's 90th percentile


@dataclass(frozen=True, slots=True)
class Timer:
    """now: seconds on a clock that never goes back.  sleep: waits so many seconds."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution of durations in seconds. fixed: always ``low``.  uniform: ``low`` to ``high``.

    lognormal: ``low`` is the median, and nine in ten draws are below ``high``.
    """

    kind: str
    low: float
    high: float = 0.0

    @classmethod
    def fixed(cls, seconds: float) -> Spread:
        return cls("fixed", seconds)

    @classmethod
    def lognormal(cls, median: float, p90: float) -> Spread:
        return cls("lognormal", median, p90)

    def draw(self, rng: random.Random) -> float:
        if self.kind == "fixed":
            return self.low
        if self.kind == "uniform":
            return rng.uniform(self.low, self.high)
        return rng.lognormvariate(math.log(self.low), math.log(self.high / self.low) / _P90)


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes a second of bodies; None = unlimited. down: of answers.  up: of requests.  total_*: of all connections together."""

    down: float | None = None
    up: float | None = None
    total_down: float | None = None
    total_up: float | None = None


class Bucket:
    """A line that carries ``rate`` bytes a second, one piece after the other."""

    def __init__(self, rate: float, now: Callable[[], float]) -> None:
        self.rate = rate
        self._now = now
        self._free_at = now()

    def reserve(self, count: int) -> float:
        """Seconds until ``count`` more bytes have gone through."""
        now = self._now()
        self._free_at = max(now, self._free_at) + count / self.rate
        return self._free_at - now


class Shaper:
    """The lines that one Bandwidth makes: one for each connection and direction, and one for all connections."""

    def __init__(self, bandwidth: Bandwidth, now: Callable[[], float]) -> None:
        self._bandwidth, self._now = bandwidth, now
        self._total_down = self._one(bandwidth.total_down)
        self._total_up = self._one(bandwidth.total_up)
        self._down: WeakKeyDictionary[Hashable, list[Bucket]] = WeakKeyDictionary()
        self._up: WeakKeyDictionary[Hashable, list[Bucket]] = WeakKeyDictionary()

    def _one(self, rate: float | None) -> list[Bucket]:
        return [] if rate is None else [Bucket(rate, self._now)]

    def down(self, connection: Hashable) -> list[Bucket]:
        """What an answer on ``connection`` passes through."""
        if connection not in self._down:
            self._down[connection] = self._one(self._bandwidth.down)
        return self._down[connection] + self._total_down

    def up(self, connection: Hashable) -> list[Bucket]:
        """What a request's body on ``connection`` passes through."""
        if connection not in self._up:
            self._up[connection] = self._one(self._bandwidth.up)
        return self._up[connection] + self._total_up
