"""What the page is sent: the inventory as JSON with the verdict and the session beside it, as server-sent events.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from drivefs_agent.history import Point
from drivefs_agent.inventory import Specs
from drivefs_agent.verdict import judge

__all__ = ["event", "history_event"]


def event(specs: Specs, guard: Mapping[str, object]) -> bytes:
    """One look. ``own`` is what this process can have, beside the host's totals in ``specs``."""
    return _message(
        "look",
        {
            "time": specs.time.timestamp(),
            "specs": specs.to_json(),
            "own": {
                "memory_total_bytes": specs.memory_total,
                "memory_available_bytes": specs.memory_available,
                "memory_limited": specs.memory_limit is not None,
                "cpu": specs.cpu_ratio,
                "cores": specs.limit_cores or specs.cpu.threads,
                "cores_limited": specs.limit_cores is not None,
            },
            "verdict": asdict(judge(specs.drive, specs.drive_error)),
            "unsent": [{"mount": mount.mountpoint, **asdict(one)} for mount in specs.drive for one in mount.unsent],
            "session": guard,
        },
    )


def history_event(points: Iterable[Point]) -> bytes:
    """The curves up to now."""
    return _message("history", [_point(point) for point in points])


def _point(point: Point) -> dict[str, Any]:
    return {
        "time": point.time.timestamp(),
        "cpu": point.cpu,
        "memory": point.memory,
        "gpu": point.gpu,
        "gpu_memory": point.gpu_memory,
    }


def _message(name: str, content: Any) -> bytes:
    # json writes no line breaks, so one data field holds it all.
    return f"event: {name}\ndata: {json.dumps(content, separators=(',', ':'))}\n\n".encode()
