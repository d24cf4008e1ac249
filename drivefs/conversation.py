"""One side of a conversation with a daemon over its control socket: what ``drivefs.client`` is made of. Standard library only.

A request is one line of JSON. The answer is any number of ``{"progress": ...}`` lines, and of ``{"chunk": n}`` lines, each of
these followed by n bytes as they are; then ``{"ok": true, "result": ...}`` or
``{"ok": false, "error": sentence, "exit_code": n}``.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

__all__ = [
    "NOT_MOUNTED",
    "STATUS_TIMEOUT",
    "UNEXPECTED",
    "ClientError",
    "Progress",
    "as_dict",
    "call",
    "converse",
    "is_zombie",
    "open_connection",
    "peer",
    "stream",
]

# The numbers of drivefs.base.errors.ExitCode that this module itself gives; it may not import them.
UNEXPECTED: Final = 1
NOT_MOUNTED: Final = 10

_PIECE: Final = 1 << 20
STATUS_TIMEOUT: Final = 10.0  # seconds for an answer that needs no network

Progress = Callable[[Mapping[str, Any]], None]


class ClientError(Exception):
    """Text: a sentence for people, with the next step. ``exit_code``: what a command should return to the shell."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


def open_connection(path: str, subject: str, timeout: float = STATUS_TIMEOUT) -> socket.socket:
    """A connection to the daemon that listens at ``path``. ClientError 10 where none does; subject: its name for people."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
        pid, uid = peer(connection)
        # In a directory that another user made before us, somebody else's server may be listening.
        if uid not in (0, os.geteuid()):
            raise ClientError(f"The socket {path!r} belongs to user {uid}, not to you. Remove its directory.", UNEXPECTED)
        if is_zombie(pid):  # killed, and a thread that cannot end keeps the socket open, so it takes calls and answers none
            raise ClientError(_ended_sentence(subject), NOT_MOUNTED)
    except ConnectionRefusedError as error:
        connection.close()
        raise ClientError(_ended_sentence(subject), NOT_MOUNTED) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        connection.close()
        raise ClientError(f"No drivefs daemon serves {subject!r}. Mount first: drivefs mount MOUNTPOINT", NOT_MOUNTED) from error
    except OSError as error:
        connection.close()
        raise ClientError(f"The daemon of {subject!r} cannot be reached: {error.strerror or error}.", UNEXPECTED) from error
    except ClientError:
        connection.close()
        raise
    return connection


def _ended_sentence(subject: str) -> str:
    return f"The daemon of {subject!r} has ended without unmounting. Mount again, and it sends what is left to send."


def peer(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process that listens. Source: unix(7), SO_PEERCRED."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid, uid


def call(
    path: str, subject: str, verb: str, arguments: Mapping[str, Any], *, timeout: float, progress: Progress | None = None
) -> Any:
    """The result of one request on a connection of its own. timeout: seconds for all of it. Raises ClientError."""
    with open_connection(path, subject, min(timeout, STATUS_TIMEOUT)) as connection:
        return converse(connection, verb, arguments, timeout, progress)


def converse(
    connection: socket.socket, verb: str, arguments: Mapping[str, Any], timeout: float, progress: Progress | None
) -> Any:
    """The result of one request. timeout: seconds for all of it. Raises ClientError."""
    try:
        connection.settimeout(timeout)
        connection.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
        for message in _messages(connection, time.monotonic() + timeout):
            if "progress" not in message:
                return _result(message)
            if progress is not None:
                progress(message["progress"])
    except (OSError, ValueError) as error:
        raise _broken(verb, timeout, error) from error
    raise _ended_early(verb)


def stream(path: str, subject: str, verb: str, arguments: Mapping[str, Any], *, timeout: float) -> Generator[bytes, None, None]:
    """The bytes that a request is answered with, at most 1 MiB at a time. timeout: seconds without any.

    Raises ClientError, also after the last of them.
    """
    with open_connection(path, subject) as connection, connection.makefile("rb") as answer:
        connection.settimeout(timeout)
        with _explained(verb, timeout):
            connection.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
        left = 0
        while left or (left := _next_chunk(answer, verb, timeout)):
            with _explained(verb, timeout):
                data = answer.read(min(left, _PIECE))
            if len(data) < min(left, _PIECE):
                raise _ended_early(verb)
            left -= len(data)
            yield data


def _next_chunk(answer: BinaryIO, verb: str, timeout: float) -> int:
    """How many bytes follow; 0: the answer has ended, and well."""
    with _explained(verb, timeout):
        line = answer.readline()
        message = as_dict(json.loads(line)) if line.endswith(b"\n") else {}
        size = int(message.get("chunk", 0))
    if "ok" in message:
        _result(message)
    elif size <= 0:
        raise _ended_early(verb)
    return size


@contextmanager
def _explained(verb: str, timeout: float) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise _broken(verb, timeout, error) from error


def _broken(verb: str, timeout: float, error: Exception) -> ClientError:
    if isinstance(error, TimeoutError):
        return ClientError(f"The daemon has not answered {verb!r} within {timeout:.0f} s. Look into its log.", UNEXPECTED)
    return ClientError(f"The conversation with the daemon broke off: {error}. Look into its log.", UNEXPECTED)


def _ended_early(verb: str) -> ClientError:
    return ClientError(f"The daemon ended before it answered {verb!r}. Look into its log.", UNEXPECTED)


def _messages(connection: socket.socket, deadline: float) -> Generator[dict[str, Any], None, None]:
    with connection.makefile("rb") as lines:
        while True:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            line = lines.readline()
            if not line.endswith(b"\n"):
                return
            yield as_dict(json.loads(line))


def _result(message: Mapping[str, Any]) -> Any:
    if message.get("ok") is True:
        return message.get("result")
    raise ClientError(str(message.get("error", "The daemon refused without saying why.")), int(message.get("exit_code", 1)))


def as_dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ClientError(
            f"The daemon answered {type(value).__name__} where an object was due: are both of one version?", UNEXPECTED
        )
    return value


def is_zombie(pid: int) -> bool:
    """Whether the process has ended, or all of it but threads that cannot. Source: proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] == b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
