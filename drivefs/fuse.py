"""The kernel's door: FUSE requests in, POSIX answers out; no meaning of its own, so the whole file system runs without a kernel.

Every handler is wrapped by ``_guarded``, because an exception that pyfuse3 does not expect would end its loop and with it the
mount. A handler that waits for Drive may fail with ETIMEDOUT, EINTR or what Drive said; jobs/patience.py says when. Names cross
this border as bytes and are text beyond it. Kernel caches are long-lived (``_TIMEOUT``): what changes on Drive is pushed by the
notifier thread, a thread because a notification may wait for a request that the trio loop must answer.
Source: fuse(4), and the API of libfuse that pyfuse3 documents.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
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
from drivefs.base.errors import DriveFSError, RemoteError, TimedOut
from drivefs.base.model import Kind
from drivefs.base.ranges import Range
from drivefs.base.stats import Stats
from drivefs.fuse_mount import Notifier, mount, release, tune
from drivefs.interrupts import process_is_to_end, thread_is_to_end, watch
from drivefs.jobs import patience
from drivefs.jobs.patience import Waits
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

# The part of its time that a read in advance may wait.
_IN_ADVANCE: Final = 0.25
# Bytes. What a program waits for, the kernel asks for by single pages.
_PAGE: Final = 4096
# The requests whose first argument is a file's handle, a directory's handle, and those about a name in a directory.
_OF_FILES: Final = frozenset({"read", "write", "flush", "fsync", "release"})
_OF_DIRECTORIES: Final = frozenset({"readdir", "fsyncdir", "releasedir"})
_NAMING: Final = frozenset({"lookup", "mkdir", "symlink", "mknod", "create", "unlink", "rmdir", "rename"})

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Any]])


def _guarded(handler: Handler) -> Handler:
    """One error-to-errno table for all handlers: ours and the system's by their errno, anything else is EIO and a defect."""
    name = handler.__name__
    done = f"done-{name}"

    @functools.wraps(handler)
    async def guard(self: Door, *arguments: Any) -> Any:
        operation = _Operation(name, self, arguments, self.waits.timeout)
        token = patience.begin(operation)
        try:
            crash_point("request")
            answer = await handler(self, *arguments)
            crash_point(done)
            return answer
        except FUSEError:
            raise
        except RemoteError as error:
            self.note(operation, error)
            number = error.errno
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
        finally:
            patience.end(token)
        self.stats.fuse_errors[errno.errorcode.get(number, str(number))] += 1
        raise FUSEError(number)

    return cast(Handler, guard)


def _text(name: bytes) -> str:
    """Drive keeps names as Unicode, so bytes that are not UTF-8 cannot be kept."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise FUSEError(errno.EILSEQ) from None


class _Opened:
    """An open file or directory. opener: the thread that opened it, for what is asked of a handle comes without a caller.

    Whatever the kernel reads in advance and does not get, it asks for again when a program needs it. So a read in advance is
    given up after a quarter of the time, which makes room for other files in the kernel's queue, and whoever really waits has
    the rest.  bounced: those reads, with their time.
    """

    __slots__ = ("bounced", "inode", "opener", "paged")

    def __init__(self, inode: int, opener: int, *, paged: bool = False) -> None:
        self.inode = inode
        self.opener = opener
        self.paged = paged
        self.bounced: list[tuple[Range, float]] = []

    def patience(self, offset: int, size: int, timeout: float) -> float:
        """Of ``timeout`` seconds the part that a read may take."""
        if self.bounced:
            now = trio.current_time()
            self.bounced = [(read, when) for read, when in self.bounced if now - when < timeout]
            if any(read.start <= offset < read.end for read, _ in self.bounced):
                return timeout * (1 - _IN_ADVANCE)
        return timeout * _IN_ADVANCE if self.paged and size > _PAGE else timeout

    def bounce(self, offset: int, size: int, patience: float, timeout: float) -> bool:
        """A read that had ``patience`` seconds timed out: whether it was one in advance."""
        in_advance = patience == timeout * _IN_ADVANCE
        if in_advance:
            self.bounced.append((Range(offset, offset + size), trio.current_time()))
        return in_advance


class _Directory(_Opened):
    """An open directory: the children as they were at its first read, so that one pass shows each exactly once."""

    __slots__ = ("nodes",)

    def __init__(self, inode: int, opener: int) -> None:
        super().__init__(inode, opener)
        self.nodes: list[Node] | None = None


@dataclass(slots=True, eq=False)
class _Operation:
    """A request that is being answered. What it is about is worked out only where it waits or fails."""

    name: str
    door: Door
    arguments: tuple[Any, ...]
    timeout: float

    @property
    def waits(self) -> Waits:
        return self.door.waits

    @property
    def _opened(self) -> _Opened | None:
        return self.door.opened(self.name, self.arguments[0])

    @property
    def inode(self) -> int:
        """What a handle is of; of a name, the directory."""
        opened = self._opened
        return int(self.arguments[0]) if opened is None else opened.inode

    def subject(self) -> str:
        path = self.door.path(self.inode)
        name = self.arguments[1] if len(self.arguments) > 1 else None
        return f"{path}/{name.decode(errors='replace')}" if isinstance(name, bytes) and self.name in _NAMING else path

    def asked_to_end(self) -> bool:
        caller = self.arguments[-1]
        if isinstance(caller, RequestContext):
            return thread_is_to_end(caller.pid)
        opened = self._opened
        return opened is not None and process_is_to_end(opened.opener)


class Door(pyfuse3.Operations):
    """pyfuse3's Operations over a Filesystem. Absent on purpose: link (ENOSYS, as on Colab), mknod of devices, setxattr."""

    supports_dot_lookup = True
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, fs: Filesystem, stats: Stats, waits: Waits) -> None:
        super().__init__()
        self.stats = stats
        self.waits = waits
        self._fs = fs
        self._files: dict[int, _Opened] = {}
        self._directories: dict[int, _Directory] = {}
        self._next_directory = 1
        # Set once the kernel has introduced itself and has our answer, or will never do so.
        self.introduced = trio.Event()
        stats.waiting = waits.described

    def init(self) -> None:
        """The kernel introduces itself; it has our answer before any other task runs."""
        self.introduced.set()

    # -- for operations that wait ----------------------------------------------------------------------------------

    def opened(self, request: str, handle: int) -> _Opened | None:
        """What the request's first argument is a handle of; None where it is none."""
        if request in _OF_FILES:
            return self._files.get(handle)
        return self._directories.get(handle) if request in _OF_DIRECTORIES else None

    def path(self, inode: int) -> str:
        return self._fs.path(inode)

    def note(self, operation: _Operation, error: RemoteError) -> None:
        """Drive was needed and did not give: for the log, for ``status``, and for whoever asks the file itself."""
        subject = operation.subject()
        log.log(error.level, "%s of %r: %s", operation.name, subject, error)
        self.stats.record_error(str(error), subject)
        self._fs.note_failure(operation.inode, str(error))

    # -- names -----------------------------------------------------------------------------------------------------

    @_guarded
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        node = await self._fs.names.lookup(parent_inode, _text(name))
        self._fs.note_success(parent_inode)
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
        return self._opened(handle, node.inode, ctx), self._entry(node)

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
        self._directories[number] = _Directory(inode, ctx.pid)
        return FileHandleT(number)

    @_guarded
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        directory = self._directories[fh]
        if directory.nodes is None or start_id == 0:
            directory.nodes = await self._fs.names.children(directory.inode)
            self._fs.note_success(directory.inode)
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
        return self._opened(await self._fs.files.open(inode, flags), inode, ctx)

    def _opened(self, handle: int, inode: int, ctx: RequestContext) -> FileInfo:
        pages = self._fs.files.page_cache(handle)
        self._files[handle] = _Opened(inode, ctx.pid, paged=pages is not PageCache.BYPASS)
        return FileInfo(fh=FileHandleT(handle), keep_cache=pages is PageCache.KEEP, direct_io=pages is PageCache.BYPASS)

    @_guarded
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        opened, timeout = self._files[fh], self.waits.timeout
        part = opened.patience(off, size, timeout)
        patience.allow(part)
        try:
            data = await self._fs.files.read(fh, off, size)
        except TimedOut:
            if opened.bounce(off, size, part, timeout):
                raise FUSEError(errno.ETIMEDOUT) from None
            raise
        self._fs.note_success(opened.inode)
        return data

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
        self._files.pop(fh, None)
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


async def serve(door: Door, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Answer the kernel until somebody unmounts; whoever waits and is to end is let go."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, door.waits)
        task_status.started()
        try:
            await pyfuse3.main(max_tasks=_MAX_TASKS)
        finally:
            door.introduced.set()
        nursery.cancel_scope.cancel()
