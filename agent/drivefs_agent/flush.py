"""Bring everything to Drive before the machine goes, and tell truthfully what could not be brought.

The daemons choose the order (the newest and smallest first); all mounts are flushed at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from drivefs_agent import text

__all__ = ["Left", "flush_all", "report"]

_LISTED: Final = 20
_STATUS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Left:
    """What a mount still has. files: path, size, reason; error: why not even that is known."""

    mountpoint: str
    files: tuple[tuple[str, int, str], ...] = ()
    error: str | None = None


def flush_all(timeout: float) -> list[Left]:
    """Wait at most ``timeout`` seconds for Drive to have everything. Empty: it has. Without drivefs there is nothing to bring."""
    try:
        client = importlib.import_module("drivefs.client")
    except ImportError:
        return []
    try:
        states = client.statuses(timeout=min(_STATUS, timeout))
    except OSError as error:
        return [Left("drivefs", error=f"its sockets cannot be looked at: {error.strerror}")]
    with ThreadPoolExecutor(max(1, len(states))) as pool:
        found = pool.map(lambda state: _flush(client, state, timeout), states)
        return [left for left in found if left is not None]


def _flush(client: Any, state: dict[str, Any], timeout: float) -> Left | None:
    mountpoint = str(state["mountpoint"])
    if state.get("mounted") is False:
        return Left(mountpoint, error=str(state["error"]))
    try:
        unsent = client.Client(mountpoint).flush(timeout=timeout)
    except client.ClientError as error:
        return Left(mountpoint, error=str(error))
    files = tuple((str(entry["path"]), int(entry["size"]), str(entry.get("reason") or "waiting")) for entry in unsent)
    return Left(mountpoint, files) if files else None


def report(left: list[Left]) -> Iterator[str]:
    """Lines for people. Names are strangers': made fit for a terminal."""
    for one in left:
        if one.error:
            yield text.printable(f"{one.mountpoint}: not known what is left: {one.error}")
            continue
        size = text.size(sum(size for _, size, _ in one.files))
        yield text.printable(f"{one.mountpoint}: {len(one.files)} files ({size}) are not on Drive:")
        for path, length, reason in one.files[:_LISTED]:
            yield text.printable(f"  {path}  {text.size(length)}: {reason}")
        if len(one.files) > _LISTED:
            yield f"  and {len(one.files) - _LISTED} more"
