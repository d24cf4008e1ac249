"""What version 2 of the API calls things, and what version 3 does. Pure.

Source: https://developers.google.com/workspace/drive/api/guides/v2-to-v3-reference
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["etag_of", "to_v2", "to_v3", "translate_order", "translate_query"]

_NAMES: Final = {  # of fields in version 2, where they differ only by name
    "title": "name",
    "createdDate": "createdTime",
    "modifiedDate": "modifiedTime",
    "modifiedByMeDate": "modifiedByMeTime",
    "lastViewedByMeDate": "viewedByMeTime",
    "sharedWithMeDate": "sharedWithMeTime",
    "fileSize": "size",
    "alternateLink": "webViewLink",
}
_SAME: Final = (
    "id", "mimeType", "description", "md5Checksum", "sha1Checksum", "sha256Checksum", "headRevisionId", "version", "driveId",
    "quotaBytesUsed", "originalFilename", "fileExtension", "fullFileExtension", "webContentLink", "iconLink", "ownedByMe",
    "shared", "explicitlyTrashed", "spaces", "shortcutDetails", "folderColorRgb", "writersCanShare", "capabilities",
    "resourceKey", "exportLinks", "hasThumbnail", "thumbnailVersion", "isAppAuthorized", "copyRequiresWriterPermission",
)  # fmt: skip
_WRITABLE: Final = ("id", "mimeType", "description", "originalFilename", "folderColorRgb", "writersCanShare", "shortcutDetails")
_WORD: Final = re.compile(r"'(?:[^'\\]|\\.)*'|[A-Za-z_.]+")


def etag_of(file: Mapping[str, Any]) -> str:
    """Changes with every version of an item."""
    return '"' + base64.urlsafe_b64encode(f"{file['id']}/{file['version']}".encode()).decode().rstrip("=") + '"'


def _rename(text: str) -> str:
    return _WORD.sub(lambda word: word[0] if word[0].startswith("'") else _NAMES.get(word[0], word[0]), text)


def translate_query(query: str) -> str:
    """A search of version 2 as one of version 3; what stands in quotes stays."""
    return _rename(query)


def translate_order(order: str) -> str:
    return _rename(order.replace("title_natural", "name_natural"))


def to_v2(file: Mapping[str, Any], base_url: str, root_id: str) -> dict[str, Any]:
    """A files resource of version 3, with all fields, in the words of version 2."""
    link = f"{base_url}drive/v2/files/"
    old: dict[str, Any] = {"kind": "drive#file", "etag": etag_of(file), "selfLink": link + file["id"]}
    old |= {name: file[name] for name in _SAME if name in file}
    old |= {name: file[new] for name, new in _NAMES.items() if new in file}
    old["labels"] = {"starred": file["starred"], "hidden": False, "trashed": file["trashed"], "restricted": False}
    old["labels"]["viewed"] = file.get("viewedByMe", False)
    old["parents"] = [
        {"kind": "drive#parentReference", "id": one, "selfLink": f"{link}{file['id']}/parents/{one}", "parentLink": link + one}
        | {"isRoot": one == root_id}
        for one in file.get("parents", ())
    ]
    allowed = file["capabilities"]
    old |= {"editable": allowed["canEdit"], "copyable": allowed["canCopy"], "appDataContents": False}
    if "owners" in file:
        old |= {"owners": file["owners"], "ownerNames": [one["displayName"] for one in file["owners"]]}
    if "headRevisionId" in file:
        old["downloadUrl"] = f"{link}{file['id']}?alt=media&source=downloadUrl"
    kinds = (("properties", "PUBLIC"), ("appProperties", "PRIVATE"))
    pairs = [(key, value, seen) for name, seen in kinds for key, value in file.get(name, {}).items()]
    if pairs:
        old["properties"] = [
            {"kind": "drive#property", "key": key, "value": text, "visibility": seen} for key, text, seen in pairs
        ]
    return old


def to_v3(body: Mapping[str, Any], *, creating: bool, with_time: bool) -> dict[str, Any]:
    """What a body of version 2 may change, in the words of version 3. Version 2 ignores the rest, since clients send it all back.

    with_time: its modifiedDate counts. ``parents`` is a list of ids here, also for updates: the caller makes a move of it.
    """
    new = {name: body[name] for name in _WRITABLE if name in body and (creating or name not in ("id", "shortcutDetails"))}
    if isinstance(new.get("shortcutDetails"), dict):
        new["shortcutDetails"] = {"targetId": new["shortcutDetails"].get("targetId")}
    names = ["title", "lastViewedByMeDate", *(["modifiedDate"] if with_time else []), *(["createdDate"] if creating else [])]
    new |= {_NAMES[name]: body[name] for name in names if name in body}
    labels = body["labels"] if isinstance(body.get("labels"), dict) else {}
    new |= {name: labels[name] for name in ("starred", *(() if creating else ("trashed",))) if name in labels}
    parents = [one["id"] for one in _objects(body.get("parents")) if isinstance(one.get("id"), str)]
    if parents:
        new["parents"] = parents
    for one in _objects(body.get("properties")):
        kind = "properties" if one.get("visibility") == "PUBLIC" else "appProperties"
        new.setdefault(kind, {})[str(one.get("key"))] = one.get("value")
    return new


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
