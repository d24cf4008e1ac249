"""Which pending node is worked on when, and by how many workers; what failed is tried again, later and later.

Kept in memory only. A node is always in one of these states, or has nothing to do: on the agenda, being worked on, waiting for
its folder, waiting among the deletions, or waiting for its last close, which puts it on the agenda.
"""

from __future__ import annotations

import heapq
import logging
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from drivefs.base.errors import AccessDenied, BadRequest, DriveFSError, DriveFull, RemoteError, ServerFault, UploadSuperseded
from drivefs.base.stats import Stats
from drivefs.jobs.agenda import Agenda
from drivefs.jobs.halts import Halts
from drivefs.jobs.pace import Pace
from drivefs.jobs.sending import Sender
from drivefs.jobs.snapshots import Snapshots
from drivefs.store.outbox import Outbox, Step
from drivefs.store.tree import Node, Tree

__all__ = ["Dispatcher"]

log = logging.getLogger(__name__)

_LONGEST_PAUSE: Final = 60.0
# What Drive refuses of one file (rights, limits of its folder) is for a person to mend, who may take his time.
_LONGEST_REFUSED_PAUSE: Final = 300.0
# After so many failures in a row nothing else waits for the node.
_STUCK_AFTER: Final = 3
# Between attempts at a file that does not stand still, also for somebody who waits.
_MOVING_PAUSE: Final = 1.0


class _Halted(Exception):
    """The account's trouble (jobs/halts.py) kept a call from success."""


@dataclass(frozen=True, slots=True)
class _Failure:
    error: DriveFSError
    attempts: int
    refused: bool
    again_at: float

    @property
    def stuck(self) -> bool:
        """Whether the next attempt will most likely fail too."""
        return self.refused or self.attempts >= _STUCK_AFTER


class Dispatcher:
    """delay, workers, on_full: see Uploader.  snapshots: of files that stay open.

    urgent: whether somebody waits for the node; set by whoever knows.  settled: called with each node that may have nothing to
    do any more.
    """

    def __init__(
        self,
        tree: Tree,
        outbox: Outbox,
        sender: Sender,
        snapshots: Snapshots,
        stats: Stats,
        *,
        delay: float,
        workers: int,
        on_full: Callable[[], None],
    ) -> None:
        self._tree = tree
        self._outbox = outbox
        self._sender = sender
        sender.contents.being_written = self._awaits_close
        self._snapshots = snapshots
        self._stats = stats
        self._delay = delay
        self._workers = workers
        self._on_full = on_full
        self.urgent: Callable[[int], bool] = lambda _inode: False
        self.settled: Callable[[int], None] = lambda _inode: None
        self.agenda = Agenda()
        self.pace = Pace()
        self.running: set[int] = set()
        self.writers: Counter[int] = Counter()
        self._halts = Halts()
        self._halted: set[int] = set()
        self._failures: dict[int, _Failure] = {}
        # Until when further changes may put off a node that has changed.
        self._latest: dict[int, float] = {}
        # Of those being worked on: to be scheduled anew afterwards; and because they did not stand still.
        self._again: set[int] = set()
        self._moving: set[int] = set()
        self._waiting_for_parent: dict[int, set[int]] = {}
        self._deletions: list[tuple[int, int]] = []
        # Since when each deletion has been kept waiting.
        self._held_since: dict[int, float] = {}
        self._wake = trio.Event()

    # -- what is to be done ----------------------------------------------------------------------------------------

    def schedule(self, inode: int, delay: float | None = None) -> None:
        """The node has changed: it is due after ``delay`` seconds (default: the configured delay).

        Each change counts them anew, but for a minute at most, so that a file rewritten every second reaches Drive too.
        """
        if inode in self.running:
            self._again.add(inode)
            return
        earliest = now = trio.current_time()
        if delay is None:
            delay = 0 if self.urgent(inode) else self._delay  # the last close may come after the drain that is to send the file
            earliest = self._not_before(inode, now)
        due = min(now + delay, self._latest.setdefault(inode, now + max(_LONGEST_PAUSE, self._delay)))
        self._put(inode, max(earliest, due))

    def _not_before(self, inode: int, now: float) -> float:
        """What failed does not succeed because the file was written once more; to delete it is another matter."""
        node, failure = self._tree.find(inode), self._failures.get(inode)
        if failure is None or node is None or not node.pending or node.local_trashed:
            return now
        return failure.again_at

    def begin(self) -> None:
        """Everything that a former process left pending is due at once."""
        for node in self._tree.pending():
            self.schedule(node.inode, 0)

    def rescan(self) -> None:
        """Something merged from Drive may have made rows pending that nobody scheduled."""
        for node in self._tree.pending():
            known = node.inode in self.agenda or node.inode in self.running or node.inode in self.writers
            if not known and node.inode not in self._failures:
                self.schedule(node.inode, 0)

    def lift_halts(self) -> None:
        """Somebody asks for another attempt now."""
        self._halts.lift()

    def may_snapshot(self, inode: int) -> None:
        """A file that is open for writing holds unsent changes."""
        at = self._snapshots.arm(inode, trio.current_time())
        if at is not None and inode not in self.agenda and inode not in self.running:
            self._put(inode, at)

    def _put(self, inode: int, due: float) -> None:
        self.agenda.put(inode, due)
        self._wake.set()

    # -- what is wrong ---------------------------------------------------------------------------------------------

    def trouble(self, inode: int) -> DriveFSError | None:
        """Why the node is not on Drive, where its last attempt failed or the account's trouble keeps it back."""
        failure = self._failures.get(inode)
        if failure is not None:
            return failure.error
        node = self._tree.find(inode) if inode in self._halted else None
        return None if node is None else self._halts.error(self._outbox.next_step(node), self._outbox.size_of(node))

    def refusal(self, inode: int) -> DriveFSError | None:
        """The same, where the next attempt is not to be waited for."""
        failure = self._failures.get(inode)
        return self.trouble(inode) if failure is None or failure.refused else None

    # -- the loop --------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Run for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                while len(self.running) < self._workers and (inode := self._next_due()) is not None:
                    self.running.add(inode)
                    nursery.start_soon(self._work, inode)
                full = len(self.running) >= self._workers
                with trio.move_on_at(math.inf if full else self.agenda.next_time()):
                    await self._wake.wait()

    def _next_due(self) -> int | None:
        """Take the next node that can be worked on now; park those that must wait for another."""
        while (inode := self.agenda.pop(trio.current_time())) is not None:
            if inode not in self.running and not self._parked(inode):
                return inode
        return None

    def _parked(self, inode: int) -> bool:
        """Whether the node has nothing to do, or cannot go on before something else has happened."""
        node = self._tree.find(inode)
        step = Step.NOTHING if node is None else self._outbox.next_step(node)
        if node is None or step is Step.NOTHING:
            self._done(inode)
            self.settled(inode)
            return True
        if step is Step.WAIT_FOR_PARENT:
            self._wait_for_parent(node)
            return True
        if step is Step.TRASH and self._must_wait(node):
            heapq.heappush(self._deletions, (node.sequence, inode))
            return True
        if self._awaits_close(inode, step):
            self.may_snapshot(inode)
            return True
        return self._held_back(node, step)

    def _held_back(self, node: Node, step: Step) -> bool:
        until = self._halts.wait_until(step, self._outbox.size_of(node), trio.current_time())
        if until is None:
            return False
        self._halted.add(node.inode)
        self.agenda.put(node.inode, until)
        self.settled(node.inode)
        return True

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
        if not step.carries_content or inode not in self.writers or self.urgent(inode):
            return False
        return not self._snapshots.is_due(inode, trio.current_time())

    def _must_wait(self, node: Node) -> bool:
        """A file that is open for writing is waited for until its next snapshots; one that stays open for ever is not."""
        ignoring = {inode for inode, failure in self._failures.items() if failure.stuck} | self._halted
        since = self._held_since.setdefault(node.inode, trio.current_time())
        patient = trio.current_time() - since <= 2 * self._snapshots.interval
        for inode in () if patient and self._snapshots.interval else self.writers:
            writer = self._tree.find(inode)
            if writer is not None and self._awaits_close(inode, self._outbox.next_step(writer)):
                ignoring.add(inode)
        return self._outbox.must_wait(node, ignoring=ignoring)

    # -- one node --------------------------------------------------------------------------------------------------

    async def _work(self, inode: int) -> None:
        try:
            await self._advance(inode)
        except UploadSuperseded:
            self._latest[inode] = trio.current_time() + self._delay  # it has waited its time: no more putting off
            self._failures.pop(inode, None)
            self._again.add(inode)
            self._moving.add(inode)
        except _Halted:
            self._failures.pop(inode, None)
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
                self._done(inode)
        finally:
            self.running.discard(inode)
            self._settle(inode)

    async def _advance(self, inode: int) -> None:
        """Call after call until nothing differs; the row is looked at anew after each, for the user goes on meanwhile."""
        before: object = None
        while True:
            node = self._tree.find(inode)
            step = Step.NOTHING if node is None else self._outbox.next_step(node)
            if node is None or step is Step.NOTHING or self._awaits_close(inode, step):
                return
            if step is Step.WAIT_FOR_PARENT or (step is Step.TRASH and self._must_wait(node)):
                self._again.add(inode)
                return
            now = (step, node.local, node.generation, node.remote_id, node.sent)
            if now == before:
                raise ServerFault("Drive does not keep what it was told; it will be told again.", status=200)
            before = now
            await self._send(node, step)

    async def _send(self, node: Node, step: Step) -> None:
        size, began = self._outbox.size_of(node), trio.current_time()
        try:
            await self._sender.send(node, step)
        except UploadSuperseded:
            self._snapshots.reset(node.inode)
            raise
        except DriveFSError as error:
            if not self._halts.note(error, step, size, trio.current_time()):
                raise
            self._hold_back(node, step, size, error)
            raise _Halted from error
        if step.carries_content:
            self._snapshots.reset(node.inode)
        self.pace.note(size, trio.current_time() - began)
        if self._halts.passed(step, size):
            self._resume()

    def _hold_back(self, node: Node, step: Step, size: int, error: DriveFSError) -> None:
        """The account's trouble, which is no fault of this node: it waits like all others that it concerns."""
        if node.inode not in self._halted:
            log.warning("not on Drive yet: %r: %s", self._tree.path(node), error)
        self._stats.record_error(str(error), self._tree.path(node))
        if isinstance(error, DriveFull):
            self._on_full()
        self._halted.add(node.inode)
        self._latest.pop(node.inode, None)

    def _resume(self) -> None:
        """The account's trouble is over."""
        halted, self._halted = self._halted, set()
        for inode in halted:
            if inode not in self.running:
                self._put(inode, trio.current_time())

    def _done(self, inode: int) -> None:
        """Nothing differs any more."""
        self._failures.pop(inode, None)
        self._latest.pop(inode, None)
        self._held_since.pop(inode, None)
        self._halted.discard(inode)
        self._sender.contents.forget(inode)

    def _settle(self, inode: int) -> None:
        """A worker is free again: whoever waited for this node, or for its turn, may go on."""
        node = self._tree.find(inode)
        if node is not None and node.pending and inode not in self.agenda:
            self._go_on(inode, node)
        self._again.discard(inode)
        self._moving.discard(inode)
        if node is None or node.remote_exists:
            for child in self._waiting_for_parent.pop(inode, ()):
                self.schedule(child, 0)
        while self._deletions:
            waiting = self._tree.find(self._deletions[0][1])
            if waiting is not None and waiting.pending and waiting.local_trashed and self._must_wait(waiting):
                break
            self.schedule(heapq.heappop(self._deletions)[1], 0)
        self.settled(inode)
        self._wake.set()

    def _go_on(self, inode: int, node: Node) -> None:
        """It is not done: it was held back, or has changed while it was being sent."""
        if inode in self._halted:
            self._put(inode, trio.current_time())
        elif inode in self._again and (self.urgent(inode) or inode not in self.writers):
            pause = _MOVING_PAUSE if inode in self._moving else 0.0
            self.schedule(inode, max(pause, 0.0 if self.urgent(inode) else self._delay))
        elif inode in self.writers and node.content_dirty:
            self.may_snapshot(inode)

    def _failed(self, inode: int, error: DriveFSError) -> None:
        attempts = self._failures[inode].attempts + 1 if inode in self._failures else 1
        reason = str(error)
        node = self._tree.find(inode)
        subject = str(inode) if node is None else self._tree.path(node)
        if attempts == 1:
            log.warning("not on Drive yet: %r: %s", subject, reason)
        self._stats.record_error(reason, subject)
        # What Drive has refused will hardly succeed in a moment; what was an accident may.
        refused = isinstance(error, AccessDenied | BadRequest)
        pause = _pause(attempts, refused=refused)
        due = trio.current_time() + pause * random.uniform(0.5, 1.0)
        if isinstance(error, RemoteError) and error.retry_after:
            due = max(due, trio.current_time() + error.retry_after)
        self._failures[inode] = _Failure(error, attempts, refused, due)
        self._latest.pop(inode, None)
        self._put(inode, due)


def _pause(attempts: int, *, refused: bool) -> float:
    first, longest = (_LONGEST_PAUSE, _LONGEST_REFUSED_PAUSE) if refused else (1.0, _LONGEST_PAUSE)
    return min(first * 2.0 ** min(attempts - 1, 16), longest)
