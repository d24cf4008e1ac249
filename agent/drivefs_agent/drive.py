"""The drivefs mounts of this user, as their daemons tell over their sockets: what waits to be sent, and the cache.

The file system itself is not touched, so a stuck mount cannot hold us. Works without drivefs: then there are none.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from drivefs_agent.patience import Patience

__all__ = ["DriveMount", "DriveReader"]

_TIMEOUT: Final = 1.0


@dataclass(frozen=True, slots=True)
class DriveMount:
    """Bytes and seconds. pending_*: what Drive does not have yet; its age None: nothing.  cache_limit None: no limit."""

    mountpoint: str
    account: str | None = None
    pending_files: int | None = None
    pending_bytes: int | None = None
    oldest_pending_age_seconds: float | None = None
    cache_bytes: int | None = None
    cache_limit: int | None = None


def _all_statuses() -> list[dict[str, Any]]:
    """Of every daemon of this user; ValueError with the daemon's sentence where one does not answer."""
    try:
        client = importlib.import_module("drivefs.client")
    except ImportError:
        return []
    try:
        return [each.status() for each in client.running()]
    except client.ClientError as error:
        raise ValueError(str(error)) from error


class DriveReader:
    """The mounts, again and again, each time within ``timeout`` seconds."""

    def __init__(self, ask: Callable[[], list[dict[str, Any]]] = _all_statuses, timeout: float = _TIMEOUT) -> None:
        self._ask = ask
        self._patience: Patience[tuple[DriveMount, ...] | str] = Patience(timeout)

    def read(self) -> tuple[tuple[DriveMount, ...], str | None]:
        """The mounts, and why they are not known, or None."""
        silent = f"no answer within {self._patience.timeout:g} s; a drivefs daemon may be stuck: look into its log"
        found = self._patience.ask({"": lambda: _answer(self._ask)}).get("", silent)
        return ((), found) if isinstance(found, str) else (found, None)


def _answer(ask: Callable[[], list[dict[str, Any]]]) -> tuple[DriveMount, ...] | str:
    try:
        return tuple(_mount(status) for status in ask())
    except KeyError as error:
        return f"the daemon's status lacks {error}: are both of one version?"
    except (ValueError, OSError) as error:
        return str(error)


def _mount(status: dict[str, Any]) -> DriveMount:
    return DriveMount(
        mountpoint=str(status["mountpoint"]),
        account=status.get("account"),
        pending_files=status.get("pending_files"),
        pending_bytes=status.get("pending_bytes"),
        oldest_pending_age_seconds=status.get("oldest_pending_age_s"),
        cache_bytes=status.get("cache_bytes"),
        cache_limit=status.get("cache_limit"),
    )
