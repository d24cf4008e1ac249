"""What Jupyter's kernels are doing, as their servers tell.

A server leaves a file with its address and token beside the connection files of its kernels. That place is read off the kernels'
command lines, so it is found whoever runs the server.

Source: https://jupyter-server.readthedocs.io/en/latest/developers/rest-api.html (GET /api/kernels)
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from drivefs_agent.procs import Kernel

__all__ = ["states"]

_TIMEOUT: Final = 2.0
_LARGEST: Final = 1 << 20
_SERVER: Final = re.compile(r"(?:jpserver|nbserver)-(\d+)\.json")


def states(kernels: Iterable[Kernel], root: Path = Path("/")) -> dict[str, str]:
    """By kernel id: "idle", "busy", "starting", ... A kernel is absent where no server speaks for it, or its server is silent."""
    found: dict[str, str] = {}
    for directory in sorted({kernel.directory for kernel in kernels if kernel.directory}):
        for server in _servers(root / directory.lstrip("/"), root):
            found.update(_ask(server))
    return found


def _servers(directory: Path, root: Path) -> Iterator[dict[str, Any]]:
    """Of those whose process still lives; a file may outlast its server."""
    for path in sorted(directory.glob("*server-*.json")):
        name = _SERVER.fullmatch(path.name)
        if name is None or not (root / "proc" / name[1]).exists():
            continue
        try:
            server = json.loads(path.read_bytes()[:_LARGEST])
        except (OSError, ValueError):
            continue
        if isinstance(server, dict):
            yield server


def _ask(server: dict[str, Any]) -> dict[str, str]:
    """Empty where it does not answer as a server of Jupyter does."""
    try:
        url = urlsplit(str(server["url"]))
        token = str(server.get("token") or "")
        connection = _connection(url.scheme, str(url.hostname), url.port)
        try:
            connection.request("GET", url.path.rstrip("/") + "/api/kernels", headers={"Authorization": f"token {token}"})
            response = connection.getresponse()
            body = response.read(_LARGEST)
        finally:
            connection.close()
        kernels = json.loads(body) if response.status == 200 else []
        return {str(kernel["id"]): str(kernel["execution_state"]) for kernel in kernels}
    except (OSError, http.client.HTTPException, KeyError, ValueError, TypeError):
        return {}


def _connection(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
