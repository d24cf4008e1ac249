"""How one pending node is brought to Drive: the calls of each step, and what their answers, or missing answers, mean.

Every call is safe to repeat, because a kill or a broken connection may come between it and its answer: creates carry an id that
was written down before, what a change has sent is in doubt until the item itself was seen again, and the checksum of a content is
written down before its upload, so that a revision which is ours is never taken for a stranger's. What is written down for that
survives a power cut before the call is made (``Keeper.durable``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from drivefs.base.crashpoints import crash_point
from drivefs.base.errors import IdInUse, RemoteNotFound
from drivefs.base.model import FOLDER_MIME, SYMLINK_MIME, Invalidation, ItemPatch, Kind, RemoteItem
from drivefs.base.stats import Stats
from drivefs.jobs.conflicts import Conflicts
from drivefs.jobs.contents import Contents
from drivefs.jobs.keeping import Keeper
from drivefs.jobs.prefetch import Prefetch
from drivefs.jobs.transfer import mime_type_of
from drivefs.remote.drive import Drive
from drivefs.store.cache import Cache
from drivefs.store.merging import Merger
from drivefs.store.outbox import Outbox, Step
from drivefs.store.tree import Node, Tree

__all__ = ["Sender"]

_ID_BATCH: Final = 100
# Drive now and then denies what it has just made (404), so one 409 whose item cannot be found is no reason to give an id up.
_BARREN_ROUNDS: Final = 4


class Sender:
    """notify: told what the kernel must forget.  rescan: called where an answer may have made another row pending."""

    def __init__(
        self,
        drive: Drive,
        tree: Tree,
        cache: Cache,
        merger: Merger,
        prefetch: Prefetch,
        keeper: Keeper,
        outbox: Outbox,
        notify: Callable[[Sequence[Invalidation]], None],
        rescan: Callable[[], None],
        stats: Stats,
    ) -> None:
        self._drive = drive
        self._tree = tree
        self._cache = cache
        self._merger = merger
        self._outbox = outbox
        self._notify = notify
        self._keeper = keeper
        self.contents = Contents(
            drive, tree, cache, prefetch, keeper, outbox, Conflicts(drive, tree, cache, outbox, notify, stats), self, rescan
        )
        # Creates in a row that Drive refused because the id is in use, while it had no item of that id.
        self._barren: Counter[str] = Counter()
        self._items: dict[str, trio.Lock] = {}
        self._ids: list[str] = []
        self._ids_lock = trio.Lock()

    async def send(self, node: Node, step: Step) -> None:
        """Take ``step`` for ``node``, unless it is not what is due any more when the item is free."""
        async with self._alone(node.remote_id):
            current = self._tree.find(node.inode)
            if current is not None and self._outbox.next_step(current) is step and current.remote_id == node.remote_id:
                await self._take(step, current)

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
        crash_point("before-step")
        if step is Step.TRASH:
            await self._trash(node)
        elif step is Step.CREATE:
            await self._create(node)
        elif step is Step.UPDATE_CONTENT:
            await self._update_content(node)
        else:
            await self._update_metadata(node)

    # -- metadata --------------------------------------------------------------------------------------------------

    async def _trash(self, node: Node) -> None:
        try:
            self.apply(await self._drive.update(_id_of(node), ItemPatch(trashed=True)))
        except RemoteNotFound:
            self._gone(_id_of(node))

    async def _update_metadata(self, node: Node) -> None:
        remote_id = _id_of(node)
        if node.sent:  # the answer to an earlier call is missing: only the item itself can say whether it was applied
            await self._ask(remote_id)
            return
        patch = self._outbox.patch(node)
        await self._keeper.durable()
        try:
            self.answered(await self._drive.update(remote_id, patch))
        except RemoteNotFound:
            await self._explain_404(node, remote_id)

    async def _ask(self, remote_id: str) -> RemoteItem | None:
        """What Drive has of an item of which we sent something; None: it is gone."""
        try:
            item = await self._drive.get(remote_id)
        except RemoteNotFound:
            self._gone(remote_id)
            return None
        self.answered(item)
        return item

    async def _explain_404(self, node: Node, remote_id: str) -> None:
        """404 for a change may speak of the item or of its new folder: learn which is gone, so that it will be made anew."""
        await self._ask(remote_id)
        await self._check_parent(node)

    # -- new items -------------------------------------------------------------------------------------------------

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
        if current.kind is Kind.FILE and current.content is None:
            self._undo(current)
            return
        mime_type = {Kind.FOLDER: FOLDER_MIME, Kind.SYMLINK: SYMLINK_MIME}.get(node.kind) or mime_type_of(node.local_name)
        new = self._outbox.new_item(current, remote_id, mime_type)
        crash_point("id-noted")
        await self._keeper.durable()
        try:
            if node.kind is Kind.FOLDER:
                self.apply(await self._drive.create(new))
            elif node.kind is Kind.SYMLINK:
                self.apply(await self._drive.create_with_content(new, (node.target or "").encode()))
            else:
                await self.contents.send(current, remote_id, mime_type)
        except IdInUse:
            if not await self._adopt(node.inode, remote_id):
                self._give_up_id(node.inode, remote_id)
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
            self.apply(item)  # where somebody has changed it since, that is a conflict, which the next step sees
            return True
        content = self._cache.open(inode)
        try:
            await self.contents.own(content, item)
        finally:
            self._cache.close(content)
        return True

    def _give_up_id(self, inode: int, remote_id: str) -> None:
        """In use by nothing that we can find, most likely by something deleted for good: after some rounds another is taken."""
        self._barren[remote_id] += 1
        if self._barren[remote_id] < _BARREN_ROUNDS:
            return
        del self._barren[remote_id]
        node = self._tree.find(inode)
        if node is not None and node.remote_id == remote_id and not node.remote_exists:
            self._tree.update(inode, remote_id=None, sent_md5=None, sent="", session_uri=None, session_generation=None)

    def _undo(self, node: Node) -> None:
        """A power cut took the content of a file that, as we know now, never reached Drive: so it never was."""
        self._tree.update(node.inode, remote_id=None)
        self._tree.trash(self._tree.get(node.inode))
        self._notify([Invalidation(node.local_parent or 0, node.shown_name), Invalidation(node.local_parent or 0)])

    async def _check_parent(self, node: Node) -> None:
        """404 for a create speaks of the folder: learn whether it is really gone, so that it will be made anew first."""
        parent = self._tree.find(node.local_parent or 0)
        if parent is None or parent.remote_id is None or parent.is_virtual:
            return
        try:
            self.apply(await self._drive.get(parent.remote_id))
        except RemoteNotFound:
            self._notify(self._merger.apply_gone(parent.remote_id))

    # -- content ---------------------------------------------------------------------------------------------------

    async def _update_content(self, node: Node) -> None:
        """Look first whether somebody else changed the file since we read it; Drive itself has no compare-and-swap."""
        remote_id = _id_of(node)
        head = await self._ask(remote_id)
        node = self._tree.get(node.inode)
        if head is None or self._outbox.next_step(node) is not Step.UPDATE_CONTENT or node.remote_id != remote_id:
            return
        try:
            await self.contents.send(node, remote_id, node.mime_type or mime_type_of(node.local_name), head)
        except RemoteNotFound:
            await self._explain_404(node, remote_id)

    # -- what Drive says -------------------------------------------------------------------------------------------

    def _gone(self, remote_id: str) -> None:
        """Deleted for good on Drive: what the user has changed of it is sent as a new item."""
        self._notify(self._merger.apply_gone(remote_id))

    def apply(self, item: RemoteItem) -> None:
        crash_point("answer-not-recorded")
        self._notify(self._merger.apply(item))

    def answered(self, item: RemoteItem) -> None:
        """Merge an item as Drive stated it after all that we sent of it."""
        with self._tree.db.transaction():
            self.apply(item)
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
