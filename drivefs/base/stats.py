"""Counters of one process, and the names of all of them.

A plain object that is handed to whoever counts; reading it never blocks. Units are in the field names.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["LastError", "Stats"]


@dataclass(frozen=True, slots=True)
class LastError:
    """Something went wrong that a person may want to know of."""

    when: float
    what: str
    subject: str


@dataclass(slots=True)
class Stats:
    """api_requests: Drive calls by method name (``files.list``). fuse_errors: replies other than success, by errno name.

    waiting: tells which operations wait for Drive now, each with ``operation``, ``path``, ``seconds`` and ``what``.
    """

    api_requests: Counter[str] = field(default_factory=Counter)
    api_retries: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    fuse_errors: Counter[str] = field(default_factory=Counter)
    internal_errors: int = 0
    last_errors: deque[LastError] = field(default_factory=lambda: deque(maxlen=20))
    waiting: Callable[[], list[dict[str, Any]]] = field(default=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count_request(self, method: str) -> None:
        with self._lock:  # called from transfer threads too
            self.api_requests[method] += 1

    def count_bytes(self, *, down: int = 0, up: int = 0) -> None:
        with self._lock:
            self.bytes_down += down
            self.bytes_up += up

    def record_error(self, what: str, subject: str) -> None:
        self.last_errors.append(LastError(time.time(), what, subject))

    def snapshot(self) -> dict[str, Any]:
        """The counters as plain JSON values."""
        return {
            "api_requests": dict(self.api_requests),
            "api_retries": self.api_retries,
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
            "fuse_errors": dict(self.fuse_errors),
            "internal_errors": self.internal_errors,
            "waiting": self.waiting(),
            "last_errors": [asdict(error) for error in self.last_errors],
        }
