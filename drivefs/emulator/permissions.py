"""Permissions: who was given which role on an item, as the API shows it and as callers change it.

Users and "anyone with the link" are emulated; groups and domains are not.
Source: https://developers.google.com/workspace/drive/api/reference/rest/v3/permissions
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, Final

from drivefs.emulator import access
from drivefs.emulator.access import ANYONE, ROLES, View
from drivefs.emulator.caller import User
from drivefs.emulator.errors import ApiError, invalid_value, not_found, not_permitted
from drivefs.emulator.restrictions import noting_losses
from drivefs.emulator.store import Store

__all__ = ["create", "delete", "effective", "find", "listable", "resource", "shared", "update"]

_ITEM_ROLES: Final = frozenset({"reader", "commenter", "writer"})
_DRIVE_ROLES: Final = _ITEM_ROLES | {"fileOrganizer", "organizer"}


def resource(store: Store, permission_id: str, role: str) -> dict[str, Any]:
    """The permissions resource."""
    if permission_id == ANYONE:
        return {"kind": "drive#permission", "id": ANYONE, "type": "anyone", "role": role, "allowFileDiscovery": False}
    user = store.user(permission_id)
    return {
        "kind": "drive#permission",
        "id": user.id,
        "type": "user",
        "role": role,
        "emailAddress": user.email,
        "displayName": user.name,
        "deleted": False,
        "pendingOwner": False,
    }


def _ancestry(store: Store, item_id: str) -> Iterator[sqlite3.Row]:
    """The item and all above it."""
    row = store.row(item_id)
    while row is not None:
        yield row
        row = store.row(row["parent"]) if row["parent"] else None


def effective(store: Store, item: sqlite3.Row) -> dict[str, str]:
    """Permission id → role: the highest of those given on the item and above it. The owner comes first."""
    found: dict[str, str] = {}
    if item["owner"] != "":
        found[item["owner"] or store.account.id] = "owner"
    if not store.several:
        return found
    for row in _ancestry(store, item["id"]):
        given = dict(
            store.connection.execute("SELECT id, role FROM permissions WHERE item = ? ORDER BY id", (row["id"],)).fetchall()
        )
        if row["owner"] != "":
            given.setdefault(row["owner"] or store.account.id, "writer")
        for permission_id, role in given.items():
            if ROLES[role] > ROLES.get(found.get(permission_id, ""), 0):
                found[permission_id] = role
    return found


def find(store: Store, item: sqlite3.Row, permission_id: str) -> str:
    """The role of one permission. 404 where there is none."""
    role = effective(store, item).get(permission_id)
    if role is None:
        raise not_found(permission_id, "Permission", "permissionId")
    return role


def listable(store: Store, item_id: str) -> sqlite3.Row:
    """The item, for those who may see its permissions: readers may not."""
    item = store.item(item_id)
    access.demand(store, item, access.READER if item["drive"] else access.WRITER)
    return item


def _demand_sharing(store: Store, item: sqlite3.Row) -> None:
    """Owners may share, and writers unless the owner said no; in a shared drive, its organizers."""
    access.demand(store, item, access.ORGANIZER if item["drive"] else access.WRITER)
    if not json.loads(item["extra"]).get("writersCanShare", True):
        access.demand_owner(store, item, access.ORGANIZER)
    if item["drive"] is None and store.is_root(item):
        raise not_permitted()


def _role(item: sqlite3.Row, body: Mapping[str, Any]) -> str:
    role = body.get("role")
    if role not in (_DRIVE_ROLES if item["drive"] else _ITEM_ROLES | {"owner"}):
        raise invalid_value("permission.role", "The specified role is invalid or not supported.")
    return str(role)


def _user(store: Store, body: Mapping[str, Any]) -> User:
    wanted = str(body.get("emailAddress", "")).casefold()
    for user in store.users():
        if user.email.casefold() == wanted:
            return user
    message = 'Bad Request. User message: "You are trying to invite someone who has no account here. Make it first."'
    raise ApiError(400, "invalidSharingRequest", message)


def _receiver(store: Store, item: sqlite3.Row, body: Mapping[str, Any], role: str) -> str:
    if body.get("type") == "anyone":
        if role not in _ITEM_ROLES:
            raise invalid_value("permission.role", "The specified role is invalid or not supported.")
        return ANYONE
    if body.get("type") != "user":
        raise invalid_value("permission.type", "The permission type field is required, and must be user or anyone here.")
    return _user(store, body).id


def create(store: Store, item: sqlite3.Row, body: Mapping[str, Any], *, transfer: bool = False) -> tuple[str, str]:
    """Share: give a role, or a higher one. Returns the permission's id and role."""
    _demand_sharing(store, item)
    role = _role(item, body)
    permission_id = _receiver(store, item, body, role)
    with store.transaction():
        _give(store, item, permission_id, role, transfer)
    store.look_around()
    return permission_id, role


def _give(store: Store, item: sqlite3.Row, permission_id: str, role: str, transfer: bool) -> None:
    if role == "owner":
        _transfer(store, item, permission_id, transfer)
    elif permission_id != _owner_id(store, item):
        store.connection.execute(
            "INSERT INTO permissions (item, id, role, type, created_ms, given_by) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET role = excluded.role",
            (item["id"], permission_id, role, "anyone" if permission_id == ANYONE else "user", store.clock(), store.me.id),
        )
    store.connection.execute("DELETE FROM losses WHERE item = ? AND user = ?", (item["id"], permission_id))
    _touch(store, item["id"])


def _owner_id(store: Store, item: sqlite3.Row) -> str:
    return item["owner"] or ("" if item["owner"] == "" else store.account.id)


def _transfer(store: Store, item: sqlite3.Row, new_owner: str, transfer: bool) -> None:
    """The item becomes another's; its former owner stays a writer."""
    if not transfer:
        message = "The transferOwnership parameter must be enabled when the permission role is 'owner'."
        raise ApiError(403, "forbidden", message, location="transferOwnership")
    access.demand(store, item, access.OWNER)
    former = _owner_id(store, item)
    store.connection.execute("UPDATE items SET owner = ? WHERE id = ?", (store.user(new_owner).owner, item["id"]))
    store.connection.execute("DELETE FROM permissions WHERE item = ? AND id = ?", (item["id"], new_owner))
    if former != new_owner:
        store.connection.execute(
            "INSERT OR REPLACE INTO permissions (item, id, role, type, created_ms, given_by)"
            " VALUES (?, ?, 'writer', 'user', ?, ?)",
            (item["id"], former, store.clock(), new_owner),
        )


def _touch(store: Store, item_id: str) -> None:
    query = "UPDATE items SET change = ?, change_ms = ? WHERE id = ?"
    store.connection.execute(query, (store.next_change(), store.clock(), item_id))


def update(store: Store, item: sqlite3.Row, permission_id: str, body: Mapping[str, Any], *, transfer: bool = False) -> str:
    """Another role. Returns it."""
    _demand_sharing(store, item)
    former, role = find(store, item, permission_id), _role(item, body)
    if former == "owner":
        raise not_permitted()
    with store.transaction():
        _give(store, item, permission_id, role, transfer)
    return find(store, store.row(item["id"]) or item, permission_id)


def delete(store: Store, item: sqlite3.Row, permission_id: str) -> None:
    """Take a role away. Everybody may give up their own; the owner's and inherited ones cannot be taken here."""
    find(store, item, permission_id)
    if permission_id != store.me.id:
        _demand_sharing(store, item)
    query = "DELETE FROM permissions WHERE item = ? AND id = ?"
    with store.transaction(), noting_losses(store, item["id"]):
        if store.connection.execute(query, (item["id"], permission_id)).rowcount == 0:
            raise ApiError(403, "forbidden", "The owner's permission, and an inherited one, cannot be removed here.")
        _touch(store, item["id"])


def shared(item: sqlite3.Row, view: View) -> bool:
    """Somebody but the owner may see it."""
    return not view.alone and len(effective(view.store, item)) > 1
