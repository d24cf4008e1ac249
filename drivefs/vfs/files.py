"""Open files: handles, reading, writing, truncating, making durable. POSIX meaning on inodes.

Lock rule: changes of one content's bytes are made under that content's lock (store/content.py says why). Reads take no lock:
they see each write whole or not at all up to the page, as from any local file system. No Drive call is made under the lock.
Sources: open(2), read(2), write(2), ftruncate(2), fsync(2), close(2).
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Final

import trio
from cachetools import LRUCache

from drivefs.base.crashpoints import crash_point
from drivefs.base.errors import DataDamaged, DriveFull, LocalDiskFull, PathError
from drivefs.base.model import Kind
from drivefs.base.ranges import Range
from drivefs.jobs.account import AccountInfo
from drivefs.jobs.backpressure import Backpressure
from drivefs.jobs.keeping import Keeper
from drivefs.jobs.prefetch import Prefetch, Window
from drivefs.jobs.upload import Uploader
from drivefs.store.cache import Cache
from drivefs.store.content import Content
from drivefs.store.tree import Node, Tree

__all__ = ["Files", "PageCache"]

# Below this a pwrite into the page cache costs less than going to a thread and back.
_INLINE_WRITE: Final = 64 << 10


class PageCache(Enum):
    """What the kernel is to do about the pages it holds of an inode that is opened."""

    KEEP = "keep"  # they are of this content
    DROP = "drop"  # they may be of another
    BYPASS = "bypass"  # another content is open beside this one, and its readers fill the pages


@dataclass(slots=True, eq=False)
class _Handle:
    """One open file description."""

    content: Content
    writable: bool
    append: bool
    window: Window = field(default_factory=Window)


class Files:
    """Handles are numbers, as the kernel wants them."""

    def __init__(
        self,
        tree: Tree,
        cache: Cache,
        keeper: Keeper,
        backpressure: Backpressure,
        prefetch: Prefetch,
        uploader: Uploader,
        account: AccountInfo,
        *,
        read_only: bool,
        fsync_remote: bool = False,
    ) -> None:
        self._tree = tree
        self._cache = cache
        self._keeper = keeper
        self._backpressure = backpressure
        self._prefetch = prefetch
        self._uploader = uploader
        self._account = account
        self._read_only = read_only
        self._fsync_remote = fsync_remote
        self._handles: dict[int, _Handle] = {}
        self._numbers = count(1)
        # Handles by inode and content: two contents of one inode after a change on Drive while the older one is still open.
        self._shown: dict[int, Counter[int]] = {}
        # The content whose pages the kernel may hold, by inode.
        self._paged: LRUCache[int, int] = LRUCache(maxsize=100_000)

    # -- opening and closing ---------------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int) -> int:
        """Returns the handle. O_TRUNC is honoured here, for the kernel leaves it to us (FUSE_ATOMIC_O_TRUNC)."""
        node = self._tree.get(inode)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        self._check_openable(node, writable or bool(flags & os.O_TRUNC))
        content = self._cache.open(inode)
        number = self._register(content, writable, flags)
        if flags & os.O_TRUNC:
            try:
                await self._empty(number)
            except BaseException:
                self.release(number)
                raise
        return number

    async def _empty(self, number: int) -> None:
        """Opened to be written anew. Unsent content that only we have open is kept aside until the new one is on the disk."""
        handle = self._handle(number)
        old = handle.content
        alone = self._shown[old.inode][old.id] == 1
        if not (handle.writable and old.dirty and old.size and (alone or old.damaged)):
            await self._truncate(old, 0)
            return
        handle.content = self._cache.begin_anew(old)
        self._count(handle.content, 1)
        self._leave(old, writable=True)

    def create(self, inode: int, flags: int) -> int:
        """Open a file that was just created. The content exists from now on, so even an empty file reaches Drive."""
        content = self._cache.create(inode)
        return self._register(content, flags & os.O_ACCMODE != os.O_RDONLY, flags)

    def _register(self, content: Content, writable: bool, flags: int) -> int:
        number = next(self._numbers)
        self._handles[number] = _Handle(content, writable, bool(flags & os.O_APPEND))
        self._count(content, int(writable))
        if writable:
            self._uploader.writer_opened(content.inode)
        return number

    def _count(self, content: Content, writers: int) -> None:
        self._shown.setdefault(content.inode, Counter())[content.id] += 1
        content.writers += writers

    def page_cache(self, number: int) -> PageCache:
        """To be asked once after each open. The kernel has one page cache an inode, and two contents must never mix in it."""
        content = self._handle(number).content
        if len(self._shown[content.inode]) > 1:
            return PageCache.BYPASS
        kept = self._paged.get(content.inode) == content.id
        self._paged[content.inode] = content.id
        return PageCache.KEEP if kept else PageCache.DROP

    def release(self, number: int) -> None:
        """The last descriptor of the handle is closed."""
        handle = self._handles.pop(number)
        try:
            self._leave(handle.content, writable=handle.writable)
        finally:
            if handle.writable:
                self._uploader.writer_closed(handle.content.inode)

    def _leave(self, content: Content, *, writable: bool) -> None:
        self._forget_shown(content)
        content.writers -= int(writable)
        self._cache.close(content)

    def _forget_shown(self, content: Content) -> None:
        shown = self._shown[content.inode]
        shown[content.id] -= 1
        if not shown[content.id]:
            del shown[content.id]
        if not shown:
            del self._shown[content.inode]

    def _check_openable(self, node: Node, changes: bool) -> None:
        if node.is_folder:
            raise PathError(errno.EISDIR)
        if node.kind is Kind.DOCUMENT:
            raise PathError(errno.EOPNOTSUPP)  # Google's own documents have no bytes; Colab answers the same
        if node.kind is not Kind.FILE:
            raise PathError(errno.ELOOP)
        if changes:
            self.check_changeable(node)

    def check_changeable(self, node: Node) -> None:
        """Raise where this node's content or metadata may not be changed through the mount."""
        if self._read_only:
            raise PathError(errno.EROFS)
        if node.is_virtual:
            raise PathError(errno.EPERM)
        if not node.can_edit:
            raise PathError(errno.EACCES)

    # -- reading ---------------------------------------------------------------------------------------------------

    async def read(self, number: int, offset: int, size: int) -> bytes:
        handle = self._handle(number)
        content = handle.content
        end = min(offset + size, content.size)
        if offset >= end:
            return b""
        content.read_to = end
        if not content.complete or content.unchecked:
            await self._get_ready(handle, offset, end)
        content.readers += 1
        try:
            return await _pread(content.fd, offset, end - offset)
        finally:
            content.readers -= 1

    async def _get_ready(self, handle: _Handle, start: int, end: int) -> None:
        """Fetched, and what was here before held against its checksums; what fails there is fetched too."""
        while True:
            if not handle.content.complete:
                await self._fetch(handle, start, end)
            if not handle.content.to_check(start, end):
                return
            await self._keeper.check(handle.content, start, end)

    async def _fetch(self, handle: _Handle, start: int, end: int) -> None:
        content, window = handle.content, handle.window
        ahead = window.advance(start, end, content.base_size)
        if content.missing(start, end):
            await self._prefetch.ensure(content, Range(start, end), ahead, window.unit)
        else:
            self._prefetch.begin(content, ahead, window.unit)

    async def read_link(self, node: Node) -> str:
        """The target of a symbolic link whose metadata did not carry it: it is the item's content."""
        content = self._cache.open(node.inode)
        try:
            await self._keeper.check(content, 0, content.size)
            await self._prefetch.ensure(content, Range(0, content.size))
            target = (await _pread(content.fd, 0, content.size)).decode(errors="surrogateescape")
        finally:
            self._cache.close(content)
        self._tree.update(node.inode, target=target)
        return target

    # -- writing ---------------------------------------------------------------------------------------------------

    async def write(self, number: int, offset: int, data: bytes) -> int:
        """Bytes written: all of them, or an error (ENOSPC where the cache's disk is full) and none that count."""
        handle = self._handle(number)
        content = handle.content
        if not data:
            return 0  # write(2): nothing is changed, the length neither
        self._require_room_on_drive(content, content.size if handle.append else offset, len(data))
        await self._backpressure.admit(content, len(data))
        async with content.lock:
            start = content.size if handle.append else offset
            await self._prepare(content, start, start + len(data))
            self._cache.begin_change(content, start, start + len(data))
            try:
                await self._write_or_make_room(content, data, start)
            except BaseException:
                self._cache.trim(content)
                raise
            crash_point("written-not-recorded")
            self._cache.wrote(content, start, start + len(data))
        return len(data)

    def _require_room_on_drive(self, content: Content, start: int, size: int) -> None:
        """A write that makes the file longer than the account can take is refused at once, not when it is sent."""
        if start + size <= content.size:
            return
        noted = self._tree.get(content.inode).size
        if not self._account.room_for(start + size - noted):
            raise DriveFull("The account's storage is full, counting what is still to be sent. Free space on Drive.")

    async def _prepare(self, content: Content, start: int, end: int) -> None:
        """Under the lock: what shares a block with the change is sound, and no power cut makes a mixture look settled."""
        if content.unchecked:
            await self._keeper.check(content, min(start, content.size), end)
        if content.damaged:
            raise DataDamaged("it is damaged on this disk. Write the file anew, or delete it.")
        await self._keeper.before_change(content)

    async def _write_or_make_room(self, content: Content, data: bytes, offset: int) -> None:
        try:
            await self._write_bytes(content, data, offset)
        except LocalDiskFull:
            self._cache.make_room()
            await self._write_bytes(content, data, offset)

    async def _write_bytes(self, content: Content, data: bytes, offset: int) -> None:
        if len(data) <= _INLINE_WRITE:
            self._cache.write_bytes(content, data, offset)
        else:
            await trio.to_thread.run_sync(self._cache.write_bytes, content, data, offset)

    async def truncate(self, inode: int, size: int, number: int | None) -> None:
        """By handle, or by path where ``number`` is None."""
        if number is not None and number in self._handles:
            await self._truncate(self._handles[number].content, size)
            return
        node = self._tree.get(inode)
        self._check_openable(node, changes=True)
        content = self._cache.open(inode)
        try:
            await self._truncate(content, size)
        finally:
            self._cache.close(content)
        self._uploader.schedule(inode)

    async def _truncate(self, content: Content, size: int) -> None:
        async with content.lock:
            await self._prepare(content, min(size, content.size), size)
            self._cache.truncate(content, size)
        self._cache.save_times(content)

    # -- keeping ---------------------------------------------------------------------------------------------------

    def flush(self, number: int) -> None:
        """close(2) returns after this: what was written survives the end of the daemon from now on."""
        self._cache.save_times(self._handle(number).content)

    async def fsync(self, number: int) -> None:
        """What was written survives a power cut from now on; with ``fsync_remote`` Drive has it, or what keeps it is raised."""
        content = self._handle(number).content
        self._cache.save_times(content)
        await self._keeper.sync(content)
        if self._fsync_remote:
            await self._uploader.commit(content.inode)

    async def sync_names(self) -> None:
        """fsync(2) of a directory: which names there are survives a power cut from now on."""
        await self._keeper.durable()

    def save_times(self, node: Node) -> None:
        """Before a time is set by hand: otherwise the time of an earlier write would overrule it at close."""
        content = self._cache.find_open(node)
        if content is not None:
            self._cache.save_times(content)

    def _handle(self, number: int) -> _Handle:
        try:
            return self._handles[number]
        except KeyError:
            raise PathError(errno.EBADF) from None


async def _pread(fd: int, offset: int, size: int) -> bytes:
    """From the page cache at once, from the disk in a thread: RWF_NOWAIT tells which (preadv2(2))."""
    buffer = bytearray(size)
    try:
        got = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
            raise
        got = 0
    if got == size:
        return bytes(buffer)
    return await trio.to_thread.run_sync(os.pread, fd, size, offset)
