"""A running ``drivefs-agent serve``, and a daemon of drivefs that only tells how it is."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from drivefs import client

__all__ = ["Served", "daemon", "serving"]

# Mounts that other tests have at the same time belong to nobody here, and would rightly be called unknown.
_ALONE = "from drivefs_agent import drive; drive.FSTYPE = 'fuse.none'; "
AGENT = (sys.executable, "-c", _ALONE + "from drivefs_agent.cli import main; main()")
TOKEN = "a-token-of-the-tests-0123456789"


@dataclass(frozen=True)
class Served:
    """Where it listens, and its process."""

    port: int
    token: str
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    def ask(
        self, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET", token: bool = True
    ) -> tuple[HTTPResponse, str]:
        """One request on a connection of its own. ``headers`` replace those that a program would send."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {
            "Host": f"127.0.0.1:{self.port}",
            **({"Authorization": f"Bearer {self.token}"} if token else {}),
            **(headers or {}),
        }
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            return response, response.read().decode()
        finally:
            connection.close()


def environment_of(home: Path, **more: str) -> dict[str, str]:
    """Of an agent that finds nothing of this machine's user."""
    return {
        **os.environ,
        "HOME": str(home),
        "DRIVEFS_AGENT_DIR": str(home / "agent"),
        "DRIVEFS_RUNTIME_DIR": str(home / "run"),
        **more,
    }


@contextmanager
def serving(home: Path, *arguments: str, token: str | None = TOKEN, **environment: str) -> Iterator[Served]:
    """On any free port, until the end of the block; it must then end well on SIGTERM, watched or not, having said nothing."""
    given = {"DRIVEFS_AGENT_TOKEN": token} if token else {}
    process = subprocess.Popen(
        [*AGENT, "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment_of(home, **given, **environment),
    )
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], 30)
        line = process.stdout.readline() if ready else ""
        found = re.search(r":(\d+)/(?:\?token=(\S+))?", line)
        assert found, (line, process.poll(), process.stderr.read() if process.stderr and process.poll() is not None else "")
        yield Served(int(found[1]), token or found[2], process)
    finally:
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (0, "", "")


@contextmanager
def daemon(
    runtime: Path, mountpoint: str, status: Mapping[str, Any], unsent: list[dict[str, Any]] | None = None
) -> Iterator[list[str]]:
    """Answers ``status``, and ``flush`` with ``unsent``, as a mount's daemon would. Yields the verbs asked so far."""
    runtime.mkdir(mode=0o700, exist_ok=True)
    asked: list[str] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(client.socket_path(str(runtime), mountpoint))
    listener.listen()

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as lines:
                verb = json.loads(lines.readline())["verb"]
                asked.append(verb)
                result = {"mountpoint": mountpoint, **status} if verb == "status" else {"unsent": unsent or []}
                lines.write(json.dumps({"ok": True, "result": result}).encode() + b"\n")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        os.unlink(client.socket_path(str(runtime), mountpoint))
