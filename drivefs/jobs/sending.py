"""How one pending node is brought to Drive: the calls of each step, and what their answers, or missing answers, mean.

Every call is safe to repeat, because a kill or a broken connection may come between it and its answer: creates carry an id that
was written down before, what a change has sent is in doubt until the item itself was seen again, and the checksum of a content is
written down before its upload, so that a revision which is ours is never taken for a stranger's.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from drivefs.base.crashpoints import crash_point
from drivefs.base.errors import IdInUse, RemoteNotFound, ServerFault, UploadSuperseded
from drivefs.base.model import FOLDER_MIME, SYMLINK_MIME, Invalidation, ItemPatch, Kind, RemoteItem
from drivefs.base.stats import Stats
from drivefs.jobs.prefetch import Prefetch
from drivefs.jobs.transfer import Sent, Transfer, mime_type_of
from drivefs.remote.drive import Drive
from drivefs.store.cache import Cache
from drivefs.store.content import Content, checksum
from drivefs.store.merging import Merger
from drivefs.store.outbox import Outbox, Step
from drivefs.store.tree import Node, Tree

__all__ = ["Sender"]

log = logging.getLogger(__name__)

_ID_BATCH: Final = 100


class Sender:
    """notify: told what the kernel must forget.  rescan: called where an answer may have made another row pending."""

    def __init__(
        self,
        drive: Drive,
        tree: Tree,
        cache: Cache,
        merger: Merger,
        prefetch: Prefetch,
        outbox: Outbox,
        notify: Callable[[Sequence[Invalidation]], None],
        rescan: Callable[[], None],
        stats: Stats,
    ) -> None:
        self._drive = drive
        self._tree = tree
        self._cache = cache
        self._merger = merger
        self._prefetch = prefetch
        self._outbox = outbox
        self._notify = notify
        self._rescan = rescan
        self._stats = stats
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
        mime_type = {Kind.FOLDER: FOLDER_MIME, Kind.SYMLINK: SYMLINK_MIME}.get(node.kind) or mime_type_of(node.local_name)
        new = self._outbox.new_item(current, remote_id, mime_type)
        crash_point("id-noted")
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

    # -- content ---------------------------------------------------------------------------------------------------

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
            crash_point("content-answered")
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
                self._rescan()  # a rename gave the item to another row while we were sending, and that row must go on
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

    # -- what Drive says -------------------------------------------------------------------------------------------

    def _gone(self, remote_id: str) -> None:
        """Deleted for good on Drive: what the user has changed of it is sent as a new item."""
        self._notify(self._merger.apply_gone(remote_id))

    def _apply(self, item: RemoteItem) -> None:
        crash_point("answer-not-recorded")
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
