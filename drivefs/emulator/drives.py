"""Shared drives: made, listed, renamed, deleted. Each is a folder tree of its own that nobody owns.

Source: https://developers.google.com/workspace/drive/api/guides/about-shareddrives
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Mapping
from typing import Any, Final

from drivefs.emulator import access, placement
from drivefs.emulator.access import View
from drivefs.emulator.errors import ApiError, invalid_value, missing_drive
from drivefs.emulator.fields import Mask, apply
from drivefs.emulator.store import Store
from drivefs.emulator.values import FOLDER, format_time

__all__ = ["DEFAULT_DRIVE", "create", "delete", "find", "listed", "rename", "resource"]

DEFAULT_DRIVE: Final = "kind,id,name"
_SELECT: Final = "SELECT drives.*, items.name AS name FROM drives JOIN items USING (id)"


def find(store: Store, drive_id: str) -> sqlite3.Row:
    """404 where it does not exist for the caller."""
    row: sqlite3.Row | None = store.connection.execute(f"{_SELECT} WHERE drives.id = ?", (drive_id,)).fetchone()
    if row is None or View(store).given(drive_id) == 0:
        raise missing_drive(drive_id)
    return row


def listed(store: Store, after: int, most: int) -> list[sqlite3.Row]:
    """Those the caller is a member of, in the order they were made."""
    member = "JOIN permissions ON permissions.item = drives.id AND permissions.id = ?"
    query = f"{_SELECT} {member} WHERE drives.seq > ? ORDER BY drives.seq LIMIT ?"
    return store.connection.execute(query, (store.me.id, after, most)).fetchall()


def create(store: Store, request_id: str, name: Any) -> sqlite3.Row:
    """A new one, whose only member is the caller, as organizer. 409 where the request was carried out before."""
    if not isinstance(name, str) or not name.strip():
        raise invalid_value("name")
    if store.connection.execute("SELECT 1 FROM drives WHERE request_id = ?", (request_id,)).fetchone():
        raise ApiError(409, "duplicate", "A shared drive with the same request ID was created before.", location="requestId")
    drive_id, now = "0A" + secrets.token_urlsafe(10).replace("-", "x").replace("_", "y") + "PVA", store.clock()
    with store.transaction():
        store.connection.execute("INSERT INTO drives (id, request_id, created_ms) VALUES (?, ?, ?)", (drive_id, request_id, now))
        store.connection.execute(
            "INSERT INTO items (id, name, name_folded, mime_type, created_ms, modified_ms, change, change_ms, owner, drive)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, '', ?)",
            (drive_id, name, name.casefold(), FOLDER, now, now, store.next_change(), now, drive_id),
        )
        store.connection.execute(
            "INSERT INTO permissions (item, id, role, type, created_ms, given_by) VALUES (?, ?, 'organizer', 'user', ?, ?)",
            (drive_id, store.me.id, now, store.me.id),
        )
    store.look_around()
    return find(store, drive_id)


def _organizers_only(store: Store, drive_id: str) -> None:
    find(store, drive_id)
    if View(store).given(drive_id) < access.ORGANIZER:
        message = "The user does not have sufficient permissions for this shared drive."
        raise ApiError(403, "insufficientFilePermissions", message)


def rename(store: Store, drive_id: str, name: Any) -> sqlite3.Row:
    _organizers_only(store, drive_id)
    if not isinstance(name, str) or not name.strip():
        raise invalid_value("name")
    query = "UPDATE items SET name = ?, name_folded = ?, change = ?, change_ms = ? WHERE id = ?"
    with store.transaction():
        store.connection.execute(query, (name, name.casefold(), store.next_change(), store.clock(), drive_id))
    return find(store, drive_id)


def delete(store: Store, drive_id: str) -> None:
    """Only an empty one goes."""
    _organizers_only(store, drive_id)
    if store.connection.execute("SELECT 1 FROM items WHERE drive = ? AND id <> ? LIMIT 1", (drive_id, drive_id)).fetchone():
        raise ApiError(403, "teamDriveNotEmpty", "The shared drive cannot be deleted while it holds items.", location="driveId")
    with store.transaction():
        placement.delete_tree(store, drive_id)
        store.connection.execute("DELETE FROM drives WHERE id = ?", (drive_id,))


def resource(store: Store, row: sqlite3.Row, mask: Mask) -> dict[str, Any]:
    """The drives resource."""
    role = View(store).given(row["id"])
    writes, organizes = role >= access.WRITER, role >= access.ORGANIZER
    abilities: Mapping[str, bool] = {
        "canAddChildren": writes,
        "canComment": role >= access.COMMENTER,
        "canCopy": True,
        "canDeleteDrive": organizes,
        "canDownload": True,
        "canEdit": writes,
        "canListChildren": True,
        "canManageMembers": organizes,
        "canReadRevisions": writes,
        "canRename": writes,
        "canRenameDrive": organizes,
        "canShare": organizes,
        "canDeleteChildren": organizes,
        "canTrashChildren": role >= access.FILE_ORGANIZER,
    }
    whole = {
        "kind": "drive#drive",
        "id": row["id"],
        "name": row["name"],
        "createdTime": format_time(row["created_ms"]),
        "hidden": bool(row["hidden"]),
        "capabilities": dict(abilities),
    }
    filtered: dict[str, Any] = apply(whole, mask)
    return filtered
