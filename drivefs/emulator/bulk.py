"""A large Drive at once: folders full of files, made in SQL, to measure what many items cost."""

from __future__ import annotations

import os
from typing import Any, Final

from drivefs.emulator.content import Landed
from drivefs.emulator.store import Store
from drivefs.emulator.values import FOLDER

__all__ = ["fill"]

# A new id: as files.generateIds makes them, but without the proof that only ids sent by clients need.
_ID: Final = "'1' || lower(hex(randomblob(16)))"
_NAME: Final = "printf('file %07d.bin', n)"
_COUNT: Final = "WITH RECURSIVE numbers(n) AS (SELECT 0 WHERE ?1 > 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?1)"


async def fill(store: Store, folders: int, files_per_folder: int, size: int) -> dict[str, Any]:
    """Make so many folders in the main account's root, each with so many files that share one content of ``size`` bytes.

    Returns the folders' ids. Nothing else is served meanwhile: a million items take some ten seconds.
    """
    content, blob = await _content(store, size)
    with store.transaction():
        ids = _make_folders(store, folders)
        store.connection.execute("CREATE TEMP TABLE filled (id TEXT PRIMARY KEY, seq INTEGER) WITHOUT ROWID")
        store.connection.executemany("INSERT INTO filled (id, seq) VALUES (?, ?)", [(one, n) for n, one in enumerate(ids)])
        first = _changes(store, folders * files_per_folder)
        now = store.clock()
        store.connection.execute(
            f"{_COUNT} INSERT INTO items (id, name, name_folded, mime_type, parent, created_ms, modified_ms, change, change_ms,"
            " head_revision, size, md5, sha1, sha256, original_filename, quota_bytes)"
            f" SELECT {_ID}, {_NAME}, {_NAME}, 'application/octet-stream', filled.id, ?2 + n, ?2 + n,"
            " ?3 + filled.seq * ?1 + n, ?2, '0B' || lower(hex(randomblob(18))), ?4, ?5, ?6, ?7,"
            f" {_NAME}, ?4 FROM filled, numbers",
            (files_per_folder, now, first, content.size, content.md5, content.sha1, content.sha256),
        )
        store.connection.execute(
            "INSERT INTO revisions (id, item, blob, size, md5, sha1, sha256, mime_type, original_filename, modified_ms)"
            " SELECT head_revision, items.id, ?, size, md5, sha1, sha256, mime_type, original_filename, modified_ms"
            " FROM items JOIN filled ON parent = filled.id",
            (blob,),
        )
        store.connection.execute("DROP TABLE temp.filled")
    return {"folders": ids, "items": folders * (files_per_folder + 1)}


async def _content(store: Store, size: int) -> tuple[Landed, str | None]:
    spool = store.content.new_spool()
    try:
        await spool.write(os.urandom(size))
        landed = await spool.land()
        return landed, await store.content.adopt(landed)
    finally:
        spool.discard()


def _changes(store: Store, count: int) -> int:
    """Take so many positions in the feed. Returns the first."""
    query = "UPDATE drive SET last_change = last_change + ? RETURNING last_change"
    return int(store.connection.execute(query, (count,)).fetchone()[0]) - count + 1


def _make_folders(store: Store, count: int) -> list[str]:
    now, first = store.clock(), _changes(store, count)
    ids = [store.ids.make() for _ in range(count)]
    store.connection.executemany(
        "INSERT INTO items (id, name, name_folded, mime_type, parent, created_ms, modified_ms, change, change_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (one, f"folder {n:05}", f"folder {n:05}", FOLDER, store.account.root_id, now, now, first + n, now)
            for n, one in enumerate(ids)
        ],
    )
    return ids
