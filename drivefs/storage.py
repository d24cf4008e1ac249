"""Whole files on Drive for programs that keep them there: the verbs list, stat, put, get and trash (``drivefs.client``).

What is put goes the way of every written file, through the tree, the cache and the uploader, so a kill loses nothing that has
its name. Until all bytes are here the file has no name at all (``Filesystem.create_unnamed``), so none that is half ever has one,
here or on Drive. What is asked, and what is got, comes from Drive itself at that moment, past the tree and the cache.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import trio

from drivefs.base.config import Config
from drivefs.base.errors import DataDamaged, NotOnDrive, PathError, RemoteError, RemoteNotFound, TimedOut, UsageError
from drivefs.base.model import Invalidation, ItemPatch, Kind, RemoteItem
from drivefs.control import Chunks, Progress, Stream, Verb
from drivefs.jobs.account import AccountInfo
from drivefs.jobs.listing import Listing
from drivefs.jobs.streaming import stream_content
from drivefs.jobs.upload import Uploader
from drivefs.remote.drive import Drive
from drivefs.source import Source, open_source
from drivefs.store.merging import Merger
from drivefs.store.tree import ALIAS_NAME, MY_DRIVE_NAME, TOP_INODE, Node, Tree
from drivefs.vfs.filesystem import Filesystem

__all__ = ["STORAGE_VERBS", "Storage"]

STORAGE_VERBS: Final = ("list", "stat", "put", "get", "trash")

_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_WRONG_PLACE: Final = {
    errno.EROFS: "this daemon was started read-only. Start it without --read-only",
    errno.EACCES: "this account may not change what is there. Ask its owner for the right to edit",
    errno.EPERM: f"only what lies in {MY_DRIVE_NAME} can be changed. Give a path below it",
    errno.EEXIST: "something that is no file has this name. Give another name",
    errno.EISDIR: "a folder has this name. Give another name",
    errno.ENOTDIR: "something on the way is no folder. Give another path",
    errno.ENAMETOOLONG: "a name may have 255 bytes. Give a shorter one",
    errno.ENOENT: "its folder was deleted meanwhile. Try again",
    errno.ESTALE: "it was deleted meanwhile. Try again",
    errno.EBUSY: f"{MY_DRIVE_NAME} itself stays. Give a path below it",
}


class Storage:
    """notify: told what the kernel must forget, where there is a mount."""

    def __init__(
        self,
        config: Config,
        drive: Drive,
        tree: Tree,
        merger: Merger,
        listing: Listing,
        fs: Filesystem,
        account: AccountInfo,
        uploader: Uploader,
        notify: Callable[[Sequence[Invalidation]], None],
    ) -> None:
        self._config = config
        self._drive = drive
        self._tree = tree
        self._merger = merger
        self._listing = listing
        self._fs = fs
        self._account = account
        self._uploader = uploader
        self._notify = notify
        self._making = trio.Lock()  # of folders: two who want the same one make one

    def verbs(self) -> dict[str, Verb | Stream]:
        """By the names that clients call them."""
        return dict(zip(STORAGE_VERBS, (self.list, self.stat, self.put, Stream(self.get), self.trash), strict=True))

    # -- asking ----------------------------------------------------------------------------------------------------

    async def list(self, arguments: Mapping[str, Any], _progress: Progress) -> list[dict[str, Any]]:
        path = _text(arguments, "path")
        with _in_words(path):
            folder = await self._find(_parts(path))
            if folder is None:
                return []
            if not folder.is_folder:
                raise PathError(errno.ENOTDIR)
            if folder.inode == TOP_INODE:
                raise PathError(errno.EPERM)
            twins = await self._twins(_parts(path))
        asked = {each.remote_id: None for each in (folder, *twins) if each.remote_id is not None and each.remote_exists}
        items = [item for remote_id in asked for item in await self._listing.items(remote_id)]
        return [_stated(item) for item in sorted(items, key=lambda item: (item.created_ms, item.id))]

    async def stat(self, arguments: Mapping[str, Any], _progress: Progress) -> dict[str, Any] | None:
        path = _text(arguments, "path")
        with _in_words(path):
            node = await self._find(_parts(path))
        if node is None or node.remote_id is None or not node.remote_exists:
            return None
        try:
            item = await self._drive.get(node.remote_id)
        except RemoteNotFound:
            return None
        return None if item.trashed else _stated(item)

    async def _find(self, parts: Sequence[str]) -> Node | None:
        node: Node | None = self._tree.get(TOP_INODE)
        for name in parts:
            if node is None:
                return None
            node = await self._child(node.inode, name)
        return node

    async def _twins(self, parts: Sequence[str]) -> Sequence[Node]:
        """All folders that Drive has under this path. Two machines that made one at the same moment have made two, and what is in
        the younger one would be lost from sight under the name by which the tree tells them apart.
        """
        nodes = [self._tree.get(TOP_INODE)]
        for name in parts:
            children = [child for node in nodes for child in await self._fs.names.children(node.inode)]
            nodes = [child for child in children if child.is_folder and name in (child.shown_name, child.remote_name)]
        return nodes

    async def _child(self, folder: int, name: str) -> Node | None:
        """Where the tree knows none, Drive is asked once more: somebody may have made it a moment ago."""
        known = self._tree.get(folder)
        found = await self._fs.names.lookup(folder, name)
        if found is None and known.listed and known.remote_exists:
            await self._listing.verify(folder)
            found = self._tree.child(folder, name)
        return found

    # -- putting ---------------------------------------------------------------------------------------------------

    async def put(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        path, timeout = _text(arguments, "path"), float(arguments["timeout"])
        deadline = trio.current_time() + timeout
        async with open_source(arguments, self._config) as source:
            with _in_words(path), _not_on_drive(path, "Nothing of it was kept: try again."):
                with trio.move_on_at(deadline) as scope:
                    node = await self._take_in(_parts(path), source, progress)
                if scope.cancelled_caught:
                    raise TimedOut(f"it could not be made ready within {timeout:g} s.")
        with _not_on_drive(path, "It is kept in the cache, and sent as soon as it can be."):
            await self._uploader.confirm(node.inode, max(0.0, deadline - trio.current_time()))
        return self._confirmed(path, node, source.md5)

    async def _take_in(self, parts: Sequence[str], source: Source, progress: Progress) -> Node:
        """All bytes into the cache, and only then the name."""
        if not parts:
            raise PathError(errno.EPERM)
        *folders, name = parts
        if not self._account.room_for(source.size):
            await self._account.renew()  # what is known of it may be minutes old
        parent = await self._folder(folders)
        _require_replaceable(await self._fs.names.lookup(parent, name))
        node, handle = await self._fs.create_unnamed(parent, name, _FILE_MODE)
        try:
            written = 0
            while data := await source.read():
                written += await self._fs.files.write(handle, written, data)
                await progress({"size": source.size, "written": written})
            self._fs.files.flush(handle)
            await self._fs.names.link_unnamed(node.inode, parent, name)
        finally:
            self._fs.files.release(handle)
        self._show(parent, name)
        return self._tree.get(node.inode)

    async def _folder(self, parts: Sequence[str]) -> int:
        """The folder of this path, made where it is missing."""
        async with self._making:
            inode = TOP_INODE
            for name in parts:
                node = await self._child(inode, name) or await self._make(inode, name)
                inode = node.inode
            return inode

    async def _make(self, parent: int, name: str) -> Node:
        try:
            node = await self._fs.names.create(parent, name, Kind.FOLDER, _FOLDER_MODE)
        except PathError as error:
            found = self._tree.child(parent, name) if error.errno == errno.EEXIST else None
            if found is None:
                raise
            return found  # a program made it in the mount, just now
        self._show(parent, name)
        return node

    def _show(self, parent: int, name: str) -> None:
        self._notify([Invalidation(parent, name), Invalidation(parent)])

    def _confirmed(self, path: str, sent: Node, md5: str) -> dict[str, Any]:
        """What Drive has made of it, where that is what was put."""
        node = self._tree.find(sent.inode)
        if node is None or node.local_trashed:
            raise NotOnDrive(f"{path!r} was deleted or replaced while it was being sent. Put it again, if it is still wanted.")
        if (node.local_parent, node.shown_name) != (sent.local_parent, sent.shown_name):
            raise NotOnDrive(
                f"{path!r} was changed elsewhere at the same moment; what was put is {self._tree.path(node)!r} now. Put it again."
            )
        if node.remote_id is None or node.remote_md5 != md5:
            raise NotOnDrive(f"{path!r} was changed again before Drive had it. Put it again, if it is still wanted.")
        return {"id": node.remote_id, "size": node.remote_size, "md5": md5}

    # -- getting ---------------------------------------------------------------------------------------------------

    async def get(self, arguments: Mapping[str, Any], chunks: Chunks) -> None:
        md5 = arguments.get("md5")
        await stream_content(
            self._drive, _text(arguments, "id"), int(arguments["size"]), None if md5 is None else str(md5), chunks
        )

    # -- deleting --------------------------------------------------------------------------------------------------

    async def trash(self, arguments: Mapping[str, Any], _progress: Progress) -> None:
        """Drive is told first, so that what it refuses is not gone here; its answer shows it to the mount."""
        file_id, timeout = _text(arguments, "id"), float(arguments["timeout"])
        if self._config.read_only:
            with _in_words(file_id):
                raise PathError(errno.EROFS)
        deadline = trio.current_time() + timeout
        node = self._tree.by_remote_id(file_id)
        with _not_on_drive(file_id, "It is where it was: try again."):
            with trio.move_on_at(deadline) as scope:
                await self._trash_there(file_id)
            if scope.cancelled_caught:
                raise TimedOut(f"Drive has not answered within {timeout:g} s.")
        if node is not None:
            await self._trash_here(file_id, node.inode, deadline)

    async def _trash_there(self, file_id: str) -> None:
        try:
            self._notify(self._merger.apply(await self._drive.update(file_id, ItemPatch(trashed=True))))
        except RemoteNotFound:
            self._notify(self._merger.apply_gone(file_id))
        self._uploader.rescan()

    async def _trash_here(self, file_id: str, inode: int, deadline: float) -> None:
        """A file with unsent changes survives its deletion elsewhere; but this one is meant."""
        node = self._tree.find(inode)
        if node is None or node.local_trashed or node.is_folder:
            return
        self._fs.names.remove(inode)
        self._show(node.local_parent or TOP_INODE, node.shown_name)
        with _not_on_drive(file_id, "It is deleted here, and there as soon as it can be."):
            await self._uploader.confirm(inode, max(0.0, deadline - trio.current_time()))


def _stated(item: RemoteItem) -> dict[str, Any]:
    """As clients get an item: its name as Drive has it, its creation in seconds since the epoch."""
    return {
        "name": item.name,
        "id": item.id,
        "size": item.size,
        "md5": item.md5,
        "folder": item.kind is Kind.FOLDER,
        "owned": item.owned_by_me,
        "created": item.created_ms / 1000,
    }


def _require_replaceable(node: Node | None) -> None:
    """What has the name is to get new bytes, not to be pushed aside."""
    if node is not None and node.kind is not Kind.FILE:
        raise PathError(errno.EISDIR if node.is_folder else errno.EEXIST)
    if node is not None and not node.can_edit:
        raise PathError(errno.EACCES)


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise UsageError(f"The request needs a {name}. Are both of one version?")
    return value


def _parts(path: str) -> list[str]:
    """The names of a path from the top, as in ``MyDrive/a/b``; the old spelling of MyDrive means the same."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == [ALIAS_NAME]:
        parts[0] = MY_DRIVE_NAME
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{path!r} is not text that Drive could take as a name. Give another path.") from error
    if {".", ".."} & set(parts) or "\0" in path:
        raise UsageError(f"{path!r} is not a plain path. Name each folder from the top, as in {MY_DRIVE_NAME}/a/b.")
    return parts


@contextmanager
def _in_words(path: str) -> Iterator[None]:
    """What a program would get as an errno is said to a person: NotOnDrive for a right that is missing, else UsageError."""
    try:
        yield
    except PathError as error:
        reason = _WRONG_PLACE.get(error.errno, f"{os.strerror(error.errno)}. Give another path")
        kind = NotOnDrive if error.errno in (errno.EROFS, errno.EACCES) else UsageError
        raise kind(f"{path!r} cannot be used: {reason}.") from error


@contextmanager
def _not_on_drive(path: str, kept: str) -> Iterator[None]:
    """Whatever Drive, the network or a damaged disk says, to the caller it means one thing. kept: what has become of it."""
    try:
        yield
    except (RemoteError, DataDamaged) as error:
        raise NotOnDrive(f"{path!r} is not on Drive: {error} {kept}") from error
