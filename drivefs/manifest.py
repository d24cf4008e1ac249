"""What a session could not bring to Drive, written where the next session, or a person without one, finds it.

``unsent.json`` in the cache directory is written when a daemon is asked to end (so that a machine that loses its power seconds
later leaves a truthful list), again at its end, and removed once everything is on Drive. It is a report and nothing else: what
is to be sent is known by the database. Its schema, version 1:

    {"version": 1, "when": Unix time, "host": name, "mountpoint": path, "account": address or null,
     "files": number, "bytes": their sum, "entries": [{"path", "size" (bytes), "age_s" (seconds), "reason", "deletion"}, ...]}
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["FILE_NAME", "read_manifest", "remove_manifest", "replace_file", "write_manifest"]

FILE_NAME: Final = "unsent.json"


def write_manifest(cache_dir: Path, entries: Sequence[Mapping[str, Any]], *, mountpoint: Path, account: str | None) -> None:
    """Replace the list, so that a power cut leaves the old one or the new one. OSError where the disk refuses."""
    content = {
        "version": 1,
        "when": time.time(),
        "host": socket.gethostname(),
        "mountpoint": os.fspath(mountpoint),
        "account": account,
        "files": len(entries),
        "bytes": sum(int(entry["size"]) for entry in entries),
        "entries": [dict(entry) for entry in entries],
    }
    replace_file(cache_dir / FILE_NAME, json.dumps(content, indent=1).encode() + b"\n")


def read_manifest(cache_dir: Path) -> dict[str, Any] | None:
    """The list that the last session left; None where it left none, or none that can be read."""
    try:
        content = json.loads((cache_dir / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("version") == 1 else None


def remove_manifest(cache_dir: Path) -> None:
    (cache_dir / FILE_NAME).unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a 0600 file under a temporary name, sync it, and rename it over ``path``; then sync the directory."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
