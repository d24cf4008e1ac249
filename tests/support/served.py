"""A real daemon without a mount for tests: the installed command, on a real Drive server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from drivefs.client import Client

from .mounts import QUICK, Mount
from .server import Server

__all__ = ["Served"]


class Served(Mount):
    """One home of drivefs whose account is served without a mount. Its point, as far as there is one, is the cache."""

    def __init__(self, home: Path, server: Server | None, *, supervise: bool = False) -> None:
        super().__init__(home, server, supervise=supervise)
        self.point = self.cache
        self.client = Client(self.cache, runtime=str(home / "run"))

    def serve(self, *flags: str | Path) -> Served:
        """Serve, with short intervals; the test fails where that does."""
        alone = () if self.supervise else ("--no-supervise",)
        done = self.run("serve", "--cache-dir", self.cache, *QUICK, *alone, *flags)
        assert (done.returncode, done.stdout) == (0, f"Serving {self.cache}\n"), done
        return self

    @property
    def supervisor(self) -> int | None:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if {b"serve", os.fsencode(self.cache)} <= set(command) and int(folder.name) != self.pid:
                return int(folder.name)
        return None

    # -- what programs do ------------------------------------------------------------------------------------------

    def put(self, path: str, source: bytes | Path, timeout: float = 60.0) -> dict[str, Any]:
        return self.client.put(path, source, timeout=timeout)

    def names(self, path: str) -> list[str]:
        return [item["name"] for item in self.client.list(path)]

    def content(self, path: str) -> bytes:
        item = self.client.stat(path)
        assert item is not None, f"{path} is not on Drive"
        return b"".join(self.client.get(item["id"], item["size"], item["md5"]))
