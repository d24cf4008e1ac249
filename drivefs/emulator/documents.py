"""What Docs editors files say: put there by import, read by export. They have no bytes of their own."""

from __future__ import annotations

import sqlite3

from drivefs.emulator.errors import ApiError, bad_request
from drivefs.emulator.exports import FORMATS, IMPORTS, export
from drivefs.emulator.restrictions import may_download
from drivefs.emulator.store import Store

__all__ = ["copy_text", "exported", "importable", "put"]


def importable(media_type: str, mime_type: str) -> bool:
    """Whether an upload of ``media_type`` may become an item of ``mime_type``."""
    return mime_type in IMPORTS.get(media_type, ())


def put(store: Store, item_id: str, blob: str | None) -> None:
    """Let the item say what the blob holds. Call within a transaction; the blob is not needed afterwards."""
    raw = store.content.blob_path(blob).read_bytes() if blob else b""
    text = raw.decode("utf-8-sig", "replace")
    store.connection.execute("INSERT OR REPLACE INTO documents (item, text) VALUES (?, ?)", (item_id, text))


def copy_text(store: Store, source_id: str, target_id: str) -> None:
    store.connection.execute(
        "INSERT OR REPLACE INTO documents (item, text) SELECT ?, text FROM documents WHERE item = ?", (target_id, source_id)
    )


def exported(store: Store, row: sqlite3.Row, target: str, *, capped: bool = True) -> bytes:
    """The document in the format ``target``. capped: at most as many bytes as files.export gives."""
    if row["mime_type"] not in FORMATS:
        raise ApiError(403, "fileNotExportable", "Export only supports Docs Editors files.")
    if target not in FORMATS[row["mime_type"]]:
        raise bad_request("The requested conversion is not supported.", location="convertTo")
    if not may_download(store, row):
        raise ApiError(403, "cannotDownloadFile", "This file cannot be downloaded by the user.")
    said = store.connection.execute("SELECT text FROM documents WHERE item = ?", (row["id"],)).fetchone()
    content = export(row["mime_type"], target, said["text"] if said else "")
    if capped and len(content) > store.settings.export_limit:
        raise ApiError(403, "exportSizeLimitExceeded", "This file is too large to be exported.")
    return content
