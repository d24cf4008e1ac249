"""Bytes from Drive into the holes of content files: what a reader waits for, and what it will want next.

Every byte is fetched once however many readers wait for it. A reader's window grows while it reads straight on, from 2 MiB by a
factor of four with each further read, because a request costs as much time as dozens of MiB on the real Drive while a random
reader must not pay for bytes it never looks at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from drivefs.base.errors import AccessDenied, DriveFSError, RangeNotSatisfiable, RemoteNotFound, ServerFault
from drivefs.base.ranges import Range
from drivefs.base.stats import Stats
from drivefs.jobs.patience import for_nobody, waiting
from drivefs.jobs.turns import Turns
from drivefs.remote.caller import TROUBLE
from drivefs.remote.drive import Drive
from drivefs.remote.quota import Lane
from drivefs.store.cache import Cache
from drivefs.store.content import Content, checksum
from drivefs.store.tree import Tree

__all__ = ["Prefetch", "Window"]

_Sink = Callable[[int, bytes], None]

_MIB: Final = 1 << 20
_SMALLEST_UNIT: Final = 1 * _MIB
_LARGEST_UNIT: Final = 16 * _MIB
_LARGEST_WINDOW: Final = 128 * _MIB
# Files up to this are fetched whole in one request, whatever part of them is read.
_WHOLE: Final = 4 * _MIB
# A read counts as going straight on when it begins this near the end of the last one: the kernel's read-ahead reorders a little.
_STRAIGHT: Final = 512 << 10
_STRAIGHT_READS: Final = 3


class Window:
    """How far ahead one handle is to be served. Pure: ``advance`` is told of each read and returns what to fetch."""

    __slots__ = ("_expected", "_straight", "_until")

    def __init__(self) -> None:
        self._expected = 0
        self._straight = 0
        self._until = 0

    @property
    def size(self) -> int:
        """Bytes to have ready beyond the reader."""
        steps = min(self._straight - _STRAIGHT_READS, 10)
        return 0 if steps < 0 else min(2 * _MIB << 2 * steps, _LARGEST_WINDOW)

    @property
    def unit(self) -> int:
        """Bytes of one request: an eighth of the window, within limits."""
        return max(_SMALLEST_UNIT, min(self.size // 8, _LARGEST_UNIT))

    def advance(self, start: int, end: int, size: int) -> Range:
        """A read of [start, end) of a file of ``size`` bytes: the range that ought to be present or under way after it."""
        if size <= _WHOLE:
            return Range(0, size)
        if start == 0 and not self._until:
            self._straight = _STRAIGHT_READS  # whoever begins at the beginning mostly goes on
        else:
            self._straight = self._straight + 1 if abs(start - self._expected) <= _STRAIGHT else 0
        self._expected = end
        if not self.size:
            self._until = end
            return Range(start, _align(end, _SMALLEST_UNIT)).clip(size)
        # Whole units only, and a new stretch only when half of the window is used up: no flood of small requests.
        if self._until - end < self.size // 2:
            self._until = _align(end + self.size, self.unit)
        return Range(start, max(self._until, end)).clip(size)


def _align(offset: int, unit: int) -> int:
    return -(-offset // unit) * unit


@dataclass(slots=True, eq=False)
class _Fetch:
    """One request under way, or just ended.

    urgent: a reader waits for it.  received: bytes that came, those included that are still to be checked.  trouble: the last
    failure since then, of a request that is being repeated.
    """

    wanted: Range
    urgent: bool = False
    moved_at: float = 0.0
    received: int = 0
    trouble: Exception | None = None
    error: Exception | None = None

    def moved(self, count: int) -> None:
        self.received += count
        self.moved_at = trio.current_time()
        self.trouble = None

    def met(self, trouble: Exception) -> None:
        self.trouble = trouble

    def touches(self, ranges: list[Range]) -> bool:
        return any(r.start < self.wanted.end and self.wanted.start < r.end for r in ranges)


class _Traffic:
    """The requests under way for one content, and the readers that wait for them."""

    __slots__ = ("arrivals", "fetches")

    def __init__(self) -> None:
        self.fetches: list[_Fetch] = []
        self.arrivals = trio.lowlevel.ParkingLot()

    def uncovered(self, gaps: list[Range]) -> list[Range]:
        """The parts of ``gaps`` that no request under way will bring."""
        for fetch in self.fetches:
            gaps = [piece for gap in gaps for piece in _minus(gap, fetch.wanted)]
        return gaps


def _minus(whole: Range, part: Range) -> list[Range]:
    pieces = [Range(whole.start, min(whole.end, part.start)), Range(max(whole.start, part.end), whole.end)]
    return [piece for piece in pieces if piece.start < piece.end]


class Prefetch:
    """Fetches ranges of open contents. ``connections``: how many requests run at a time, over all files."""

    def __init__(self, drive: Drive, tree: Tree, cache: Cache, stats: Stats, connections: int) -> None:
        self._drive = drive
        self._tree = tree
        self._cache = cache
        self._stats = stats
        self._ahead = drive.in_lane(Lane.BULK)
        self._turns = Turns(connections)
        self._traffic: dict[int, _Traffic] = {}
        self._nursery: trio.Nursery | None = None

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def ensure(self, content: Content, needed: Range, ahead: Range | None = None, unit: int = _LARGEST_UNIT) -> None:
        """Return when ``needed`` is present; begin fetching ``ahead`` too.

        Raises what made the needed bytes unavailable, and what ``patience.waiting`` raises.
        """
        self.begin(content, needed if ahead is None else Range(min(needed.start, ahead.start), max(needed.end, ahead.end)), unit)
        watched: list[_Fetch] = []
        with waiting("bytes of the file", lambda: _trouble_of(watched)) as moved:
            while gaps := content.missing(*needed):
                traffic = self._traffic.get(content.id)
                watched = [] if traffic is None else [fetch for fetch in traffic.fetches if fetch.touches(gaps)]
                if traffic is None or not watched:  # what had arrived was dropped meanwhile: ask again
                    self.begin(content, needed, unit)
                    continue
                self._hurry(watched)
                before = sum(fetch.received for fetch in watched)
                await traffic.arrivals.park()
                if sum(fetch.received for fetch in watched) > before:
                    moved()
                for fetch in watched:
                    if fetch.error is not None and fetch.touches(content.missing(*needed)):
                        raise fetch.error

    def _hurry(self, fetches: list[_Fetch]) -> None:
        for fetch in fetches:
            if not fetch.urgent:
                fetch.urgent = True
                self._turns.reconsider()

    def begin(self, content: Content, wanted: Range, unit: int) -> None:
        """Fetch the holes of ``wanted`` that nobody fetches yet, in requests of ``unit`` bytes; do not wait for them."""
        if self._nursery is None:
            raise RuntimeError("prefetch is not being served")
        if content.remote_size <= _WHOLE:
            unit = _WHOLE
        traffic = self._traffic.get(content.id) or _Traffic()
        for gap in traffic.uncovered(content.missing(*wanted)):
            for start in range(gap.start, gap.end, unit):
                fetch = _Fetch(Range(start, min(start + unit, gap.end)))
                traffic.fetches.append(fetch)
                self._traffic[content.id] = traffic
                self._cache.hold(content)
                self._nursery.start_soon(self._fetch, content, traffic, fetch)

    async def _fetch(self, content: Content, traffic: _Traffic, fetch: _Fetch) -> None:
        for_nobody()
        TROUBLE.set(fetch.met)
        try:
            async with self._turns.take(fetch):
                checked = await self._download(content, traffic, fetch)
            self._cache.save_filled(content)
            if content.complete and not content.dirty and not checked:
                await self._verify(content)
        except Exception as error:  # noqa: BLE001 - not swallowed: it is raised in every reader that waits for these bytes
            fetch.error = error
            self._stats.record_error(str(error), f"read of {self._path(content)!r}")
        finally:
            traffic.fetches.remove(fetch)
            if not traffic.fetches:
                self._traffic.pop(content.id, None)
            traffic.arrivals.unpark_all()
            self._close(content)

    def _close(self, content: Content) -> None:
        """Where the disk is too full to note what was fetched, one file's news must not end everybody's reading."""
        try:
            self._cache.close(content)
        except DriveFSError as error:
            self._stats.record_error(str(error), f"read of {self._path(content)!r}")

    async def _download(self, content: Content, traffic: _Traffic, fetch: _Fetch) -> bool:
        """Whether what came has been held against Drive's checksum."""
        remote_id, wanted = content.remote_id, fetch.wanted
        drive = self._drive if fetch.urgent else self._ahead
        if remote_id is None:
            raise RemoteNotFound("The file is no longer on Drive, and this part of it was never fetched.", status=404)

        def received(_offset: int, data: bytes) -> None:
            fetch.moved(len(data))
            traffic.arrivals.unpark_all()

        def arrived(offset: int, data: bytes) -> None:
            self._cache.fill(content, offset, data)
            received(offset, data)

        if wanted == (0, content.remote_size) and wanted.size <= _WHOLE:
            arrived(0, await self._whole(drive, content, remote_id, received))
            return True
        try:
            # By revision, so that two requests around a remote edit can never mix two versions of a file.
            await drive.download(remote_id, *wanted, arrived, revision=content.revision, size=content.remote_size)
        except (AccessDenied, RemoteNotFound):
            for offset, data in (await self._of_head(drive, content, remote_id, wanted, received)).items():
                arrived(offset, data)
        return False

    async def _of_head(self, drive: Drive, content: Content, remote_id: str, wanted: Range, received: _Sink) -> dict[int, bytes]:
        """Where Drive does not show the revision (to viewers, and now and then to anybody, just after it was made).

        The head's bytes are ours if the head is still our revision after they came: head revisions do not come back.
        """
        pieces, keep = _collector(received)
        await drive.download(remote_id, *wanted, keep, revision=None, size=content.remote_size)
        if (await drive.get(remote_id)).revision != content.revision:
            raise RemoteNotFound("The file was changed on Drive while it was read; open it again.", status=404)
        return pieces

    async def _whole(self, drive: Drive, content: Content, remote_id: str, received: _Sink) -> bytes:
        """A small file in one request, checked before anybody sees it."""
        for revision in (None, content.revision):
            pieces, keep = _collector(received)
            size = content.remote_size
            try:
                await drive.download(remote_id, 0, size, keep, revision=revision, size=size)
            except RangeNotSatisfiable:
                if revision is not None:
                    raise
                continue  # the head is of another length by now: ask for our revision
            data = b"".join(pieces.values())
            if content.md5 is None or hashlib.md5(data, usedforsecurity=False).hexdigest() == content.md5:
                return data
        raise ServerFault("Drive sent bytes that do not match its checksum of the file; try again.", status=200)

    async def _verify(self, content: Content) -> None:
        """The whole file is here: hold it against Drive's checksum, and forget it where it does not match."""
        if content.md5 is None:
            return
        actual = await trio.to_thread.run_sync(checksum, content.fd, content.base_size)
        if content.dirty or actual == content.md5:
            return
        self._cache.forget_filled(content)
        raise ServerFault("Drive sent bytes that do not match its checksum of the file; they were dropped.", status=200)

    def _path(self, content: Content) -> str:
        node = self._tree.find(content.inode)
        return str(content.inode) if node is None else self._tree.path(node)


def _trouble_of(fetches: list[_Fetch]) -> Exception | None:
    return next((fetch.trouble for fetch in fetches if fetch.trouble is not None), None)


def _collector(received: _Sink) -> tuple[dict[int, bytes], _Sink]:
    """Pieces by offset, and what puts them there and says so: they are shown to readers only when all have been checked."""
    pieces: dict[int, bytes] = {}

    def keep(offset: int, data: bytes) -> None:
        pieces[offset] = data
        received(offset, data)

    return pieces, keep
