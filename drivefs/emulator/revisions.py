"""What content a file has and had. Every commit of content makes a revision, also of equal bytes."""

from __future__ import annotations

import secrets
import sqlite3
from typing import Final

from drivefs.emulator.content import Landed
from drivefs.emulator.errors import ApiError, bad_request, not_found
from drivefs.emulator.store import Store

__all__ = ["add", "delete", "drop_all", "find", "keep", "purge"]

KEPT_MOST: Final = 200
_RETAINED: Final = 100  # revisions not kept for ever: this many ...
_RETAINED_MS: Final = 30 * 24 * 3600 * 1000  # ... and this long


def find(store: Store, item: sqlite3.Row, revision_id: str) -> sqlite3.Row:
    wanted = item["head_revision"] if revision_id == "head" else revision_id
    row: sqlite3.Row | None = store.connection.execute(
        "SELECT * FROM revisions WHERE id = ? AND item = ?", (wanted, item["id"])
    ).fetchone()
    if row is None:
        raise not_found(revision_id, "Revision", "revisionId")
    return row


def add(
    store: Store, item_id: str, blob: str | None, landed: Landed, *, mime_type: str, filename: str, modified_ms: int, keep: bool
) -> None:
    """Give the item new content: its new head revision."""
    if keep:
        _check_kept(store, item_id)
    store.connection.execute(
        "INSERT INTO revisions (id, item, blob, size, md5, sha1, sha256, mime_type, original_filename, modified_ms, keep)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            "0B" + secrets.token_urlsafe(36),
            item_id, blob, landed.size, landed.md5, landed.sha1, landed.sha256, mime_type, filename, modified_ms, keep,
        ),
    )  # fmt: skip
    _refresh(store, item_id)


def _refresh(store: Store, item_id: str) -> None:
    """Bring what the item's row says of its content in line with its revisions."""
    store.connection.execute(
        "UPDATE items SET (head_revision, size, md5, sha1, sha256, mime_type, original_filename) ="
        " (SELECT id, size, md5, sha1, sha256, mime_type, original_filename FROM revisions WHERE item = items.id"
        "  ORDER BY seq DESC LIMIT 1) WHERE id = ?",
        (item_id,),
    )
    store.connection.execute(
        "UPDATE items SET quota_bytes = (SELECT coalesce(sum(size), 0) FROM revisions WHERE item = items.id"
        " AND (keep OR id = items.head_revision)) WHERE id = ?",
        (item_id,),
    )


def purge(store: Store, item_id: str) -> list[str | None]:
    """Drop revisions that Drive would no longer retain. Returns the blobs they named."""
    rows = store.connection.execute(
        "SELECT seq, blob, modified_ms FROM revisions WHERE item = ? AND NOT keep ORDER BY seq DESC", (item_id,)
    ).fetchall()
    oldest = store.clock() - _RETAINED_MS
    doomed = [row for index, row in enumerate(rows) if index > 0 and (index >= _RETAINED or row["modified_ms"] < oldest)]
    store.connection.executemany("DELETE FROM revisions WHERE seq = ?", [(row["seq"],) for row in doomed])
    return [row["blob"] for row in doomed]


def _check_kept(store: Store, item_id: str) -> None:
    kept = store.connection.execute("SELECT count(*) FROM revisions WHERE item = ? AND keep", (item_id,)).fetchone()[0]
    if kept >= KEPT_MOST:
        raise ApiError(403, "forbidden", f"A file can have at most {KEPT_MOST} revisions that are kept forever.")


def keep(store: Store, item: sqlite3.Row, revision: sqlite3.Row, wanted: bool) -> None:
    """Pin a revision, or release it. Pinned revisions count against the storage quota."""
    if wanted and not revision["keep"]:
        _check_kept(store, item["id"])
        if revision["id"] != item["head_revision"]:
            store.check_room(revision["size"])
    store.connection.execute("UPDATE revisions SET keep = ? WHERE seq = ?", (wanted, revision["seq"]))
    _refresh(store, item["id"])


def delete(store: Store, item: sqlite3.Row, revision: sqlite3.Row) -> str | None:
    """Delete one revision; the one before it becomes the head where it was the head. Returns the blob it named."""
    others = store.connection.execute("SELECT count(*) FROM revisions WHERE item = ?", (item["id"],)).fetchone()[0]
    if others < 2:
        raise bad_request("The last remaining revision of a file cannot be deleted.", location="revisionId")
    store.connection.execute("DELETE FROM revisions WHERE seq = ?", (revision["seq"],))
    _refresh(store, item["id"])
    blob: str | None = revision["blob"]
    return blob


def drop_all(store: Store, item_ids: list[str]) -> list[str | None]:
    """Forget all content of deleted items. Returns the blobs it named."""
    blobs: list[str | None] = []
    for item_id in item_ids:
        rows = store.connection.execute("DELETE FROM revisions WHERE item = ? RETURNING blob", (item_id,)).fetchall()
        blobs += [row["blob"] for row in rows]
    return blobs
