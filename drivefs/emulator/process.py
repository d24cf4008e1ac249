"""An emulator for as long as a ``with`` block: what tests and measurements of any Drive client begin with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Running", "running"]

_STOP_SECONDS = 15


@dataclass(frozen=True)
class Running:
    """A server that answers. Its control calls need no token; every other client may use ``url`` with any token."""

    url: str
    root_id: str
    pid: int

    def control(self, call: str, body: Mapping[str, Any] | None = None, *, method: str = "") -> Any:
        """One call under /_emulator, answered as JSON: GET, or POST where ``body`` is given. RuntimeError where it is refused."""
        from http.client import HTTPConnection
        from urllib.parse import urlsplit

        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=300)
        try:
            raw = None if body is None else json.dumps(body)
            connection.request(method or ("GET" if body is None else "POST"), f"/_emulator/{call}", raw)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"The emulator refused {call!r} ({answer.status}): {content.decode(errors='replace')}")
        return json.loads(content) if content else None

    def tree(self) -> Any:
        """Every untrashed item of My Drive with its path."""
        return self.control("tree")

    def requests(self) -> Any:
        """What was asked since the start or the last reset."""
        return self.control("requests")

    def reset(self) -> None:
        """An empty Drive."""
        self.control("reset", {})


@contextmanager
def running(*arguments: str, command: tuple[str, ...] = (sys.executable, "-m", "drivefs.emulator")) -> Iterator[Running]:
    """Start an emulator with these command-line arguments, and stop it in the end.

    RuntimeError: it did not start; what it said is on standard error.
    """
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"The emulator did not start (exit status {process.wait(_STOP_SECONDS)}). See standard error.")
        ready = json.loads(line)
        yield Running(ready["url"], ready["root_id"], ready["pid"])
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
