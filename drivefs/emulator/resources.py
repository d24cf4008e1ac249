"""Rows as Drive writes them: JSON resources, of which only the wanted fields are computed.

Fields that do not apply to an item are absent, never null; 64-bit integers are strings.
Source: https://developers.google.com/workspace/drive/api/reference/rest/v3/files
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Final

from drivefs.emulator.fields import Mask, apply, parse
from drivefs.emulator.metadata import EXTRA_FIELDS
from drivefs.emulator.store import Store
from drivefs.emulator.values import FOLDER, SHORTCUT, format_time

__all__ = ["ACCOUNT", "DEFAULT_FILE", "about", "file", "revision"]

ACCOUNT: Final = {
    "kind": "drive#user",
    "displayName": "Drive User",
    "me": True,
    "permissionId": "01234567890123456789",
    "emailAddress": "drive.user@example.com",
}
_OWNER: Final = {
    "kind": "drive#permission",
    "id": ACCOUNT["permissionId"],
    "type": "user",
    "role": "owner",
    "emailAddress": ACCOUNT["emailAddress"],
    "displayName": ACCOUNT["displayName"],
    "deleted": False,
    "pendingOwner": False,
}
DEFAULT_FILE: Final = "kind,id,name,mimeType"
MAX_UPLOAD: Final = 5_497_558_138_880  # bytes; 5 TiB
_LINKS: Final = "https://drive.google.com"


def _extension(name: str) -> str | None:
    stem, dot, extension = name.rpartition(".")
    return extension if dot and stem and extension else None


def _capabilities(root: bool, mime_type: str, trashed: bool) -> dict[str, bool]:
    folder, blob = mime_type == FOLDER, not mime_type.startswith("application/vnd.google-apps.")
    item = not root
    return {
        "canAddChildren": folder,
        "canAddMyDriveParent": False,
        "canChangeCopyRequiresWriterPermission": item,
        "canChangeViewersCanCopyContent": item,
        "canComment": item,
        "canCopy": not folder,
        "canDelete": item,
        "canDownload": not folder,
        "canEdit": True,
        "canListChildren": folder,
        "canModifyContent": True,
        "canModifyContentRestriction": blob,
        "canModifyLabels": False,
        "canMoveChildrenWithinDrive": folder,
        "canMoveItemIntoTeamDrive": item,
        "canMoveItemOutOfDrive": item,
        "canMoveItemWithinDrive": item,
        "canReadLabels": False,
        "canReadRevisions": not folder,
        "canRemoveChildren": folder,
        "canRemoveMyDriveParent": item,
        "canRename": item,
        "canShare": item,
        "canTrash": item,
        "canUntrash": item and trashed,
    }


def _shortcut(row: sqlite3.Row) -> dict[str, str] | None:
    if row["shortcut_target"] is None:
        return None
    return {"targetId": row["shortcut_target"], "targetMimeType": row["shortcut_mime_type"]}


def _web_view(row: sqlite3.Row) -> str:
    if row["mime_type"] == FOLDER:
        return f"{_LINKS}/drive/folders/{row['id']}"
    return f"{_LINKS}/file/d/{row['id']}/view?usp=drivesdk"


def _when_blob(make: Callable[[sqlite3.Row], Any]) -> Callable[[sqlite3.Row], Any]:
    return lambda row: None if row["head_revision"] is None else make(row)


def _extra(name: str, default: Any) -> Callable[[sqlite3.Row], Any]:
    return lambda row: json.loads(row["extra"]).get(name, default)


def _size(row: sqlite3.Row) -> str | None:
    if row["size"] is not None:
        return str(row["size"])
    # Docs editors files state a small size that means nothing.
    return None if row["mime_type"] in (FOLDER, SHORTCUT) else "1"


_FILE: Final[Mapping[str, Callable[[sqlite3.Row], Any]]] = {
    "kind": lambda row: "drive#file",
    "id": lambda row: row["id"],
    "name": lambda row: row["name"],
    "mimeType": lambda row: row["mime_type"],
    "parents": lambda row: [row["parent"]] if row["parent"] else None,
    "size": _size,
    "md5Checksum": lambda row: row["md5"],
    "sha1Checksum": lambda row: row["sha1"],
    "sha256Checksum": lambda row: row["sha256"],
    "headRevisionId": lambda row: row["head_revision"],
    "originalFilename": lambda row: row["original_filename"],
    "fileExtension": _when_blob(lambda row: _extension(row["name"])),
    "fullFileExtension": _when_blob(lambda row: _extension(row["name"])),
    "webContentLink": _when_blob(lambda row: f"{_LINKS}/uc?id={row['id']}&export=download"),
    "webViewLink": _web_view,
    "iconLink": lambda row: f"https://drive-thirdparty.googleusercontent.com/16/type/{row['mime_type']}",
    "hasThumbnail": lambda row: False,
    "thumbnailVersion": lambda row: "0",
    "version": lambda row: str(row["change"]),
    "createdTime": lambda row: format_time(row["created_ms"]),
    "modifiedTime": lambda row: format_time(row["modified_ms"]),
    "modifiedByMe": lambda row: True,
    "modifiedByMeTime": lambda row: format_time(row["modified_ms"]),
    "viewedByMe": lambda row: row["viewed_ms"] is not None,
    "viewedByMeTime": lambda row: None if row["viewed_ms"] is None else format_time(row["viewed_ms"]),
    "lastModifyingUser": lambda row: ACCOUNT,
    "trashed": lambda row: bool(row["trashed"]),
    "explicitlyTrashed": lambda row: bool(row["explicitly_trashed"]),
    "starred": lambda row: bool(row["starred"]),
    "owners": lambda row: [ACCOUNT],
    "ownedByMe": lambda row: True,
    "shared": lambda row: False,
    "permissions": lambda row: [_OWNER],
    "permissionIds": lambda row: [_OWNER["id"]],
    "capabilities": lambda row: _capabilities(row["parent"] is None, row["mime_type"], bool(row["explicitly_trashed"])),
    "properties": lambda row: json.loads(row["properties"]) or None,
    "appProperties": lambda row: json.loads(row["app_properties"]) or None,
    "shortcutDetails": _shortcut,
    "quotaBytesUsed": lambda row: str(row["quota_bytes"]),
    "spaces": lambda row: ["drive"],
    "isAppAuthorized": lambda row: True,
    "viewersCanCopyContent": lambda row: not _extra("copyRequiresWriterPermission", False)(row),
    "copyRequiresWriterPermission": _extra("copyRequiresWriterPermission", False),
    "writersCanShare": _extra("writersCanShare", True),
    "description": _extra("description", None),
    "folderColorRgb": _extra("folderColorRgb", None),
}
assert set(_FILE) >= EXTRA_FIELDS


def file(row: sqlite3.Row, mask: Mask) -> dict[str, Any]:
    """The files resource, as far as ``mask`` wants it (an empty mask: all of it)."""
    wanted = _FILE if not mask or "*" in mask else mask
    resource = {}
    for name in wanted:
        make = _FILE.get(name)  # fields that are described but never apply here are simply absent
        value = make(row) if make is not None else None
        if value is not None:
            below = mask.get(name) or mask.get("*") or {}
            resource[name] = apply(value, below) if below else value
    return resource


def revision(row: sqlite3.Row, mask: Mask) -> dict[str, Any]:
    """The revisions resource of a file with bytes."""
    resource = {
        "kind": "drive#revision",
        "id": row["id"],
        "mimeType": row["mime_type"],
        "modifiedTime": format_time(row["modified_ms"]),
        "keepForever": bool(row["keep"]),
        "published": False,
        "md5Checksum": row["md5"],
        "size": str(row["size"]),
        "originalFilename": row["original_filename"],
        "lastModifyingUser": ACCOUNT,
    }
    filtered: dict[str, Any] = apply(resource, mask)
    return filtered


def about(store: Store, fields: str) -> dict[str, Any]:
    """The about resource. ``limit`` is absent where storage is unlimited."""
    usage, trashed = store.usage()
    quota = {"usage": str(usage), "usageInDrive": str(usage), "usageInDriveTrash": str(trashed)}
    if (limit := store.limit) is not None:
        quota["limit"] = str(limit)
    resource = {
        "kind": "drive#about",
        "user": ACCOUNT,
        "storageQuota": quota,
        "importFormats": {},
        "exportFormats": {},
        "maxImportSizes": {},
        "maxUploadSize": str(MAX_UPLOAD),
        "appInstalled": True,
        "folderColorPalette": [],
        "canCreateDrives": False,
        "canCreateTeamDrives": False,
    }
    filtered: dict[str, Any] = apply(resource, parse(fields, "About"))
    return filtered
