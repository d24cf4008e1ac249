"""A Drive server played by a script: each test says, answer by answer, what goes over the wire."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from drivefs.base.stats import Stats
from drivefs.remote.auth import Credential, StaticToken
from drivefs.remote.drive import Drive
from drivefs.remote.http import Transport

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Seen:
    """A request as it arrived. connection: the client's port, the same for as long as a connection is kept."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    connection: int


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HTTPServer

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, parts.path, query, headers, body, self.client_address[1])
        self.server.script.next_answer(seen)(self)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: what arrived is in ``Script.seen``."""


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    script: Script

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up in the middle are what many of these tests are about."""


class Script:
    """The answers still to be given, and the requests seen. A request that no answer was written for gets a 400."""

    def __init__(self) -> None:
        self._http = _HTTPServer(("127.0.0.1", 0), _Handler)
        self._http.script = self
        self._answers: list[Answer] = []
        self._lock = threading.Lock()
        self.seen: list[Seen] = []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def will(self, *answers: Answer) -> None:
        with self._lock:
            self._answers.extend(answers)

    @property
    def unused(self) -> int:
        return len(self._answers)

    def next_answer(self, seen: Seen) -> Answer:
        with self._lock:
            self.seen.append(seen)
            return self._answers.pop(0) if self._answers else self.error(400, "unscripted")

    # --- answers ---

    @staticmethod
    def answer(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, *, length: int | None = None) -> Answer:
        """``length`` states another Content-Length than the body's; the connection is closed after such an answer."""

        def give(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in (headers or {}).items():
                handler.send_header(name, value)
            if status != 204:
                handler.send_header("Content-Length", str(len(body) if length is None else length))
            handler.end_headers()
            handler.wfile.write(body)
            handler.close_connection = length is not None

        return give

    def json(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
        return self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def error(self, status: int, reason: str, headers: Mapping[str, str] | None = None, message: str = "said so") -> Answer:
        entry = {"domain": "global", "reason": reason, "message": message}
        return self.json({"error": {"code": status, "message": message, "errors": [entry]}}, status, headers)

    def hang(self, before: Answer | None = None) -> Answer:
        """Give ``before``, then nothing more until the test ends."""

        def give(handler: BaseHTTPRequestHandler) -> None:
            if before is not None:
                before(handler)
                handler.wfile.flush()
            self.released.wait(30)
            handler.close_connection = True

        return give

    @staticmethod
    def hang_up(handler: BaseHTTPRequestHandler) -> None:
        """Close the connection without a word."""
        handler.close_connection = True

    def item(self, **changed: Any) -> dict[str, Any]:
        """A files resource as the API gives it."""
        return {
            "id": "file1",
            "name": "a.txt",
            "mimeType": "text/plain",
            "parents": ["folder1"],
            "version": "7",
            "createdTime": "2024-02-02T10:40:02.874Z",
            "modifiedTime": "2024-02-02T10:40:02.875Z",
            "size": "5",
            "md5Checksum": "5d41402abc4b2a76b9719d911017c592",
            "headRevisionId": "rev1",
            "trashed": False,
            "ownedByMe": True,
            "capabilities": {"canEdit": True},
            **changed,
        }


@pytest.fixture
def server() -> Iterator[Script]:
    script = Script()
    yield script
    script.close()


@pytest.fixture
def other_server() -> Iterator[Script]:
    script = Script()
    yield script
    script.close()


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    made = Transport(connect_timeout=5.0)
    yield made
    made.close()


MakeDrive = Callable[..., Drive]


@pytest.fixture
def make_drive(transport: Transport, server: Script) -> MakeDrive:
    """A Drive at the scripted server: make_drive(credential=..., patience=..., ...)."""

    def make(credential: Credential | None = None, **options: Any) -> Drive:
        options = {"stats": Stats(), "rng": random.Random(1), **options}
        return Drive(transport, credential or StaticToken("ya29.test"), server.url, **options)

    return make
