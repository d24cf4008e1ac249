"""One HTTP request's life in its worker thread: libcurl's callbacks, and the way back to the trio loop.

Invariant: once ``cancelled`` is set, on the loop, no callback of the caller runs any more, for it is looked at on the loop, too.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import trio

from drivefs.base.errors import RemoteError

__all__ = ["PIECE", "Cancelled", "OnHead", "Request", "Sink", "Transfer"]

PIECE: Final = 256 * 1024
MAX_ERROR_BODY: Final = 1024 * 1024
MAX_BODY: Final = 64 * 1024 * 1024
_BRAKE_LOOK: Final = 0.25  # seconds between two looks whether somebody who does not want more now is still there at all
_PIECE_AGE: Final = 0.05  # seconds: a slow link's bytes are handed over before a whole piece has gathered
_SEEK_OK: Final = 0  # CURL_SEEKFUNC_OK
_SEEK_IMPOSSIBLE: Final = 2  # CURL_SEEKFUNC_CANTSEEK

Sink = Callable[[bytes], None]
OnHead = Callable[[int, Mapping[str, str]], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for; see ``Transport.request``."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | memoryview | None
    sink: Sink | None
    on_head: OnHead | None
    decode: bool
    timeout: float | None
    stall: float
    go: threading.Event | None = None

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2]


class Cancelled(Exception):
    """The awaiting task is gone; its thread ends."""


class Transfer:
    """One request in its thread. ``cancelled`` is set on the loop; everything else belongs to the thread."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.cancelled = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.failure: BaseException | None = None
        self._head_done = False
        self._streaming = False  # the body goes to the sink
        self._bound = MAX_ERROR_BODY  # bytes that may be in _pieces; beyond, they are handed over, refused, or dropped
        self._pieces: list[bytes] = []
        self._size = 0
        self._handed_at = 0.0
        self._sent = 0
        self.stalled = False
        self._moved = (0, 0)
        self._moved_at = 0.0

    def begin(self) -> float:
        """The thread's turn has come, which may be long after the request was made. Returns the time."""
        self._handed_at = self._moved_at = time.monotonic()
        return self._moved_at

    # --- towards the loop ---

    def on_loop(self, function: Callable[[], None]) -> None:
        """Run ``function`` on the trio loop, unless the caller of the request has gone."""

        def guarded() -> None:
            if self.cancelled:
                raise Cancelled
            function()

        try:
            trio.from_thread.run_sync(guarded)
        except trio.RunFinishedError:
            raise Cancelled from None

    def _hand_over(self) -> None:
        sink, data = self.request.sink, b"".join(self._pieces)
        assert sink is not None
        self._pieces, self._size = [], 0
        if data:
            self.on_loop(lambda: sink(data))
            self._wait_to_go_on()
        self._handed_at = self._moved_at = time.monotonic()  # time spent in the sink is not the server's silence

    def _wait_to_go_on(self) -> None:
        """Nothing is read from the connection meanwhile, so that the server has to wait too."""
        go = self.request.go
        while go is not None and not go.wait(_BRAKE_LOOK):
            if self.cancelled:
                raise Cancelled

    def _guard(self, function: Callable[[], None], good: int) -> int:
        """Run a callback's work; an exception is kept in ``failure`` and stops the transfer, for C code cannot carry it."""
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised again by Transport
            self.failure = error
            return -1
        return good

    # --- called by libcurl ---

    def on_header_line(self, line: bytes) -> int:
        return self._guard(lambda: self._header_line(line), len(line))

    def _header_line(self, line: bytes) -> None:
        if self._head_done:
            return  # trailers of a chunked body
        text = line.decode("latin-1").strip()
        if line.startswith(b"HTTP/"):
            words = text.split(None, 2)
            self.status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
            self.headers = {}
        elif not text:
            self._end_of_head()
        else:
            name, _, value = text.partition(":")
            name, value = name.strip().lower(), value.strip()
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value

    def _end_of_head(self) -> None:
        if self.status < 200:
            return  # an interim answer; the real one follows (RFC 9110, 15.2)
        self._head_done = True
        success = 200 <= self.status < 300
        self._streaming = success and self.request.sink is not None
        self._bound = PIECE if self._streaming else MAX_BODY if success else MAX_ERROR_BODY
        on_head = self.request.on_head
        if on_head is not None and success:
            self.on_loop(lambda: on_head(self.status, self.headers))

    def on_body(self, data: bytes) -> int | None:
        """Called for every 16 KiB, so it does no more than collect until a piece is full. None: all of it is taken."""
        if self._size + len(data) > self._bound and (problem := self._guard(self._full, 0)):
            return problem
        if self._size <= self._bound:
            self._pieces.append(data)
            self._size += len(data)
        return None

    def _full(self) -> None:
        if self._streaming:
            self._hand_over()
        elif 200 <= self.status < 300:
            raise RemoteError(f"{self.request.host} sent an answer of more than {MAX_BODY >> 20} MiB where a small one was due.")

    def on_progress(self, _download_size: int, downloaded: int, _upload_size: int, uploaded: int) -> int:
        """Called with every piece, and once a second while nothing moves. Non-zero ends the transfer.

        Stalling is measured here and not by libcurl's low-speed limit, which looks at the average of some seconds and so
        notices late after a fast start.
        """
        now = time.monotonic()
        if (downloaded, uploaded) != self._moved:
            self._moved, self._moved_at = (downloaded, uploaded), now
        self.stalled = now - self._moved_at >= self.request.stall
        if self.cancelled or self.stalled:
            return 1
        if self._streaming and self._size and now - self._handed_at > _PIECE_AGE:
            return self._guard(self._hand_over, 0)
        return 0

    def on_read(self, size: int) -> bytes:
        body = memoryview(self.request.body or b"")
        piece = bytes(body[self._sent : self._sent + size])
        self._sent += len(piece)
        return piece

    def on_seek(self, offset: int, origin: int) -> int:
        """libcurl begins again where a kept connection turned out to be dead before anything was answered."""
        if origin != os.SEEK_SET:
            return _SEEK_IMPOSSIBLE
        self._sent = offset
        return _SEEK_OK

    # --- after the end ---

    def finish(self) -> bytes:
        """Hand over what is left; the body where nobody else took it."""
        if self._streaming:
            self._hand_over()
        return b"".join(self._pieces)
