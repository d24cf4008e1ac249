"""RECORD: which files a distribution owns, and their checksums. Pure.

Source: PyPA specifications, "Recording installed projects": CSV rows of a path relative to site-packages, "algorithm=digest" with
the digest in URL-safe base64 without padding, and the size.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

__all__ = ["Row", "claim", "read", "sha256_of", "write"]

_SHA256: Final = "sha256="
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_SHA256_CHARACTERS: Final = len(_SHA256) + 43  # 32 bytes in base64 without padding


class Row(NamedTuple):
    """checksum and size as they are written; "" where RECORD says nothing. A tuple: a layer has tens of thousands."""

    path: str
    checksum: str
    size: str


def read(content: bytes) -> Iterator[Row]:
    """The rows of a RECORD. ValueError where it is none."""
    try:
        text = content.decode()
        for fields in csv.reader(io.StringIO(text, newline="")):
            if fields and fields[0]:
                path, checksum, size = [*fields, "", ""][:3]
                yield Row(path, checksum, size)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"it is no RECORD: {error}") from error


def write(rows: Iterable[Row]) -> bytes:
    """A RECORD with ``rows``, sorted as pip sorts them."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(sorted(rows))
    return buffer.getvalue().encode()


def claim(sha256: str) -> str:
    """A row's checksum. ``sha256``: in hexadecimal."""
    return _SHA256 + base64.urlsafe_b64encode(bytes.fromhex(sha256)).rstrip(b"=").decode()


def sha256_of(checksum: str) -> str | None:
    """A row's SHA-256 in hexadecimal; None where it has another checksum, or none."""
    if len(checksum) != _SHA256_CHARACTERS or not checksum.startswith(_SHA256):
        return None
    try:
        found = binascii.a2b_base64(checksum.encode().translate(_STANDARD)[len(_SHA256) :] + b"=")
    except (binascii.Error, ValueError):
        return None
    return found.hex() if len(found) == 32 else None
