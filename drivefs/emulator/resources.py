"""Rows as Drive writes them: JSON resources, of which only the wanted fields are computed.

Fields that do not apply to an item are absent, never null; 64-bit integers are strings.
Source: https://developers.google.com/workspace/drive/api/reference/rest/v3/files
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from drivefs.emulator import ownership
from drivefs.emulator.access import View
from drivefs.emulator.caller import current
from drivefs.emulator.capabilities import capabilities
from drivefs.emulator.exports import FORMATS, IMPORTS, targets
from drivefs.emulator.fields import Mask, apply, parse
from drivefs.emulator.metadata import EXTRA_FIELDS
from drivefs.emulator.store import Store
from drivefs.emulator.values import FOLDER, SHORTCUT, format_time

DEFAULT_FILE: Final = "kind,id,name,mimeType,resourceKey,driveId,teamDriveId"  # the last three only where they apply
MAX_UPLOAD: Final = 5_497_558_138_880  # bytes; 5 TiB
_LINKS: Final = "https://drive.google.com"
_Make: TypeAlias = Callable[[sqlite3.Row, View], Any]


def _extension(name: str) -> str | None:
    stem, dot, extension = name.rpartition(".")
    return extension if dot and stem and extension else None


def _shortcut(row: sqlite3.Row, view: View) -> dict[str, str] | None:
    if row["shortcut_target"] is None:
        return None
    details = {"targetId": row["shortcut_target"], "targetMimeType": row["shortcut_mime_type"]}
    if not view.alone and (target := view.store.row(row["shortcut_target"])) is not None and target["resource_key"]:
        details["targetResourceKey"] = target["resource_key"]
    return details


def _web_view(row: sqlite3.Row, _view: View) -> str:
    if row["mime_type"] == FOLDER:
        return f"{_LINKS}/drive/folders/{row['id']}"
    return f"{_LINKS}/file/d/{row['id']}/view?usp=drivesdk"


def _plain(column: str) -> _Make:
    return lambda row, view: row[column]


def _flag(column: str) -> _Make:
    return lambda row, view: bool(row[column])


def _time(column: str) -> _Make:
    return lambda row, view: None if row[column] is None else format_time(row[column])


def _when_blob(make: Callable[[sqlite3.Row], Any]) -> _Make:
    return lambda row, view: None if row["head_revision"] is None else make(row)


def _map(column: str) -> _Make:
    return lambda row, view: None if row[column] == "{}" else json.loads(row[column]) or None


def _extra(name: str, default: Any) -> _Make:
    return lambda row, view: default if row["extra"] == "{}" else json.loads(row["extra"]).get(name, default)


def _size(row: sqlite3.Row, _view: View) -> str | None:
    if row["size"] is not None:
        return str(row["size"])
    # Docs editors files state a small size that means nothing.
    return None if row["mime_type"] in (FOLDER, SHORTCUT) else "1"


def _export_links(row: sqlite3.Row, _view: View) -> dict[str, str] | None:
    root = current().base_url
    return {
        target: f"{root}feeds/download/export?id={row['id']}&mimeType={quote(target, safe='')}"
        for target in targets(row["mime_type"])
    } or None


_writers_share = _extra("writersCanShare", True)
_copying = _extra("copyRequiresWriterPermission", False)
_FILE: Final[Mapping[str, _Make]] = {
    "kind": lambda row, view: "drive#file",
    "id": _plain("id"),
    "name": _plain("name"),
    "mimeType": _plain("mime_type"),
    "parents": ownership.parents,
    "size": _size,
    "md5Checksum": _plain("md5"),
    "sha1Checksum": _plain("sha1"),
    "sha256Checksum": _plain("sha256"),
    "headRevisionId": _plain("head_revision"),
    "originalFilename": _plain("original_filename"),
    "fileExtension": _when_blob(lambda row: _extension(row["name"])),
    "fullFileExtension": _when_blob(lambda row: _extension(row["name"])),
    "webContentLink": _when_blob(lambda row: f"{_LINKS}/uc?id={row['id']}&export=download"),
    "webViewLink": _web_view,
    "iconLink": lambda row, view: f"https://drive-thirdparty.googleusercontent.com/16/type/{row['mime_type']}",
    "exportLinks": _export_links,
    "hasThumbnail": lambda row, view: False,
    "thumbnailVersion": lambda row, view: "0",
    "version": lambda row, view: str(row["change"]),
    "createdTime": _time("created_ms"),
    "modifiedTime": _time("modified_ms"),
    "modifiedByMe": lambda row, view: row["modified_by"] == view.me.owner,
    "modifiedByMeTime": lambda row, view: format_time(row["modified_ms"]) if row["modified_by"] == view.me.owner else None,
    "viewedByMe": lambda row, view: row["viewed_ms"] is not None,
    "viewedByMeTime": _time("viewed_ms"),
    "lastModifyingUser": ownership.last_modifying_user,
    "trashed": _flag("trashed"),
    "explicitlyTrashed": _flag("explicitly_trashed"),
    "starred": _flag("starred"),
    "owners": ownership.owners,
    "ownedByMe": ownership.owned_by_me,
    "shared": ownership.shared,
    "sharedWithMeTime": ownership.shared_with_me_time,
    "sharingUser": ownership.sharing_user,
    "permissions": ownership.permissions,
    "permissionIds": ownership.permission_ids,
    "driveId": _plain("drive"),
    "teamDriveId": _plain("drive"),
    "resourceKey": _plain("resource_key"),
    "contentRestrictions": lambda row, view: [json.loads(row["restriction"])] if row["restriction"] else None,
    "properties": _map("properties"),
    "appProperties": _map("app_properties"),
    "shortcutDetails": _shortcut,
    "quotaBytesUsed": lambda row, view: str(row["quota_bytes"]),
    "spaces": lambda row, view: ["drive"],
    "isAppAuthorized": lambda row, view: True,
    "viewersCanCopyContent": lambda row, view: not _copying(row, view),
    "copyRequiresWriterPermission": _copying,
    "writersCanShare": lambda row, view: None if row["drive"] else _writers_share(row, view),
    "description": _extra("description", None),
    "folderColorRgb": _extra("folderColorRgb", None),
}
assert set(_FILE) >= EXTRA_FIELDS


def builder(store: Store, mask: Mask) -> Callable[[sqlite3.Row], dict[str, Any]]:
    """Makes the files resource of one row after another, as far as ``mask`` wants it (an empty mask: all of it).

    What the mask means is settled once, not per row. Good for the length of one answer.
    """
    view = View(store)
    steps: list[tuple[str, _Make, Mask]] = []
    for name in _FILE if not mask or "*" in mask else mask:
        below = mask.get(name) or mask.get("*") or {}
        if name == "capabilities":
            steps.append((name, _capabilities(below), {}))
        elif name in _FILE:  # fields that are described but never apply here are simply absent
            steps.append((name, _FILE[name], below))
    if not mask or "*" in mask:
        steps.append(("capabilities", _capabilities({}), {}))

    def build(row: sqlite3.Row) -> dict[str, Any]:
        resource = {}
        for name, make, below in steps:
            value = make(row, view)
            if value is not None:
                resource[name] = apply(value, below) if below else value
        return resource

    return build


def _capabilities(mask: Mask) -> _Make:
    return lambda row, view: capabilities(row, view, mask)


def file(store: Store, row: sqlite3.Row, mask: Mask) -> dict[str, Any]:
    """The files resource of one row."""
    return builder(store, mask)(row)


def revision(store: Store, row: sqlite3.Row, mask: Mask) -> dict[str, Any]:
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
        "lastModifyingUser": store.me.resource(store.me),
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
        "user": store.me.resource(store.me),
        "storageQuota": quota,
        "importFormats": {source: list(into) for source, into in IMPORTS.items()},
        "exportFormats": {source: list(made) for source, made in FORMATS.items()},
        "maxImportSizes": {},
        "maxUploadSize": str(MAX_UPLOAD),
        "appInstalled": True,
        "folderColorPalette": [],
        "canCreateDrives": True,
        "canCreateTeamDrives": True,
    }
    filtered: dict[str, Any] = apply(resource, parse(fields, "About"))
    return filtered
