"""Times and identifiers as Drive writes them. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Final

__all__ = ["FOLDER", "SHORTCUT", "IdMint", "format_time", "is_docs_type", "is_google_type", "parse_time"]

FOLDER: Final = "application/vnd.google-apps.folder"
SHORTCUT: Final = "application/vnd.google-apps.shortcut"
_GOOGLE: Final = "application/vnd.google-apps."

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_RFC3339: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d\d):(\d\d))?", re.ASCII
)


def is_google_type(mime_type: str) -> bool:
    """Folders, shortcuts and Docs editors files: items without bytes of their own."""
    return mime_type.startswith(_GOOGLE)


def is_docs_type(mime_type: str) -> bool:
    return is_google_type(mime_type) and mime_type not in (FOLDER, SHORTCUT)


def parse_time(text: str, *, zone_required: bool = True) -> int:
    """Milliseconds since the epoch; finer digits are cut off, as Drive does. Raises ValueError. Source: RFC 3339, 5.6."""
    match = _RFC3339.fullmatch(text)
    if match is None or (zone_required and not (match[8] or match[9])):
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    moment = datetime(*(int(part) for part in match.groups()[:6]), tzinfo=timezone.utc)  # type: ignore[misc,arg-type]
    if match[9]:
        offset = timedelta(hours=int(match[10]), minutes=int(match[11]))
        if int(match[10]) > 23 or int(match[11]) > 59:
            raise ValueError(f"no such offset: {text!r}")
        try:
            moment = moment - offset if match[9] == "+" else moment + offset
        except OverflowError:
            raise ValueError(f"outside the years 1 to 9999 in UTC: {text!r}") from None
    whole_seconds = (moment - _EPOCH) // timedelta(seconds=1)
    return whole_seconds * 1000 + int((match[7] or "").ljust(3, "0")[:3])


def format_time(milliseconds: int) -> str:
    """RFC 3339 in UTC with exactly three decimals."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_format_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=4096)  # a listing states the same second again and again
def _format_second(seconds: int) -> str:
    moment = _EPOCH + timedelta(seconds=seconds)
    return f"{moment:%Y}".rjust(4, "0") + f"{moment:-%m-%dT%H:%M:%S}"


class IdMint:
    """Makes file ids, and knows later whether it made one and for what: the proof is inside the id, so none are stored.

    An id is 33 characters, as Drive's usually are: "1", then 16 random bytes and 8 bytes of HMAC in URL-safe base64.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def _proof(self, random: bytes, kind: str) -> bytes:
        return hmac.digest(self._secret, kind.encode() + random, hashlib.sha256)[:8]

    def make(self, kind: str = "files") -> str:
        """``kind`` is what files.generateIds calls type: "files" or "shortcuts"."""
        random = secrets.token_bytes(16)
        return "1" + base64.urlsafe_b64encode(random + self._proof(random, kind)).decode()

    def made(self, file_id: str, kind: str) -> bool:
        if len(file_id) != 33 or file_id[0] != "1" or not file_id.isascii():
            return False
        try:
            raw = base64.b64decode(file_id[1:], altchars=b"-_", validate=True)
        except ValueError:
            return False
        return hmac.compare_digest(raw[16:], self._proof(raw[:16], kind))
