"""The drivefs mounts of this user, as their daemons tell over their sockets: what waits to be sent, and the cache.

The file system itself is not touched, so a stuck mount cannot hold us. Works without drivefs: then there are none.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from drivefs_agent.host import Mount
from drivefs_agent.patience import Patience

__all__ = ["FSTYPE", "DriveMount", "DriveReader", "Unsent"]

FSTYPE = "fuse.drive"  # of drivefs's mounts in the kernel's table
_TIMEOUT: Final = 1.0
_GRACE: Final = 1.0  # for all of them together, beyond what each is given
_LISTED: Final = 20
_STRANGE: Final = "its daemon belongs to another user, or is gone; ask as that user, or mount it again"


@dataclass(frozen=True, slots=True)
class Unsent:
    """A file that Drive does not have as it is here. size: bytes; age: seconds since it was changed."""

    path: str
    size: int
    age: float
    reason: str


@dataclass(frozen=True, slots=True)
class DriveMount:
    """Bytes and seconds. pending_*: what Drive does not have yet; its age None: nothing.  cache_limit None: no limit.

    error: why nothing is known of this one, whose other values are then None.  unsent: the first of what is pending.
    estimated_seconds: until all is sent, as the daemon guesses; None where it cannot.
    """

    mountpoint: str
    account: str | None = None
    pending_files: int | None = None
    pending_bytes: int | None = None
    oldest_pending_age_seconds: float | None = None
    cache_bytes: int | None = None
    cache_limit: int | None = None
    estimated_seconds: float | None = None
    unsent: tuple[Unsent, ...] = ()
    error: str | None = None


def _all_statuses() -> list[dict[str, Any]]:
    """Of every mount of this user, those included whose daemon is stuck or gone."""
    try:
        client = importlib.import_module("drivefs.client")
    except ImportError:
        return []
    found: list[dict[str, Any]] = client.statuses(timeout=_TIMEOUT)
    return found


class DriveReader:
    """The mounts, again and again, each time within ``timeout`` seconds."""

    def __init__(self, ask: Callable[[], list[dict[str, Any]]] = _all_statuses, timeout: float = _TIMEOUT + _GRACE) -> None:
        self._ask = ask
        self._patience: Patience[tuple[DriveMount, ...] | str] = Patience(timeout)

    def read(self, mounted: Iterable[Mount] = ()) -> tuple[tuple[DriveMount, ...], str | None]:
        """The mounts, and why they are not known, or None.

        ``mounted``: the kernel's table. A mount of drivefs in it whose daemon does not listen to this user is another user's, or
        an orphan: what it holds back cannot be known here, and must not be taken for nothing.
        """
        silent = f"no answer within {self._patience.timeout:g} s; a drivefs daemon may be stuck: look into its log"
        found = self._patience.ask({"": lambda: _answer(self._ask)}).get("", silent)
        if isinstance(found, str):
            return (), found
        known = {mount.mountpoint for mount in found}
        strange = (each.mountpoint for each in mounted if each.fstype == FSTYPE and each.mountpoint not in known)
        return (*found, *(DriveMount(mountpoint, error=_STRANGE) for mountpoint in strange)), None


def _answer(ask: Callable[[], list[dict[str, Any]]]) -> tuple[DriveMount, ...] | str:
    try:
        return tuple(_mount(status) for status in ask())
    except KeyError as error:
        return f"the daemon's status lacks {error}: are both of one version?"
    except (ValueError, OSError) as error:
        return str(error)


def _mount(status: dict[str, Any]) -> DriveMount:
    mountpoint = str(status["mountpoint"])
    if "error" in status:
        return DriveMount(mountpoint, error=str(status["error"]))
    return DriveMount(
        mountpoint=mountpoint,
        account=status.get("account"),
        pending_files=status["pending_files"],
        pending_bytes=status["pending_bytes"],
        oldest_pending_age_seconds=status.get("oldest_pending_age_s"),
        cache_bytes=status.get("cache_bytes"),
        cache_limit=status.get("cache_limit"),
        estimated_seconds=status.get("estimated_seconds"),
        unsent=tuple(_unsent(entry) for entry in status.get("pending", [])[:_LISTED]),
    )


def _unsent(entry: dict[str, Any]) -> Unsent:
    reason = "deleted here" if entry.get("deletion") else str(entry.get("reason") or "waiting")
    return Unsent(str(entry["path"]), int(entry["size"]), float(entry["age_s"]), reason)
