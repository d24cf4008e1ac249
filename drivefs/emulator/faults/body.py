"""A request's body on its way to the handler, and an answer on its way back: slowed, cut, altered, held up."""

from __future__ import annotations

import json
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from drivefs.emulator.connection import Connection
from drivefs.emulator.faults.naming import Call
from drivefs.emulator.faults.rules import Effects
from drivefs.emulator.faults.timing import Bucket, Timer
from drivefs.emulator.sessions import GRANULE

__all__ = ["Answer", "Upload", "keep_only", "pause", "peek", "ranges_ignored"]

_SMALLEST_PIECE: Final = 1024
_PIECES_A_SECOND: Final = 50
_LONGEST_SLEEP: Final = 0.2
_PEEK_LIMIT: Final = 64 << 10


def _rewritten(scope: Scope, **headers: str | None) -> Scope:
    """The scope with some headers replaced, or removed where None. Underscores stand for hyphens."""
    changed = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    kept = [(name, value) for name, value in scope["headers"] if name not in changed]
    added = [(name, value.encode()) for name, value in changed.items() if value is not None]
    return {**scope, "headers": kept + added}


def ranges_ignored(scope: Scope) -> Scope:
    """As if no Range had been asked for: the answer is 200 with everything."""
    return _rewritten(scope, range=None)


def keep_only(scope: Scope, call: Call, count: int) -> tuple[Scope, int | None]:
    """A chunk's request as if only ``count`` of its bytes, in whole granules of the file, had arrived.

    Returns the scope and the bytes of the body to pass on; None where that is all of it.
    """
    stated = call.headers.get("content-range", "")
    length = call.headers.get("content-length", "")
    if stated.startswith("bytes "):
        where, _, total = stated.removeprefix("bytes ").partition("/")
        first, _, last = where.partition("-")
    else:
        first, last, total = "0", str(int(length) - 1) if length.isdigit() else "", length
    if not first.isdigit() or not last.isdigit():
        return scope, None  # nothing that could be shortened; malformed ones are the handler's to refuse
    start, end = int(first), int(last) + 1
    kept_to = (start + count) // GRANULE * GRANULE
    if kept_to >= end:
        return scope, None
    kept = max(0, kept_to - start)
    stated = f"bytes {start}-{start + kept - 1}/{total}" if kept else f"bytes */{total}"
    return _rewritten(scope, content_range=stated, content_length=str(kept)), kept


async def peek(receive: Receive) -> tuple[str | None, Receive]:
    """The name in the JSON that begins a body, be it alone or the first part of several; and the body, untouched."""
    taken: list[Message] = []
    head = bytearray()
    name: str | None = None
    while len(head) < _PEEK_LIMIT:
        message = await receive()
        taken.append(message)
        head += message.get("body", b"")
        name = _name_in(head)
        if name is not None or not message.get("more_body", False):
            break
    taken.reverse()

    async def again() -> Message:
        return taken.pop() if taken else await receive()

    return name, again


def _name_in(head: bytearray) -> str | None:
    at = head.find(b"{")
    if at < 0:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(head[at:].decode("utf-8", "replace"))
    except ValueError:
        return None
    name = found.get("name")
    return name if isinstance(name, str) else None


async def pause(timer: Timer, connection: Connection, seconds: float) -> None:
    """Wait, but not much longer than anybody waits at the other end."""
    end = timer.now() + seconds
    while (left := end - timer.now()) > 0 and not connection.transport.is_closing():
        await timer.sleep(min(left, _LONGEST_SLEEP))


class Upload:
    """Reads a request's body for the handler. ``broken``: it was cut, and the connection is to be reset.

    That is done when the handler has put away what it got, so that what a client finds held afterwards is always the same.
    """

    def __init__(self, receive: Receive, timer: Timer, *, kept: int | None, cut: int | None, lines: list[Bucket]) -> None:
        self._receive, self._timer = receive, timer
        self._kept, self._cut, self._lines = kept, cut, lines
        self._passed = 0
        self.taken = 0
        self.broken = False

    async def receive(self) -> Message:
        message: Message = {"type": "http.disconnect"} if self.broken else await self._receive()
        if message["type"] != "http.request":
            return message
        body: bytes = message.get("body", b"")
        self.taken += len(body)
        for line in self._lines:
            await self._timer.sleep(line.reserve(len(body)))
        if self._cut is not None and self.taken >= self._cut and (len(body) or self._cut == 0):
            return self._break_off(message, body)
        if self._kept is not None:
            return self._shorten(message, body)
        return message

    async def drain(self) -> None:
        """Read the whole body and drop it."""
        while (message := await self.receive())["type"] == "http.request" and message.get("more_body", False):
            pass

    def _break_off(self, message: Message, body: bytes) -> Message:
        """Give the handler what arrived before the cut, then nothing but the news that the client is gone."""
        assert self._cut is not None
        self.broken = True
        before = len(body) - (self.taken - self._cut)
        return {**message, "body": body[:before], "more_body": True}

    def _shorten(self, message: Message, body: bytes) -> Message:
        """Pass on the bytes to keep; the rest is read and dropped, so that the client gets to hear the answer."""
        assert self._kept is not None
        fresh = body[: self._kept - self._passed]
        self._passed += len(fresh)
        return {**message, "body": fresh}


class Answer:
    """Writes the handler's answer to the client. ``over``: nothing more will be sent, since the connection is ending."""

    def __init__(
        self, send: Send, effects: Effects, connection: Connection, timer: Timer, *, hold: float, lines: list[Bucket]
    ) -> None:
        self._send, self._effects, self._connection, self._timer = send, effects, connection, timer
        self._hold, self._lines = hold, lines
        rates = [line.rate for line in lines]
        self._piece = max(_SMALLEST_PIECE, int(min(rates) / _PIECES_A_SECOND)) if rates else 0
        self._at = 0
        self._flip = effects.flip
        self.status = 0
        self.over = False

    async def send(self, message: Message) -> None:
        if self.over:
            return
        if message["type"] == "http.response.start":
            await pause(self._timer, self._connection, self._hold)
            await self._begin(message)
        elif message["type"] == "http.response.body":
            await self._body(message)
        else:
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        self.status = message["status"]
        if self._flip is not None and self._flip < 0:
            length = next((int(value) for name, value in message["headers"] if name == b"content-length"), 0)
            self._flip = (-1 - self._flip) % length if length else None
        stall = self._effects.stall
        if stall is not None and stall.at == 0:
            await pause(self._timer, self._connection, stall.seconds)
        await self._send(message)
        await self._cut_here()

    async def _body(self, message: Message) -> None:
        rest = memoryview(message.get("body", b""))
        while rest and not self.over:
            size = min(len(rest), self._next_mark() - self._at, self._piece or len(rest))
            await self._piece_of_body(rest[:size])
            rest = rest[size:]
        if not self.over and not message.get("more_body", False):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _next_mark(self) -> int:
        """Where something happens next: pieces end there."""
        cut, stall = self._effects.cut_response, self._effects.stall
        marks = [cut.at if cut else 0, stall.at if stall else 0]
        return min((one for one in marks if one > self._at), default=1 << 62)

    async def _piece_of_body(self, piece: memoryview) -> None:
        for line in self._lines:
            await self._timer.sleep(line.reserve(len(piece)))
        if self._flip is not None and self._at <= self._flip < self._at + len(piece):
            altered = bytearray(piece)
            altered[self._flip - self._at] ^= 0x01
            piece = memoryview(altered)
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        self._at += len(piece)
        stall = self._effects.stall
        if stall is not None and stall.at == self._at:
            await pause(self._timer, self._connection, stall.seconds)
        await self._cut_here()

    async def _cut_here(self) -> None:
        cut = self._effects.cut_response
        if cut is None or cut.at != self._at:
            return
        self.over = True
        if cut.how == "reset":
            self._connection.reset()
        else:
            self._connection.hang_up()
