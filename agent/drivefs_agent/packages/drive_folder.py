"""A store on Drive, through a daemon of drivefs: what it says is there is what Drive itself has now, with Drive's checksums.

The daemon may change under us: one that only serves makes way for a mount, a crashed one is started again. So a call that met no
daemon is made once more to the one that is there then. All calls are safe to repeat.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from drivefs_agent.packages.errors import StoreDamaged, StoreUnreachable
from drivefs_agent.packages.folder import Entry, Progress

__all__ = ["DriveFolder"]

_PUT_SECONDS: Final = 3600.0  # for one object on a slow uplink; the daemon says sooner what keeps it
_TRIES: Final = 4
_PAUSE: Final = 1.0  # seconds; a mount that takes over, or a supervisor, needs some
_UNEXPECTED, _NO_DAEMON = 1, 10  # drivefs's exit codes

Result = TypeVar("Result")


class DriveFolder:
    """``Folder`` over ``path`` on Drive. client: the module ``drivefs.client``. place: finds, or starts, the daemon to ask."""

    def __init__(self, client: Any, place: Callable[[], str], path: str) -> None:
        self._module = client
        self._find = place
        self._client: Any = None
        self._path = path

    @property
    def address(self) -> str:
        return self._path

    def owned(self) -> bool:
        item = self._call(lambda client: client.stat(self._path))
        return item is None or bool(item["owned"])

    def files(self, path: str = "") -> list[Entry]:
        items = self._call(lambda client: client.list(self._below(path)))
        return [_entry(item) for item in items if not item["folder"] and item["size"] is not None]

    def folders(self, path: str = "") -> list[str]:
        items = self._call(lambda client: client.list(self._below(path)))
        return sorted({str(item["name"]) for item in items if item["folder"]})

    @contextmanager
    def open(self, entry: Entry, progress: Progress | None = None) -> Iterator[Iterator[bytes]]:
        with contextlib.closing(self._stream(entry, progress)) as chunks:
            yield chunks

    def put(self, path: str, source: Path | bytes, progress: Progress | None = None) -> Entry:
        told = 0

        def tell(news: dict[str, Any]) -> None:
            nonlocal told
            if progress is not None and (written := int(news.get("written", 0))) > told:
                progress(written - told)
                told = written

        item = self._call(lambda client: client.put(self._below(path), source, timeout=_PUT_SECONDS, progress=tell))
        return Entry(path.rpartition("/")[2], str(item["id"]), int(item["size"]), str(item["md5"]), True, time.time())

    def trash(self, entry: Entry) -> None:
        self._call(lambda client: client.trash(entry.id))

    # -- talking ---------------------------------------------------------------------------------------------------

    def _below(self, path: str) -> str:
        return f"{self._path}/{path}" if path else self._path

    def _stream(self, entry: Entry, progress: Progress | None) -> Generator[bytes, None, None]:
        """From another daemon it comes from the start again, and what was handed on already is passed over."""
        handed = 0
        for left in reversed(range(_TRIES)):
            passed = 0
            try:
                with contextlib.closing(self._connected().get(entry.id, entry.size, entry.md5)) as chunks:
                    for chunk in chunks:
                        fresh = chunk[max(0, handed - passed) :]
                        passed += len(chunk)
                        if fresh:
                            handed += len(fresh)
                            if progress is not None:
                                progress(len(fresh))
                            yield fresh
                return
            except self._module.ClientError as error:
                self._judge(error, left)

    def _call(self, ask: Callable[[Any], Result]) -> Result:
        for left in reversed(range(_TRIES)):
            try:
                return ask(self._connected())
            except self._module.ClientError as error:
                self._judge(error, left)
        raise AssertionError("the last try returns or raises")

    def _connected(self) -> Any:
        if self._client is None:
            self._client = self._module.Client(self._find())
        return self._client

    def _judge(self, error: Exception, left: int) -> None:
        """Return where another try may find another daemon; raise otherwise."""
        code = getattr(error, "exit_code", _UNEXPECTED)
        if code not in (_UNEXPECTED, _NO_DAEMON) or not left:
            kind = StoreDamaged if code == _UNEXPECTED and "md5" in str(error).lower() else StoreUnreachable
            raise kind(str(error)) from error
        self._client = None
        time.sleep(_PAUSE)


def _entry(item: dict[str, Any]) -> Entry:
    return Entry(str(item["name"]), str(item["id"]), int(item["size"]), item["md5"], bool(item["owned"]), float(item["created"]))
