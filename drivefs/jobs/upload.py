"""When what is pending is sent, to the file system and to people: told of changes, asked what is unsent, waited for.

What is pending is known by the database alone. What is kept in memory, and may be lost with the process, is only *when*
(jobs/dispatch.py): after a start everything pending is due at once. How is in jobs/sending.py. A node that is open for writing
waits for its last close, unless somebody asks for a flush; one that stays open is sent as it is now and then (a snapshot), while
its writers go on. Nothing acknowledged is ever given up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from drivefs.base.errors import DriveFSError, TimedOut
from drivefs.base.model import Invalidation
from drivefs.base.stats import Stats
from drivefs.jobs.dispatch import Dispatcher
from drivefs.jobs.goals import Goal, rank_of, reason_for
from drivefs.jobs.keeping import Keeper
from drivefs.jobs.patience import waiting
from drivefs.jobs.prefetch import Prefetch
from drivefs.jobs.sending import Sender
from drivefs.jobs.snapshots import Snapshots
from drivefs.remote.drive import Drive
from drivefs.store.cache import Cache
from drivefs.store.merging import Merger
from drivefs.store.outbox import Outbox, Unsent
from drivefs.store.tree import Node, Tree

__all__ = ["Uploader"]

_PARENTS_FIRST: Final = (-1.0,)


class Uploader:
    """Sends what is pending.

    delay: seconds between the last local change of a node and its upload, so that what changes often is sent once.
    snapshot_every: seconds after which a file that stays open and has changed is sent as it is; 0: never.
    patience: seconds without progress after which ``commit`` gives up.  on_full: called when Drive says that it is full.
    """

    def __init__(
        self,
        drive: Drive,
        tree: Tree,
        cache: Cache,
        merger: Merger,
        prefetch: Prefetch,
        keeper: Keeper,
        notify: Callable[[Sequence[Invalidation]], None],
        stats: Stats,
        *,
        delay: float,
        workers: int,
        snapshot_every: float = 0.0,
        patience: float = 20.0,
        on_full: Callable[[], None] = lambda: None,
    ) -> None:
        self._tree = tree
        self._keeper = keeper
        self._stats = stats
        self._outbox = Outbox(tree)
        self._sender = Sender(drive, tree, cache, merger, prefetch, keeper, self._outbox, notify, self.rescan, stats)
        self._snapshots = Snapshots(snapshot_every)
        self._dispatcher = Dispatcher(
            tree,
            self._outbox,
            self._sender,
            self._snapshots,
            stats,
            delay=delay,
            workers=workers,
            on_full=on_full,
        )
        self._dispatcher.urgent = self._urgent
        self._dispatcher.settled = self._settled
        self._workers = workers
        self._patience = patience
        # When a state of a file that is still open for writing was last sent, in trio's time.
        self._sent_at: dict[int, float] = {}
        # What somebody waits for, and how many do, by inode.
        self._goals: list[Goal] = []
        self._wanted: Counter[int] = Counter()
        self._drains = 0
        self._finished = trio.Event()
        cache.on_change = self._content_changes

    async def serve(self) -> None:
        """Run for ever."""
        self._dispatcher.begin()
        await self._dispatcher.serve()

    # -- told by the file system -----------------------------------------------------------------------------------

    def schedule(self, inode: int) -> None:
        """The node has changed."""
        self._dispatcher.schedule(inode)

    def writer_opened(self, inode: int) -> None:
        self._dispatcher.writers[inode] += 1
        node = self._tree.find(inode)
        if node is not None and node.content_dirty:
            self._dispatcher.may_snapshot(inode)

    def writer_closed(self, inode: int) -> None:
        """The last close makes the file due."""
        writers = self._dispatcher.writers
        writers[inode] -= 1
        if writers[inode] <= 0:
            del writers[inode]
            self._snapshots.reset(inode)
            self._sent_at.pop(inode, None)
            node = self._tree.find(inode)
            if node is not None and node.pending:
                self.schedule(inode)

    def failure(self, inode: int) -> str | None:
        """Why the node is not on Drive, where the last attempt failed or the account's trouble keeps it back."""
        error = self._dispatcher.trouble(inode)
        return None if error is None else str(error)

    def rescan(self) -> None:
        """Something merged from Drive may have made rows pending that nobody scheduled, or others not pending any more."""
        self._dispatcher.rescan()
        for goal in self._goals:
            goal.look_again()
        self._announce()

    def _content_changes(self, inode: int) -> None:
        """The first change since the content was on Drive, or was last taken for an upload."""
        if inode in self._dispatcher.writers:
            self._dispatcher.may_snapshot(inode)

    def _settled(self, inode: int) -> None:
        """Something was done for the node, or nothing can be: whoever waits is to look again."""
        sent_at = self._sender.contents.sent_at.pop(inode, None)
        if sent_at is not None and inode in self._dispatcher.writers:
            self._sent_at[inode] = sent_at
        for goal in self._goals:
            goal.look(inode)
        self._announce()

    def _announce(self) -> None:
        finished, self._finished = self._finished, trio.Event()
        finished.set()

    def make_room(self) -> bool:
        """A writer waits for room in the cache: send now what can be sent. False: nothing can; there is nothing to wait for."""
        dispatcher = self._dispatcher
        sendable = [
            node.inode
            for node in self._tree.pending()
            if node.content_dirty and node.inode not in dispatcher.writers and dispatcher.refusal(node.inode) is None
        ]
        for inode in sendable:
            if inode not in dispatcher.running:
                dispatcher.schedule(inode, 0)
        return bool(sendable)

    # -- told by people --------------------------------------------------------------------------------------------

    def unsent(self, below: Collection[int] = ()) -> list[Unsent]:
        """What Drive does not have yet, oldest change first; below: only these inodes and what lies in them."""
        return [self._unsent(node) for node in self._pending(below)]

    def estimated_seconds(self) -> float | None:
        """How long it takes to send what is pending, as fast as the last uploads went; None where that is not known yet."""
        sizes = [self._outbox.size_of(node) for node in self._tree.pending()]
        return self._dispatcher.pace.estimate(sizes, self._workers)

    async def drain(
        self,
        timeout: float,
        below: Collection[int] = (),
        progress: Callable[[int], None] | None = None,
        *,
        until_empty: bool = False,
    ) -> list[Unsent]:
        """Send now what is pending, also what is still open for writing. Returns what could not be sent in ``timeout`` seconds.

        What is changed later is not waited for, except with ``until_empty``. What failed before is tried once more at once.
        """
        deadline = trio.current_time() + timeout
        self._dispatcher.lift_halts()
        nodes = self._pending(below)
        with self._goal(nodes) as goal:
            for node in sorted(nodes, key=rank_of):
                self._hurry(node)
            self._drains += until_empty
            try:
                while waiting := self._tree.count_pending() if until_empty else len(goal.left):
                    if progress is not None:
                        progress(waiting)
                    finished = self._finished
                    with trio.move_on_at(deadline) as scope:
                        await finished.wait()
                    if scope.cancelled_caught:
                        return self.unsent() if until_empty else [entry for entry in self.unsent() if entry.inode in goal.left]
            finally:
                self._drains -= until_empty
        await self._keeper.durable()  # who was told that Drive has it is not to be shown less after a power cut
        return []

    async def commit(self, inode: int) -> None:
        """Return when Drive has this file's bytes as they are now, open or not; raise why it has not.

        What Drive refuses is raised at once, and what may pass only after ``patience`` seconds in which nothing at all arrived.
        """
        node = self._tree.find(inode)
        if node is None or not node.content_dirty or node.local_trashed:
            return
        with waiting("Drive to take the file", bounded=False), self._goal([node]) as goal:
            self._hurry(node)
            sent, since = self._stats.bytes_up, trio.current_time()
            while goal.left:
                self._raise_refusal(inode)
                finished = self._finished
                with trio.move_on_at(since + self._patience):
                    await finished.wait()
                now = trio.current_time()
                if self._stats.bytes_up != sent:
                    sent, since = self._stats.bytes_up, now
                elif now >= since + self._patience and goal.left:
                    raise self._not_arrived(inode) or TimedOut(
                        f"Drive has taken nothing for {self._patience:g} s. The file is kept, and sent as soon as it can be."
                    )

    async def confirm(self, inode: int, timeout: float) -> None:
        """Return when Drive has the node as it is now, or as gone as it is; raise why it has not.

        What Drive refuses is raised at once, everything else after ``timeout`` seconds. What failed before is tried once more.
        """
        node = self._tree.find(inode)
        if node is None or not node.pending:
            return
        self._dispatcher.lift_halts()
        with trio.move_on_after(timeout), self._goal([node]) as goal:
            self._hurry(node)
            while goal.left:
                finished = self._finished
                await finished.wait()
                if goal.left:
                    self._raise_refusal(inode)
        if goal.left:
            raise self._not_arrived(inode) or TimedOut(f"Drive has not confirmed it within {timeout:g} s.")
        await self._keeper.durable()  # as after a drain

    def _raise_refusal(self, inode: int) -> None:
        for above in self._with_pending_parents(inode):
            if (error := self._dispatcher.refusal(above)) is not None:
                raise error

    def _not_arrived(self, inode: int) -> DriveFSError | None:
        for above in self._with_pending_parents(inode):
            if (error := self._dispatcher.trouble(above)) is not None:
                return error
        return None

    def _with_pending_parents(self, inode: int) -> Iterator[int]:
        """The node, and the folders that must be there before it."""
        node = self._tree.find(inode)
        while node is not None and node.pending:
            yield node.inode
            node = self._tree.find(node.local_parent or 0)

    @contextmanager
    def _goal(self, nodes: Sequence[Node]) -> Iterator[Goal]:
        """While it lasts, these nodes go first, open for writing or not."""
        goal = Goal(self._tree, self._sender.contents.sent_generation, nodes)
        self._goals.append(goal)
        self._wanted.update(goal.all)
        for node in nodes:
            self._dispatcher.agenda.rank(node.inode, rank_of(node))
        try:
            yield goal
        finally:
            self._goals.remove(goal)
            self._wanted.subtract(goal.all)
            for inode in goal.all:
                if self._wanted[inode] <= 0:
                    del self._wanted[inode]
                    self._dispatcher.agenda.rank(inode, None)

    def _urgent(self, inode: int) -> bool:
        return self._drains > 0 or inode in self._wanted

    def _pending(self, below: Collection[int]) -> list[Node]:
        return [n for n in self._tree.pending() if not below or any(self._tree.is_ancestor(top, n.inode) for top in below)]

    def _hurry(self, node: Node) -> None:
        """Due now, and the folders above it before it."""
        for inode in reversed(list(self._with_pending_parents(node.inode))):
            if inode != node.inode:
                self._dispatcher.agenda.rank(inode, _PARENTS_FIRST)
                if inode in self._dispatcher.running:
                    continue
            self._dispatcher.schedule(inode, 0)

    def _unsent(self, node: Node) -> Unsent:
        last = self._sent_at.get(node.inode)
        ago = None if last is None else trio.current_time() - last
        open_for_writing = node.inode in self._dispatcher.writers
        reason = self.failure(node.inode) or reason_for(node.inode in self._dispatcher.running, open_for_writing, ago)
        return self._outbox.unsent(node, reason)
