"""Start the daemon behind the command's back, and tell the person truthfully how that went.

The child is a grandchild in a session of its own, so that no terminal's end reaches it; where it is to be supervised, the
grandchild is its supervisor, and the daemon that one's child. A pipe carries one line to the command: ``{"ready": true,
"unsent": n}`` or ``{"error": sentence, "exit_code": n}``; a child that dies says nothing, and the pipe's end tells that.
Invariant: a daemon lives on only if its command heard "ready". Where nobody listens any more, telling so fails, and it ends.

Nothing here may have started a thread or an event loop before the fork.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import stat
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from drivefs.base import log
from drivefs.base.errors import CacheUnusable, DriveFSError, ExitCode, sole_cause
from drivefs.client import ClientError
from drivefs.private import NO_WRITE, private_directory
from drivefs.supervisor import Supervisor

__all__ = ["LogStream", "OnReady", "forbid_memory_dumps", "start"]

logger = logging.getLogger(__name__)

# Told, once the mount answers, how many changes of earlier sessions are still to be sent.
OnReady = Callable[[int], None]
# Blocks until the mount has ended; calls its argument once the mount answers.
Serve = Callable[[OnReady], ExitCode]

_LOG_LIMIT: Final = 16 << 20
_PR_SET_DUMPABLE: Final = 4  # prctl(2)


def start(serve: Serve, log_file: Path, level: int = logging.INFO, supervisor: Supervisor | None = None) -> int:
    """Run ``serve`` in a daemon, under ``supervisor`` if there is one, and return once it is ready.

    Returns what the daemon told with that. ClientError: what it refused with, or where its log is.
    """
    private_directory(log_file.parent, "The cache directory", NO_WRITE, CacheUnusable)
    os.close(_open_log(log_file))  # whatever is wrong with it is said here, where a person reads it
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _become_daemon(serve, writer, log_file, level, supervisor)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as pipe:
        line = pipe.readline()
    return _judge(line, log_file)


def _judge(line: bytes, log_file: Path) -> int:
    if not line:
        raise ClientError(f"The daemon ended before the mount was ready. Its log says why: {log_file}", ExitCode.UNEXPECTED)
    message = json.loads(line)
    if not message.get("ready"):
        raise ClientError(message["error"], message["exit_code"])
    return int(message["unsent"])


def _become_daemon(serve: Serve, writer: int, log_file: Path, level: int, supervisor: Supervisor | None) -> NoReturn:
    """In the child: never returns, and never runs what the command's process registered for its own end."""
    code = int(ExitCode.UNEXPECTED)
    try:
        os.setsid()
        if os.fork():
            code = 0
        else:
            _detach(writer, log_file)
            log.configure(level)
            code = _live(serve, writer, log_file) if supervisor is None else _supervised(supervisor, serve, writer, log_file)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)  # the log, or, where there is none yet, the command's own
        raise
    finally:
        os._exit(code)


def _detach(writer: int, log_file: Path) -> None:
    os.chdir("/")
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(_open_log(log_file), 2)
    logging.getLogger().handlers.clear()  # the command's: what they write to is closed next
    os.closerange(3, writer)  # a notebook that waits for the end of some pipe must not wait for us
    os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = LogStream(log_file)  # what logging and traceback use of a stream
    forbid_memory_dumps()


def _open_log(path: Path) -> int:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CacheUnusable(f"The log {str(path)!r} cannot be written: {error.strerror}. Give another --cache-dir.") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(handle)
        raise CacheUnusable(f"The log {str(path)!r} is not a plain file of ours. Remove it.")
    return handle


class LogStream:
    """Standard error as a file that is put aside as ``.1`` when it reaches 16 MiB, so that the log never fills the disk.

    It writes to descriptor 2, which C libraries and a dying interpreter write to as well.
    """

    encoding = "utf-8"

    def __init__(self, path: Path, limit: int = _LOG_LIMIT) -> None:
        self._path = path
        self._limit = limit

    def write(self, text: str) -> int:
        if not self._is_current():
            self._reopen()
        if os.fstat(2).st_size >= self._limit:
            os.replace(self._path, f"{self._path}.1")
            self._reopen()
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        while data:
            data = data[os.write(2, data) :]
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def _is_current(self) -> bool:
        """False where another process, as daemon and supervisor are to each other, has put the file aside."""
        try:
            return os.path.samestat(os.fstat(2), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _reopen(self) -> None:
        fresh = _open_log(self._path)
        os.dup2(fresh, 2)
        os.close(fresh)


def _supervised(supervisor: Supervisor, serve: Serve, writer: int, log_file: Path) -> int:
    def first(ready: Callable[[], None]) -> int:
        return _live(serve, writer, log_file, ready)

    def again(ready: Callable[[], None]) -> int:
        try:
            return int(serve(lambda _: ready()))
        except Exception as error:  # noqa: BLE001  # _verdict logs it
            return _verdict(sole_cause(error), log_file)[1]

    return supervisor.run(first, again, lambda: os.close(writer))


def _live(serve: Serve, writer: int, log_file: Path, ready: Callable[[], None] = lambda: None) -> int:
    heard = False

    def on_ready(unsent: int) -> None:
        nonlocal heard
        try:
            _tell(writer, {"ready": True, "unsent": unsent})
        except BrokenPipeError as error:
            raise DriveFSError("The command that asked for this mount has gone, so the mount ends too.") from error
        heard = True
        ready()

    try:
        return int(serve(on_ready))
    except Exception as error:  # noqa: BLE001  # _verdict logs it
        sentence, code = _verdict(sole_cause(error), log_file)
    if not heard:
        try:
            _tell(writer, {"error": log.redact(sentence), "exit_code": code})
        except BrokenPipeError:
            logger.info("the command that started this daemon has gone")
    return code


def _verdict(error: Exception, log_file: Path) -> tuple[str, int]:
    """What the person is told, and the exit code; the log gets the rest."""
    if isinstance(error, DriveFSError):
        logger.log(error.level, "%s", error)
        return str(error), int(error.exit_code)
    logger.error("the daemon ended unexpectedly", exc_info=error)
    sentence = f"The daemon met an error of its own ({type(error).__name__}). Its log says where: {log_file}"
    return sentence, int(ExitCode.UNEXPECTED)


def _tell(writer: int, message: Mapping[str, Any]) -> None:
    os.write(writer, json.dumps(message).encode() + b"\n")
    os.close(writer)


def forbid_memory_dumps() -> None:
    """No core dump and no ptrace by other processes of the user: this process's memory holds the access token."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        logger.warning("core dumps cannot be forbidden: %s", os.strerror(ctypes.get_errno()))
