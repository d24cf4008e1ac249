"""Brings Drive to the state that the user sees: pending rows, by several workers, each node by one at a time.

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
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from drivefs.base.errors import (
    AccessDenied,
    BadRequest,
    DriveFSError,
    DriveFull,
    IdInUse,
    RemoteError,
    RemoteNotFound,
    ServerFault,
    UploadSuperseded,
)
from drivefs.base.model import FOLDER_MIME, SYMLINK_MIME, Invalidation, ItemPatch, Kind, RemoteItem
from drivefs.base.stats import Stats
from drivefs.jobs.prefetch import Prefetch
from drivefs.jobs.transfer import Sent, Transfer, mime_type_of
from drivefs.remote.drive import Drive
from drivefs.store.cache import Cache
from drivefs.store.content import Content, checksum
from drivefs.store.merging import Merger
from drivefs.store.outbox import Outbox, Step, Unsent
from drivefs.store.tree import Node, Tree

__all__ = ["Uploader"]

log = logging.getLogger(__name__)

_LONGEST_PAUSE: Final = 60.0
_ID_BATCH: Final = 100
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
        self._drive = drive
        self._tree = tree
        self._cache = cache
        self._merger = merger
        self._prefetch = prefetch
        self._notify = notify
        self._stats = stats
        self._outbox = Outbox(tree)
        self._delay = delay
        self._workers = workers
        # When each node is due, in trio's time. The heap may hold outdated entries; the dict is right.
        self._due: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []
        self._running: set[int] = set()
        self._again: set[int] = set()
        self._writers: Counter[int] = Counter()
        self._failures: dict[int, _Failure] = {}
        self._waiting_for_parent: dict[int, set[int]] = {}
        self._items: dict[str, trio.Lock] = {}
        self._deletions: list[tuple[int, int]] = []
        self._drains = 0
        self._ids: list[str] = []
        self._ids_lock = trio.Lock()
        self._wake = trio.Event()
        self._finished = trio.Event()

    # -- told by the file system -----------------------------------------------------------------------------------

    def schedule(self, inode: int, delay: float | None = None) -> None:
        """The node has changed: it is due after ``delay`` seconds (default: the configured delay), counted anew each time."""
        if inode in self._running:
            self._again.add(inode)
            return
        if delay is None:
            delay = 0 if self._drains else self._delay  # the last close may come after the drain that is to send the file
        due = trio.current_time() + delay
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
            self._again.add(inode)
        except DriveFSError as error:
            self._failed(inode, error)
        except Exception as error:  # one file's defect must not stop the others; it is logged, counted and listed
            log.exception("uploading inode %d failed unexpectedly", inode)
            self._stats.internal_errors += 1
            self._failed(inode, ServerFault(f"internal error: {error!r}"))
        else:
            self._failures.pop(inode, None)
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
            async with self._alone(node.remote_id):
                node = self._tree.find(inode)
                if node is not None and self._outbox.next_step(node) is step and node.remote_id == now[3]:
                    await self._take(step, node)

    @asynccontextmanager
    async def _alone(self, remote_id: str | None) -> AsyncIterator[None]:
        """One call at a time for each item, although a rename may give an item to another row while its old row is being sent.

        Otherwise the older bytes could come last, and of two revisions only one would be known as ours after a kill.
        """
        if remote_id is None:  # nobody else can have it
            yield
            return
        lock = self._items.setdefault(remote_id, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._items.pop(remote_id, None)

    async def _take(self, step: Step, node: Node) -> None:
        if step is Step.TRASH:
            await self._trash(node)
        elif step is Step.CREATE:
            await self._create(node)
        elif step is Step.UPDATE_CONTENT:
            await self._update_content(node)
        else:
            await self._update_metadata(node)

    async def _trash(self, node: Node) -> None:
        try:
            self._apply(await self._drive.update(_id_of(node), ItemPatch(trashed=True)))
        except RemoteNotFound:
            self._gone(_id_of(node))

    async def _update_metadata(self, node: Node) -> None:
        remote_id = _id_of(node)
        if node.sent:  # the answer to an earlier call is missing: only the item itself can say whether it was applied
            await self._ask(remote_id)
            return
        try:
            self._answered(await self._drive.update(remote_id, self._outbox.patch(node)))
        except RemoteNotFound:
            await self._explain_404(node, remote_id)

    async def _ask(self, remote_id: str) -> RemoteItem | None:
        """What Drive has of an item of which we sent something; None: it is gone."""
        try:
            item = await self._drive.get(remote_id)
        except RemoteNotFound:
            self._gone(remote_id)
            return None
        self._answered(item)
        return item

    async def _explain_404(self, node: Node, remote_id: str) -> None:
        """404 for a change may speak of the item or of its new folder: learn which is gone, so that it will be made anew."""
        await self._ask(remote_id)
        await self._check_parent(node)

    async def _create(self, node: Node) -> None:
        # Under an id that was used before, an earlier create may have succeeded: asked first, because another attempt with other
        # bytes would overwrite the note (sent_md5) by which what the first one made is known as ours.
        if node.remote_id is not None and await self._adopt(node.inode, node.remote_id):
            return
        remote_id = node.remote_id or await self._take_id()
        current = self._tree.get(node.inode)
        if self._outbox.next_step(current) is not Step.CREATE:
            if node.remote_id is None:  # never used, so it may serve another
                self._ids.append(remote_id)
            return
        mime_type = {Kind.FOLDER: FOLDER_MIME, Kind.SYMLINK: SYMLINK_MIME}.get(node.kind) or mime_type_of(node.local_name)
        new = self._outbox.new_item(current, remote_id, mime_type)
        try:
            if node.kind is Kind.FOLDER:
                self._apply(await self._drive.create(new))
            elif node.kind is Kind.SYMLINK:
                self._apply(await self._drive.create_with_content(new, (node.target or "").encode()))
            else:
                await self._send_content(current, remote_id, mime_type)
        except IdInUse:
            if not await self._adopt(node.inode, remote_id):
                raise
        except RemoteNotFound:
            await self._check_parent(node)
            raise

    async def _adopt(self, inode: int, remote_id: str) -> bool:
        """Whether an earlier create with this id had succeeded and only its answer was lost; then what it made is ours."""
        try:
            item = await self._drive.get(remote_id)
        except RemoteNotFound:
            return False
        node = self._tree.get(inode)
        if node.content is None or not node.content_dirty or item.md5 != node.sent_md5:
            self._apply(item)  # where somebody has changed it since, that is a conflict, which the next step sees
            return True
        content = self._cache.open(inode)
        try:
            await self._own(content, item)
        finally:
            self._cache.close(content)
        return True

    async def _own(self, content: Content, item: RemoteItem) -> bool:
        """``item`` is what an upload of ours made whose answer was lost. False: the file was changed since, so send it now."""
        async with content.lock:
            self._cache.save_times(content)
            self._cache.freeze(content)
            generation = self._tree.get(content.inode).generation
        md5 = await trio.to_thread.run_sync(checksum, content.fd, content.size) if content.complete else ""
        with self._tree.db.transaction():
            self._apply(item)
            node = self._tree.get(content.inode)
            current = md5 == item.md5 and node.generation == generation and node.content == content.id
            if node.remote_id == item.id:
                self._cache.mark_uploaded(content, item, item.md5 or "", current=current)
        return current or node.remote_id != item.id

    async def _check_parent(self, node: Node) -> None:
        """404 for a create speaks of the folder: learn whether it is really gone, so that it will be made anew first."""
        parent = self._tree.find(node.local_parent or 0)
        if parent is None or parent.remote_id is None or parent.is_virtual:
            return
        try:
            self._apply(await self._drive.get(parent.remote_id))
        except RemoteNotFound:
            self._notify(self._merger.apply_gone(parent.remote_id))

    async def _update_content(self, node: Node) -> None:
        """Look first whether somebody else changed the file since we read it; Drive itself has no compare-and-swap."""
        remote_id = _id_of(node)
        head = await self._ask(remote_id)
        node = self._tree.get(node.inode)
        if head is None or self._outbox.next_step(node) is not Step.UPDATE_CONTENT or node.remote_id != remote_id:
            return
        try:
            await self._send_content(node, remote_id, node.mime_type or mime_type_of(node.local_name), head)
        except RemoteNotFound:
            await self._explain_404(node, remote_id)

    async def _send_content(self, node: Node, remote_id: str, mime_type: str, head: RemoteItem | None = None) -> None:
        """As a new item, or over ``head``, which is what Drive has now."""
        content = self._cache.open(node.inode)
        try:
            await self._complete(content)
            if head is not None and head.revision != content.revision and await self._meet(content, head):
                return
            async with content.lock:  # not in the middle of a write
                transfer = self._snapshot(content, remote_id, mime_type)
            sent = await transfer.run()
            self._record(content, sent, current=transfer.current)
        finally:
            self._cache.close(content)

    async def _meet(self, content: Content, head: RemoteItem) -> bool:
        """Drive has another revision than ours began from. Returns whether there is nothing to be sent because of it."""
        node = self._tree.get(content.inode)
        if node.remote_id != head.id:
            return True  # replaced meanwhile; the next step knows
        if head.md5 is not None and head.md5 == node.sent_md5:
            return await self._own(content, head)
        if head.md5 is not None and head.md5 == content.md5:
            return False  # merely the same bytes uploaded anew
        self._split(node)
        return True

    def _snapshot(self, content: Content, remote_id: str, mime_type: str) -> Transfer:
        """The content as it is now, to go to ``remote_id``; UploadSuperseded where that is not what is due any more."""
        self._cache.save_times(content)
        node = self._tree.get(content.inode)
        step = self._outbox.next_step(node)
        if node.remote_id != remote_id or node.content != content.id or step not in (Step.CREATE, Step.UPDATE_CONTENT):
            raise UploadSuperseded("the file was deleted or replaced before its upload began")
        self._cache.freeze(content)
        new, patch = None, ItemPatch()
        if step is Step.CREATE:
            new = self._outbox.new_item(node, remote_id, mime_type)
        else:
            patch = self._outbox.patch(node)
        return Transfer(self._drive, self._tree, content, new=new, file_id=remote_id, patch=patch, mime_type=mime_type)

    async def _complete(self, content: Content) -> None:
        """Holes are filled from the revision they belong to, because Drive takes whole files only."""
        for hole in content.missing(0, content.base_size):
            await self._prefetch.ensure(content, hole)

    def _record(self, content: Content, sent: Sent, *, current: bool) -> None:
        """One transaction: what Drive has now, and whether our content is that."""
        item = sent.item
        with self._tree.db.transaction():
            self._answered(item)
            node = self._tree.find(content.inode)
            if node is None or node.remote_id != item.id:
                self.rescan()  # a rename gave the item to another row while we were sending, and that row must go on
                return
            matches = item.md5 == sent.md5
            self._cache.mark_uploaded(content, item, sent.md5, current=current and matches)
        if current and not matches:
            raise ServerFault("Drive states another checksum than what was sent; sending again.", status=200)
        if not current:
            raise UploadSuperseded("the file changed while it was being uploaded")

    def _split(self, node: Node) -> None:
        theirs, copy_name = self._outbox.split_conflict(node)
        log.warning("%r was changed here and on Drive; ours is kept as %r", self._tree.path(theirs), copy_name)
        self._stats.record_error(f"changed here and on Drive; ours is kept as {copy_name}", self._tree.path(theirs))
        parent = theirs.local_parent or 0
        self._notify(
            [
                Invalidation(parent, theirs.shown_name),
                Invalidation(parent, copy_name),
                Invalidation(parent),
                Invalidation(node.inode),
            ]
        )

    def _gone(self, remote_id: str) -> None:
        """Deleted for good on Drive: what the user has changed of it is sent as a new item."""
        self._notify(self._merger.apply_gone(remote_id))

    def _apply(self, item: RemoteItem) -> None:
        self._notify(self._merger.apply(item))

    def _answered(self, item: RemoteItem) -> None:
        """Merge an item as Drive stated it after all that we sent of it."""
        with self._tree.db.transaction():
            self._apply(item)
            self._outbox.answered(item.id)

    async def _take_id(self) -> str:
        async with self._ids_lock:
            if not self._ids:
                self._ids = await self._drive.generate_ids(_ID_BATCH)
            return self._ids.pop()


def _id_of(node: Node) -> str:
    if node.remote_id is None:
        raise AssertionError(f"inode {node.inode} is said to exist on Drive but has no id")
    return node.remote_id
