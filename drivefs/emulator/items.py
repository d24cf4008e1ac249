"""The rules for items: create, update, copy. Each public function but the checks is one transaction.

Invariant: ``items.trashed`` = explicitly trashed, or the parent is trashed. Blobs are adopted before and removed after
the transaction, so that a row never names bytes that are not there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from drivefs.emulator import access, documents, revisions, scopes
from drivefs.emulator.content import EMPTY, Landed
from drivefs.emulator.errors import ApiError, bad_request, not_permitted, not_writable
from drivefs.emulator.metadata import EXTRA_FIELDS, merge_properties
from drivefs.emulator.placement import check_limits, folder, inherit_trashed, new_parent
from drivefs.emulator.restrictions import check_change, may_add, may_download, noting_losses, stored_restriction
from drivefs.emulator.store import Store
from drivefs.emulator.values import FOLDER, SHORTCUT, is_docs_type, is_google_type

__all__ = ["NewContent", "check_create", "check_update", "copy", "create", "touch", "update"]

# Changes of these bump modifiedTime; moves, trashing, starring and viewing do not.
_MODIFYING: Final = frozenset({"name", "properties", "appProperties", "originalFilename"}) | EXTRA_FIELDS
_COLUMNS: Final = {
    "modifiedTime": "modified_ms",
    "viewedByMeTime": "viewed_ms",
    "starred": "starred",
    "createdTime": "created_ms",
}


@dataclass(frozen=True, slots=True)
class NewContent:
    """Bytes for a new revision. mime_type: of the media part, None where it had none. blob: None for empty content."""

    blob: str | None
    landed: Landed
    mime_type: str | None = None
    keep: bool = False


@dataclass(frozen=True, slots=True)
class _Plan:
    """A create request that may be carried out."""

    id: str
    name: str
    mime_type: str
    parent: sqlite3.Row
    target: sqlite3.Row | None


def _new_id(store: Store, wanted: str | None, mime_type: str) -> str:
    kind = "shortcuts" if mime_type == SHORTCUT else "files"
    if wanted is None:
        return store.ids.make(kind)
    if is_docs_type(mime_type):
        raise ApiError(403, "forbidden", "Generated IDs are not supported for Docs Editors formats.")
    if store.row(wanted) or store.connection.execute("SELECT 1 FROM tombstones WHERE id = ?", (wanted,)).fetchone():
        raise ApiError(
            409, "fileIdInUse", "A file already exists with the provided ID.", location="file.id", location_type="other"
        )
    if not store.ids.made(wanted, kind):
        raise ApiError(400, "invalid", "The provided file ID is not usable.", location="file.id", location_type="other")
    return wanted


def _shortcut_target(store: Store, values: Mapping[str, Any], mime_type: str) -> sqlite3.Row | None:
    if mime_type != SHORTCUT:
        if "shortcutDetails" in values:
            raise not_writable()
        return None
    if "shortcutDetails" not in values:
        raise bad_request("A shortcut needs shortcutDetails.targetId.", location="shortcutDetails.targetId", reason="required")
    target = store.item(values["shortcutDetails"])
    scopes.see(target)
    if target["mime_type"] == SHORTCUT:
        raise ApiError(403, "shortcutTargetInvalid", "A shortcut cannot point to another shortcut.")
    return target


def check_create(
    store: Store, values: Mapping[str, Any], *, media_type: str | None = None, media_size: int | None = None
) -> _Plan:
    """Whether an item may be created as asked. media_size None: there is no media, or its size is not known yet."""
    mime_type = values.get("mimeType") or media_type or "application/octet-stream"
    if media_type is not None and is_google_type(mime_type) and not documents.importable(media_type, mime_type):
        raise bad_request("Content cannot be uploaded to an item of this type.", location="mimeType")
    parents = values.get("parents") or ["root"]
    if len(parents) > 1:
        raise ApiError(403, "cannotAddParent", "Increasing the number of parents is not allowed")
    parent = folder(store, parents[0])
    access.demand_parent(store, parent)
    check_limits(store, parent)
    plan = _Plan(
        _new_id(store, values.get("id"), mime_type),
        values.get("name", "Untitled"),
        mime_type,
        parent,
        _shortcut_target(store, values, mime_type),
    )
    if parent["drive"] is None:
        store.check_room(media_size or 0)
    return plan


def create(store: Store, values: Mapping[str, Any], content: NewContent | None = None) -> sqlite3.Row:
    """A new item; without content, a type that has bytes gets an empty file."""
    with store.transaction():
        plan = check_create(
            store,
            values,
            media_type=(content.mime_type or "application/octet-stream") if content else None,
            media_size=content.landed.size if content else None,
        )
        _insert(store, plan, values)
        if content is None and not is_google_type(plan.mime_type):
            content = NewContent(None, EMPTY)
        if content is not None and is_google_type(plan.mime_type):
            documents.put(store, plan.id, content.blob)
        elif content is not None:
            _add_revision(store, plan.id, content, plan.mime_type, values.get("originalFilename", plan.name))
        row = store.item(plan.id)
    if content is not None and is_google_type(plan.mime_type):
        store.unlink_unused([content.blob])
    return row


def _insert(store: Store, plan: _Plan, values: Mapping[str, Any]) -> None:
    now, drive = store.clock(), plan.parent["drive"]
    extra = {field: values[field] for field in EXTRA_FIELDS & set(values) if values[field] is not None}
    store.connection.execute(
        "INSERT INTO items (id, name, name_folded, mime_type, parent, trashed, created_ms, modified_ms, viewed_ms, change,"
        " change_ms, starred, shortcut_target, shortcut_mime_type, app_properties, properties, extra, owner, drive, modified_by)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            plan.id, plan.name, plan.name.casefold(), plan.mime_type, plan.parent["id"], plan.parent["trashed"],
            values.get("createdTime", now), values.get("modifiedTime", now), values.get("viewedByMeTime"),
            store.next_change(), now, values.get("starred", False),
            plan.target and plan.target["id"], plan.target and plan.target["mime_type"],
            merge_properties("{}", values.get("appProperties")), merge_properties("{}", values.get("properties")),
            json.dumps(extra, ensure_ascii=False), "" if drive else store.me.owner, drive, store.me.owner,
        ),
    )  # fmt: skip


def _add_revision(store: Store, item_id: str, content: NewContent, mime_type: str, filename: str) -> None:
    revisions.add(
        store, item_id, content.blob, content.landed,
        mime_type=mime_type, filename=filename, modified_ms=store.clock(), keep=content.keep,
    )  # fmt: skip


def check_update(
    store: Store,
    item_id: str,
    values: Mapping[str, Any],
    *,
    media: bool,
    media_size: int | None = None,
    media_type: str | None = None,
) -> sqlite3.Row:
    """Whether the item may be changed as asked (moves aside). Returns its row."""
    row = store.item(item_id)
    check_change(store, row, values, media)
    if store.is_root(row) and (set(values) - {"starred", "viewedByMeTime"} or media):
        raise not_permitted()
    if media and is_google_type(row["mime_type"]) and not documents.importable(media_type or "", row["mime_type"]):
        raise bad_request("Content cannot be uploaded to an item of this type.", location="fileId")
    changed_type = values.get("mimeType", row["mime_type"]) != row["mime_type"]
    if changed_type and (not media or is_google_type(values["mimeType"])):
        raise not_writable()
    if "originalFilename" in values and row["head_revision"] is None:
        raise not_writable()
    if media and media_size is not None and row["drive"] is None:
        store.check_room(media_size - (row["size"] or 0))
    return row


def update(
    store: Store,
    item_id: str,
    values: Mapping[str, Any],
    *,
    add_parents: Sequence[str] = (),
    remove_parents: Sequence[str] = (),
    content: NewContent | None = None,
) -> sqlite3.Row:
    """Change metadata, place and content, all or nothing. A request that changes nothing makes no new version."""
    doomed: list[str | None] = []
    with store.transaction():
        media = content is not None
        row = check_update(
            store, item_id, values,
            media=media, media_size=content.landed.size if content else None, media_type=content.mime_type if content else None,
        )  # fmt: skip
        if store.is_root(row) and (add_parents or remove_parents):
            raise not_permitted()
        parent = new_parent(store, row, add_parents, remove_parents)
        columns = _changed_columns(store, row, values, parent)
        if content is not None and is_google_type(row["mime_type"]):
            documents.put(store, row["id"], content.blob)
            doomed = [content.blob]
        elif content is not None:
            filename = values.get("originalFilename") or row["original_filename"]
            _add_revision(store, row["id"], content, values.get("mimeType") or content.mime_type or row["mime_type"], filename)
            doomed = revisions.purge(store, row["id"])
        elif "originalFilename" in values:
            store.connection.execute(
                "UPDATE revisions SET original_filename = ? WHERE id = ?", (values["originalFilename"], row["head_revision"])
            )
            columns["original_filename"] = values["originalFilename"]
        if "modifiedTime" not in values and (media or _MODIFYING & set(values)):
            columns["modified_ms"] = store.clock()
        if columns or media:
            with noting_losses(store, row["id"]):
                _write(store, row, columns)
        row = store.row(row["id"]) or row
    store.unlink_unused(doomed)
    return row


def _changed_columns(store: Store, row: sqlite3.Row, values: Mapping[str, Any], parent: sqlite3.Row | None) -> dict[str, Any]:
    columns: dict[str, Any] = {_COLUMNS[field]: values[field] for field in _COLUMNS.keys() & set(values)}
    if "name" in values:
        columns |= {"name": values["name"], "name_folded": values["name"].casefold()}
    for field, column in (("appProperties", "app_properties"), ("properties", "properties")):
        if field in values:
            columns[column] = merge_properties(row[column], values[field])
    if changed := EXTRA_FIELDS & set(values):
        extra = json.loads(row["extra"]) | {field: values[field] for field in changed}
        columns["extra"] = json.dumps({k: v for k, v in extra.items() if v is not None}, ensure_ascii=False)
    if parent is not None:
        columns["parent"] = parent["id"]
        if parent["drive"] != row["drive"]:  # files only: folders stay where they are
            columns |= {"drive": parent["drive"], "owner": "" if parent["drive"] else store.me.owner}
    if "contentRestrictions" in values:
        columns["restriction"] = stored_restriction(store, values["contentRestrictions"])
    if parent is not None or "trashed" in values:
        explicit = values.get("trashed", bool(row["explicitly_trashed"]))
        above = parent if parent is not None else store.row(row["parent"])
        columns |= {"explicitly_trashed": explicit, "trashed": bool(explicit or (above is not None and above["trashed"]))}
    return columns


def _write(store: Store, row: sqlite3.Row, columns: dict[str, Any]) -> None:
    columns = columns | {"change": store.next_change(), "change_ms": store.clock(), "modified_by": store.me.owner}
    assignments = ", ".join(f"{column} = ?" for column in columns)
    store.connection.execute(f"UPDATE items SET {assignments} WHERE id = ?", (*columns.values(), row["id"]))
    if "trashed" in columns and columns["trashed"] != bool(row["trashed"]) and row["mime_type"] == FOLDER:
        inherit_trashed(store, row["id"], columns["trashed"])


def touch(store: Store, item_id: str) -> None:
    """A new version and a place in the feed, for changes that are made elsewhere. Call within a transaction."""
    store.connection.execute(
        "UPDATE items SET change = ?, change_ms = ? WHERE id = ?", (store.next_change(), store.clock(), item_id)
    )


def copy(store: Store, item_id: str, values: Mapping[str, Any], *, keep: bool = False) -> sqlite3.Row:
    """A server-side copy; its bytes are shared with the source until either changes."""
    source = store.item(item_id)
    parent = source["parent"]
    if source["mime_type"] == FOLDER or not may_download(store, source):
        raise ApiError(403, "cannotCopyFile", "This file cannot be copied by the user.")
    if "mimeType" in values and values["mimeType"] != source["mime_type"]:
        raise bad_request("The requested conversion is not supported.", location="mimeType")
    inherited: dict[str, Any] = {"name": f"Copy of {source['name']}", "mimeType": source["mime_type"]}
    if store.several and not may_add(store, parent):
        parent = None
    inherited |= {"parents": [parent or store.root_id]} | json.loads(source["extra"])
    inherited |= {"appProperties": json.loads(source["app_properties"]), "properties": json.loads(source["properties"])}
    if source["shortcut_target"]:
        inherited["shortcutDetails"] = source["shortcut_target"]
    wanted = inherited | dict(values)
    if source["head_revision"] is None:
        made = create(store, wanted)
        documents.copy_text(store, source["id"], made["id"])
        return made
    revision = revisions.find(store, source, "head")
    landed = Landed(None, revision["size"], revision["md5"], revision["sha1"], revision["sha256"])
    return create(store, wanted, NewContent(revision["blob"], landed, revision["mime_type"], keep))
