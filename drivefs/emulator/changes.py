"""The changes feed: one entry per item with its latest state, oldest change first.

A start token is the number of the change that will come next. A page token is opaque. Trashing or deleting a folder makes one
entry, for the folder: whoever follows the feed infers the descendants.
Source: https://developers.google.com/workspace/drive/api/reference/rest/v3/changes
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from drivefs.emulator import access, drives, resources, scopes
from drivefs.emulator.errors import bad_request, invalid_value
from drivefs.emulator.faults import lag
from drivefs.emulator.fields import Mask, apply, covers, sub
from drivefs.emulator.paging import Parameters, open_token, seal_token
from drivefs.emulator.store import Store
from drivefs.emulator.values import format_time

__all__ = ["list_changes", "start_token"]

_DRIVE_ID: Final = re.compile(r"0A\w{14}PVA", re.ASCII)
_DEFAULT: Final = (
    f"kind,nextPageToken,newStartPageToken,changes(kind,changeType,type,time,removed,fileId,file({resources.DEFAULT_FILE}))"
)


def _bounds(store: Store) -> tuple[int, int]:
    row = store.connection.execute("SELECT first_change, last_change FROM drive").fetchone()
    return row["first_change"], row["last_change"]


def _select(store: Store, statement: str, values: Sequence[Any]) -> list[sqlite3.Row]:
    """Rows as the feed knows them, which may lag behind."""
    return store.connection.execute(lag.feed(store.connection, store.clock(), statement), values).fetchall()


def _end(store: Store) -> int:
    """The number of the change that will come next, as far as the feed knows."""
    return lag.feed_end(store.connection, store.clock(), *_bounds(store))


def start_token(store: Store, parameters: Parameters) -> dict[str, Any]:
    """The answer to changes.getStartPageToken."""
    answer = {"kind": "drive#startPageToken", "startPageToken": _token(store, parameters)}
    filtered: dict[str, Any] = apply(answer, parameters.mask("StartPageToken", "kind,startPageToken"))
    return filtered


def _drive_mark(store: Store, parameters: Parameters) -> int:
    """0, or what tells the tokens of a shared drive from those of the account and of other drives."""
    drive_id = parameters.text("driveId")
    if not drive_id:
        return 0
    mark = int(drives.find(store, drive_id)["seq"])
    if not parameters.boolean("supportsAllDrives"):
        raise bad_request(
            "supportsAllDrives must be true where driveId is given.", location="supportsAllDrives", reason="invalid"
        )
    return mark


def _token(store: Store, parameters: Parameters, position: int = 0) -> str:
    """The number of the change that will come next, never before ``position``.

    A shared drive's tokens have its mark in front of ten digits.
    """
    mark, after = _drive_mark(store, parameters), max(position, _end(store))
    return f"{mark}{after:010d}" if mark else str(after)


def _position(store: Store, parameters: Parameters) -> int:
    token = parameters.required("pageToken")
    if not (token.isascii() and token.isdigit()):
        return int(open_token(store, "changes.list", parameters, token))
    first, last = _bounds(store)
    mark = str(_drive_mark(store, parameters) or "")
    if mark and not (len(token) == len(mark) + 10 and token.startswith(mark)):
        raise invalid_value("pageToken")
    token = token[len(mark) :]
    if len(token) > 18 or not first <= int(token) <= last + 1:
        raise invalid_value("pageToken")
    return int(token)


def _entry(store: Store, row: sqlite3.Row, mask: Mask) -> dict[str, Any]:
    known = None if row["removed"] else _select(store, "SELECT * FROM items WHERE id = ?", (row["id"],))
    item = known[0] if known else None
    if (item is not None and item["drive"] == item["id"]) or _DRIVE_ID.fullmatch(row["id"]):
        return _drive_entry(store, row, mask)
    entry: dict[str, Any] = {
        "kind": "drive#change",
        "changeType": "file",
        "type": "file",
        "time": format_time(row["change_ms"]),
        "removed": bool(row["removed"]),
        "fileId": row["id"],
    }
    filtered: dict[str, Any] = apply(entry, mask)
    if item is not None and (file_mask := sub(mask, "file")) is not None:
        filtered["file"] = resources.file(store, item, file_mask)
    return filtered


def _drive_entry(store: Store, row: sqlite3.Row, mask: Mask) -> dict[str, Any]:
    """A shared drive was made, renamed, joined, left or deleted."""
    entry: dict[str, Any] = {
        "kind": "drive#change",
        "changeType": "drive",
        "type": "teamDrive",
        "time": format_time(row["change_ms"]),
        "removed": bool(row["removed"]),
        "driveId": row["id"],
        "teamDriveId": row["id"],
    }
    filtered: dict[str, Any] = apply(entry, mask)
    if not row["removed"] and (drive_mask := sub(mask, "drive")) is not None:
        filtered["drive"] = drives.resource(store, drives.find(store, row["id"]), drive_mask)
    return filtered


def _removals(store: Store, position: int, drive_id: str, everywhere: bool) -> list[tuple[str, list[Any]]]:
    """What is gone for the caller: deletions (of the main account's items), and accesses lost."""
    parts: list[tuple[str, list[Any]]] = []
    if store.me.owner is None and not drive_id:
        parts.append(("SELECT id, change, change_ms, 1 FROM tombstones WHERE change >= ?", [position]))
    if store.several:
        losses = "SELECT item, change, change_ms, 1 FROM losses WHERE change >= ? AND user = ?"
        parts.append((losses, [position, drive_id or store.me.id]))
        if everywhere and not drive_id:
            member = "user IN (SELECT drives.id FROM drives JOIN permissions ON item = drives.id AND permissions.id = ?)"
            parts.append(
                (f"SELECT item, change, change_ms, 1 FROM losses WHERE change >= ? AND {member}", [position, store.me.id])
            )
    return parts


def _rows(store: Store, parameters: Parameters, position: int, most: int) -> list[sqlite3.Row]:
    everywhere = parameters.boolean("includeItemsFromAllDrives") and parameters.boolean("supportsAllDrives")
    drive_id = parameters.text("driveId")
    seen, values = access.visible(store, drives=everywhere, drive_id=drive_id)
    parts = [(f"SELECT id, change, change_ms, 0 AS removed FROM items WHERE change >= ? AND {seen}", [position, *values])]
    if parameters.boolean("includeRemoved", True):
        parts += _removals(store, position, drive_id, everywhere)
    sql = " UNION ALL ".join(part for part, _ in parts)
    wanted = [value for _, some in parts for value in some]
    if scopes.current().confined:
        confined, more = scopes.confinement()
        sql, wanted = f"SELECT * FROM ({sql}) WHERE {confined}", wanted + more
    return _select(store, f"{sql} ORDER BY change LIMIT ?", (*wanted, most))


def list_changes(store: Store, parameters: Parameters) -> dict[str, Any]:
    """The answer to changes.list."""
    mask = parameters.mask("ChangeList", _DEFAULT)
    size = parameters.page_size(100, 1000, with_parents=covers(mask, "changes", "file", "parents"))
    position = _position(store, parameters)
    rows = _rows(store, parameters, position, size + 1)
    answer: dict[str, Any] = {"kind": "drive#changeList"}
    if len(rows) > size:
        answer["nextPageToken"] = seal_token(store, "changes.list", parameters, rows[size]["change"])
    else:
        answer["newStartPageToken"] = _token(store, parameters, position)
    answer = apply(answer, mask)
    if (changes_mask := sub(mask, "changes")) is not None:
        answer["changes"] = [_entry(store, row, changes_mask) for row in rows[:size]]
    return answer
