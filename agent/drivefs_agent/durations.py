"""Spans of time as people write them on a command line."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["parse"]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def parse(text: str) -> float:
    """Seconds: 10800 for "3h", 5400 for "1h30m"; units are s, m, h and d. ValueError with a sentence for anything else."""
    compact = text.strip().lower()
    parts = _PART.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise ValueError(f"{text!r} is no span of time. Write it as 45s, 30m, 3h, 1h30m or 2d.")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
