"""The fields of an item that tell whose it is and who else has it. With one account that shared nothing, they are constants."""

from __future__ import annotations

import sqlite3
from typing import Any

from drivefs.emulator.access import WRITER, View
from drivefs.emulator.caller import MAIN
from drivefs.emulator.permissions import effective, resource
from drivefs.emulator.permissions import shared as is_shared
from drivefs.emulator.values import format_time

__all__ = [
    "last_modifying_user",
    "owned_by_me",
    "owners",
    "parents",
    "permission_ids",
    "permissions",
    "shared",
    "shared_with_me_time",
    "sharing_user",
]


def parents(row: sqlite3.Row, view: View) -> list[str] | None:
    """Absent for the root, for orphans, and where the folder does not exist for the caller."""
    if row["parent"] is None or not (view.alone or view.sees_id(row["parent"])):
        return None
    return [row["parent"]]


def _user(view: View, user_id: str) -> dict[str, Any]:
    return view.store.user(user_id).resource(view.me)


def last_modifying_user(row: sqlite3.Row, view: View) -> dict[str, Any]:
    return _user(view, row["modified_by"] or MAIN.id)


def owners(row: sqlite3.Row, view: View) -> list[dict[str, Any]] | None:
    return None if row["owner"] == "" else [_user(view, row["owner"] or MAIN.id)]


def owned_by_me(row: sqlite3.Row, view: View) -> bool | None:
    return None if row["owner"] == "" else row["owner"] == view.me.owner


def shared(row: sqlite3.Row, view: View) -> bool | None:
    return None if row["owner"] == "" else is_shared(row, view)


def permissions(row: sqlite3.Row, view: View) -> list[dict[str, Any]] | None:
    """Only for those who may share it, and not for items of shared drives."""
    if row["owner"] == "" or view.role(row) < WRITER:
        return None
    return [resource(view.store, one, role) for one, role in effective(view.store, row).items()]


def permission_ids(row: sqlite3.Row, view: View) -> list[str] | None:
    return list(effective(view.store, row)) if view.role(row) >= WRITER else None


def _given(row: sqlite3.Row, view: View) -> sqlite3.Row | None:
    """The permission by which the item was shared with the caller."""
    if view.alone or row["owner"] in ("", view.me.owner):
        return None
    found: sqlite3.Row | None = view.store.connection.execute(
        "SELECT created_ms, given_by FROM permissions WHERE item = ? AND id = ?", (row["id"], view.me.id)
    ).fetchone()
    return found


def shared_with_me_time(row: sqlite3.Row, view: View) -> str | None:
    given = _given(row, view)
    return None if given is None else format_time(given["created_ms"])


def sharing_user(row: sqlite3.Row, view: View) -> dict[str, Any] | None:
    given = _given(row, view)
    return None if given is None else _user(view, given["given_by"])
