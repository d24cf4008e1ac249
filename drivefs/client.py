"""The stable Python interface to a running mount: synchronous, thread-safe, standard library only.

    from drivefs.client import connect
    left = connect("/content/drive/MyDrive/run1").flush(["/content/drive/MyDrive/run1/model.pt"], timeout=600)

Every mount is served by one daemon, which listens on a unix socket in a private directory. The conversation is JSON lines:
one request a line, any number of ``{"progress": ...}`` lines back, then ``{"ok": true, "result": ...}`` or
``{"ok": false, "error": sentence, "exit_code": n}``. Each call opens its own connection; leaving early cancels that request only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

__all__ = ["Client", "ClientError", "canonical", "connect", "running", "runtime_dir", "socket_path", "statuses"]

# The numbers of drivefs.base.errors.ExitCode that this module itself gives; it may not import them.
_UNEXPECTED: Final = 1
_NOT_MOUNTED: Final = 10

_STATUS_TIMEOUT: Final = 10.0  # seconds for an answer that needs no network
_GRACE: Final = 30.0  # seconds beyond what the daemon was granted, before it is taken for stuck

Progress = Callable[[Mapping[str, Any]], None]


class ClientError(Exception):
    """Text: a sentence for people, with the next step. ``exit_code``: what a command should return to the shell."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


def runtime_dir(environment: Mapping[str, str] = os.environ) -> str:
    """Where this user's control sockets lie; the same rule as the daemon's.

    Root has one place whatever its login says, so that a shell finds the mounts of a system service.
    """
    if chosen := environment.get("DRIVEFS_RUNTIME_DIR"):
        return chosen
    if os.geteuid() == 0:
        return "/run/drivefs"
    home = environment.get("XDG_RUNTIME_DIR")
    return os.path.join(home, "drivefs") if home else f"/tmp/drivefs-{os.geteuid()}"


def socket_path(runtime: str, mountpoint: str) -> str:
    """The control socket of the daemon that serves ``mountpoint``, which must be canonical."""
    return os.path.join(runtime, hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:24] + ".sock")


def canonical(path: str | os.PathLike[str]) -> str:
    """Absolute, ``~`` expanded, no symlink in any folder above; the last component is left as it is.

    So every spelling of a mountpoint names the same daemon, and a mountpoint that is a symlink can still be seen to be one.
    """
    absolute = os.path.abspath(os.path.expanduser(os.fspath(path)))
    parent, name = os.path.split(absolute)
    return os.path.join(os.path.realpath(parent), name)


class Client:
    """Talks to the daemon that serves one mountpoint. Making one touches neither the mount nor the socket."""

    def __init__(self, mountpoint: str | os.PathLike[str], *, runtime: str | None = None) -> None:
        self.mountpoint = canonical(mountpoint)
        self._socket = socket_path(runtime or runtime_dir(), self.mountpoint)

    def __repr__(self) -> str:
        return f"Client({self.mountpoint!r})"

    def status(self) -> dict[str, Any]:
        """What the daemon knows of itself: mountpoint, pid, account, pending files and bytes, errors, request counts."""
        return _as_dict(_call(self._socket, self.mountpoint, "status", {}, timeout=_STATUS_TIMEOUT))

    def dead_daemon(self) -> int | None:
        """The process id of a daemon that was killed and cannot end, for the kernel holds a thread of it; None for any other."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_STATUS_TIMEOUT)
            try:
                connection.connect(self._socket)
            except OSError:
                return None
            pid, _ = _peer(connection)
        return pid if _is_zombie(pid) else None

    def flush(
        self, paths: Sequence[str | os.PathLike[str]] = (), *, timeout: float = 300.0, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """Wait until Drive has the bytes of ``paths`` (empty: of everything), at most ``timeout`` seconds.

        Returns what is not on Drive: path, size (bytes), age_s, reason. An empty list means that all of it is.
        """
        inside = [_below(self.mountpoint, path) for path in paths]
        arguments = {"paths": inside, "timeout": timeout}
        answer = _call(self._socket, self.mountpoint, "flush", arguments, timeout=timeout + _GRACE, progress=progress)
        return _unsent(answer)

    def unmount(self, *, timeout: float = 300.0, progress: Progress | None = None) -> list[dict[str, Any]]:
        """Send everything, then unmount and wait until the daemon has ended. Returns what could not be sent in time.

        Where that is not empty the mount stays as it was. ClientError 7: files in it are open, so it stays too.
        """
        with _connect(self._socket, self.mountpoint) as connection:
            pid, _ = _peer(connection)
            with _Process(pid) as process:
                answer = _converse(connection, "unmount", {"timeout": timeout}, timeout + _GRACE, progress)
                unsent = _unsent(answer)
                if not unsent and not process.wait(_GRACE):
                    raise ClientError(
                        f"Everything is on Drive, but the daemon (process {pid}) has not ended after {_GRACE:.0f} s. "
                        f"Look into its log, then end it with: kill {pid}",
                        _UNEXPECTED,
                    )
        if not unsent:
            _require_gone(self.mountpoint)
        return unsent


def connect(path: str | os.PathLike[str] = ".", *, runtime: str | None = None) -> Client:
    """The client of the mount that ``path`` lies in. ClientError 10 where no daemon serves any folder above it."""
    directory = runtime or runtime_dir()
    for spelling in _spellings(path):
        for folder in _upwards(spelling):
            if os.path.exists(socket_path(directory, folder)):
                return Client(folder, runtime=directory)
    raise ClientError(f"{os.fspath(path)!r} is not in a mount of drivefs. Mount first: drivefs mount MOUNTPOINT", _NOT_MOUNTED)


def running(*, runtime: str | None = None) -> list[Client]:
    """Clients of all daemons of this user that listen, sorted by mountpoint. Sockets that a dead daemon left are passed over."""
    directory = runtime or runtime_dir()
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".sock"))
    except FileNotFoundError:
        return []
    clients = []
    for name in names:
        path = os.path.join(directory, name)
        try:
            answer = _as_dict(_call(path, path, "status", {}, timeout=_STATUS_TIMEOUT))
        except ClientError as error:
            if error.exit_code != _NOT_MOUNTED:
                raise
            continue
        clients.append(Client(answer["mountpoint"], runtime=directory))
    return sorted(clients, key=lambda client: client.mountpoint)


def statuses(*, runtime: str | None = None, timeout: float = _STATUS_TIMEOUT) -> list[dict[str, Any]]:
    """How each mount of this user is (``Client.status``), sorted by mountpoint. All are asked at once, for ``timeout`` seconds.

    Where a daemon does not tell, ``error`` says why and nothing else is known; the others' answers stand. A mount that ended
    without everything on Drive, its daemon crashed or told to leave files behind, is among them: it has ``mounted`` false.
    """
    directory = runtime or runtime_dir()
    try:
        names = {os.path.splitext(name)[0] for name in os.listdir(directory) if name.endswith((".sock", ".json"))}
    except FileNotFoundError:
        return []
    paths = [os.path.join(directory, name) for name in sorted(names)]
    with ThreadPoolExecutor(max(1, min(16, len(paths)))) as pool:
        found = [state for state in pool.map(lambda path: _state(path, timeout), paths) if state is not None]
    return sorted(found, key=lambda state: str(state["mountpoint"]))


def _state(path: str, timeout: float) -> dict[str, Any] | None:
    """Of the mount whose socket is ``path``.sock and whose record is ``path``.json; None where there is nothing to be told."""
    record = _record(path + ".json")
    mountpoint = str(record.get("mountpoint") or f"{path}.sock")
    try:
        return _as_dict(_call(path + ".sock", mountpoint, "status", {}, timeout=timeout))
    except ClientError as error:
        if error.exit_code != _NOT_MOUNTED:
            return {"mountpoint": mountpoint, "error": str(error)}
        # Nobody listens. The record is removed by a daemon that ends with everything on Drive, so one that is left says it all.
        return {"mountpoint": mountpoint, "mounted": False, "error": _ended(record)} if record.get("mountpoint") else None


def _record(path: str) -> dict[str, Any]:
    """What is known of a mount whose daemon is silent; empty where nothing is."""
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _ended(record: Mapping[str, Any]) -> str:
    cache = str(record.get("cache_dir", ""))
    left = f"its daemon ended without everything on Drive; what is left lies in the cache {cache!r} alone."
    return f"{left} Mount it again, and it is sent."


def _spellings(path: str | os.PathLike[str]) -> Iterator[str]:
    """What a path may mean, cheapest first: resolving symlinks asks the file system, which may be a mount that is stuck."""
    yield os.path.abspath(os.path.expanduser(os.fspath(path)))
    yield canonical(path)
    yield os.path.realpath(os.path.expanduser(os.fspath(path)))


def _upwards(path: str) -> Iterator[str]:
    yield path
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent


def _below(mountpoint: str, path: str | os.PathLike[str]) -> str:
    for spelling in _spellings(path):
        if mountpoint in _upwards(spelling):
            return spelling
    raise ClientError(f"{os.fspath(path)!r} is not in the mount at {mountpoint!r}.", _NOT_MOUNTED)


def _connect(path: str, subject: str, timeout: float = _STATUS_TIMEOUT) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
        pid, uid = _peer(connection)
        # In a directory that another user made before us, somebody else's server may be listening.
        if uid not in (0, os.geteuid()):
            raise ClientError(f"The socket {path!r} belongs to user {uid}, not to you. Remove its directory.", _UNEXPECTED)
        if _is_zombie(pid):  # killed, and a thread that cannot end keeps the socket open, so it takes calls and answers none
            raise ClientError(_ended_sentence(subject), _NOT_MOUNTED)
    except ConnectionRefusedError as error:
        connection.close()
        raise ClientError(_ended_sentence(subject), _NOT_MOUNTED) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        connection.close()
        raise ClientError(f"No drivefs daemon serves {subject!r}. Mount first: drivefs mount MOUNTPOINT", _NOT_MOUNTED) from error
    except OSError as error:
        connection.close()
        raise ClientError(f"The daemon of {subject!r} cannot be reached: {error.strerror or error}.", _UNEXPECTED) from error
    except ClientError:
        connection.close()
        raise
    return connection


def _ended_sentence(subject: str) -> str:
    return f"The daemon of {subject!r} has ended without unmounting. Mount again, and it sends what is left to send."


def _peer(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process that listens. Source: unix(7), SO_PEERCRED."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid, uid


def _call(
    path: str, subject: str, verb: str, arguments: Mapping[str, Any], *, timeout: float, progress: Progress | None = None
) -> Any:
    with _connect(path, subject, min(timeout, _STATUS_TIMEOUT)) as connection:
        return _converse(connection, verb, arguments, timeout, progress)


def _converse(
    connection: socket.socket, verb: str, arguments: Mapping[str, Any], timeout: float, progress: Progress | None
) -> Any:
    try:
        connection.settimeout(timeout)
        connection.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
        for message in _messages(connection, time.monotonic() + timeout):
            if "progress" not in message:
                return _result(message)
            if progress is not None:
                progress(message["progress"])
    except TimeoutError as error:
        raise ClientError(
            f"The daemon has not answered {verb!r} within {timeout:.0f} s. Look into its log.", _UNEXPECTED
        ) from error
    except (OSError, ValueError) as error:
        raise ClientError(f"The conversation with the daemon broke off: {error}. Look into its log.", _UNEXPECTED) from error
    raise ClientError(f"The daemon ended before it answered {verb!r}. Look into its log.", _UNEXPECTED)


def _messages(connection: socket.socket, deadline: float) -> Iterator[dict[str, Any]]:
    with connection.makefile("rb") as lines:
        while True:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            line = lines.readline()
            if not line.endswith(b"\n"):
                return
            yield _as_dict(json.loads(line))


def _result(message: Mapping[str, Any]) -> Any:
    if message.get("ok") is True:
        return message.get("result")
    raise ClientError(str(message.get("error", "The daemon refused without saying why.")), int(message.get("exit_code", 1)))


def _as_dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ClientError(
            f"The daemon answered {type(value).__name__} where an object was due: are both of one version?", _UNEXPECTED
        )
    return value


def _unsent(answer: Any) -> list[dict[str, Any]]:
    return [_as_dict(entry) for entry in _as_dict(answer)["unsent"]]


class _Process:
    """Waits for the end of a process that is not our child. Opened before it is asked to end, so its pid cannot be reused."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        try:
            self._handle: int | None = os.pidfd_open(pid)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.ESRCH, errno.EINVAL):
                raise
            self._handle = None  # an old kernel or a sandbox without pidfd, or a pid of another namespace: look instead of wait

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            os.close(self._handle)

    def wait(self, timeout: float) -> bool:
        """True when the process has ended within ``timeout`` seconds."""
        if self._handle is not None:
            poll = select.poll()
            poll.register(self._handle, select.POLLIN)
            return bool(poll.poll(int(timeout * 1000)))
        deadline = time.monotonic() + timeout
        while self._alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _alive(self) -> bool:
        return os.path.exists(f"/proc/{self._pid}") and not _is_zombie(self._pid)


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended, or all of it but threads that cannot. Source: proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] == b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _require_gone(mountpoint: str) -> None:
    """A daemon that dies instead of unmounting leaves a mount that answers ENOTCONN, except to what the kernel has cached."""
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise ClientError(
                f"Everything is on Drive, but the daemon ended without unmounting. Run: fusermount3 -uz {mountpoint}", _UNEXPECTED
            ) from error
