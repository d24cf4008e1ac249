"""What the agent's commands share: a folder of this user alone, with the page's token, the session and the guard's report.

Root has one place whatever its login says, so that a shell talks to the system's services. Every file is 0600 and is replaced as
a whole, so a reader sees the old one or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["Session", "State", "StateError", "state_folder"]

_TOKEN_BYTES: Final = 24  # 192 bits, 32 characters
_LARGEST_LOG: Final = 4 << 20
_SHORTEST_TOKEN: Final = 22  # characters of base64 that hold 128 bits
_ENVIRONMENT: Final = "DRIVEFS_AGENT_TOKEN"


class StateError(Exception):
    """A sentence for people: what is wrong with the folder or a file in it, and what to do next."""


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the agent keeps what outlives it: $DRIVEFS_AGENT_DIR, else root's or the user's place for such things."""
    if chosen := environment.get("DRIVEFS_AGENT_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/drivefs-agent")
    home = environment.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(home) / "drivefs-agent"


@dataclass(frozen=True, slots=True)
class Session:
    """What a person has told the guard. Unix times; None: not told."""

    hold_until: float | None = None
    lease_end: float | None = None


class State:
    """The folder. Making one touches nothing; it is made, 0700, when something is first written."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or state_folder()

    # -- the page's token ------------------------------------------------------------------------------------------

    def token(self, environment: Mapping[str, str] = os.environ) -> str:
        """From $DRIVEFS_AGENT_TOKEN, else the file ``token``, which is made at the first call."""
        if given := environment.get(_ENVIRONMENT):
            if len(given) < _SHORTEST_TOKEN or not given.isascii() or not given.isprintable() or " " in given:
                raise StateError(
                    f"${_ENVIRONMENT} is no token: it needs {_SHORTEST_TOKEN} characters of ASCII at least, without blanks. "
                    "Make one with: openssl rand -hex 16"
                )
            return given
        path = self.folder / "token"
        if not os.path.lexists(path):
            self._make_token(path)
        token = self._read(path).decode("ascii", "replace").strip()
        if len(token) < _SHORTEST_TOKEN:
            raise StateError(f"{str(path)!r} holds no token. Remove it, and a new one is made.")
        return token

    def _make_token(self, path: Path) -> None:
        """Two that start at once agree on one: link(2) does not replace."""
        self._require_folder()
        temporary = self._write_aside("token", secrets.token_urlsafe(_TOKEN_BYTES).encode() + b"\n")
        try:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path, follow_symlinks=False)
        finally:
            temporary.unlink()

    # -- the session -----------------------------------------------------------------------------------------------

    def session(self) -> Session:
        """StateError where it cannot be read: what was told is then not known, which is not the same as nothing."""
        found = self._read_object("session.json")
        return Session(_time(found.get("hold_until")), _time(found.get("lease_end")))

    def tell(self, *, hold_until: float | None = None, lease_end: float | None = None) -> None:
        """Keep the new marks. Both are replaced."""
        self._write_object("session.json", {"hold_until": hold_until, "lease_end": lease_end})

    # -- the guard's report ----------------------------------------------------------------------------------------

    def report(self) -> dict[str, Any] | None:
        """What the guard last said of itself, with ``age_seconds``; None where none has ever run."""
        found = self._read_object("guard.json")
        return {**found, "age_seconds": max(0.0, time.time() - float(found.get("time") or 0))} if found else None

    def put_report(self, report: Mapping[str, Any]) -> None:
        self._write_object("guard.json", report)

    # -- logs ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def log(self, name: str) -> Iterator[int]:
        """A descriptor to append to, for a process in the background. One that has grown large makes way for a new one."""
        self._require_folder()
        path = self.folder / name
        try:
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_size > _LARGEST_LOG:
                    path.replace(path.with_name(f"{name}.1"))
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"The log {str(path)!r} cannot be written: {error.strerror}.") from error
        try:
            yield handle
        finally:
            os.close(handle)

    # -- files -----------------------------------------------------------------------------------------------------

    def _read_object(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            found = json.loads(self._read(path))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise StateError(f"{str(path)!r} is damaged: {error}. Remove it.") from error
        if not isinstance(found, dict):
            raise StateError(f"{str(path)!r} is damaged: no object in it. Remove it.")
        return found

    def _write_object(self, name: str, content: Mapping[str, Any]) -> None:
        self._require_folder()
        temporary = self._write_aside(name, json.dumps(content).encode() + b"\n")
        os.replace(temporary, self.folder / name)

    def _read(self, path: Path) -> bytes:
        """What others could have written or can read is refused. FileNotFoundError where there is none."""
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                    raise StateError(f"{str(path)!r} is not a file of your own. Remove it.")
                if status.st_mode & 0o077:
                    raise StateError(f"{str(path)!r} is open to other users. Remove it, and a new one is made.")
                return file.read()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StateError(f"{str(path)!r} cannot be read: {error.strerror}.") from error

    def _write_aside(self, name: str, content: bytes) -> Path:
        temporary = self.folder / f".{name}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(content)
        except OSError as error:
            raise StateError(f"Nothing can be written in {str(self.folder)!r}: {error.strerror}.") from error
        return temporary

    def _require_folder(self) -> None:
        """Make it, or refuse one that others could have prepared."""
        advice = "Choose another with $DRIVEFS_AGENT_DIR."
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self.folder.mkdir(0o700)
            status = os.lstat(self.folder)
        except OSError as error:
            raise StateError(f"The folder {str(self.folder)!r} cannot be made: {error.strerror}. {advice}") from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise StateError(f"{str(self.folder)!r} is not a folder of yours alone (chmod 700). {advice}")


def _time(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise StateError(f"A time of the session is damaged: {value!r}. Tell it again: drivefs-agent hold --release")
    return float(value)
