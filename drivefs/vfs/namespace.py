"""Names: lookup, listing, and everything that changes which names there are. POSIX meaning on inodes.

Each method first waits until the folders concerned are known (the only thing here that may need the network, and only for a
folder that was never looked into), then decides and changes the tree without awaiting, so that no other call comes between.
Sources: path_resolution(7), rename(2), unlink(2), rmdir(2), mkdir(2), symlink(2).
"""

from __future__ import annotations

import errno
from typing import Final

from drivefs.base.errors import PathError
from drivefs.base.model import Kind
from drivefs.jobs.keeping import Keeper
from drivefs.jobs.listing import Listing
from drivefs.jobs.upload import Uploader
from drivefs.store.cache import Cache
from drivefs.store.tree import TOP_INODE, Node, Tree

__all__ = ["RENAME_NOREPLACE", "Namespace"]

NAME_MAX: Final = 255
PATH_MAX: Final = 4096
RENAME_NOREPLACE: Final = 1


class Namespace:
    def __init__(
        self, tree: Tree, cache: Cache, keeper: Keeper, listing: Listing, uploader: Uploader, *, read_only: bool
    ) -> None:
        self._tree = tree
        self._cache = cache
        self._keeper = keeper
        self._listing = listing
        self._uploader = uploader
        self._read_only = read_only

    # -- looking ---------------------------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: str) -> Node | None:
        """The child of that name; None where there is none."""
        self._check_name(name)
        await self._list(parent)
        return self._tree.child(parent, name)

    async def children(self, folder: int) -> list[Node]:
        """All children, in an order that stays the same while the folder is read."""
        await self._list(folder)
        return self._tree.children(folder)

    async def _list(self, folder: int) -> None:
        if not self._folder(folder).listed:
            await self._listing.ensure(folder)

    def _folder(self, inode: int) -> Node:
        node = self._tree.get(inode)
        if not node.is_folder:
            raise PathError(errno.ENOTDIR)
        return node

    # -- adding ----------------------------------------------------------------------------------------------------

    async def create(self, parent: int, name: str, kind: Kind, mode: int, target: str | None = None) -> Node:
        """A new folder or symbolic link."""
        if target is not None and len(target.encode()) >= PATH_MAX:
            raise PathError(errno.ENAMETOOLONG)
        await self.get_ready(parent, name)
        node = self._tree.create(parent, name, kind, mode, target)
        self._uploader.schedule(node.inode)
        return node

    async def get_ready(self, parent: int, name: str) -> None:
        """Learn what must be known before ``name`` can be created in ``parent``; raises where it may not be."""
        self._check_name(name)
        await self._list(parent)
        self._check_writable(parent)

    # -- removing --------------------------------------------------------------------------------------------------

    async def unlink(self, parent: int, name: str) -> None:
        await self._list(parent)
        node = self._existing(parent, name)
        if node.is_folder:
            raise PathError(errno.EISDIR)
        self._trash(node)

    async def rmdir(self, parent: int, name: str) -> None:
        await self._list(parent)
        node = self._existing(parent, name)
        if not node.is_folder:
            raise PathError(errno.ENOTDIR)
        await self._list(node.inode)
        node = self._existing(parent, name)
        if not self._is_empty(node):
            raise PathError(errno.ENOTEMPTY)
        self._trash(node)

    def remove(self, inode: int) -> None:
        """Delete a file by what it is and not by its name."""
        node = self._tree.get(inode)
        if node.is_folder or node.is_virtual or node.local_parent is None:
            raise PathError(errno.EPERM)
        self._check_writable(node.local_parent)
        self._trash(node)

    def _is_empty(self, folder: Node) -> bool:
        """Known to be: while we waited for the listing of one folder, another may have come under its name."""
        return bool(folder.listed) and not self._tree.has_children(folder.inode)

    def _trash(self, node: Node) -> None:
        self._tree.trash(node)
        self._cache.drop_deleted(self._tree.get(node.inode))
        self._uploader.schedule(node.inode)

    # -- moving ----------------------------------------------------------------------------------------------------

    async def rename(self, parent: int, name: str, new_parent: int, new_name: str, flags: int = 0) -> None:
        if flags & ~RENAME_NOREPLACE:
            raise PathError(errno.EINVAL)
        self._check_name(new_name)
        await self._list(parent)
        await self._list(new_parent)
        target = self._tree.child(new_parent, new_name)
        if target is not None and target.is_folder:
            await self._list(target.inode)
        elif target is not None:
            node = self._tree.child(parent, name)
            if node is not None and node.content_dirty:
                await self._keeper.before_replacing(node.inode)
        self._rename(self._existing(parent, name), new_parent, new_name, flags)

    async def link_unnamed(self, inode: int, parent: int, name: str) -> None:
        """Give a file of ``Filesystem.create_unnamed`` its name, in the place of the file that has it, as rename(2) would.

        Source: linkat(2), but for the replacing.
        """
        await self.get_ready(parent, name)
        if self._tree.child(parent, name) is not None:
            await self._keeper.before_replacing(inode)
        self._rename(self._tree.get(inode), parent, name, 0)

    def _rename(self, node: Node, new_parent: int, new_name: str, flags: int) -> None:
        """Everything is known and nothing awaits: decide and do."""
        self._check_writable(new_parent)
        if node.is_folder and self._tree.is_ancestor(node.inode, new_parent):
            raise PathError(errno.EINVAL)
        target = self._tree.child(new_parent, new_name)
        if target is None:
            self._tree.move(node, new_parent, new_name)
            self._uploader.schedule(node.inode)
            return
        if flags & RENAME_NOREPLACE:
            raise PathError(errno.EEXIST)
        if target.inode == node.inode:
            return
        self._check_replaceable(node, target)
        self._replace(node, target, new_parent, new_name)

    def _check_replaceable(self, node: Node, target: Node) -> None:
        if target.is_folder and not node.is_folder:
            raise PathError(errno.EISDIR)
        if node.is_folder and not target.is_folder:
            raise PathError(errno.ENOTDIR)
        if target.is_virtual:
            raise PathError(errno.EBUSY)
        if target.is_folder and not self._is_empty(target):
            raise PathError(errno.ENOTEMPTY)

    def _replace(self, node: Node, target: Node, new_parent: int, new_name: str) -> None:
        """Over an existing name: new bytes become a new revision of the item that has the name, else the items change places."""
        tree = self._tree
        with tree.db.transaction():
            if self._takes_identity(node, target):
                tree.swap_identity(node, target)
                self._cache.rebase(node, target.remote_revision)
            tree.trash(tree.get(target.inode))
            tree.move(tree.get(node.inode), new_parent, new_name)
            # The victim goes after the newcomer has come: between the two calls Drive shows both, never neither.
            tree.update(target.inode, sequence=tree.next_sequence())
        self._cache.drop_deleted(tree.get(target.inode))
        self._uploader.schedule(node.inode)
        self._uploader.schedule(target.inode)

    def _takes_identity(self, node: Node, target: Node) -> bool:
        """Whether the newcomer has to be uploaded anyway and all its bytes are here, so that it may go under the target's id."""
        both_files = node.kind is Kind.FILE and target.kind is Kind.FILE
        target_is_ours = bool(target.remote_exists and target.can_edit and not target.remote_trashed)
        return both_files and target_is_ours and bool(node.content_dirty) and self._cache.is_whole(node)

    # -- for the whole file system ---------------------------------------------------------------------------------

    def changed(self, inode: int) -> None:
        """Metadata was changed: Drive is to be told."""
        self._uploader.schedule(inode)

    def reason_not_sent(self, node: Node) -> str | None:
        """Why the last attempt to send the node failed; None where none did."""
        return self._uploader.failure(node.inode)

    # -- checks ----------------------------------------------------------------------------------------------------

    def _existing(self, parent: int, name: str) -> Node:
        """The child that is to be changed."""
        self._check_writable(parent)
        node = self._tree.child(parent, name)
        if node is None:
            raise PathError(errno.ENOENT)
        if node.is_virtual:
            raise PathError(errno.EBUSY)
        return node

    def _check_writable(self, folder: int) -> None:
        if self._read_only:
            raise PathError(errno.EROFS)
        node = self._folder(folder)
        if node.local_trashed:
            raise PathError(errno.ENOENT)
        if folder == TOP_INODE:
            raise PathError(errno.EPERM)  # only Drive itself decides what hangs beside MyDrive
        if not node.can_edit:
            raise PathError(errno.EACCES)

    def _check_name(self, name: str) -> None:
        if len(name.encode()) > NAME_MAX:
            raise PathError(errno.ENAMETOOLONG)
