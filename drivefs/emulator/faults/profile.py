"""How long the real Drive takes, for each kind of call.

Medians and 90th percentiles as others published them, measured in 2026 over a domestic line on warm connections. A request's
delay is log-normal; content comes on top, at the bandwidth of one connection.
"""

from __future__ import annotations

import random
from typing import Final

from drivefs.emulator.faults.naming import Call
from drivefs.emulator.faults.timing import Bandwidth, Shaper, Spread, Timer

__all__ = ["DriveProfile"]

CONNECT: Final = 0.05  # TCP and TLS, on a connection's first request
_GET: Final = Spread.lognormal(0.28, 0.35)
_LIST: Final = Spread.lognormal(0.33, 0.5)
_WHOLE: Final = Spread.lognormal(0.57, 0.75)
_RANGE: Final = Spread.lognormal(1.2, 2.3)  # to the first byte; hardly less for a kilobyte than for a megabyte
_EDIT: Final = Spread.lognormal(0.9, 1.2)
_SMALL_UPLOAD: Final = Spread.lognormal(2.4, 3.0)
_OPEN: Final = Spread.lognormal(0.7, 1.0)
_CHUNK: Final = Spread.lognormal(0.42, 0.6)
_BANDWIDTH: Final = Bandwidth(down=70e6, up=2e6)
_EDITS: Final = ("create", "update", "delete", "copy", "emptyTrash")


def spread_for(call: Call) -> Spread:
    """The delay of such a call."""
    if "upload.open" in call.names:
        return _OPEN
    if call.name in ("upload.chunk", "upload.cancel"):
        return _CHUNK
    if call.is_upload and call.upload_id is None:
        return _SMALL_UPLOAD
    action = call.name.rpartition(".")[2]
    if action in ("get_media", "export", "download"):
        return _RANGE if "range" in call.headers else _WHOLE
    if action == "list":
        return _LIST
    return _EDIT if action in _EDITS else _GET


class DriveProfile:
    """``--latency drive``."""

    def __init__(self, seed: int, timer: Timer) -> None:
        self._seed = seed
        self._timer = timer
        self.rewind()

    def rewind(self) -> None:
        self._rng = random.Random(f"{self._seed}:latency")
        self.shaper = Shaper(_BANDWIDTH, self._timer.now)

    def latency(self, call: Call, first_on_connection: bool) -> float:
        """Seconds that this call takes, content aside."""
        return spread_for(call).draw(self._rng) + (CONNECT if first_on_connection else 0.0)
