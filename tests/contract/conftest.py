"""The Drive that the contract is proved on, and a plain HTTP client for it that hides nothing of the wire.

It is an emulator in a process of its own, or the real Drive where DRIVEFS_LIVE_TOKEN is set (see live.py).
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from tests.contract import live

FOLDER = "application/vnd.google-apps.folder"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """The word by which clients classify an error."""
        return str(self.json()["error"]["errors"][0]["reason"])

    @property
    def location(self) -> str:
        """The parameter, header or field an error blames."""
        return str(self.json()["error"]["errors"][0].get("location"))


class Drive:
    """Speaks to one server. root: where tests make things."""

    def __init__(self, url: str, token: str = "a-token") -> None:
        self.url = url
        self.root = "root"
        self.made: list[str] = []  # ids of all that tests made, to be cleaned up
        self.token = token

    def send(
        self,
        method: str,
        target: str,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = "",
    ) -> Answer:
        """One request on a connection of its own. ``target``: a path with query, or an absolute URL of this server.

        token: empty = the usual one, None = none.
        """
        if live.TOKEN and target.startswith("/_emulator"):
            pytest.skip("needs the embedded Drive's control calls")
        parts, server = urlsplit(target), urlsplit(self.url)
        secure = server.scheme == "https"
        connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(server.netloc, timeout=60)
        token = self.token if token == "" else token
        try:
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            sent = {"Authorization": f"Bearer {token}"} if token else {}
            sent |= headers or {}
            connection.request(method, path, body=body, headers=sent, encode_chunked="Transfer-Encoding" in sent)
            response = connection.getresponse()
            answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
            self.made += live.made_by(method, path, answer.status, answer.body)
            return answer
        finally:
            connection.close()

    def call(self, method: str, path: str, body: Any = None, **params: Any) -> Answer:
        """A JSON call; ``path`` is relative to /drive/v3/."""
        query = f"?{urlencode(params)}" if params else ""
        raw = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if raw is not None else {}
        return self.send(method, f"/drive/v3/{path}{query}", body=raw, headers=headers)

    def get(self, path: str, **params: Any) -> Any:
        answer = self.call("GET", path, **params)
        assert answer.status == 200, answer.body
        return answer.json()

    def strike(self, **rule: Any) -> str:
        """Let something go wrong from now on. Returns the rule's id."""
        answer = self.send("POST", "/_emulator/faults", body=json.dumps(rule), token=None)
        assert answer.status == 200, answer.body
        return str(answer.json()["ids"][0])

    def faults(self) -> dict[str, tuple[int, int]]:
        """For each rule in force: how many calls matched, and how many of them it struck."""
        rules = self.send("GET", "/_emulator/faults", token=None).json()["rules"]
        return {rule["id"]: (rule["seen"], rule["hits"]) for rule in rules}

    def calm(self) -> None:
        """Forget all rules made with strike."""
        assert self.send("DELETE", "/_emulator/faults", token=None).status == 200

    def item(self, item_id: str) -> Any:
        """All fields of an item."""
        return self.get(f"files/{item_id}", fields="*")

    def create(self, name: str, parent: str = "", **fields: Any) -> Any:
        answer = self.call("POST", "files", {"name": name, "parents": [parent or self.root], **fields}, fields="*")
        assert answer.status == 200, answer.body
        return answer.json()

    def folder(self, name: str, parent: str = "") -> str:
        return str(self.create(name, parent, mimeType=FOLDER)["id"])

    def upload(self, name: str, content: bytes, parent: str = "", **fields: Any) -> Any:
        """A small file, in one multipart request."""
        metadata = json.dumps({"name": name, "parents": [parent or self.root], **fields}).encode()
        body = b"--XX\r\nContent-Type: application/json\r\n\r\n" + metadata
        body += b"\r\n--XX\r\nContent-Type: application/octet-stream\r\n\r\n" + content + b"\r\n--XX--\r\n"
        headers = {"Content-Type": "multipart/related; boundary=XX"}
        answer = self.send("POST", "/upload/drive/v3/files?uploadType=multipart&fields=*", body=body, headers=headers)
        assert answer.status == 200, answer.body
        return answer.json()

    def overwrite(self, item_id: str, content: bytes, **params: Any) -> Any:
        query = urlencode({"uploadType": "media", "fields": "*", **params})
        headers = {"Content-Type": "application/octet-stream"}
        answer = self.send("PATCH", f"/upload/drive/v3/files/{item_id}?{query}", body=content, headers=headers)
        assert answer.status == 200, answer.body
        return answer.json()

    def download(self, item_id: str) -> bytes:
        answer = self.send("GET", f"/drive/v3/files/{item_id}?alt=media")
        assert answer.status == 200, answer.body
        return answer.body

    def names(self, query: str, **params: Any) -> list[str]:
        """Names found by a query. On the real Drive, only in the scratch folder unless the query names a folder itself."""
        if self.root != "root" and "parents" not in query:
            query = f"({query}) and '{self.root}' in parents"
        return [one["name"] for one in self.get("files", q=query, fields="files(name)", **params)["files"]]

    def tree(self) -> Any:
        return self.send("GET", "/_emulator/tree", token=None).json()


class Server:
    """An emulator process."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "drivefs.emulator", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.drive = Drive(self.ready["url"])

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.wait()

    def wait(self, timeout: float = 15) -> int:
        status = self.process.wait(timeout)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    assert running.stop() == 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if live.TOKEN:
        live.skip_what_needs_the_emulator([item for item in items if Path(__file__).parent in item.path.parents])


@pytest.fixture
def drive(request: pytest.FixtureRequest) -> Iterator[Drive]:
    """An empty Drive; of the real one, an empty folder."""
    if live.TOKEN:
        with live.scratch(Drive(live.URL, live.TOKEN)) as scratch:
            yield scratch
        return
    server: Server = request.getfixturevalue("server")
    assert server.drive.send("POST", "/_emulator/reset", token=None).status == 200
    yield server.drive


@pytest.fixture
def settings(drive: Drive) -> Iterator[Callable[..., None]]:
    """Changes limits and habits of the emulator for the length of a test."""
    before = drive.send("GET", "/_emulator/settings").json()

    def change(**values: int) -> None:
        answer = drive.send("POST", "/_emulator/settings", body=json.dumps(values).encode())
        assert answer.status == 200, answer.body

    yield change
    change(**before)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts further emulators with given arguments; those still running at the end are stopped."""
    running: list[Server] = []

    def begin(*arguments: str) -> Server:
        running.append(Server(*arguments))
        return running[-1]

    yield begin
    for one in running:
        if one.process.poll() is None:
            one.stop()
