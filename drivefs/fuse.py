"""The kernel's door: FUSE requests in, POSIX answers out; no meaning of its own, so the whole file system runs without a kernel.

Every handler is wrapped by ``_guarded``, because an exception that pyfuse3 does not expect would end its loop and with it the
mount. Names cross this border as bytes and are text beyond it. Kernel caches are long-lived (``_TIMEOUT``): what changes on
Drive is pushed by the notifier thread, a thread because a notification may wait for a request that the trio loop must answer.
Source: fuse(4), and the API of libfuse that pyfuse3 documents.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import queue
import stat
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from drivefs.base.crashpoints import crash_point
from drivefs.base.errors import DriveFSError, FuseUnavailable
from drivefs.base.model import Invalidation, Kind
from drivefs.base.stats import Stats
from drivefs.store.tree import Node
from drivefs.vfs.attributes import Attributes
from drivefs.vfs.files import PageCache
from drivefs.vfs.filesystem import Changes, Filesystem

__all__ = ["Door", "Notifier", "mount", "release", "serve", "tune"]

log = logging.getLogger(__name__)

# Seconds that the kernel may answer from its own caches; changes on Drive are pushed long before.
_TIMEOUT: Final = 300.0
# How many requests may wait at a time: many, so that reads that wait for the network never keep a stat waiting.
_MAX_TASKS: Final = 2000

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Any]])


def _guarded(handler: Handler) -> Handler:
    """One error-to-errno table for all handlers: ours and the system's by their errno, anything else is EIO and a defect."""
    name = handler.__name__
    done = f"done-{name}"

    @functools.wraps(handler)
    async def guard(self: Door, *arguments: Any) -> Any:
        try:
            crash_point("request")
            answer = await handler(self, *arguments)
            crash_point(done)
            return answer
        except FUSEError:
            raise
        except DriveFSError as error:
            log.log(error.level, "%s: %s", name, error)
            number = error.errno
        except OSError as error:
            log.error("%s: %s", name, error)
            number = error.errno or errno.EIO
        except Exception:
            log.exception("%s failed unexpectedly", name)
            self.stats.internal_errors += 1
            number = errno.EIO
        self.stats.fuse_errors[errno.errorcode.get(number, str(number))] += 1
        raise FUSEError(number)

    return cast(Handler, guard)


def _text(name: bytes) -> str:
    """Drive keeps names as Unicode, so bytes that are not UTF-8 cannot be kept."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise FUSEError(errno.EILSEQ) from None


class _Directory:
    """An open directory: the children as they were at its first read, so that one pass shows each exactly once."""

    __slots__ = ("inode", "nodes")

    def __init__(self, inode: int) -> None:
        self.inode = inode
        self.nodes: list[Node] | None = None


class Door(pyfuse3.Operations):
    """pyfuse3's Operations over a Filesystem. Absent on purpose: link (ENOSYS, as on Colab), mknod of devices, setxattr."""

    supports_dot_lookup = True
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, fs: Filesystem, stats: Stats) -> None:
        super().__init__()
        self.stats = stats
        self._fs = fs
        self._directories: dict[int, _Directory] = {}
        self._next_directory = 1

    # -- names -----------------------------------------------------------------------------------------------------

    @_guarded
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        node = await self._fs.names.lookup(parent_inode, _text(name))
        if node is None:
            return _nothing()
        return self._entry(node)

    @_guarded
    async def mkdir(self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._fs.names.create(parent_inode, _text(name), Kind.FOLDER, mode & ~ctx.umask))

    @_guarded
    async def symlink(self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._fs.names.create(parent_inode, _text(name), Kind.SYMLINK, 0o777, _text(target)))

    @_guarded
    async def mknod(self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext) -> EntryAttributes:
        if not stat.S_ISREG(mode):
            raise FUSEError(errno.EPERM)  # Drive has no devices, pipes or sockets
        node, handle = await self._create(parent_inode, name, mode, os.O_WRONLY, ctx)
        self._fs.files.release(handle)
        return self._entry(node)

    @_guarded
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        node, handle = await self._create(parent_inode, name, mode, flags, ctx)
        return self._opened(handle), self._entry(node)

    async def _create(self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext) -> tuple[Node, int]:
        return await self._fs.create(parent, _text(name), mode & ~ctx.umask, flags)

    @_guarded
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._fs.names.unlink(parent_inode, _text(name))

    @_guarded
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._fs.names.rmdir(parent_inode, _text(name))

    @_guarded
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        await self._fs.names.rename(parent_inode_old, _text(name_old), parent_inode_new, _text(name_new), flags)

    @_guarded
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT((await self._fs.readlink(inode)).encode(errors="surrogateescape"))

    # -- directories -----------------------------------------------------------------------------------------------

    @_guarded
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        number = self._next_directory
        self._next_directory += 1
        self._directories[number] = _Directory(inode)
        return FileHandleT(number)

    @_guarded
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        directory = self._directories[fh]
        if directory.nodes is None or start_id == 0:
            directory.nodes = await self._fs.names.children(directory.inode)
        for position in range(start_id, len(directory.nodes)):
            node = directory.nodes[position]
            if not pyfuse3.readdir_reply(token, FileNameT(node.shown_name.encode()), self._entry(node), position + 1):
                return

    @_guarded
    async def releasedir(self, fh: FileHandleT) -> None:
        del self._directories[fh]

    @_guarded
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self._fs.files.sync_names()

    # -- attributes ------------------------------------------------------------------------------------------------

    @_guarded
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._convert(self._fs.getattr(inode))

    @_guarded
    async def setattr(
        self, inode: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: FileHandleT | None, ctx: RequestContext
    ) -> EntryAttributes:
        changes = Changes(
            size=attr.st_size if fields.update_size else None,
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
        )
        return self._convert(await self._fs.setattr(inode, changes, fh))

    @_guarded
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        return self._fs.getxattr(inode, _text(name))

    @_guarded
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        return []  # as on Colab: they are there for those who ask, and in nobody's copies

    @_guarded
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        space = self._fs.statfs()
        data = StatvfsData()
        data.f_bsize = data.f_frsize = space.block
        data.f_blocks = space.blocks
        data.f_bfree = data.f_bavail = space.free
        data.f_files = data.f_ffree = data.f_favail = 1 << 30
        data.f_namemax = 255
        return data

    # -- open files ------------------------------------------------------------------------------------------------

    @_guarded
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        return self._opened(await self._fs.files.open(inode, flags))

    def _opened(self, handle: int) -> FileInfo:
        pages = self._fs.files.page_cache(handle)
        return FileInfo(fh=FileHandleT(handle), keep_cache=pages is PageCache.KEEP, direct_io=pages is PageCache.BYPASS)

    @_guarded
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return await self._fs.files.read(fh, off, size)

    @_guarded
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return await self._fs.files.write(fh, off, buf)

    @_guarded
    async def flush(self, fh: FileHandleT) -> None:
        self._fs.files.flush(fh)

    @_guarded
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._fs.files.fsync(fh)

    @_guarded
    async def release(self, fh: FileHandleT) -> None:
        self._fs.files.release(fh)

    @_guarded
    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Rows outlive the kernel's interest in them, so nothing is counted."""

    # -- conversion ------------------------------------------------------------------------------------------------

    def _entry(self, node: Node) -> EntryAttributes:
        return self._convert(self._fs.attributes(node))

    def _convert(self, attributes: Attributes) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = InodeT(attributes.inode)
        entry.st_mode = ModeT(attributes.mode)
        entry.st_nlink = attributes.links
        entry.st_uid = self._fs.uid
        entry.st_gid = self._fs.gid
        entry.st_size = attributes.size
        entry.st_blksize = 128 << 10
        entry.st_blocks = -(-attributes.size // 512)
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = attributes.mtime_ns
        entry.st_birthtime_ns = attributes.created_ns
        entry.entry_timeout = entry.attr_timeout = _TIMEOUT
        return entry


def _nothing() -> EntryAttributes:
    """There is no such name, and the kernel may remember that: creating it, here or on Drive, makes it forget."""
    entry = EntryAttributes()
    entry.st_ino = InodeT(0)
    entry.entry_timeout = _TIMEOUT
    return entry


class Notifier:
    """Tells the kernel what it must forget, in order, from a thread of its own."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Invalidation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="kernel notifier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notify(self, stale: Sequence[Invalidation]) -> None:
        """Never blocks."""
        for one in stale:
            self._queue.put(one)

    def stop(self) -> None:
        """After the mount has ended: what is still queued is of no interest any more."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while (one := self._queue.get()) is not None:
            try:
                if one.name is None:
                    pyfuse3.invalidate_inode(InodeT(one.inode), attr_only=not one.pages)
                else:
                    pyfuse3.invalidate_entry(InodeT(one.inode), FileNameT(one.name.encode()))
            except OSError as error:
                # ENOENT: the kernel did not know it. ENODEV, EBADF, ENOTCONN: the mount has just ended.
                if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EBADF, errno.ENOTCONN, errno.ENOTDIR):
                    log.warning("the kernel could not be told of a change: %s", error)


def mount(door: Door, mountpoint: Path, *, read_only: bool) -> None:
    """Attach the file system. ``drive`` as source and subtype make it ``type fuse.drive``, which notebooks look for."""
    options = {"fsname=drive", "subtype=drive", "default_permissions", "nosuid", "nodev"}
    if read_only:
        options.add("ro")
    try:
        pyfuse3.init(door, os.fspath(mountpoint), options)
    except RuntimeError as error:
        raise FuseUnavailable(
            f"FUSE refused to mount at {mountpoint} ({error}). In a container, start it with "
            "--device /dev/fuse --cap-add SYS_ADMIN; elsewhere see that /dev/fuse and fusermount3 are there."
        ) from error


async def serve(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Answer the kernel until somebody unmounts."""
    task_status.started()
    await pyfuse3.main(max_tasks=_MAX_TASKS)


def release() -> None:
    """Release what ``mount`` took; unmounts where nobody has yet."""
    pyfuse3.close(unmount=True)


def tune(mountpoint: Path) -> None:
    """Let the kernel read ahead further and queue more where it allows that; our own read-ahead does not depend on it."""
    device = os.stat(mountpoint).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    wishes = {
        f"/sys/class/bdi/{name}/read_ahead_kb": "1024",
        f"/sys/fs/fuse/connections/{os.minor(device)}/max_background": "64",
    }
    for path, value in wishes.items():
        try:
            Path(path).write_text(value)
        except OSError as error:
            log.debug("%s stays as it is: %s", path, error)
