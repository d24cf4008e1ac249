"""The files resource on the wire: which fields we ask for, and how they become values. Pure.

Numbers of 64 bits are JSON strings, times RFC 3339 with milliseconds, and what does not apply is absent rather than null.
Source: https://developers.google.com/workspace/drive/api/reference/rest/v3/files
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from drivefs.base.errors import BadRequest, RemoteError
from drivefs.base.model import Change, ItemPatch, NewItem, RemoteItem, Revision

__all__ = [
    "CHILD_FIELDS",
    "ITEM_FIELDS",
    "from_ms",
    "new_item_body",
    "parse_change",
    "parse_item",
    "parse_revision",
    "patch_body",
    "related_body",
    "to_ms",
    "usable_mime_type",
    "valid_id",
    "valid_revision",
]

# In a listing every item has the folder that was asked for as its parent; asking for parents would cap a page at 460 items.
CHILD_FIELDS: Final = (
    "id,name,mimeType,size,md5Checksum,headRevisionId,version,createdTime,modifiedTime,trashed,ownedByMe,appProperties,"
    "shortcutDetails(targetId),capabilities(canEdit)"
)
ITEM_FIELDS: Final = f"{CHILD_FIELDS},parents"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND: Final = timedelta(milliseconds=1)
_EARLIEST: Final = (datetime.min.replace(tzinfo=timezone.utc) - _EPOCH) // _MILLISECOND
_LATEST: Final = (datetime.max.replace(tzinfo=timezone.utc) - _EPOCH) // _MILLISECOND
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-]\d\d:\d\d))", re.ASCII)
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_REVISION: Final = re.compile(r"[A-Za-z0-9_=-]{1,256}", re.ASCII)
_MIME: Final = re.compile(r"[A-Za-z0-9][\w!#$&^.+-]{0,126}/[A-Za-z0-9][\w!#$&^.+-]{0,126}(; ?[\w!#$&^.+=\"-]+)*", re.ASCII)
# DELETE files/trash empties the trash; files/generateIds is a method too.
_RESERVED: Final = frozenset({"trash", "generateIds"})


def valid_id(file_id: str) -> str:
    """``file_id``, or BadRequest where it could mean something else in a request's path or in a query."""
    if not _ID.fullmatch(file_id) or file_id in _RESERVED:
        raise BadRequest(f"{file_id[:140]!r} is not a Drive item's id. List the folder again.")
    return file_id


def valid_revision(revision: str) -> str:
    """``revision``, or BadRequest where it could mean something else in a request's path."""
    if not _REVISION.fullmatch(revision):
        raise BadRequest(f"{revision[:140]!r} is not a revision's id. Read the file's metadata again.")
    return revision


def usable_mime_type(mime_type: str) -> str:
    """``mime_type``, or the type of unknown bytes where it could end the header field it is put into (RFC 6838, 4.2).

    Not an error: other programs store what they like as a type, and new bytes must reach Drive all the same.
    """
    return mime_type if _MIME.fullmatch(mime_type) else "application/octet-stream"


def to_ms(text: str) -> int:
    """Milliseconds since the epoch of an RFC 3339 time; finer digits are cut off. Raises ValueError."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {text[:40]!r}")
    day, clock, fraction, zone = match.groups()
    moment = datetime.fromisoformat(f"{day}T{clock}{zone or '+00:00'}")
    return (moment - _EPOCH) // _MILLISECOND + int((fraction or "0").ljust(3, "0")[:3])


def from_ms(ms: int) -> str:
    """The RFC 3339 time of milliseconds since the epoch. Beyond the years 1 to 9999, which is all the format has, the nearest."""
    moment = _EPOCH + min(max(ms, _EARLIEST), _LATEST) * _MILLISECOND
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def parse_item(data: Mapping[str, Any], parent: str | None = None) -> RemoteItem:
    """A files resource as a value. parent: the folder whose listing it comes from, for CHILD_FIELDS leaves parents out."""
    try:
        mime_type = data["mimeType"]
        # Docs editors files state a size that counts no bytes anyone can read.
        has_bytes = not mime_type.startswith("application/vnd.google-apps.")
        return RemoteItem(
            id=valid_id(data["id"]),  # it will name files in the cache
            name=_text(data["name"]),
            mime_type=mime_type,
            parents=(parent,) if parent is not None else tuple(data.get("parents", ())),
            version=int(data["version"]),
            created_ms=to_ms(data["createdTime"]),
            modified_ms=to_ms(data["modifiedTime"]),
            size=_count(data.get("size")) if has_bytes else None,
            md5=data.get("md5Checksum") if has_bytes else None,
            revision=data.get("headRevisionId") if has_bytes else None,
            trashed=data.get("trashed", False),
            owned_by_me=data.get("ownedByMe", True),
            can_edit=data.get("capabilities", {}).get("canEdit", True),
            app_properties=dict(data.get("appProperties", {})),
            shortcut_target=data.get("shortcutDetails", {}).get("targetId"),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise RemoteError(
            f"Drive's answer does not describe an item ({error!r}). Update drivefs, or report this as a defect."
        ) from error


def parse_change(data: Mapping[str, Any]) -> Change | None:
    """One entry of changes.list, None for what is no news of a file (changes of shared drives themselves)."""
    file_id = data.get("fileId")
    if not isinstance(file_id, str):
        return None
    return Change(file_id, None if data.get("removed") else parse_item(data.get("file", {})))


def parse_revision(data: Mapping[str, Any]) -> Revision:
    """A revisions resource as a value. Raises KeyError, ValueError or TypeError for what is none."""
    return Revision(_text(data["id"]), data.get("md5Checksum"), int(data.get("size", 0)), to_ms(data["modifiedTime"]))


def new_item_body(item: NewItem) -> dict[str, Any]:
    """files.create's body. modifiedTime is stated, or Drive would take the time of the call."""
    body: dict[str, Any] = {
        "id": valid_id(item.id),
        "name": item.name,
        "parents": [valid_id(item.parent)],
        "mimeType": item.mime_type,
        "modifiedTime": from_ms(item.modified_ms),
    }
    if item.app_properties:
        body["appProperties"] = dict(item.app_properties)
    return body


def patch_body(patch: ItemPatch) -> dict[str, Any]:
    """files.update's body: only what changes, so that two programs' edits of different fields merge."""
    body: dict[str, Any] = {}
    if patch.name is not None:
        body["name"] = patch.name
    if patch.modified_ms is not None:
        body["modifiedTime"] = from_ms(patch.modified_ms)
    if patch.app_properties is not None:
        body["appProperties"] = dict(patch.app_properties)
    if patch.trashed is not None:
        body["trashed"] = patch.trashed
    return body


def related_body(metadata: Mapping[str, Any], content: bytes | memoryview, mime_type: str) -> tuple[str, bytes]:
    """(content type, body) of a multipart/related upload: the metadata as JSON, then the bytes as they are (RFC 2387).

    The boundary is 128 random bits, which cannot occur in the content by accident or by design.
    """
    boundary = secrets.token_hex(16)
    head = (
        f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(metadata)}\r\n"
        f"--{boundary}\r\nContent-Type: {usable_mime_type(mime_type)}\r\n\r\n"
    )
    return f"multipart/related; boundary={boundary}", b"".join((head.encode(), content, f"\r\n--{boundary}--\r\n".encode()))
