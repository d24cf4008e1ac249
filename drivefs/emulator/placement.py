"""Where items lie: folders, moves, what trash hands down, and deletion of whole trees.

Source: https://developers.google.com/workspace/drive/api/guides/ref-single-parent
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from drivefs.emulator import revisions
from drivefs.emulator.errors import ApiError, bad_request, not_permitted
from drivefs.emulator.store import Store
from drivefs.emulator.values import FOLDER

__all__ = ["delete", "empty_trash", "folder", "inherit_trashed", "new_parent"]


def folder(store: Store, parent_id: str) -> sqlite3.Row:
    parent = store.item(parent_id)
    if parent["mime_type"] != FOLDER:
        raise ApiError(403, "parentNotAFolder", "The specified parent is not a folder.")
    return parent


def new_parent(store: Store, row: sqlite3.Row, add: Sequence[str], remove: Sequence[str]) -> sqlite3.Row | None:
    """The parent after a move, or None where it stays. addParents replaces; removing the only parent leads to the root."""
    added = [store.root_id if one == "root" else one for one in add]
    removed = {store.root_id if one == "root" else one for one in remove}
    wanted = [one for one in dict.fromkeys(added) if one not in removed and one != row["parent"]]
    if len(wanted) > 1:
        raise ApiError(403, "cannotAddParent", "Increasing the number of parents is not allowed")
    if wanted:
        parent = folder(store, wanted[0])
    elif row["parent"] in removed and row["parent"] not in added:
        parent = store.item("root")
    else:
        return None
    _check_no_cycle(store, row["id"], parent)
    return parent


def _check_no_cycle(store: Store, item_id: str, parent: sqlite3.Row) -> None:
    ancestors = store.connection.execute(
        "WITH RECURSIVE up(id) AS (SELECT ? UNION SELECT parent FROM items JOIN up USING (id)) SELECT id FROM up", (parent["id"],)
    )
    if any(row["id"] == item_id for row in ancestors):
        raise bad_request("A folder cannot be moved into itself or one of its descendants.", location="addParents")


def inherit_trashed(store: Store, folder_id: str, trashed: bool) -> None:
    """Hand a folder's new state down. The feed does not tell of the descendants, so their version stays."""
    store.connection.execute(
        "WITH RECURSIVE below(id) AS (SELECT id FROM items WHERE parent = ?1 AND NOT explicitly_trashed"
        " UNION ALL SELECT items.id FROM items JOIN below ON items.parent = below.id WHERE NOT explicitly_trashed)"
        " UPDATE items SET trashed = ?2 WHERE id IN below",
        (folder_id, trashed),
    )


def delete(store: Store, item_id: str) -> None:
    """Delete for good, with all that lies below."""
    if store.item(item_id)["id"] == store.root_id:
        raise not_permitted()
    with store.transaction():
        doomed = _delete_tree(store, item_id)
    store.unlink_unused(doomed)


def _delete_tree(store: Store, top_id: str) -> list[str | None]:
    rows = store.connection.execute(
        "WITH RECURSIVE tree(id) AS (SELECT ? UNION ALL SELECT items.id FROM items JOIN tree ON items.parent = tree.id)"
        " SELECT id FROM tree",
        (top_id,),
    )
    ids, now = [row["id"] for row in rows], store.clock()
    doomed = revisions.drop_all(store, ids)
    store.connection.executemany("DELETE FROM items WHERE id = ?", [(one,) for one in ids])
    stones = [(one, store.next_change() if one == top_id else None, now) for one in ids]
    store.connection.executemany("INSERT INTO tombstones (id, change, change_ms) VALUES (?, ?, ?)", stones)
    return doomed


def empty_trash(store: Store) -> None:
    """Delete for good whatever was put in the trash, with all that lies below."""
    doomed: list[str | None] = []
    with store.transaction():
        for row in store.connection.execute("SELECT id FROM items WHERE explicitly_trashed ORDER BY seq").fetchall():
            if store.find(row["id"]) is not None:  # it may have gone with a trashed folder above it
                doomed += _delete_tree(store, row["id"])
    store.unlink_unused(doomed)
