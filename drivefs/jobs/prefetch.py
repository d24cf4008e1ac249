"""Bytes from Drive into the holes of content files: what a reader waits for, and what it will want next.

Every byte is fetched once however many readers wait for it, and no byte is shown that is known to be wrong. Drive states a
checksum of a whole file only, so a small file is checked before anything of it is shown, and a larger one when its last bytes
have come. Whoever had read before that gets errors from then on: what a program has seen cannot be called back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from weakref import WeakSet

import trio

from drivefs.base.errors import AccessDenied, DriveFSError, RangeNotSatisfiable, RemoteNotFound, ServerFault
from drivefs.base.model import Invalidation
from drivefs.base.ranges import Range
from drivefs.base.stats import Stats
from drivefs.jobs.patience import for_nobody, waiting
from drivefs.jobs.turns import Turns
from drivefs.jobs.window import LARGEST_UNIT, WHOLE, Window
from drivefs.remote.caller import TROUBLE
from drivefs.remote.drive import Drive
from drivefs.remote.quota import Lane
from drivefs.store.cache import Cache
from drivefs.store.content import Content, checksum
from drivefs.store.tree import Tree

__all__ = ["Prefetch", "Window"]

_Sink = Callable[[int, bytes], None]
_MISMATCH: Final = "Drive sent bytes that do not match its checksum of the file."

_MIB: Final = 1 << 20
_WHOLE: Final = WHOLE
# Of files up to this the last bytes are shown only when all of them match Drive's checksum, which takes a tenth of a second.
_CHECKED_FIRST: Final = 64 * _MIB


@dataclass(slots=True, eq=False)
class _Fetch:
    """One request under way, or just ended.

    urgent: a reader waits for it.  received: bytes that came, those included that are still to be checked.  trouble: the last
    failure since then, of a request that is being repeated.  held: the last bytes of the file, which are shown when all match.
    """

    wanted: Range
    urgent: bool = False
    moved_at: float = 0.0
    received: int = 0
    held: tuple[int, bytes] | None = None
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
    """Fetches ranges of open contents.

    connections: how many requests run at a time, over all files.  notify: told what the kernel must forget.
    """

    def __init__(
        self,
        drive: Drive,
        tree: Tree,
        cache: Cache,
        stats: Stats,
        connections: int,
        notify: Callable[[Sequence[Invalidation]], None] = lambda _stale: None,
    ) -> None:
        self._drive = drive
        self._tree = tree
        self._cache = cache
        self._stats = stats
        self._ahead = drive.in_lane(Lane.BULK)
        self._turns = Turns(connections)
        self._notify = notify
        self._traffic: dict[int, _Traffic] = {}
        # Contents of which a reader may have seen wrong bytes, until the last handle on them is closed.
        self._mistrusted: WeakSet[Content] = WeakSet()
        self._nursery: trio.Nursery | None = None

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def ensure(self, content: Content, needed: Range, ahead: Range | None = None, unit: int = LARGEST_UNIT) -> None:
        """Return when ``needed`` is present; begin fetching ``ahead`` too.

        Raises what made the needed bytes unavailable, and what ``patience.waiting`` raises.
        """
        if content in self._mistrusted:
            raise ServerFault(f"{_MISMATCH} Close the file and open it again.", status=200)
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
            if not checked and (content.complete or fetch.held is not None):
                await self._verify(content, fetch)
            self._cache.save_filled(content)
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
            if _is_last(content, offset, data):
                fetch.held = offset, data
            else:
                self._cache.fill(content, offset, data)
            received(offset, data)

        if wanted == (0, content.remote_size) and wanted.size <= _WHOLE:
            self._cache.fill(content, 0, await self._whole(drive, content, remote_id, received))
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
        raise ServerFault(f"{_MISMATCH} Try again.", status=200)

    async def _verify(self, content: Content, fetch: _Fetch) -> None:
        """The whole file is here: hold it against Drive's checksum, and forget it where it does not match."""
        if content.md5 is None or (content.dirty and fetch.held is None):
            return
        if fetch.held is not None:
            offset, data = fetch.held
            self._cache.write_bytes(content, data, offset)  # into a hole still, which no reader looks at
        actual = await trio.to_thread.run_sync(checksum, content.fd, content.base_size)
        if not content.dirty and actual != content.md5:
            self._mistrusted.add(content)
            self._cache.forget_filled(content)
            self._notify([Invalidation(content.inode, pages=True)])
            raise ServerFault(f"{_MISMATCH} They were dropped; open the file again.", status=200)
        if fetch.held is not None:
            self._cache.fill(content, offset, data)

    def _path(self, content: Content) -> str:
        node = self._tree.find(content.inode)
        return str(content.inode) if node is None else self._tree.path(node)


def _is_last(content: Content, offset: int, data: bytes) -> bool:
    """Whether these bytes complete a file that can be held against its checksum while a reader waits."""
    if content.dirty or content.md5 is None or content.base_size != content.remote_size or content.base_size > _CHECKED_FIRST:
        return False
    return all(offset <= gap.start and gap.end <= offset + len(data) for gap in content.missing(0, content.base_size))


def _trouble_of(fetches: list[_Fetch]) -> Exception | None:
    return next((fetch.trouble for fetch in fetches if fetch.trouble is not None), None)


def _collector(received: _Sink) -> tuple[dict[int, bytes], _Sink]:
    """Pieces by offset, and what puts them there and says so: they are shown to readers only when all have been checked."""
    pieces: dict[int, bytes] = {}

    def keep(offset: int, data: bytes) -> None:
        pieces[offset] = data
        received(offset, data)

    return pieces, keep
