"""After each run of pip, what it installed is saved by itself.

A look every two seconds costs two system calls and one listing: the names and times of the *.dist-info folders tell whether
anything was installed, changed or removed. A change is saved when it has rested for ten seconds and no pip or uv is at work. Once
a day, and at the start, everything is looked at: also files that no distribution owns, and the declared directories.

One watcher serves one layer; the lock on ``watch.lock`` says so, and the number in it who it is.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from drivefs_agent.packages.errors import Conflict, PackagesError
from drivefs_agent.packages.layer import Layer
from drivefs_agent.packages.save import Saved

__all__ = ["AlreadyWatched", "Told", "Watch", "installers", "only_watcher", "read_report", "stop", "watcher_of"]

logger = logging.getLogger(__name__)

_POLL: Final = 2.0
_REST: Final = 10.0
_DAY: Final = 86400.0
_FIRST_RETRY: Final = 15.0
_LAST_RETRY: Final = 300.0
_PIP: Final = re.compile(rb"(?:^|/)(?:pip[0-9.]*|__pip-runner__\.py|pip/__main__\.py)$")
_UV: Final = re.compile(rb"(?:^|/)uv$")


class AlreadyWatched(PackagesError):
    """Another process watches this layer; a second one has nothing to do."""

    exit_code = 0


@dataclass(frozen=True, slots=True)
class Told:
    """What the watcher last said of itself. Unix times. error: why the last save failed; None where it did not."""

    time: float
    saved: float | None = None
    manifest: str | None = None
    seconds: float | None = None
    failures: int = 0
    error: str | None = None


class Watch:
    """save: saves the layer, with everything where told so.  wait: sleeps so many seconds; true when it is to end."""

    def __init__(
        self,
        layer: Layer,
        save: Callable[[bool], Saved],
        wait: Callable[[float], bool],
        *,
        busy: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._layer = layer
        self._save = save
        self._wait = wait
        self._busy = busy
        self._clock = clock
        self._saved: object = None
        self._full_at = 0.0
        self._told = Told(clock())

    def run(self) -> None:
        """Until ``wait`` says so; what is unsaved then is saved first, whether it has rested or not."""
        seen, since = self._look(), 0.0
        retry, pause = 0.0, _FIRST_RETRY
        while not self._wait(_POLL):
            now, found = self._clock(), self._look()
            if found != seen:
                seen, since = found, now
            due = found != self._saved or now >= self._full_at
            if not due or now - since < _REST or now < retry or self._busy():
                continue
            if self._try(found):
                retry, pause = 0.0, _FIRST_RETRY
            else:
                retry, pause = now + pause, min(2 * pause, _LAST_RETRY)
        if self._look() != self._saved:
            self._try(self._look())

    def _try(self, found: object) -> bool:
        began, full = self._clock(), self._clock() >= self._full_at
        try:
            saved = self._save(full)
        except Conflict as error:  # pip was quicker than we: the next look sees what it left
            logger.info("%s", error)
            return False
        except (PackagesError, OSError) as error:
            logger.warning("packages could not be saved: %s", error)
            self._tell(failures=self._told.failures + 1, error=str(error))
            return False
        for sentence in (*saved.notes, *saved.warnings):
            logger.info("%s", sentence)
        if saved.manifest is not None:
            logger.info("saved %d parts as %s; %d bytes sent", len(saved.manifest.parts), saved.manifest.id, saved.bytes_sent)
        self._saved = found
        self._full_at = self._clock() + _DAY if full else self._full_at
        manifest = saved.manifest.id if saved.manifest else self._told.manifest
        self._tell(saved=self._clock(), manifest=manifest, seconds=self._clock() - began, error=None)
        return True

    def _tell(self, **news: Any) -> None:
        self._told = Told(**{**asdict(self._told), "time": self._clock(), **news})
        path = _report_path(self._layer)
        aside = path.with_suffix(".new")
        try:
            aside.write_text(json.dumps(asdict(self._told)))
            aside.replace(path)
        except OSError as error:
            logger.warning("%s cannot be written: %s", path, error.strerror)

    def _look(self) -> object:
        """Compares equal while nothing is installed, changed, removed or switched."""
        try:
            return os.stat(self._layer.site).st_ino, self._layer.marks()
        except FileNotFoundError:  # no layer, or no package in it
            return None


def _report_path(layer: Layer) -> Path:
    return layer.root / "watch.json"


def read_report(layer: Layer) -> Told | None:
    """What the layer's watcher last said; None where none ever ran."""
    try:
        return Told(**json.loads(_report_path(layer).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        return Told(0.0, error=f"its report cannot be read: {error}")


def installers(root: Path = Path("/")) -> Iterator[int]:
    """Processes that may be installing: pip, and uv as pip. ``uv run train.py`` lives as long as the training, and is none."""
    for folder in (root / "proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")[:6]
        except OSError:  # it ended, or is hidden from us
            continue
        module = [b"-m", b"pip"] in (words[index : index + 2] for index in range(len(words)))
        uv = b"pip" in words[1:] and _UV.search(words[0]) is not None
        if module or uv or any(_PIP.search(word) for word in words[:3]):
            yield int(folder.name)


@contextmanager
def only_watcher(layer: Layer) -> Iterator[None]:
    """Be the one that watches; AlreadyWatched where another is."""
    handle = os.open(layer.root / "watch.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyWatched(f"The layer {layer.name} is watched already.") from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def watcher_of(layer: Layer) -> int | None:
    """The process that watches the layer."""
    try:
        handle = os.open(layer.root / "watch.lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(handle, 20, 0) or b"0") or None
    else:
        return None
    finally:
        os.close(handle)


def stop(layer: Layer, patience: float = 60.0) -> bool:
    """Ask the watcher to end, and wait until it has saved; false where it has not ended in time."""
    deadline = time.monotonic() + patience
    if (pid := watcher_of(layer)) is not None:
        os.kill(pid, signal.SIGTERM)
    while watcher_of(layer) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
