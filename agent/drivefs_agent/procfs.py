"""Reading the kernel's small text files."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["read", "unescape"]


def read(path: Path) -> str | None:
    """The file's text without outer blanks and NULs; None where it is absent or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip(" \t\n\0")
    except OSError:
        return None


def unescape(text: str) -> str:
    """Undo the octal escapes of blanks and backslashes in the kernel's mount tables. Source: fstab(5)"""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
