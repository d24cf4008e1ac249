"""Archives come from a store and become files of a generation: eight at a time, the largest first.

The first error ends all of them; what has arrived until then lies in the generation that its owner throws away.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from drivefs_agent.packages import record
from drivefs_agent.packages.errors import Hostile, PackagesError, StoreDamaged
from drivefs_agent.packages.extract import Extracted, extract, finish
from drivefs_agent.packages.files import write_atomically
from drivefs_agent.packages.folder import Entry, Folder
from drivefs_agent.packages.landing import Landing, Site
from drivefs_agent.packages.model import Object, Part
from drivefs_agent.packages.save import Watcher
from drivefs_agent.packages.scan import Found
from drivefs_agent.packages.scripts import to_placeholder, to_real, with_scripts

__all__ = ["Destination", "adopt_scripts", "fetch"]

_AT_ONCE: Final = 8


class Destination:
    """Where parts go. root: an existing directory.  schemes: as ``landing.Site`` has them.  python: what scripts are to name.

    there: what the root holds already, which newer parts may replace.
    """

    def __init__(self, root: Path, schemes: Mapping[str, str], python: str = "", there: Collection[Found] = ()) -> None:
        self.root = root
        self.schemes = schemes
        self.python = python
        self.there = there

    def expect(self, landing: Landing, wanted: Iterable[Part]) -> None:
        for part in wanted:
            landing.put(part, self.root, self.schemes, self.python)
        for found in self.there:
            for file in found.files:
                kind, _, below = file.scheme.partition("/")
                landing.occupy(found.part, self.root, f"{self.schemes[kind]}{below}")


class _Landing(Landing):
    """An archive of several parts outlives some of them: what no state of ours names any more is passed over."""

    def site(self, folder: str) -> Site | None:
        try:
            return super().site(folder)
        except Hostile:
            return None


class _Stopped(Exception):
    """Another archive could not be had, so this one is not wanted any more."""


def fetch(
    folder: Folder,
    archives: Mapping[str, tuple[Entry, Object]],
    wanted: Sequence[Part],
    destination: Destination,
    watcher: Watcher | None = None,
) -> None:
    """Bring ``wanted`` to their destination. archives: by the name that ``Part.object`` has.

    StoreDamaged, naming the archive, where one is not what was saved; StoreUnreachable; LayerUnusable where there is no room.
    """
    if not wanted:
        return
    if watcher is not None:
        watcher.begin(sum(one.size for _, one in archives.values()))
    with _Landing() as landing:
        destination.expect(landing, wanted)
        transport = _Transport(folder, landing, watcher)
        finish(landing, [arrived for each in transport.run(archives.values()) for arrived in each.parts])


class _Transport:
    """Fetches archives in threads. Invariant: no thread is left when ``run`` returns or raises."""

    def __init__(self, folder: Folder, landing: Landing, watcher: Watcher | None) -> None:
        self._folder = folder
        self._landing = landing
        self._watcher = watcher
        self._stop = threading.Event()

    def run(self, archives: Iterable[tuple[Entry, Object]]) -> list[Extracted]:
        largest_first = sorted(archives, key=lambda archive: -archive[1].size)
        with ThreadPoolExecutor(min(_AT_ONCE, len(largest_first))) as pool:
            tasks = [pool.submit(self._one, entry, expected) for entry, expected in largest_first]
            problems = [error for task in tasks if (error := task.exception()) is not None]
        for error in sorted(problems, key=lambda error: isinstance(error, _Stopped)):
            raise error
        return [task.result() for task in tasks]

    def _one(self, entry: Entry, expected: Object) -> Extracted:
        try:
            if self._stop.is_set():
                raise _Stopped
            with self._folder.open(entry, self._passed) as chunks:
                return extract(chunks, self._landing, expected=expected)
        except StoreDamaged as error:
            self._stop.set()
            raise type(error)(f"{error} Archive: {expected.name}") from error
        except BaseException:
            self._stop.set()
            raise

    def _passed(self, size: int) -> None:
        if self._stop.is_set():
            raise _Stopped
        if self._watcher is not None:
            self._watcher.advance(size)


def adopt_scripts(site: Path, folder: Path, written: Path, named: Path) -> None:
    """Scripts in ``folder`` that name the Python ``written`` name ``named`` from now on, and RECORDs in ``site`` agree."""
    changed: dict[str, bytes] = {}
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        placed = to_placeholder(content, os.fspath(written))
        if placed != content:
            changed[path.name] = to_real(placed, os.fspath(named))
            write_atomically(path, changed[path.name], path.stat().st_mode & 0o755)
    if changed:
        _correct_records(site, {os.path.relpath(folder / name, site): content for name, content in changed.items()})


def _correct_records(site: Path, scripts: Mapping[str, bytes]) -> None:
    for path in site.glob("*.dist-info/RECORD"):
        content = path.read_bytes()
        try:
            concerned = any(row.path in scripts for row in record.read(content))
        except ValueError as error:
            raise PackagesError(f"{str(path)!r} is no RECORD: {error}. Install that package again.") from error
        if concerned:
            write_atomically(path, with_scripts(content, scripts))
