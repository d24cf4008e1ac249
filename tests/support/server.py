"""The local Drive server as a process, and what strangers do on it: raw API calls that drivefs knows nothing of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "TOKEN", "Server", "environment"]

ROOT = Path(__file__).parents[2]
TOKEN = "token-of-tests"
FOLDER = "application/vnd.google-apps.folder"
SHORTCUT = "application/vnd.google-apps.shortcut"
_BOUNDARY = "a-boundary-that-no-content-holds"


def environment(**more: str) -> dict[str, str]:
    """This process's environment without any setting of drivefs, plus ``more``; children work in ``/`` and find our code."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DRIVEFS_", "XDG_", "NOTIFY_"))}
    return kept | {"PYTHONPATH": str(ROOT)} | more


class Server:
    """``drivefs emulator`` on a data folder, so that it can be stopped, killed and started again at the same address."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self._command = [sys.executable, "-m", "drivefs", "emulator", "--data", os.fspath(folder), *flags]
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        self.root_id = ""
        self.ready: dict[str, Any] = {}  # the line it printed
        self.start()

    def start(self) -> None:
        process = subprocess.Popen(self._command, cwd="/", env=environment(), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert self.url in ("", ready["url"]), "the server came back at another address"
        self._process, self.ready, self.url, self.root_id = process, ready, ready["url"], ready["root_id"]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process and wait for its end; nothing where it has ended already."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(20)
            assert process.stdout is not None
            process.stdout.close()

    # -- the wire --------------------------------------------------------------------------------------------------

    def call(
        self, method: str, path: str, body: Any = None, *, kind: str = "application/json", token: str = TOKEN, **query: str
    ) -> bytes:
        """One request; urllib.error.HTTPError where the answer is not a success. ``body`` is sent as JSON unless it is bytes."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        url = f"{self.url}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            content: bytes = answer.read()
        return content

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        answer = self.call(method, path, body, **query)
        return json.loads(answer) if answer else None

    # -- what tests want to know -----------------------------------------------------------------------------------

    def reset(self) -> None:
        """An empty Drive, counters at zero."""
        self.root_id = self.ask("POST", "/_emulator/reset", {})["root_id"]

    def tree(self) -> list[dict[str, Any]]:
        """Every untrashed item, once for each path it has."""
        items: list[dict[str, Any]] = self.ask("GET", "/_emulator/tree")
        return items

    def paths(self) -> dict[str, dict[str, Any]]:
        """The tree by path; AssertionError where two items share one, for then something was uploaded twice."""
        items = self.tree()
        twins = [path for path, count in Counter(item["path"] for item in items).items() if count > 1]
        assert not twins, f"there are twins on the server: {twins}"
        return {item["path"]: item for item in items}

    def requests(self) -> Counter[str]:
        """Requests since the start or reset, by method name as in ``files.list``."""
        return Counter(self.ask("GET", "/_emulator/requests")["by_method"])

    def get(self, item: str, fields: str = "*") -> dict[str, Any]:
        answer: dict[str, Any] = self.ask("GET", f"/drive/v3/files/{item}", fields=fields)
        return answer

    def content(self, item: str) -> bytes:
        return self.call("GET", f"/drive/v3/files/{item}", alt="media")

    def revisions(self, item: str) -> list[str]:
        answer = self.ask("GET", f"/drive/v3/files/{item}/revisions", fields="revisions(id)")
        return [revision["id"] for revision in answer["revisions"]]

    # -- what strangers do -----------------------------------------------------------------------------------------

    def create(self, name: str, content: bytes = b"", parent: str | None = None, **metadata: Any) -> str:
        """A file made elsewhere; returns its id."""
        described = json.dumps({"name": name, "parents": [parent or self.root_id], **metadata}).encode()
        head = b"Content-Type: application/json; charset=UTF-8\r\n\r\n"
        mark = _BOUNDARY.encode()
        body = b"--%b\r\n%b%b\r\n--%b\r\nContent-Type: application/octet-stream\r\n\r\n%b\r\n--%b--"
        data = body % (mark, head, described, mark, content, mark)
        kind = f"multipart/related; boundary={_BOUNDARY}"
        return str(json.loads(self.call("POST", "/upload/drive/v3/files", data, kind=kind, uploadType="multipart"))["id"])

    def make(self, name: str, mime_type: str = FOLDER, parent: str | None = None, **metadata: Any) -> str:
        """An item without content, a folder by default; returns its id."""
        body = {"name": name, "mimeType": mime_type, "parents": [parent or self.root_id], **metadata}
        return str(self.ask("POST", "/drive/v3/files", body)["id"])

    def shortcut(self, name: str, target: str, parent: str | None = None) -> str:
        return self.make(name, SHORTCUT, parent, shortcutDetails={"targetId": target})

    def write(self, item: str, content: bytes) -> None:
        kind = "application/octet-stream"
        self.call("PATCH", f"/upload/drive/v3/files/{item}", content, kind=kind, uploadType="media")

    def change(self, item: str, body: dict[str, Any], **query: str) -> None:
        self.ask("PATCH", f"/drive/v3/files/{item}", body, **query)

    def move(self, item: str, source: str, target: str) -> None:
        self.change(item, {}, addParents=target, removeParents=source)

    def trash(self, item: str) -> None:
        self.change(item, {"trashed": True})

    def delete(self, item: str) -> None:
        self.ask("DELETE", f"/drive/v3/files/{item}")
