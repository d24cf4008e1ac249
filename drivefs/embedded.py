"""The embedded Drive of this data directory: found when it runs, started when it does not.

It is a process of its own, reached by URL only, and shared by all mounts of the data directory. It outlives the command that
started it and ends by itself when nobody has asked it anything for a while.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlsplit

from drivefs.base.errors import CacheUnusable, ExitCode, RemoteUnreachable
from drivefs.private import NO_WRITE, private_directory

__all__ = ["TOKEN", "ensure_embedded"]

# No secret: the server listens on loopback and takes any token; Drive's protocol only wants there to be one.
TOKEN: Final = "embedded"
_START_SECONDS: Final = 15.0
_ANSWER_SECONDS: Final = 2.0

# Popen warns about a child that is still alive when its object goes. These are meant to stay, so the objects do too.
_started: list[subprocess.Popen[bytes]] = []


def ensure_embedded(data_dir: Path, idle_exit: float = 60.0) -> tuple[str, str]:
    """(URL, access token) of the embedded Drive kept in ``data_dir``/embedded, running and answering.

    idle_exit: seconds without a request after which a server started here ends. RemoteUnreachable: it does not start.
    """
    home = data_dir / "embedded"
    private_directory(home, "The directory of the embedded Drive", NO_WRITE, CacheUnusable)
    url = _answering(home) or _start(home, idle_exit)
    return url, TOKEN


def _answering(home: Path) -> str | None:
    """The URL in server.json, if our server answers there: the file outlives its server, and another may have the port now."""
    try:
        url = json.loads((home / "server.json").read_bytes())["url"]
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_ANSWER_SECONDS)
        try:
            connection.request("GET", "/_emulator/requests")
            answer = connection.getresponse()
            ours = answer.status == 200 and "by_method" in json.loads(answer.read(1 << 20))
        finally:
            connection.close()
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return None
    return str(url) if ours else None


def _start(home: Path, idle_exit: float) -> str:
    deadline = time.monotonic() + _START_SECONDS
    process = _spawn(home, idle_exit)
    with _stdout(process) as out:
        line = _first_line(out, deadline)
    if line is not None:
        _started.append(process)
        return str(json.loads(line)["url"])
    code = _ended(process)
    if code == ExitCode.CACHE_IN_USE and (url := _wait_for_winner(home, deadline)):
        return url
    log = home / "server.log"
    raise RemoteUnreachable(f"The embedded Drive did not start (exit code {code}): {_last_line(log)} Its log: {str(log)!r}")


def _spawn(home: Path, idle_exit: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "drivefs.emulator", "--data", str(home), "--idle-exit", f"{idle_exit:g}"]
    environment = {name: value for name, value in os.environ.items() if name != "DRIVEFS_ACCESS_TOKEN"}
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    log = os.open(home / "server.log", flags, 0o600)
    try:
        # In / because a folder named drivefs in the current directory would be imported instead of us.
        return subprocess.Popen(
            command,
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)


def _stdout(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def _first_line(out: IO[bytes], deadline: float) -> bytes | None:
    """The ready line; None where the process ended or the time ran out first."""
    data = b""
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([out], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(out.fileno(), 65536) if ready else b""
        if not piece:
            return None
        data += piece
    return data


def _ended(process: subprocess.Popen[Any]) -> int:
    """Its exit code; one that neither got ready nor ended is ended now, for nobody would know of it."""
    try:
        return process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _wait_for_winner(home: Path, deadline: float) -> str | None:
    """Two mounts may start the server at once. The loser finds the directory locked and uses what the winner starts."""
    while time.monotonic() < deadline:
        if url := _answering(home):
            return url
        time.sleep(0.05)
    return None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="backslashreplace").split("\n")
    return next((repr(line) for line in reversed(lines) if line.strip()), "it said nothing.")
