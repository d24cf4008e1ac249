"""The file system as a whole: names and open files, and what belongs to a node rather than to either."""

from __future__ import annotations

import errno
import os
import posixpath
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from drivefs.base.errors import PathError
from drivefs.base.model import Kind
from drivefs.jobs.account import AccountInfo
from drivefs.store.cache import Cache
from drivefs.store.tree import MY_DRIVE_INODE, Node, Tree
from drivefs.vfs.attributes import Attributes, attributes_of, shortcut_place
from drivefs.vfs.files import Files
from drivefs.vfs.namespace import Namespace

__all__ = ["Changes", "Filesystem", "Space"]

_BLOCK: Final = 4096
# Shown where the account has no limit: large enough for any program's check, small enough for any program's integer.
_NO_LIMIT: Final = 1 << 50


@dataclass(frozen=True, slots=True)
class Changes:
    """What setattr is asked to change; None leaves a value alone. mtime is in nanoseconds, uid and gid are compared only."""

    size: int | None = None
    mode: int | None = None
    mtime_ns: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Space:
    """For statfs: the account's quota in blocks of ``block`` bytes."""

    block: int
    blocks: int
    free: int


class Filesystem:
    """uid and gid own everything shown: the mounting user's."""

    def __init__(
        self, tree: Tree, cache: Cache, names: Namespace, files: Files, account: AccountInfo, *, uid: int, gid: int
    ) -> None:
        self.names = names
        self.files = files
        self.uid = uid
        self.gid = gid
        self._tree = tree
        self._cache = cache
        self._account = account
        # Why reading failed last, by inode: of a directory, its listing.
        self._failures: LRUCache[int, str] = LRUCache(maxsize=1000)

    async def create(self, parent: int, name: str, mode: int, flags: int) -> tuple[Node, int]:
        """A new file and a handle on it: both, or neither where the disk has no room for its content."""
        await self.names.get_ready(parent, name)
        handle: int | None = None
        try:
            with self._tree.db.transaction():
                node = self._tree.create(parent, name, Kind.FILE, mode)
                handle = self.files.create(node.inode, flags)
        except BaseException:
            if handle is not None:
                self.files.release(handle)
            raise
        return node, handle

    async def create_unnamed(self, parent: int, name: str, mode: int) -> tuple[Node, int]:
        """A new file without a name, and a handle that writes to it. Closed before ``Namespace.link_unnamed`` it is gone.

        Raises where ``name`` may not be created in ``parent``.
        """
        await self.names.get_ready(parent, name)
        with self._tree.db.transaction():
            node = self._tree.create_unnamed(parent, name, mode)
            return node, self.files.create(node.inode, os.O_WRONLY)

    def attributes(self, node: Node) -> Attributes:
        return attributes_of(node, self._cache.find_open(node))

    def getattr(self, inode: int) -> Attributes:
        return self.attributes(self._tree.get(inode))

    async def setattr(self, inode: int, changes: Changes, number: int | None) -> Attributes:
        """number: the handle, where the caller has one."""
        node = self._tree.get(inode)
        self.files.check_changeable(node)
        if changes.uid not in (None, self.uid) or changes.gid not in (None, self.gid):
            raise PathError(errno.EPERM)  # Drive knows accounts, not users of this machine
        if changes.size is not None:
            await self.files.truncate(inode, changes.size, number)
        if changes.mode is not None:
            self._tree.set_mode(self._tree.get(inode), changes.mode)
        if changes.mtime_ns is not None:
            self.files.save_times(self._tree.get(inode))
            self._tree.set_mtime(self._tree.get(inode), changes.mtime_ns)
        if changes.mode is not None or changes.mtime_ns is not None:
            self.names.changed(inode)
        return self.getattr(inode)

    async def readlink(self, inode: int) -> str:
        node = self._tree.get(inode)
        if node.kind is Kind.SHORTCUT:
            return self._shortcut(node)
        if node.kind is not Kind.SYMLINK:
            raise PathError(errno.EINVAL)
        return node.target if node.target is not None else await self.files.read_link(node)

    def _shortcut(self, node: Node) -> str:
        """A shortcut leads to its target where that hangs in the tree, else to the place where Colab shows targets."""
        target = self._tree.by_remote_id(node.shortcut_target) if node.shortcut_target else None
        shown = target is not None and not target.local_trashed and self._tree.is_ancestor(MY_DRIVE_INODE, target.inode)
        place = self._tree.path(target) if target is not None and shown else shortcut_place(node)
        return posixpath.relpath(place, posixpath.dirname(self._tree.path(node)))

    def statfs(self) -> Space:
        quota = self._account.quota
        limit = quota.limit if quota is not None and quota.limit is not None else _NO_LIMIT
        used = quota.usage if quota is not None else 0
        return Space(_BLOCK, limit // _BLOCK, max(0, limit - used) // _BLOCK)

    def getxattr(self, inode: int, name: str) -> bytes:
        """The attributes that Colab's mount has (``user.drive.*``); PathError(ENODATA) for any other."""
        if not name.startswith("user.drive."):
            raise PathError(errno.ENODATA)
        value = self._drive_xattr(self._tree.get(inode), name.removeprefix("user.drive."))
        if value is None:
            raise PathError(errno.ENODATA)
        return value.encode()

    def _drive_xattr(self, node: Node, name: str) -> str | None:
        committed = bool(node.remote_exists)
        if name == "id":
            return node.remote_id if committed else f"local-{node.inode}"
        if name == "stableid":
            return str(node.inode)
        if name == "email":
            return self._account.email
        if name == "md5":
            return None if node.content_dirty else node.remote_md5
        if name == "mime_type":
            return node.mime_type or None
        if name == "uncommitted":
            return str(node.pending)
        if name == "is_virtual_folder":
            return str(int(node.is_virtual))
        if name == "shortcut.target.id":
            return node.shortcut_target
        if name == "error":
            return self.names.reason_not_sent(node) or self._failures.get(node.inode)
        return None

    def note_failure(self, inode: int, reason: str) -> None:
        """Drive could not give what a program wanted of the inode; ``user.drive.error`` says so until it can again."""
        self._failures[inode] = reason

    def note_success(self, inode: int) -> None:
        if self._failures:
            self._failures.pop(inode, None)

    def path(self, inode: int) -> str:
        """Below the mountpoint, for people; the number itself where there is no such node any more."""
        node = self._tree.find(inode)
        return str(inode) if node is None else self._tree.path(node)
