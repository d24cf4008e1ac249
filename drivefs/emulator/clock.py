"""The time that Drive has: the machine's, until a test sets it forward."""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """Milliseconds since the epoch. It can be set forward only: what was stamped stays in the past."""

    def __init__(self) -> None:
        self._ahead_ms = 0

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 + self._ahead_ms

    def advance(self, seconds: float) -> None:
        if not 0 <= seconds <= 1e10:
            raise ValueError("a clock is set forward by 0 to 10,000,000,000 seconds")
        self._ahead_ms += round(seconds * 1000)

    def reset(self) -> None:
        """The machine's time again."""
        self._ahead_ms = 0
