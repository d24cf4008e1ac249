"""What can be known of a mount whose daemon no longer answers: a small file beside its control socket.

Written when the mount answers, removed when it ended with everything on Drive. So where it lies and nobody listens, the daemon
crashed, or ended with something unsent; it says where the cache is. Two more things are told through it: a supervisor that no
longer tries says why, and ``drivefs unmount`` of a crashed mount says that it is not to come back.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, Final

from drivefs.manifest import read_manifest, replace_file

__all__ = ["Record", "records"]

logger = logging.getLogger(__name__)

_LISTED: Final = 100


class Record:
    """The record of the mount whose control socket is ``socket_path``."""

    def __init__(self, socket_path: Path) -> None:
        self.path = socket_path.with_suffix(".json")

    def begin(self, mountpoint: Path, cache_dir: Path, serves: str = "mount") -> None:
        """Whatever was recorded of this cache elsewhere is over: only one daemon has it at a time, and now it is this one."""
        self._write({"mountpoint": os.fspath(mountpoint), "cache_dir": os.fspath(cache_dir), "serves": serves})
        for other in records(self.path.parent):
            if other.path != self.path and other.read().get("cache_dir") == os.fspath(cache_dir):
                other.remove()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def read(self) -> dict[str, Any]:
        """Empty where there is none."""
        try:
            content = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def add(self, **facts: Any) -> None:
        """Only to a record that is there: without one nobody mounted here, or the mount ended well."""
        if content := self.read():
            self._write(content | facts)

    @property
    def mountpoint(self) -> str:
        return str(self.read().get("mountpoint", ""))

    def last_session(self) -> dict[str, Any]:
        """As a daemon would state it (``Client.status``), with ``mounted`` false; counts are None where unknown."""
        facts = self.read()
        cache_dir = str(facts.get("cache_dir", ""))
        manifest = read_manifest(Path(cache_dir)) or {}
        entries = manifest.get("entries", [])
        return {
            "mountpoint": self.mountpoint,
            "mounted": False,
            "serves": facts.get("serves", "mount"),
            "cache_dir": cache_dir,
            "gave_up": facts.get("gave_up"),
            "ended": manifest.get("when"),
            "account": manifest.get("account"),
            "pending_files": manifest.get("files"),
            "pending_bytes": manifest.get("bytes"),
            "oldest_pending_age_s": max((entry["age_s"] for entry in entries), default=None),
            "pending": entries[:_LISTED],
        }

    def _write(self, content: dict[str, Any]) -> None:
        try:
            replace_file(self.path, json.dumps(content).encode() + b"\n")
        except OSError as error:  # a mount works without it
            logger.info("no record could be written at %r: %s", str(self.path), error)


def records(runtime_dir: Path) -> list[Record]:
    """Of all mounts of this user that did not end with everything on Drive, the running ones too.

    Where the cache has been removed there is nothing left to tell.
    """
    found = (Record(path) for path in sorted(runtime_dir.glob("*.json")))
    return [record for record in found if record.mountpoint and os.path.isdir(record.read().get("cache_dir", ""))]
