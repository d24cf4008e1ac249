"""Who may do what: roles, given on an item and inherited by all that lies below it.

An owner has the role OWNER on their own items, and WRITER on what others put into their folders. Items of shared drives have no
owner; the drive's members are given roles on its root. Someone who knows an item only through its link needs its resource key.
Source: https://developers.google.com/workspace/drive/api/guides/ref-roles
"""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any, Final

from drivefs.emulator.caller import current
from drivefs.emulator.errors import ApiError, not_permitted

if TYPE_CHECKING:
    from drivefs.emulator.store import Store

__all__ = ["ANYONE", "OWNER", "ROLES", "View", "demand", "locked", "reaches", "visible"]

READER, COMMENTER, WRITER, FILE_ORGANIZER, ORGANIZER, OWNER = range(1, 7)
ROLES: Final = {
    "reader": READER,
    "commenter": COMMENTER,
    "writer": WRITER,
    "fileOrganizer": FILE_ORGANIZER,
    "organizer": ORGANIZER,
    "owner": OWNER,
}
ANYONE: Final = "anyoneWithLink"

# What a listing or a feed of an account without shared drives can hold: its own items, those shared with it with all below, and
# what others put into its folders with all below.
_SEEN: Final = """(items.owner IS ? OR items.id IN (
  WITH RECURSIVE seen(id) AS (
    SELECT item FROM permissions WHERE id = ?
    UNION SELECT lower.id FROM items AS lower JOIN items AS upper ON upper.id = lower.parent
      WHERE lower.owner <> '' AND upper.owner IS ? AND lower.owner IS NOT ?
    UNION SELECT lower.id FROM items AS lower JOIN items AS upper ON upper.id = lower.parent
      WHERE lower.owner IS NULL AND upper.owner = ?
    UNION SELECT items.id FROM items JOIN seen ON items.parent = seen.id)
  SELECT id FROM seen))"""


class View:
    """What one account (the caller, where none is named) may do with items, remembered for the length of one answer."""

    def __init__(self, store: Store, user_id: str | None = None) -> None:
        self._connection = store.connection
        caller = current()
        self.me = store.me if user_id is None else store.user(user_id)
        self.alone = not store.several
        self.store = store
        self._keys = caller.keys
        self.all_drives = caller.all_drives
        self._inherited: dict[str, int] = {}

    def role(self, row: sqlite3.Row) -> int:
        """0: the item does not exist for this account."""
        if self.alone or row["owner"] == self.me.owner:
            return OWNER
        return self.given(row["id"])

    def sees(self, row: sqlite3.Row) -> bool:
        return self.role(row) > 0 and (row["drive"] is None or self.all_drives)

    def sees_id(self, item_id: str | None) -> bool:
        row = self.store.row(item_id) if item_id else None
        return row is not None and self.sees(row)

    def given(self, item_id: str) -> int:
        """The highest role given on the item or above it."""
        chain: list[tuple[str, int]] = []
        role, here = 0, item_id
        while here:
            if here in self._inherited:
                role = self._inherited[here]
                break
            row = self._connection.execute("SELECT owner, parent, resource_key FROM items WHERE id = ?", (here,)).fetchone()
            if row is None:
                break
            direct = self._direct(here, row["resource_key"])
            # Ownership of a folder counts for what lies below it, not for the folder's own role here.
            chain.append((here, max(direct, WRITER if row["owner"] == self.me.owner else 0)))
            here = row["parent"]
        for name, own in reversed(chain):
            role = self._inherited[name] = max(role, own)
        return role

    def _direct(self, item_id: str, key: str | None) -> int:
        rows = self._connection.execute(
            "SELECT id, role FROM permissions WHERE item = ? AND id IN (?, ?)", (item_id, self.me.id, ANYONE)
        )
        keyed = key is None or f"{item_id}/{key}" in self._keys
        return max((ROLES[row["role"]] for row in rows if row["id"] != ANYONE or keyed), default=0)


def visible(store: Store, *, drives: bool, drive_id: str = "") -> tuple[str, list[Any]]:
    """The SQL condition "a listing of the caller shows it". drives: items of shared drives too; drive_id: only of that one."""
    if not store.several:
        return "1", []
    me = store.me
    if drive_id:
        return "items.drive = ?", [drive_id]
    sql, values = _SEEN, [me.owner, me.id, me.owner, me.owner, me.owner]
    if not drives:
        return f"(items.drive IS NULL AND {sql})", values
    member = "items.drive IN (SELECT item FROM permissions JOIN drives ON drives.id = item WHERE permissions.id = ?)"
    return f"({sql} OR {member})", [*values, me.id]


def reaches(store: Store, item_id: str) -> set[str]:
    """Ids of all accounts for which the item exists."""
    row = store.row(item_id)
    if row is None:
        return set()
    return {user.id for user in store.users() if View(store, user.id).role(row) > 0}


def demand(store: Store, row: sqlite3.Row, least: int) -> None:
    """Raise 403 where the caller's role on the item is lower."""
    if store.several and View(store).role(row) < least:
        raise not_permitted()


def demand_parent(store: Store, parent: sqlite3.Row) -> None:
    """Raise 403 where the caller may not add to the folder."""
    if store.several and View(store).role(parent) < WRITER:
        raise ApiError(403, "insufficientParentPermissions", "Insufficient permissions for the specified parent.")


def demand_owner(store: Store, row: sqlite3.Row, in_drive: int) -> None:
    """Only an owner may; in a shared drive, whoever has the role ``in_drive``."""
    demand(store, row, in_drive if row["drive"] else OWNER)


def locked(row: sqlite3.Row) -> bool:
    """A content restriction is in force."""
    return row["restriction"] is not None and bool(json.loads(row["restriction"])["readOnly"])
