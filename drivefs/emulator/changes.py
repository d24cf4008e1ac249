"""The changes feed: one entry per item with its latest state, oldest change first.

A start token is the number of the change that will come next. A page token is opaque. Trashing or deleting a folder makes one
entry, for the folder: whoever follows the feed infers the descendants.
Source: https://developers.google.com/workspace/drive/api/reference/rest/v3/changes
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from drivefs.emulator import resources
from drivefs.emulator.errors import invalid_value, missing_drive
from drivefs.emulator.faults import lag
from drivefs.emulator.fields import Mask, apply, covers, sub
from drivefs.emulator.paging import Parameters, open_token, seal_token
from drivefs.emulator.store import Store
from drivefs.emulator.values import format_time

__all__ = ["list_changes", "start_token"]

_DEFAULT: Final = (
    f"kind,nextPageToken,newStartPageToken,changes(kind,changeType,type,time,removed,fileId,file({resources.DEFAULT_FILE}))"
)


def _bounds(store: Store) -> tuple[int, int]:
    row = store.connection.execute("SELECT first_change, last_change FROM drive").fetchone()
    return row["first_change"], row["last_change"]


def _select(store: Store, statement: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
    """Rows as the feed knows them, which may lag behind."""
    return store.connection.execute(lag.feed(store.connection, store.clock(), statement), values).fetchall()


def _end(store: Store) -> int:
    """The number of the change that will come next, as far as the feed knows."""
    return lag.feed_end(store.connection, store.clock(), *_bounds(store))


def start_token(store: Store, parameters: Parameters) -> dict[str, Any]:
    """The answer to changes.getStartPageToken."""
    if drive_id := parameters.text("driveId"):
        raise missing_drive(drive_id)
    answer = {"kind": "drive#startPageToken", "startPageToken": str(_end(store))}
    filtered: dict[str, Any] = apply(answer, parameters.mask("StartPageToken", "kind,startPageToken"))
    return filtered


def _position(store: Store, parameters: Parameters) -> int:
    token = parameters.required("pageToken")
    if not (token.isascii() and token.isdigit()):
        return int(open_token(store, "changes.list", parameters, token))
    first, last = _bounds(store)
    if len(token) > 18 or not first <= int(token) <= last + 1:
        raise invalid_value("pageToken")
    return int(token)


def _entry(store: Store, row: sqlite3.Row, mask: Mask) -> dict[str, Any]:
    known = None if row["removed"] else _select(store, "SELECT * FROM items WHERE id = ?", (row["id"],))
    item = known[0] if known else None
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
        filtered["file"] = resources.file(item, file_mask)
    return filtered


def list_changes(store: Store, parameters: Parameters) -> dict[str, Any]:
    """The answer to changes.list."""
    mask = parameters.mask("ChangeList", _DEFAULT)
    size = parameters.page_size(100, 1000, with_parents=covers(mask, "changes", "file", "parents"))
    if drive_id := parameters.text("driveId"):
        raise missing_drive(drive_id)
    position, include_removed = _position(store, parameters), parameters.boolean("includeRemoved", True)
    rows = _select(
        store,
        "SELECT id, change, change_ms, 0 AS removed FROM items WHERE change >= ?1"
        " UNION ALL SELECT id, change, change_ms, 1 FROM tombstones WHERE change >= ?1 AND ?2"
        " ORDER BY change LIMIT ?3",
        (position, include_removed, size + 1),
    )
    answer: dict[str, Any] = {"kind": "drive#changeList"}
    if len(rows) > size:
        answer["nextPageToken"] = seal_token(store, "changes.list", parameters, rows[size]["change"])
    else:
        answer["newStartPageToken"] = str(max(position, _end(store)))  # never back, also where the feed lags
    answer = apply(answer, mask)
    if (changes_mask := sub(mask, "changes")) is not None:
        answer["changes"] = [_entry(store, row, changes_mask) for row in rows[:size]]
    return answer
