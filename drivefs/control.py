"""The daemon's door for commands: a unix socket on trio that speaks JSON lines (the protocol is stated in ``drivefs.client``).

Who may enter: the socket lies in a 0700 directory of ours and is itself 0600, and every peer's uid (SO_PEERCRED) must be our own
or root's. What may be said: one JSON object a line, at most 1 MiB. Nothing here evaluates or unpickles anything.

A connection answers its requests one after another; several connections are served at once. When a client closes its end,
only the request it was waiting for is cancelled: a client must therefore keep its writing side open until it has the answer.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from drivefs.base.errors import DriveFSError, ExitCode, MountpointUnusable, UsageError, sole_cause
from drivefs.private import NO_ACCESS, private_directory

__all__ = ["Chunks", "Progress", "Reply", "Stream", "Verb", "serve"]

logger = logging.getLogger(__name__)

Progress = Callable[[Mapping[str, Any]], Awaitable[None]]
# (arguments, progress) -> the result, as JSON values. Raises DriveFSError for a refusal.
Verb = Callable[[Mapping[str, Any], Progress], Awaitable[Any]]
# Sends bytes that belong one after another. Returns once the socket has taken them: a client that reads slowly holds up whoever
# sends to it.
Chunks = Callable[[Sequence[bytes]], Awaitable[None]]

_MAX_LINE: Final = 1 << 20
_MAX_QUEUED: Final = 16
_MAX_SOCKET_PATH: Final = 107  # unix(7): sun_path is 108 bytes with its NUL


@dataclass(frozen=True, slots=True)
class Reply:
    """A result with something to do once the client has it: a verb that ends the daemon must not cut off its own answer."""

    result: Any
    then: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Stream:
    """A verb that answers with bytes before its result: (arguments, chunks) -> the result. The rest is as for a Verb."""

    verb: Callable[[Mapping[str, Any], Chunks], Awaitable[Any]]


async def serve(
    path: Path, verbs: Mapping[str, Verb | Stream], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Listen at ``path`` until cancelled.

    UsageError: its directory is not ours alone.  MountpointUnusable: another daemon listens there.
    """
    with _listening(path) as door:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(door))
        await trio.serve_listeners(partial(_handle, verbs=verbs), [listener], task_status=_started(task_status))


class _started:  # noqa: N801
    """serve_listeners reports its listeners; our callers want to know the moment only."""

    def __init__(self, status: trio.TaskStatus[None]) -> None:
        self._status = status

    def started(self, _: object = None) -> None:
        self._status.started()


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise UsageError(f"The path of the control socket, {str(path)!r}, is too long. Set DRIVEFS_RUNTIME_DIR to a shorter one.")
    private_directory(path.parent, "The directory for control sockets", NO_ACCESS, UsageError)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as door:
        with _locked(path.parent):
            _remove_stale(path)
            _bind(door, path)
            inode = os.lstat(path).st_ino
        try:
            yield door
        finally:
            with _locked(path.parent):
                _unlink_own(path, inode)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Between finding a socket stale and binding a new one, no other daemon may do the same: held for microseconds."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _bind(door: socket.socket, path: Path) -> None:
    # chmod after bind would leave a moment in which the umask decides who may connect.
    before = os.umask(0o077)
    try:
        door.bind(os.fspath(path))
    finally:
        os.umask(before)
    door.listen()


def _remove_stale(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{str(path)!r} is in the way of the control socket and is not a socket. Remove it.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        number = probe.connect_ex(os.fspath(path))
    if number != errno.ECONNREFUSED:  # 0, or EAGAIN where its queue is full: somebody listens
        raise MountpointUnusable("Another drivefs daemon serves this mountpoint. Unmount it first: drivefs unmount MOUNTPOINT")
    os.unlink(path)


def _unlink_own(path: Path, inode: int) -> None:
    try:
        if os.lstat(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        pass  # somebody tidied up; a socket without a name is gone with its descriptor


async def _handle(stream: trio.SocketStream, *, verbs: Mapping[str, Verb | Stream]) -> None:
    """One connection. Never raises for what a client does: that would end the daemon."""
    async with stream:
        await _Conversation(stream, verbs).run()


def _refusal_of(stream: trio.SocketStream) -> DriveFSError | None:
    """Why this peer may not command us, if it may not. Source: unix(7), SO_PEERCRED."""
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    if uid in (0, os.geteuid()):
        return None
    logger.warning("refused a control connection of user %d", uid)
    return UsageError(f"This daemon takes commands of user {os.geteuid()} and root only.")


class _Conversation:
    """Requests of one client, answered in order while a second task watches for the client's leaving.

    Invariant: a whole line, with the bytes that it announces, is sent under ``_sending``, so that what several tasks of a verb
    tell never mixes.
    """

    def __init__(self, stream: trio.SocketStream, verbs: Mapping[str, Verb | Stream]) -> None:
        self._stream = stream
        self._verbs = verbs
        self._sending = trio.Lock()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        if refusal := _refusal_of(self._stream):
            with self._scope:
                await self._send(_failure(refusal))
            return
        send, receive = trio.open_memory_channel[bytes | DriveFSError](_MAX_QUEUED)
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, send)
                await self._answer_all(receive)
                nursery.cancel_scope.cancel()

    async def _read(self, requests: trio.MemorySendChannel[bytes | DriveFSError]) -> None:
        """Split what arrives into lines; cancel the request in progress when nothing can arrive any more."""
        buffer = bytearray()
        try:
            async for chunk in self._stream:
                buffer += chunk
                *lines, rest = buffer.split(b"\n")
                buffer = rest
                for line in lines:
                    _require_short(line)
                    requests.send_nowait(bytes(line))
                _require_short(rest)
        except trio.WouldBlock:
            self._scope.cancel()  # the queue is full of requests nobody waits for: not one of our clients
        except UsageError as error:
            await requests.send(error)
            return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            logger.debug("a control connection broke")
        self._scope.cancel()

    async def _answer_all(self, requests: trio.MemoryReceiveChannel[bytes | DriveFSError]) -> None:
        async for request in requests:
            if isinstance(request, DriveFSError):
                await self._send(_failure(request))
                return
            await self._answer(request)

    async def _answer(self, line: bytes) -> None:
        then: Callable[[], None] | None = None
        try:
            result = await self._perform(line)
            if isinstance(result, Reply):
                result, then = result.result, result.then
            message = {"ok": True, "result": result}
        except Exception as error:  # noqa: BLE001  # _failure logs it
            message = _failure(sole_cause(error))
        try:
            await self._send(message)
        finally:
            if then is not None:
                then()

    async def _perform(self, line: bytes) -> Any:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:  # the latter for a thousand brackets
            raise UsageError(f"The request is not JSON: {error}.") from error
        if not isinstance(request, dict) or not isinstance(request.get("verb"), str):
            raise UsageError('A request is an object with a verb, such as {"verb": "status"}.')
        name = request.pop("verb")
        if name not in self._verbs:
            raise UsageError(f"The daemon knows no {name!r}, only {', '.join(sorted(self._verbs))}: are both of one version?")
        verb = self._verbs[name]
        return await (verb.verb(request, self._chunk) if isinstance(verb, Stream) else verb(request, self._progress))

    async def _progress(self, news: Mapping[str, Any]) -> None:
        await self._send({"progress": dict(news)})

    async def _chunk(self, pieces: Sequence[bytes]) -> None:
        await self._send({"chunk": sum(map(len, pieces))}, pieces)

    async def _send(self, message: Mapping[str, Any], pieces: Sequence[bytes] = ()) -> None:
        line = json.dumps(message).encode() + b"\n"
        try:
            async with self._sending:
                for piece in (line, *pieces):
                    await self._stream.send_all(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._scope.cancel()
            await trio.lowlevel.checkpoint_if_cancelled()


def _require_short(line: bytearray) -> None:
    if len(line) > _MAX_LINE:
        raise UsageError(f"A request may have {_MAX_LINE} bytes. Ask for fewer paths at once.")


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, DriveFSError):
        logger.log(min(error.level, logging.INFO), "refused a command: %s", error)
        return {"ok": False, "error": str(error), "exit_code": int(error.exit_code)}
    logger.error("a command failed unexpectedly", exc_info=error)
    sentence = f"The daemon met an error of its own ({type(error).__name__}). Its log says where."
    return {"ok": False, "error": sentence, "exit_code": int(ExitCode.UNEXPECTED)}
