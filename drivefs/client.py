"""The stable Python interface to a running daemon: synchronous, thread-safe, standard library only.

    from drivefs.client import connect
    left = connect("/content/drive/MyDrive/run1").flush(["/content/drive/MyDrive/run1/model.pt"], timeout=600)

Every mount is served by one daemon, which listens on a unix socket in a private directory. So does a daemon without a mount
(``drivefs serve``); its *place*, which stands for the mountpoint here, is its cache directory. Each call opens a connection of
its own, so it does not matter whether the daemon was started anew since the last; leaving early cancels that request only. The
protocol is stated in ``drivefs.conversation``.

A daemon also keeps whole files on Drive for programs, mount or not: ``Client.list``, ``stat``, ``put``, ``get`` and ``trash``.
Their paths begin at the top, as in ``MyDrive/a/b``. What they tell of an item is a dict: name (as Drive has it), id, size (bytes)
and md5 (hex; both None for what has no bytes), folder, owned (by this account), created (seconds since the epoch).
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import select
import socket
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from drivefs.conversation import (
    NOT_MOUNTED,
    STATUS_TIMEOUT,
    UNEXPECTED,
    ClientError,
    Progress,
    as_dict,
    call,
    converse,
    is_zombie,
    open_connection,
    peer,
    stream,
)

__all__ = ["Client", "ClientError", "canonical", "connect", "running", "runtime_dir", "socket_path", "statuses"]

_STATUS_TIMEOUT: Final = STATUS_TIMEOUT
_GRACE: Final = 30.0  # seconds beyond what the daemon was granted, before it is taken for stuck
_INLINE: Final = 512 << 10  # bytes that a request may carry itself; it may have 1 MiB, and base64 makes a third more of them


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
        return as_dict(call(self._socket, self.mountpoint, "status", {}, timeout=_STATUS_TIMEOUT))

    def dead_daemon(self) -> int | None:
        """The process id of a daemon that was killed and cannot end, for the kernel holds a thread of it; None for any other."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_STATUS_TIMEOUT)
            try:
                connection.connect(self._socket)
            except OSError:
                return None
            pid, _ = peer(connection)
        return pid if is_zombie(pid) else None

    def flush(
        self, paths: Sequence[str | os.PathLike[str]] = (), *, timeout: float = 300.0, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """Wait until Drive has the bytes of ``paths`` (empty: of everything), at most ``timeout`` seconds.

        Returns what is not on Drive: path, size (bytes), age_s, reason. An empty list means that all of it is.
        """
        inside = [_below(self.mountpoint, path) for path in paths]
        arguments = {"paths": inside, "timeout": timeout}
        answer = call(self._socket, self.mountpoint, "flush", arguments, timeout=timeout + _GRACE, progress=progress)
        return _unsent(answer)

    def unmount(self, *, timeout: float = 300.0, progress: Progress | None = None) -> list[dict[str, Any]]:
        """Send everything, then unmount and wait until the daemon has ended. Returns what could not be sent in time.

        Where that is not empty the mount stays as it was. ClientError 7: files in it are open, so it stays too.
        """
        with open_connection(self._socket, self.mountpoint) as connection:
            pid, _ = peer(connection)
            with _Process(pid) as process:
                answer = converse(connection, "unmount", {"timeout": timeout}, timeout + _GRACE, progress)
                unsent = _unsent(answer)
                if not unsent and not process.wait(_GRACE):
                    raise ClientError(
                        f"Everything is on Drive, but the daemon (process {pid}) has not ended after {_GRACE:.0f} s. "
                        f"Look into its log, then end it with: kill {pid}",
                        UNEXPECTED,
                    )
        if not unsent:
            _require_gone(self.mountpoint)
        return unsent

    def give_way(self) -> None:
        """End a daemon without a mount at once and wait for its end: what it has not sent stays in the cache, for the next one.

        ClientError 10: none listens.  2: it has a mount, which never gives way.
        """
        with open_connection(self._socket, self.mountpoint) as connection:
            pid, _ = peer(connection)
            with _Process(pid) as process:
                converse(connection, "give_way", {}, _STATUS_TIMEOUT, None)
                if not process.wait(_GRACE):
                    raise ClientError(
                        f"The daemon (process {pid}) was asked to give way and has not ended after {_GRACE:.0f} s. "
                        f"Look into its log, then end it with: kill {pid}",
                        UNEXPECTED,
                    )

    # -- whole files on Drive --------------------------------------------------------------------------------------

    def list(self, path: str, *, timeout: float = 120.0) -> list[dict[str, Any]]:
        """What Drive has at this moment in a folder, oldest first: items. Empty where Drive has no such folder (yet).

        Two of them may have the same name. What is put is among them as soon as Drive has it.
        """
        answer = self._ask("list", {"path": path}, timeout)
        return [as_dict(item) for item in answer]

    def stat(self, path: str, *, timeout: float = 120.0) -> dict[str, Any] | None:
        """The item as Drive has it at this moment; None where Drive has none of this path (yet)."""
        answer = self._ask("stat", {"path": path}, timeout)
        return None if answer is None else as_dict(answer)

    def put(
        self,
        path: str,
        source: bytes | str | os.PathLike[str],
        *,
        timeout: float = 600.0,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Make ``source`` (bytes, or a file's path) the content of the file ``path``; return once Drive has confirmed all of it.

        Returns id, size and md5. Missing folders are made; a file that is there gets a new revision. Whatever is killed when, the
        name stands for the old bytes or the new ones, never for half of them.  progress: told size and written, the bytes that
        the daemon has taken over.  ClientError 3: it is not on Drive, and why. Where the daemon had all of it by then, it is
        pending, as after any write to a mount; to put it again is right in every case.
        """
        if not isinstance(source, bytes):
            whole = os.path.abspath(os.path.expanduser(os.fspath(source)))
            return self._put(path, {"source": whole}, timeout, progress)
        if len(source) <= _INLINE:
            return self._put(path, {"data": base64.b64encode(source).decode()}, timeout, progress)
        with tempfile.NamedTemporaryFile() as file:
            file.write(source)
            file.flush()
            return self._put(path, {"source": file.name}, timeout, progress)

    def _put(self, path: str, what: Mapping[str, str], timeout: float, progress: Progress | None) -> dict[str, Any]:
        arguments = {"path": path, "timeout": timeout, **what}
        return as_dict(self._ask("put", arguments, timeout + _GRACE, progress))

    def get(self, id: str, size: int, md5: str | None = None, *, timeout: float = 60.0) -> Generator[bytes, None, None]:
        """The bytes of the item ``id``, which has ``size`` of them, in order, straight from Drive: nothing is kept here.

        Nothing of them is to be believed before the last: only after it they are held against ``md5``, or against what Drive says
        where that is None, and ClientError is raised where they differ.  timeout: seconds without a byte.
        The download begins with the first chunk, and ends early with ``close()`` (``contextlib.closing``).
        """
        return stream(self._socket, self.mountpoint, "get", {"id": id, "size": size, "md5": md5}, timeout=timeout)

    def trash(self, id: str, *, timeout: float = 120.0) -> None:
        """Move the item ``id`` to Drive's trash, a folder with all below it; one that is gone already is gone.

        Returns once Drive has done it. ClientError 3: it has not, and why.
        """
        self._ask("trash", {"id": id, "timeout": timeout}, timeout + _GRACE)

    def _ask(self, verb: str, arguments: Mapping[str, Any], timeout: float, progress: Progress | None = None) -> Any:
        return call(self._socket, self.mountpoint, verb, arguments, timeout=timeout, progress=progress)


def connect(path: str | os.PathLike[str] = ".", *, runtime: str | None = None) -> Client:
    """The client of the mount that ``path`` lies in. ClientError 10 where no daemon serves any folder above it."""
    directory = runtime or runtime_dir()
    for spelling in _spellings(path):
        for folder in _upwards(spelling):
            if os.path.exists(socket_path(directory, folder)):
                return Client(folder, runtime=directory)
    raise ClientError(f"{os.fspath(path)!r} is not in a mount of drivefs. Mount first: drivefs mount MOUNTPOINT", NOT_MOUNTED)


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
            answer = as_dict(call(path, path, "status", {}, timeout=_STATUS_TIMEOUT))
        except ClientError as error:
            if error.exit_code != NOT_MOUNTED:
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
        return as_dict(call(path + ".sock", mountpoint, "status", {}, timeout=timeout))
    except ClientError as error:
        if error.exit_code != NOT_MOUNTED:
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
    raise ClientError(f"{os.fspath(path)!r} is not in the mount at {mountpoint!r}.", NOT_MOUNTED)


def _unsent(answer: Any) -> list[dict[str, Any]]:
    return [as_dict(entry) for entry in as_dict(answer)["unsent"]]


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
        return os.path.exists(f"/proc/{self._pid}") and not is_zombie(self._pid)


def _require_gone(mountpoint: str) -> None:
    """A daemon that dies instead of unmounting leaves a mount that answers ENOTCONN, except to what the kernel has cached."""
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise ClientError(
                f"Everything is on Drive, but the daemon ended without unmounting. Run: fusermount3 -uz {mountpoint}", UNEXPECTED
            ) from error
