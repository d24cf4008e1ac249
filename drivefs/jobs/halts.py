"""What stops uploads of many files at once: a sign-in that is refused, a full Drive, a day's allowance that is used up.

Then it is the account's trouble and no file's. Nothing else that would meet it is tried, but for one node now and then as a
probe; what waits has that reason, and goes on as soon as a probe gets through. Kept in memory only: after a start the first call
tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from drivefs.base.errors import DailyLimit, DriveFSError, DriveFull, SignInRefused
from drivefs.store.outbox import Step

__all__ = ["Halts"]

_PAUSE: Final = 60.0
_DAILY_PAUSE: Final = 3600.0
# The upload limit of a day is worded as throttling (``DailyLimit``): it is believed once nothing got through for so long.
_PERSISTS: Final = 60.0
_THROTTLING: Final = frozenset({"rateLimitExceeded", "userRateLimitExceeded"})


@dataclass(slots=True)
class _Halt:
    """until: when the next probe may go.  smallest: bytes; a smaller upload is not concerned.  content: nor is other work."""

    error: DriveFSError
    until: float
    pause: float
    content: bool
    smallest: int = 0

    def concerns(self, step: Step, size: int) -> bool:
        return not self.content or (step.carries_content and size >= self.smallest)


class Halts:
    """size is always what the step would send: bytes of content, 0 for metadata. Times are in seconds of the caller's clock."""

    def __init__(self) -> None:
        self._halts: dict[type[DriveFSError], _Halt] = {}
        self._throttled_since: float | None = None

    def note(self, error: DriveFSError, step: Step, size: int, now: float) -> bool:
        """A call has failed. Whether that is the account's trouble; otherwise it is the node's own."""
        halt = self._halt(error, size, now)
        if halt is None or not halt.concerns(step, size):
            return False
        self._halts[type(error)] = halt
        return True

    def _halt(self, error: DriveFSError, size: int, now: float) -> _Halt | None:
        if isinstance(error, SignInRefused):
            return _Halt(error, now + _PAUSE, _PAUSE, content=False)
        if isinstance(error, DriveFull):
            known = self._halts.get(type(error))
            smallest = size if known is None else min(size, known.smallest)
            return _Halt(error, now + _PAUSE, _PAUSE, content=True, smallest=smallest)
        if isinstance(error, DailyLimit) and self._lasts(error, now):
            return _Halt(error, now + _DAILY_PAUSE, _DAILY_PAUSE, content=error.reason in _THROTTLING, smallest=1)
        return None

    def _lasts(self, error: DailyLimit, now: float) -> bool:
        if self._throttled_since is None:
            self._throttled_since = now
        return error.reason not in _THROTTLING or now - self._throttled_since >= _PERSISTS or DailyLimit in self._halts

    def passed(self, step: Step, size: int) -> bool:
        """A call got through. Whether that ends a halt."""
        if step.carries_content and size:
            self._throttled_since = None
        over = [kind for kind, halt in self._halts.items() if halt.concerns(step, size)]
        for kind in over:
            del self._halts[kind]
        return bool(over)

    def lift(self) -> None:
        """Somebody asks for another attempt now."""
        self._halts.clear()

    def wait_until(self, step: Step, size: int, now: float) -> float | None:
        """When to ask again; None: go ahead. Whoever is let through while a halt stands is its probe, and the others wait."""
        halts = list(self._concerning(step, size))
        until = max((halt.until for halt in halts), default=now)
        if until > now:
            return until
        for halt in halts:
            halt.until = now + halt.pause
        return None

    def error(self, step: Step, size: int) -> DriveFSError | None:
        """Why the step is not taken now."""
        return next((halt.error for halt in self._concerning(step, size)), None)

    def _concerning(self, step: Step, size: int) -> Iterator[_Halt]:
        return (halt for halt in self._halts.values() if halt.concerns(step, size))
