"""Mounts that are no more: what their last sessions left, and why a command finds none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from drivefs import mountpoint as places
from drivefs import stuck
from drivefs.base.config import runtime_dir, socket_path
from drivefs.base.errors import NotMounted
from drivefs.client import Client, canonical, running
from drivefs.record import Record, records

__all__ = ["is_bare", "last_sessions", "remove_dead", "why_not_mounted"]


def is_bare(place: Path) -> bool:
    """Nothing is mounted there."""
    return places.mount_at(place) is None


def remove_dead(entry: places.MountEntry, client: Client) -> None:
    """Remove the mount ``entry`` of a daemon that was killed; MountpointUnusable for any other. client: of its mountpoint."""
    if entry.is_ours and (pid := client.dead_daemon()) is not None:
        stuck.free(entry, pid)
        if places.mount_at(Path(entry.path)) != entry:
            return
    places.detach_if_dead(entry)


def last_sessions(mountpoint: str | None) -> list[dict[str, Any]]:
    """Of mounts that ended with something unsent, in the form of a daemon's status; of all of them where none is named."""
    alive = {client.mountpoint for client in running()}
    known = [record for record in records(_runtime()) if record.mountpoint not in alive]
    if mountpoint is not None:
        place = canonical(mountpoint)
        known = [record for record in known if f"{place}/".startswith(f"{record.mountpoint}/")]
    return [record.last_session() for record in known]


def why_not_mounted(mountpoint: str, typed: str) -> NotMounted:
    """Why no daemon answers for ``mountpoint``, which is canonical. A dead mount is removed, and is not to come back.

    MountpointUnusable: a mount of ours is there, alive, and listens elsewhere.
    """
    record = Record(socket_path(_runtime(), Path(mountpoint)))
    record.add(stop=True)
    entry = places.mount_at(Path(mountpoint))
    if entry is not None and entry.is_ours:
        remove_dead(entry, Client(mountpoint))
        return NotMounted(
            f"The daemon of {typed!r} had been killed; its dead mount is removed. What it had not sent is kept in its cache: "
            f"mount again to send it."
        )
    if record.read():
        return NotMounted(
            f"{typed!r} is not mounted, and its last session has not sent everything. See what: drivefs status. "
            f"Mount again to send it."
        )
    return NotMounted(f"{typed!r} is not mounted by drivefs. See what is: drivefs status")


def _runtime() -> Path:
    return Path(os.path.abspath(runtime_dir(os.environ)))
