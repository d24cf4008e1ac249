"""When what is pending is sent: by several workers, each node by one at a time. How is in jobs/sending.py.

What is pending is known by the database alone. What is kept here, and may be lost with the process, is only *when*: after a start
everything pending is due at once. A node that is open for writing waits for its last close, unless somebody asks for a flush.
Nothing acknowledged is ever given up: what fails is tried again, later and later, and is listed with its reason meanwhile.
"""

from __future__ import annotations

import heapq
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from drivefs.base.errors import AccessDenied, BadRequest, DriveFSError, DriveFull, RemoteError, ServerFault, UploadSuperseded
from drivefs.base.model import Invalidation
from drivefs.base.stats import Stats
from drivefs.jobs.prefetch import Prefetch
from drivefs.jobs.sending import Sender
from drivefs.remote.drive import Drive
from drivefs.store.cache import Cache
from drivefs.store.merging import Merger
from drivefs.store.outbox import Outbox, Step, Unsent
from drivefs.store.tree import Node, Tree

__all__ = ["Uploader"]

log = logging.getLogger(__name__)

_LONGEST_PAUSE: Final = 60.0
# After so many failures in a row nothing else waits for the node.
_STUCK_AFTER: Final = 3


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    attempts: int
    refused: bool

    @property
    def stuck(self) -> bool:
        """Whether the next attempt will most likely fail too."""
        return self.refused or self.attempts >= _STUCK_AFTER


class Uploader:
    """delay: seconds between the last local change of a node and its upload, so that what changes often is sent once."""

    def __init__(
        self,
        drive: Drive,
        tree: Tree,
        cache: Cache,
        merger: Merger,
        prefetch: Prefetch,
        notify: Callable[[Sequence[Invalidation]], None],
        stats: Stats,
        *,
        delay: float,
        workers: int,
    ) -> None:
        self._tree = tree
        self._stats = stats
        self._outbox = Outbox(tree)
        self._sender = Sender(drive, tree, cache, merger, prefetch, self._outbox, notify, self.rescan, stats)
        self._delay = delay
        self._workers = workers
        # When each node is due, in trio's time. The heap may hold outdated entries; the dict is right.
        self._due: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []
        # Until when further changes may put off a node that has changed.
        self._latest: dict[int, float] = {}
        self._running: set[int] = set()
        self._again: set[int] = set()
        self._writers: Counter[int] = Counter()
        self._failures: dict[int, _Failure] = {}
        self._waiting_for_parent: dict[int, set[int]] = {}
        self._deletions: list[tuple[int, int]] = []
        self._drains = 0
        self._wake = trio.Event()
        self._finished = trio.Event()

    # -- told by the file system -----------------------------------------------------------------------------------

    def schedule(self, inode: int, delay: float | None = None) -> None:
        """The node has changed: it is due after ``delay`` seconds (default: the configured delay).

        Each change counts them anew, but for a minute at most, so that a file rewritten every second reaches Drive too.
        """
        if inode in self._running:
            self._again.add(inode)
            return
        if delay is None:
            delay = 0 if self._drains else self._delay  # the last close may come after the drain that is to send the file
        now = trio.current_time()
        due = max(now, min(now + delay, self._latest.setdefault(inode, now + max(_LONGEST_PAUSE, self._delay))))
        self._due[inode] = due
        heapq.heappush(self._heap, (due, inode))
        self._wake.set()

    def writer_opened(self, inode: int) -> None:
        self._writers[inode] += 1

    def writer_closed(self, inode: int) -> None:
        """The last close makes the file due."""
        self._writers[inode] -= 1
        if self._writers[inode] <= 0:
            del self._writers[inode]
            node = self._tree.find(inode)
            if node is not None and node.pending:
                self.schedule(inode)

    def failure(self, inode: int) -> str | None:
        """The reason of the last failed attempt, while it stands."""
        failure = self._failures.get(inode)
        return None if failure is None else failure.reason

    def rescan(self) -> None:
        """Something merged from Drive may have made rows pending that nobody scheduled."""
        for node in self._tree.pending():
            known = node.inode in self._due or node.inode in self._running or node.inode in self._writers
            if not known and node.inode not in self._failures:
                self.schedule(node.inode, 0)
        self._announce()

    # -- told by people --------------------------------------------------------------------------------------------

    def unsent(self, below: Collection[int] = ()) -> list[Unsent]:
        """What Drive does not have yet, oldest change first; below: only these inodes and what lies in them."""
        return [self._unsent(node) for node in self._pending(below)]

    async def drain(
        self, timeout: float, below: Collection[int] = (), progress: Callable[[int], None] | None = None
    ) -> list[Unsent]:
        """Send now, also what is still open for writing. Returns what could not be sent within ``timeout`` seconds."""
        deadline = trio.current_time() + timeout
        for node in self._pending(below):
            self._hurry(node)
        self._drains += 1
        try:
            return await self._drained(deadline, below, progress)
        finally:
            self._drains -= 1

    async def _drained(self, deadline: float, below: Collection[int], progress: Callable[[int], None] | None) -> list[Unsent]:
        while pending := len(self._pending(below)) if below else self._tree.count_pending():
            if progress is not None:
                progress(pending)
            finished = self._finished
            with trio.move_on_at(deadline) as scope:
                await finished.wait()
            if scope.cancelled_caught:
                return [self._unsent(node) for node in self._pending(below)]
        return []

    def _pending(self, below: Collection[int]) -> list[Node]:
        return [n for n in self._tree.pending() if not below or any(self._tree.is_ancestor(top, n.inode) for top in below)]

    def _hurry(self, node: Node) -> None:
        """Due now, and the folders above it too."""
        failure = self._failures.get(node.inode)
        if failure is None or failure.attempts < _STUCK_AFTER:
            self.schedule(node.inode, 0)
        parent = self._tree.find(node.local_parent or 0)
        if parent is not None and parent.pending and parent.inode not in self._running:
            self._hurry(parent)

    def _unsent(self, node: Node) -> Unsent:
        failure = self._failures.get(node.inode)
        if failure is not None:
            reason = failure.reason
        elif node.inode in self._running:
            reason = "being sent"
        elif node.inode in self._writers:
            reason = "open for writing"
        else:
            reason = "waiting for its turn"
        age = max(0.0, time.time() - node.mtime_ns / 1e9) if not node.local_trashed else 0.0
        size = node.size if node.content_dirty and not node.local_trashed else 0
        return Unsent(self._tree.path(node), size, age, reason)

    # -- the loop --------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Run for ever. Everything that a former process left pending is due at once."""
        for node in self._tree.pending():
            self.schedule(node.inode, 0)
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                while len(self._running) < self._workers and (inode := self._next_due()) is not None:
                    self._running.add(inode)
                    nursery.start_soon(self._work, inode)
                await self._wait_for_news()

    async def _wait_for_news(self) -> None:
        full = len(self._running) >= self._workers
        until = self._heap[0][0] if self._heap and not full else math.inf
        with trio.move_on_at(until):
            await self._wake.wait()

    def _next_due(self) -> int | None:
        """Take the next node that can be worked on now; park those that must wait for another."""
        now = trio.current_time()
        while self._heap and self._heap[0][0] <= now:
            due, inode = heapq.heappop(self._heap)
            if self._due.get(inode) != due or inode in self._running:
                continue
            del self._due[inode]
            if not self._parked(inode):
                return inode
        return None

    def _parked(self, inode: int) -> bool:
        """Whether the node has nothing to do, or cannot go on before another node has."""
        node = self._tree.find(inode)
        step = Step.NOTHING if node is None else self._outbox.next_step(node)
        if node is None or step is Step.NOTHING:
            self._failures.pop(inode, None)
            self._latest.pop(inode, None)
            self._announce()
            return True
        if step is Step.WAIT_FOR_PARENT:
            self._wait_for_parent(node)
            return True
        if step is Step.TRASH and self._must_wait(node):
            heapq.heappush(self._deletions, (node.sequence, inode))
            return True
        return self._awaits_close(inode, step)

    def _wait_for_parent(self, node: Node) -> None:
        """The folder goes first; one that was deleted on Drive comes back, because what waits for it is the user's."""
        parent = self._tree.find(self._outbox.awaited(node) or 0)
        if parent is None:
            return
        self._waiting_for_parent.setdefault(parent.inode, set()).add(node.inode)
        if parent.local_trashed:
            self._tree.revive(parent.inode)
            parent = self._tree.get(parent.inode)
        if parent.pending and parent.inode not in self._failures:
            self.schedule(parent.inode, 0)

    def _awaits_close(self, inode: int, step: Step) -> bool:
        """Whether the content is being written, so that what lies here now may be half of what is meant."""
        return step in (Step.CREATE, Step.UPDATE_CONTENT) and inode in self._writers and not self._drains

    def _must_wait(self, node: Node) -> bool:
        ignoring = {inode for inode, failure in self._failures.items() if failure.stuck}
        for inode in self._writers:
            writer = self._tree.find(inode)
            if writer is not None and self._awaits_close(inode, self._outbox.next_step(writer)):
                ignoring.add(inode)
        return self._outbox.must_wait(node, ignoring=ignoring)

    async def _work(self, inode: int) -> None:
        try:
            await self._advance(inode)
        except UploadSuperseded:
            self._latest[inode] = trio.current_time() + self._delay  # it has waited its time: no more putting off
            self._again.add(inode)
        except DriveFSError as error:
            self._failed(inode, error)
        except Exception as error:  # one file's defect must not stop the others; it is logged, counted and listed
            log.exception("uploading inode %d failed unexpectedly", inode)
            self._stats.internal_errors += 1
            self._failed(inode, ServerFault(f"internal error: {error!r}"))
        else:
            self._failures.pop(inode, None)
            node = self._tree.find(inode)
            if node is None or not node.pending:
                self._latest.pop(inode, None)
        finally:
            self._running.discard(inode)
            self._settle(inode)

    def _settle(self, inode: int) -> None:
        """A worker is free again: whoever waited for this node, or for its turn, may go on."""
        node = self._tree.find(inode)
        if inode in self._again and inode not in self._due and (self._drains or inode not in self._writers):
            self.schedule(inode, 0 if self._drains else None)
        self._again.discard(inode)
        if node is None or node.remote_exists:
            for child in self._waiting_for_parent.pop(inode, ()):
                self.schedule(child, 0)
        while self._deletions:
            waiting = self._tree.find(self._deletions[0][1])
            if waiting is not None and waiting.pending and waiting.local_trashed and self._must_wait(waiting):
                break
            self.schedule(heapq.heappop(self._deletions)[1], 0)
        self._announce()
        self._wake.set()

    def _announce(self) -> None:
        """Something may have ceased to be pending: whoever drains is to look again."""
        finished, self._finished = self._finished, trio.Event()
        finished.set()

    def _failed(self, inode: int, error: DriveFSError) -> None:
        attempts = self._failures[inode].attempts + 1 if inode in self._failures else 1
        reason = str(error)
        node = self._tree.find(inode)
        subject = str(inode) if node is None else self._tree.path(node)
        if attempts == 1:
            log.warning("not on Drive yet: %r: %s", subject, reason)
        self._stats.record_error(reason, subject)
        # What Drive has refused will hardly succeed in a moment; what was an accident may.
        refused = isinstance(error, AccessDenied | BadRequest | DriveFull)
        self._failures[inode] = _Failure(reason, attempts, refused)
        self._latest.pop(inode, None)
        pause = _LONGEST_PAUSE if refused else min(2.0 ** min(attempts - 1, 16), _LONGEST_PAUSE)
        asked = error.retry_after if isinstance(error, RemoteError) and error.retry_after else 0.0
        due = trio.current_time() + max(asked, pause * random.uniform(0.5, 1.0))
        self._due[inode] = due
        heapq.heappush(self._heap, (due, inode))

    # -- one node --------------------------------------------------------------------------------------------------

    async def _advance(self, inode: int) -> None:
        """Call after call until nothing differs; the row is looked at anew after each, for the user goes on meanwhile."""
        before: object = None
        while True:
            node = self._tree.find(inode)
            step = Step.NOTHING if node is None else self._outbox.next_step(node)
            if node is None or step is Step.NOTHING or self._awaits_close(inode, step):
                return
            if step is Step.WAIT_FOR_PARENT:
                self._again.add(inode)
                return
            now = (step, node.local, node.generation, node.remote_id, node.sent)
            if now == before:
                raise ServerFault("Drive does not keep what it was told; it will be told again.", status=200)
            before = now
            await self._sender.send(node, step)
