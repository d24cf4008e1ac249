"""Named places where a test lets the process die by SIGKILL, as a power switch would: ``DRIVEFS_CRASH_AT=name:n``.

The n-th passing of the place called ``name`` is the last thing the process does. Without the variable nothing is counted.
The names in use are listed here, so that tests can go through all of them and a mistyped one is an error.
"""

from __future__ import annotations

import os
import signal
from typing import Final

__all__ = ["POINTS", "crash_point"]

POINTS: Final[frozenset[str]] = frozenset()


def _read(text: str) -> tuple[str, int]:
    name, _, times = text.partition(":")
    if name not in POINTS:
        raise ValueError(f"DRIVEFS_CRASH_AT names no crash point: {name!r}")
    return name, int(times or "1")


_chosen, _left = _read(os.environ["DRIVEFS_CRASH_AT"]) if os.environ.get("DRIVEFS_CRASH_AT") else ("", 0)


def crash_point(name: str) -> None:
    """Die here if this is the passing that was asked for."""
    global _left
    if name != _chosen:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
