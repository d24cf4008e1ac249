"""What a request body may say about an item: parsed, type-checked, converted; unknown and read-only fields refused.

Source: https://developers.google.com/workspace/drive/api/reference/rest/v3/files
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from drivefs.emulator.errors import ApiError, bad_request, invalid_value, not_writable
from drivefs.emulator.values import parse_time

__all__ = ["EXTRA_FIELDS", "merge_properties", "parse_json", "parse_metadata"]

# Stored and returned as they came.
EXTRA_FIELDS: Final = frozenset({"description", "folderColorRgb", "copyRequiresWriterPermission", "writersCanShare"})
_RESTRICTION: Final = frozenset({"readOnly", "reason", "ownerRestricted"})
_ON_CREATE_ONLY: Final = frozenset({"id", "parents", "createdTime", "shortcutDetails"})
_ON_UPDATE_ONLY: Final = frozenset({"trashed", "contentRestrictions"})
_CLEARABLE: Final = frozenset(
    {"description", "folderColorRgb", "properties", "appProperties", "contentHints", "contentRestrictions"}
)
_PAIR_BYTES: Final = 124  # of one property's key and value together, in UTF-8
_PER_KIND: Final = 30
_HINT_BYTES: Final = 128 << 10


def parse_json(raw: bytes) -> dict[str, Any]:
    """A request body as a JSON object; an absent body is an empty one."""
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw.decode("utf-8"))
        json.dumps(body, ensure_ascii=False).encode("utf-8")  # refuses lone surrogates: not text in any encoding
    except (ValueError, RecursionError):
        raise bad_request("Parse Error", reason="parseError") from None
    if not isinstance(body, dict):
        raise bad_request("Parse Error", reason="parseError")
    return body


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise invalid_value(field)
    return value


def _mime_type(field: str, value: Any) -> str:
    text = _text(field, value)
    if not text.isascii() or not text.isprintable() or len(text) > 255:
        raise invalid_value(field)
    return text


def _flag(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise invalid_value(field)
    return value


def _time(field: str, value: Any) -> int:
    try:
        return parse_time(_text(field, value))
    except ValueError:
        raise invalid_value(field) from None


def _id_list(field: str, value: Any) -> list[str]:
    if not isinstance(value, list):
        raise invalid_value(field)
    return [_text(field, one) for one in value]


def _properties(field: str, value: Any) -> dict[str, str | None]:
    if not isinstance(value, dict):
        raise invalid_value(field)
    for key, text in value.items():
        if text is not None and len(key.encode()) + len(_text(field, text).encode()) > _PAIR_BYTES:
            raise invalid_value(field, f"Key and value of a property must not exceed {_PAIR_BYTES} bytes together.")
    return value


def _shortcut(field: str, value: Any) -> str:
    if not isinstance(value, dict) or set(value) - {"targetId", "targetMimeType", "targetResourceKey"}:
        raise invalid_value(field)
    return _text("shortcutDetails.targetId", value.get("targetId"))


def _hints(field: str, value: Any) -> None:
    if not isinstance(value, dict) or len(str(value.get("indexableText", "")).encode()) > _HINT_BYTES:
        raise invalid_value(field)


def _restrictions(field: str, value: Any) -> list[dict[str, Any]]:
    """At most one; what else Drive tells of it is its own to say."""
    if not isinstance(value, list) or len(value) > 1:
        raise invalid_value(field)
    for one in value:
        if not isinstance(one, dict) or not isinstance(one.get("readOnly"), bool) or set(one) - _RESTRICTION:
            raise invalid_value(f"{field}.readOnly")
        if not isinstance(one.get("reason", ""), str) or not isinstance(one.get("ownerRestricted", False), bool):
            raise invalid_value(field)
    return value


_CONVERT: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "id": _text,
    "name": _text,
    "mimeType": _mime_type,
    "parents": _id_list,
    "createdTime": _time,
    "modifiedTime": _time,
    "viewedByMeTime": _time,
    "originalFilename": _text,
    "starred": _flag,
    "trashed": _flag,
    "properties": _properties,
    "appProperties": _properties,
    "shortcutDetails": _shortcut,
    "contentHints": _hints,
    "description": _text,
    "folderColorRgb": _text,
    "copyRequiresWriterPermission": _flag,
    "writersCanShare": _flag,
    "contentRestrictions": _restrictions,
}


def parse_metadata(body: Mapping[str, Any], known: frozenset[str], *, creating: bool) -> dict[str, Any]:
    """Validated and converted fields of a create (or copy) or update request. A None value clears the field.

    ``known`` are all fields of the resource: those that exist but may not be written are refused otherwise than unknown ones.
    """
    values: dict[str, Any] = {}
    for field, value in body.items():
        if field == "kind":
            continue
        if field == "parents" and not creating:
            raise not_writable(
                "The parents field is not directly writable in update requests. "
                "Use the addParents and removeParents parameters instead."
            )
        if field not in known:
            raise bad_request(f'Invalid JSON payload received. Unknown name "{field}": Cannot find field.', location=field)
        if field not in _CONVERT or field in (_ON_UPDATE_ONLY if creating else _ON_CREATE_ONLY):
            raise not_writable()
        if value is None:
            if field not in _CLEARABLE:
                raise invalid_value(field)
            values[field] = None
        else:
            values[field] = _CONVERT[field](field, value)
    return values


def merge_properties(stored: str, patch: Mapping[str, str | None] | None) -> str:
    """A property map (as JSON) after a patch: None for a key removes it, None for the whole map clears it."""
    merged: dict[str, str] = {} if patch is None else json.loads(stored)
    for key, value in (patch or {}).items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    if len(merged) > _PER_KIND:
        raise ApiError(403, "forbidden", f"A file can have at most {_PER_KIND} properties of one kind.")
    return json.dumps(merged, ensure_ascii=False)
