"""One node's content to Drive: completed, frozen, sent, held against what others did meanwhile, and recorded.

The order that makes a kill harmless: what the upload will state is noted, then sent; what else became of the item is asked; then
one transaction records both. Until that, the next attempt finds the upload by the checksum that was noted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import trio

from drivefs.base.crashpoints import crash_point
from drivefs.base.errors import RemoteNotFound, ServerFault, UploadSuperseded
from drivefs.base.model import ItemPatch, RemoteItem, Revision
from drivefs.jobs.conflicts import Conflicts
from drivefs.jobs.keeping import Keeper
from drivefs.jobs.prefetch import Prefetch
from drivefs.jobs.transfer import Sent, Transfer
from drivefs.remote.drive import Drive
from drivefs.store.cache import Cache
from drivefs.store.content import Content, checksum
from drivefs.store.copies import private_copy
from drivefs.store.outbox import Outbox, Step
from drivefs.store.tree import Node, Tree

__all__ = ["Contents"]


class Statements(Protocol):
    """Where Drive's statements of items go."""

    def apply(self, item: RemoteItem) -> None: ...

    def answered(self, item: RemoteItem) -> None: ...


class Contents:
    """rescan: called where an answer may have made another row pending."""

    def __init__(
        self,
        drive: Drive,
        tree: Tree,
        cache: Cache,
        prefetch: Prefetch,
        keeper: Keeper,
        outbox: Outbox,
        conflicts: Conflicts,
        statements: Statements,
        rescan: Callable[[], None],
    ) -> None:
        # Whether what lies here now may be half of what is meant; set by whoever knows of open files.
        self.being_written: Callable[[int, Step], bool] = lambda _inode, _step: False
        self._drive = drive
        self._tree = tree
        self._cache = cache
        self._prefetch = prefetch
        self._keeper = keeper
        self._outbox = outbox
        self._conflicts = conflicts
        self._statements = statements
        self._rescan = rescan
        # Of a node that is not wholly on Drive, the newest generation that is.
        self.sent_generation: dict[int, int] = {}
        # When a content was last sent, in trio's time; taken away by whoever wants to know.
        self.sent_at: dict[int, float] = {}
        # Uploads of large files that were void because their bytes changed meanwhile, in a row.
        self._void: Counter[int] = Counter()

    def forget(self, inode: int) -> None:
        """The node is as Drive has it: what its uploads have been through does not matter any more."""
        self.sent_generation.pop(inode, None)
        self._void.pop(inode, None)

    async def send(self, node: Node, remote_id: str, mime_type: str, head: RemoteItem | None = None) -> None:
        """As a new item, or over ``head``, which is what Drive has now."""
        content = self._cache.open(node.inode)
        try:
            if not await self._complete(content):
                return
            # What has not been on the disk cannot have been on Drive either: that is what a power cut is judged by.
            await self._keeper.settle(content)
            if head is not None and head.revision != content.revision and await self._meet(content, head):
                return
            async with content.lock:  # not in the middle of a write
                transfer = self._snapshot(content, remote_id, mime_type)
            sent = await self._run(transfer, content)
            crash_point("content-answered")
            await self._conclude(content, transfer, sent, head)
        finally:
            self._cache.close(content)

    async def _run(self, transfer: Transfer, content: Content) -> Sent:
        """A large file that was changed during its last upload is sent from a copy, or it would begin again for ever."""
        if self._void[content.inode]:
            transfer.copy = await self._copy(transfer, content)
        try:
            sent = await transfer.run()
        except UploadSuperseded:
            if transfer.large:
                self._void[content.inode] += 1
            raise
        finally:
            if transfer.copy is not None:
                os.close(transfer.copy)
        self._void.pop(content.inode, None)
        return sent

    async def _copy(self, transfer: Transfer, content: Content) -> int | None:
        """What was frozen, unless it changed before it was copied, or there is no room."""
        copy = await trio.to_thread.run_sync(private_copy, content.fd, transfer.size, self._tree.db.cache_dir)
        if copy is not None and content.intact < transfer.size:
            os.close(copy)
            raise UploadSuperseded("the file changed while it was being copied for its upload")
        return copy

    async def _meet(self, content: Content, head: RemoteItem) -> bool:
        """Drive has another revision than ours began from. Returns whether there is nothing to be sent because of it."""
        node = self._tree.get(content.inode)
        if node.remote_id != head.id:
            return True  # replaced meanwhile; the next step knows
        if head.md5 is not None and head.md5 == node.sent_md5:
            return await self.own(content, head)
        if head.md5 is not None and head.md5 == content.md5:
            return False  # merely the same bytes uploaded anew
        if await self._holds_the_same(content, head):  # ours, and a power cut took the row that said so; or no difference anyway
            return await self.own(content, head)
        node = self._tree.get(content.inode)
        if node.remote_id == head.id:
            self._conflicts.split(node)
        return True

    async def _holds_the_same(self, content: Content, head: RemoteItem) -> bool:
        if head.md5 is None or head.size != content.size or not content.complete:
            return False
        return await trio.to_thread.run_sync(checksum, content.fd, content.size) == head.md5

    def _snapshot(self, content: Content, remote_id: str, mime_type: str) -> Transfer:
        """The content as it is now, to go to ``remote_id``; UploadSuperseded where that is not what is due any more."""
        self._cache.save_times(content)
        node = self._tree.get(content.inode)
        step = self._outbox.next_step(node)
        if node.remote_id != remote_id or node.content != content.id or step not in (Step.CREATE, Step.UPDATE_CONTENT):
            raise UploadSuperseded("the file was deleted or replaced before its upload began")
        if self.being_written(content.inode, step):
            raise UploadSuperseded("the file was opened and changed before its upload began")
        self._cache.freeze(content)
        new, patch = None, ItemPatch()
        if step is Step.CREATE:
            new = self._outbox.new_item(node, remote_id, mime_type)
        else:
            patch = self._outbox.patch(node)
        return Transfer(
            self._drive, self._tree, content, self._keeper.durable, new=new, file_id=remote_id, patch=patch, mime_type=mime_type
        )

    async def _complete(self, content: Content) -> bool:
        """Holes are filled from their revision, for Drive takes whole files. What the disk has spoilt is not sent.

        False: there is nothing to be sent any more, since not a byte of it is left anywhere.
        """
        try:
            for hole in content.missing(0, content.base_size):
                await self._prefetch.ensure(content, hole)
        except RemoteNotFound:
            if not await self._conflicts.vanished(content):
                raise
            return False
        await self._keeper.check(content, 0, content.size)
        return True

    async def _conclude(self, content: Content, transfer: Transfer, sent: Sent, head: RemoteItem | None) -> None:
        """Drive has answered. What else became of the item since we looked at ``head`` is asked before anything is recorded.

        So a kill or a broken connection in between leaves the answer in doubt, and the next attempt asks again.
        """
        base = None if head is None else head.revision
        matches = sent.item.md5 == sent.md5
        if not matches and await self._conflicts.beaten(base, sent):
            # Nothing is recorded: the next look meets a stranger's content over ours, which is a conflict like any other.
            raise UploadSuperseded("somebody changed the file on Drive just after our upload")
        theirs = await self._conflicts.between(base, sent) if base is not None and matches else None
        current = transfer.current
        if not self._record(content, transfer, sent, theirs, current=current and matches):
            return
        if current and not matches:
            raise ServerFault("Drive states another checksum than what was sent; sending again.", status=200)
        if not current:
            raise UploadSuperseded("the file changed while it was being uploaded")

    def _record(self, content: Content, transfer: Transfer, sent: Sent, theirs: Revision | None, *, current: bool) -> bool:
        """One transaction: what Drive has now, and whether our content is that. False: the item is another row's by now."""
        item = sent.item
        with self._tree.db.transaction():
            self._statements.answered(item)
            self._keep(item, theirs)
            node = self._tree.find(content.inode)
            if node is None or node.remote_id != item.id:
                self._rescan()  # a rename gave the item to another row while we were sending, and that row must go on
                return False
            self._mark(content, item, sent.md5, current=current)
        if current:
            self.sent_generation.pop(content.inode, None)
        elif item.md5 == sent.md5:
            self.sent_generation[content.inode] = transfer.generation
        self.sent_at[content.inode] = trio.current_time()
        return True

    def _mark(self, content: Content, item: RemoteItem, md5: str, *, current: bool) -> None:
        self._cache.mark_uploaded(content, item, md5, current=current)
        node = self._tree.get(content.inode)
        if node.content_dirty and node.content != content.id:
            self._cache.rebase(node, item.revision)  # the file was begun anew meanwhile: it succeeds what we have just sent

    def _keep(self, item: RemoteItem, theirs: Revision | None) -> None:
        """Part of a transaction. theirs: a stranger's content that lies under ours."""
        node = self._tree.by_remote_id(item.id)
        if theirs is not None and node is not None:
            self._conflicts.keep(node, item, theirs)
            self._rescan()  # the copy is to be sent

    async def own(self, content: Content, item: RemoteItem) -> bool:
        """``item`` is what an upload of ours made whose answer was lost. False: the file was changed since, so send it now."""
        async with content.lock:
            self._cache.save_times(content)
            self._cache.freeze(content)
            generation = self._tree.get(content.inode).generation
        md5 = await trio.to_thread.run_sync(checksum, content.fd, content.size) if content.complete else ""
        theirs = await self._conflicts.between(content.revision, Sent(item, item.md5 or "")) if content.revision else None
        with self._tree.db.transaction():
            self._statements.apply(item)
            node = self._tree.get(content.inode)
            current = md5 == item.md5 and node.generation == generation and node.content == content.id
            if node.remote_id == item.id:
                self._mark(content, item, item.md5 or "", current=current)
            self._keep(item, theirs)
        return current or node.remote_id != item.id
