"""When somebody else changes a file that we change too: both contents are kept, and it is said.

Drive has no compare-and-swap. A stranger's edit that lies on Drive when we look is met before ours is sent: ours becomes the
conflict copy. One that comes between our look and our upload is under ours before anybody knows of it; the list of revisions
tells, and then the stranger's bytes become the conflict copy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from drivefs.base.errors import AccessDenied, RemoteNotFound
from drivefs.base.model import Invalidation, RemoteItem, Revision
from drivefs.base.stats import Stats
from drivefs.jobs.transfer import Sent
from drivefs.remote.drive import Drive
from drivefs.store.cache import Cache
from drivefs.store.content import Content
from drivefs.store.outbox import Outbox
from drivefs.store.tree import Node, Tree

__all__ = ["Conflicts", "later_than"]

log = logging.getLogger(__name__)


def later_than(base: str | None, revisions: Sequence[Revision], head: str | None) -> list[Revision]:
    """Those of ``revisions``, oldest first, that came after ``base`` and before ``head``.

    Drive may have dropped ``base`` (after 30 days or 100 revisions): then only the last one before ``head`` can matter to whoever
    made ``head``, and it is taken for later, because to keep a content too many does no harm.
    """
    ids = [revision.id for revision in revisions]
    end = ids.index(head) if head in ids else len(ids)
    if base is None:
        return list(revisions[:end])
    return list(revisions[ids.index(base) + 1 if base in ids else max(end - 1, 0) : end])


class Conflicts:
    """notify: told what the kernel must forget."""

    def __init__(
        self,
        drive: Drive,
        tree: Tree,
        cache: Cache,
        outbox: Outbox,
        notify: Callable[[Sequence[Invalidation]], None],
        stats: Stats,
    ) -> None:
        self._drive = drive
        self._tree = tree
        self._cache = cache
        self._outbox = outbox
        self._notify = notify
        self._stats = stats

    async def between(self, base: str | None, sent: Sent) -> Revision | None:
        """The content that somebody else made of the item after the revision ``base`` and before ours, if there is one."""
        revisions = await self._revisions(sent.item)
        # The same bytes once more, as a repeat of ours makes them, are nobody's loss.
        known = {sent.md5, *(revision.md5 for revision in revisions if revision.id == base)} - {None}
        later = [revision for revision in later_than(base, revisions, sent.item.revision) if revision.md5 not in known]
        return later[-1] if later else None

    async def beaten(self, base: str | None, sent: Sent) -> bool:
        """Whether Drive has had what we sent, although it states something else now: somebody changed it at once."""
        later = later_than(base, await self._revisions(sent.item), sent.item.revision)
        return any(revision.md5 == sent.md5 for revision in later)

    async def _revisions(self, item: RemoteItem) -> list[Revision]:
        try:
            return await self._drive.revisions(item.id)
        except AccessDenied as error:
            self._stats.record_error(f"changes made elsewhere at the same moment cannot be seen: {error}", item.name)
            return []

    def split(self, node: Node) -> None:
        """Drive's content keeps the name; ours, which is not sent yet, becomes the copy."""
        theirs, copy_name = self._outbox.split_conflict(node)
        self._report(self._tree.path(theirs), f"changed here and on Drive; ours is kept as {copy_name}")
        parent = theirs.local_parent or 0
        self._notify([*_entries(parent, theirs.shown_name, copy_name), Invalidation(node.inode)])

    def keep(self, node: Node, item: RemoteItem, theirs: Revision) -> None:
        """Ours lies over ``theirs``: that becomes the copy, a file of its own whose bytes are fetched and sent like any other."""
        with self._tree.db.transaction():
            copy = self._outbox.new_copy(node, theirs.modified_ms)
            self._cache.create_from(copy.inode, item.id, theirs)
        message = f"changed on Drive just before our change came; the other content is kept as {copy.shown_name}"
        self._report(self._tree.path(node), message)
        self._notify(_entries(copy.local_parent or 0, copy.shown_name))

    async def vanished(self, content: Content) -> bool:
        """Whether the file is given up, since its content was deleted on Drive for good before a byte of it was fetched.

        So may end what ``keep`` promised. What holds a single byte that Drive has not stays, for the user to decide.
        """
        node = self._tree.get(content.inode)
        if content.remote_id is None or node.remote_exists or content.present.size or content.size != content.base_size:
            return False
        try:
            await self._drive.get(content.remote_id)
        except RemoteNotFound:
            self._tree.trash(self._tree.get(content.inode))
            self._report(self._tree.path(node), "given up: its content was deleted on Drive, for good, before it was fetched")
            self._notify(_entries(node.local_parent or 0, node.shown_name))
            return True
        return False

    def _report(self, path: str, message: str) -> None:
        log.warning("%r was %s", path, message)
        self._stats.record_error(message, path)


def _entries(parent: int, *names: str) -> list[Invalidation]:
    return [*(Invalidation(parent, name) for name in names), Invalidation(parent)]
