"""Where items lie: folders, moves, what trash hands down, and deletion of whole trees.

Source: https://developers.google.com/workspace/drive/api/guides/ref-single-parent
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from drivefs.emulator import access, revisions, scopes
from drivefs.emulator.errors import ApiError, bad_request, not_permitted
from drivefs.emulator.restrictions import noting_losses
from drivefs.emulator.store import Store
from drivefs.emulator.values import FOLDER

__all__ = ["check_limits", "delete", "delete_tree", "empty_trash", "folder", "inherit_trashed", "new_parent"]


def folder(store: Store, parent_id: str) -> sqlite3.Row:
    parent = store.item(parent_id)
    if not store.is_root(parent):  # whoever may see nothing but its own items may still put them into My Drive
        scopes.see(parent)
    if parent["mime_type"] != FOLDER:
        raise ApiError(403, "parentNotAFolder", "The specified parent is not a folder.")
    return parent


def check_limits(store: Store, parent: sqlite3.Row, *, height: int = 0, fresh: bool = True) -> None:
    """Raise where one more item below ``parent`` would be too many or, with ``height`` levels below itself, too deep.

    fresh: it is new to the shared drive.
    """
    limits = store.settings
    if _depth(store, parent["id"]) + height >= limits.depth_limit:
        reason = "teamDriveHierarchyTooDeep" if parent["drive"] else "myDriveHierarchyDepthLimitExceeded"
        raise ApiError(403, reason, "Your request exceeds the maximum depth of folders.")
    newest = store.connection.execute("SELECT max(seq) FROM items").fetchone()[0]  # spares counting while there are few
    if newest >= limits.children_limit and not store.is_root(parent):
        count = store.connection.execute("SELECT count(*) FROM items WHERE parent = ?", (parent["id"],)).fetchone()[0]
        if count >= limits.children_limit:
            raise ApiError(
                403, "numChildrenInNonRootLimitExceeded", "The limit for this folder's number of children is exceeded."
            )
    if fresh and parent["drive"] is not None and newest >= limits.drive_items_limit:
        query = "SELECT count(*) FROM items WHERE drive = ?"
        if (
            store.connection.execute(query, (parent["drive"],)).fetchone()[0] > limits.drive_items_limit
        ):  # its root is one of them
            raise ApiError(403, "teamDriveFileLimitExceeded", "The file limit for this shared drive has been exceeded.")


def _depth(store: Store, folder_id: str) -> int:
    query = (
        "WITH RECURSIVE up(id) AS (SELECT ? UNION ALL SELECT parent FROM items JOIN up USING (id) WHERE parent IS NOT NULL)"
        " SELECT count(*) - 1 FROM up"
    )
    return int(store.connection.execute(query, (folder_id,)).fetchone()[0])


def _height(store: Store, folder_id: str) -> int:
    """Levels below a folder."""
    query = (
        "WITH RECURSIVE below(id, level) AS (SELECT ?, 0 UNION ALL SELECT items.id, level + 1 FROM items JOIN below"
        " ON items.parent = below.id) SELECT max(level) FROM below"
    )
    return int(store.connection.execute(query, (folder_id,)).fetchone()[0])


def _check_move(store: Store, row: sqlite3.Row, parent: sqlite3.Row) -> None:
    """Whether the caller may move the item there."""
    access.demand_owner(store, row, access.FILE_ORGANIZER)
    access.demand_parent(store, parent)
    other_drive = parent["drive"] != row["drive"]
    if other_drive and row["mime_type"] == FOLDER:
        message = "Moving folders into shared drives is not supported."
        raise ApiError(403, "teamDrivesFolderMoveInNotSupported", message)
    if other_drive and row["drive"]:
        access.demand(store, row, access.ORGANIZER)
    height = _height(store, row["id"]) if row["mime_type"] == FOLDER else 0
    check_limits(store, parent, height=height, fresh=other_drive)


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
        parent = store.item(row["drive"] or "root")
    else:
        return None
    _check_no_cycle(store, row["id"], parent)
    _check_move(store, row, parent)
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
    row = store.item(item_id)
    if store.is_root(row):
        raise not_permitted()
    access.demand_owner(store, row, access.ORGANIZER)
    with store.transaction():
        doomed = delete_tree(store, row["id"])
    store.unlink_unused(doomed)


def delete_tree(store: Store, top_id: str) -> list[str | None]:
    """Delete an item with all below it. What others own there stays, as orphans. Returns the blobs to be unlinked."""
    rows = store.connection.execute(
        "WITH RECURSIVE tree(id, owner) AS (SELECT id, owner FROM items WHERE id = ? UNION ALL"
        " SELECT items.id, items.owner FROM items JOIN tree ON items.parent = tree.id WHERE items.owner IS tree.owner)"
        " SELECT id FROM tree",
        (top_id,),
    )
    ids, now = [row["id"] for row in rows], store.clock()
    doomed = revisions.drop_all(store, ids)
    with noting_losses(store, top_id) as told:
        store.connection.executemany("DELETE FROM items WHERE id = ?", [(one,) for one in ids])
        if store.several:
            _leave_orphans(store, ids)
    stones = [(one, store.next_change() if one == top_id and told else None, now) for one in ids]
    store.connection.executemany("INSERT INTO tombstones (id, change, change_ms) VALUES (?, ?, ?)", stones)
    return doomed


def _leave_orphans(store: Store, gone: list[str]) -> None:
    for folder_id in gone:
        for row in store.connection.execute("SELECT id FROM items WHERE parent = ?", (folder_id,)).fetchall():
            store.connection.execute(
                "UPDATE items SET parent = NULL, trashed = explicitly_trashed, change = ?, change_ms = ? WHERE id = ?",
                (store.next_change(), store.clock(), row["id"]),
            )
            if row_now := store.row(row["id"]):
                inherit_trashed(store, row["id"], bool(row_now["trashed"]))
        for table in ("permissions", "documents"):
            store.connection.execute(f"DELETE FROM {table} WHERE item = ?", (folder_id,))


def empty_trash(store: Store, drive_id: str = "") -> None:
    """Delete for good whatever the caller (or, where given, a shared drive) has in the trash, with all that lies below."""
    doomed: list[str | None] = []
    owner, drive = ("", drive_id) if drive_id else (store.me.owner, None)
    query = "SELECT id FROM items WHERE explicitly_trashed AND owner IS ? AND drive IS ? ORDER BY seq"
    with store.transaction():
        for row in store.connection.execute(query, (owner, drive)).fetchall():
            if store.row(row["id"]) is not None:  # it may have gone with a trashed folder above it
                doomed += delete_tree(store, row["id"])
    store.unlink_unused(doomed)
