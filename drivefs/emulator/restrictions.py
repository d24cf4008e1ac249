"""What sharing and locks do to single items: copies that are denied, content that is locked, access that is lost."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from drivefs.emulator import access
from drivefs.emulator.caller import MAIN
from drivefs.emulator.errors import not_permitted
from drivefs.emulator.store import Store
from drivefs.emulator.values import format_time

__all__ = ["check_change", "may_add", "may_download", "noting_losses", "stored_restriction"]

_OWNERS_FIELDS: Final = frozenset({"copyRequiresWriterPermission", "writersCanShare"})


def may_download(store: Store, row: sqlite3.Row) -> bool:
    """Readers may not, where the owner said so. (The same goes for copying.)"""
    if not store.several or not json.loads(row["extra"]).get("copyRequiresWriterPermission"):
        return True
    return access.View(store).role(row) >= access.WRITER


def may_add(store: Store, folder_id: str | None) -> bool:
    row = store.row(folder_id) if folder_id else None
    return row is not None and access.View(store).role(row) >= access.WRITER


def check_change(store: Store, row: sqlite3.Row, values: Mapping[str, Any], media: bool) -> None:
    """Readers may only mark an item for themselves; trashing and some switches are the owner's; locks hold for everybody."""
    if store.several:
        if "trashed" in values:
            access.demand_owner(store, row, access.FILE_ORGANIZER)
        if _OWNERS_FIELDS & set(values):
            access.demand_owner(store, row, access.ORGANIZER)
        if media or set(values) - {"starred", "viewedByMeTime"}:
            access.demand(store, row, access.WRITER)
    if row["restriction"] is None:
        return
    if json.loads(row["restriction"]).get("ownerRestricted") and "contentRestrictions" in values:
        access.demand_owner(store, row, access.ORGANIZER)
    if access.locked(row) and (media or {"name", "mimeType", "originalFilename"} & set(values)):
        raise not_permitted()


def stored_restriction(store: Store, wanted: Sequence[dict[str, Any]] | None) -> str | None:
    """``items.restriction`` for a request's contentRestrictions."""
    if not wanted or not wanted[0]["readOnly"]:
        return None
    kept = wanted[0] | {
        "restrictingUser": store.me.resource(store.me),
        "restrictionTime": format_time(store.clock()),
        "type": "globalContentRestriction",
    }
    return json.dumps(kept, ensure_ascii=False)


@contextmanager
def noting_losses(store: Store, item_id: str) -> Iterator[bool]:
    """Around whatever may take an item away from accounts: their feeds will tell it as removed. Yields whether the main account
    has it now. Call within a transaction.
    """
    if not store.several:
        yield True
        return
    row, before = store.row(item_id), access.reaches(store, item_id)
    # What leaves a shared drive is told in the drive's feed. The drive itself leaves its members one by one.
    drive = row["drive"] if row is not None and row["drive"] != item_id else None
    yield MAIN.id in before and drive is None
    now, after = store.row(item_id), access.reaches(store, item_id)
    if drive is not None:
        losers = {drive} if now is None or now["drive"] != drive else set()
    else:  # a deletion has a tombstone, which is the main account's
        losers = {one for one in before - after if now is not None or one != MAIN.id}
    for one in losers:
        values = (one, item_id, store.next_change(), store.clock())
        store.connection.execute("INSERT OR REPLACE INTO losses (user, item, change, change_ms) VALUES (?, ?, ?, ?)", values)
    again = after | ({now["drive"]} if now is not None and now["drive"] else set())
    store.connection.executemany("DELETE FROM losses WHERE user = ? AND item = ?", [(one, item_id) for one in again])
