"""From a name on Drive, which may be anything and need not be unique, to a name in a directory. Pure.

A shown name is legal (1 to 255 bytes of UTF-8, no ``/`` and no NUL, not ``.`` or ``..``), unique among live siblings, and kept
with the item, so it never changes between sessions. Drive's own name is kept beside it, so nothing has to be undone.
Limit: Linux NAME_MAX (limits.h).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from drivefs.base.model import Kind

__all__ = ["chosen_name", "legal_name", "unique_name"]

NAME_MAX: Final = 255
# As Colab shows Google's own documents.
_DOCUMENT_SUFFIX: Final = {
    "application/vnd.google-apps.document": ".gdoc",
    "application/vnd.google-apps.spreadsheet": ".gsheet",
    "application/vnd.google-apps.presentation": ".gslides",
    "application/vnd.google-apps.drawing": ".gdraw",
    "application/vnd.google-apps.form": ".gform",
    "application/vnd.google-apps.script": ".gscript",
    "application/vnd.google-apps.site": ".gsite",
    "application/vnd.google-apps.map": ".gmap",
}


def _split(name: str) -> tuple[str, str]:
    """(stem, extension with its dot); a leading dot begins no extension, and an extension is short."""
    stem, dot, extension = name.rpartition(".")
    return (stem, dot + extension) if stem and len(extension) <= 16 else (name, "")


def _shorten(name: str, room: int) -> str:
    """``name`` cut to ``room`` bytes before its extension, marked with a hash of the whole so that it stays distinct."""
    stem, extension = _split(name)
    mark = "~" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    keep = room - len(mark) - len(extension.encode())
    return stem.encode()[:keep].decode(errors="ignore") + mark + extension


def _suffix(kind: Kind, mime_type: str) -> str:
    return _DOCUMENT_SUFFIX.get(mime_type, ".glink") if kind is Kind.DOCUMENT else ""


def chosen_name(shown: str, kind: Kind, mime_type: str) -> str:
    """The name that Drive is to have of an item that the user has named ``shown``: a document's suffix is only shown."""
    return shown.removesuffix(_suffix(kind, mime_type)) or shown


def legal_name(name: str, kind: Kind, mime_type: str) -> str:
    """The name to show for Drive's ``name``, before siblings are considered."""
    shown = name.encode("utf-8", "replace").decode().replace("/", "／").replace("\0", "␀")
    shown += _suffix(kind, mime_type)
    shown = {"": "＿", ".": "．", "..": "．．"}.get(shown, shown)
    return shown if len(shown.encode()) <= NAME_MAX else _shorten(shown, NAME_MAX)


def unique_name(wanted: str, taken: Callable[[str], bool]) -> str:
    """``wanted``, or the first of ``wanted (1)``, ``wanted (2)``, … that is not ``taken``; the number precedes the extension."""
    if not taken(wanted):
        return wanted
    stem, extension = _split(wanted)
    number = 1
    while True:
        suffix = f" ({number}){extension}"
        room = NAME_MAX - len(suffix.encode())
        candidate = stem.encode()[:room].decode(errors="ignore") + suffix
        if not taken(candidate):
            return candidate
        number += 1
