"""Everything between the kernel's door and Drive, put together as the daemon does it, on a fake Drive and virtual time."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from drivefs.base.model import Invalidation, Kind
from drivefs.base.stats import Stats
from drivefs.jobs.account import AccountInfo
from drivefs.jobs.backpressure import Backpressure
from drivefs.jobs.changes import Changes
from drivefs.jobs.keeping import Keeper
from drivefs.jobs.listing import Listing
from drivefs.jobs.prefetch import Prefetch
from drivefs.jobs.relisting import Relisting
from drivefs.jobs.upload import Uploader
from drivefs.store.cache import Cache
from drivefs.store.db import Database
from drivefs.store.merging import Merger
from drivefs.store.tree import MY_DRIVE_INODE, Node, Tree
from drivefs.vfs.files import Files
from drivefs.vfs.filesystem import Changes as Attrs
from drivefs.vfs.filesystem import Filesystem
from drivefs.vfs.namespace import Namespace
from tests.support.fake_drive import FakeDrive

__all__ = ["World", "clone_cache", "open_world", "run_inline"]

T = TypeVar("T")


async def run_inline(function: Callable[..., T], *arguments: object, **_options: object) -> T:
    """Stands in for ``trio.to_thread.run_sync``: a clock that jumps when all tasks wait does not wait for threads."""
    await trio.lowlevel.checkpoint()
    result = function(*arguments)
    await trio.lowlevel.checkpoint()
    return result


def clone_cache(source: Path, target: Path) -> None:
    """The cache directory as it lies on disk now: what a SIGKILL at this instant would leave."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("lock", "reserve"))


class World:
    """The parts, and the calls that programs make, by path below My Drive (``a/b``)."""

    def __init__(
        self,
        directory: Path,
        fake: FakeDrive,
        *,
        delay: float = 2.0,
        workers: int = 4,
        cache_limit: int = 1 << 30,
        snapshot_every: float = 0.0,
    ) -> None:
        self.directory = directory
        self.fake = fake
        self.stats = Stats()
        self.stale: list[Invalidation] = []
        self.db = Database(directory)
        self.tree = Tree(self.db)
        self.cache = Cache(self.db, self.tree, cache_limit)
        self.lost = self.cache.recover()
        self.merger = Merger(self.tree)
        drive = fake.drive
        self.account = AccountInfo(drive, self.tree, self.stats)
        self.listing = Listing(drive, self.tree, self.merger, self._notify)
        self.prefetch = Prefetch(drive, self.tree, self.cache, self.stats, 4, self._notify)
        self.keeper = Keeper(self.db, self.cache, self.stats)
        self.uploader = Uploader(
            drive,
            self.tree,
            self.cache,
            self.merger,
            self.prefetch,
            self.keeper,
            self._notify,
            self.stats,
            delay=delay,
            workers=workers,
            snapshot_every=snapshot_every,
            on_full=self.account.refresh,
        )
        self.relisting = Relisting(self.listing, self.tree, self.uploader.rescan, self.stats)
        self.changes = Changes(
            drive, self.tree, self.merger, self._notify, self.uploader.rescan, self.relisting.begin, self.stats, 10.0
        )
        self.names = Namespace(self.tree, self.cache, self.keeper, self.listing, self.uploader, read_only=False)
        self.backpressure = Backpressure(self.cache, self.uploader.make_room, 20.0)
        self.files = Files(
            self.tree, self.cache, self.keeper, self.backpressure, self.prefetch, self.uploader, self.account, read_only=False
        )
        self.fs = Filesystem(self.tree, self.cache, self.names, self.files, self.account, uid=0, gid=0)

    def _notify(self, stale: Sequence[Invalidation]) -> None:
        self.stale += stale

    # -- paths -----------------------------------------------------------------------------------------------------

    async def find(self, path: str) -> Node | None:
        node: Node | None = self.tree.get(MY_DRIVE_INODE)
        for name in filter(None, path.split("/")):
            if node is None:
                return None
            node = await self.names.lookup(node.inode, name)
        return node

    async def node(self, path: str) -> Node:
        node = await self.find(path)
        if node is None:
            raise FileNotFoundError(path)
        return node

    async def place(self, path: str) -> tuple[int, str]:
        folder, _, name = path.rpartition("/")
        return (await self.node(folder)).inode, name

    # -- what programs do ------------------------------------------------------------------------------------------

    async def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        return await self.files.open((await self.node(path)).inode, flags)

    async def create(self, path: str, mode: int = 0o600) -> int:
        """A new file, open for reading and writing."""
        parent, name = await self.place(path)
        _node, handle = await self.fs.create(parent, name, mode, os.O_RDWR)
        return handle

    def close(self, handle: int) -> None:
        self.files.flush(handle)
        self.files.release(handle)

    async def write(self, path: str, data: bytes) -> None:
        """As ``open(path, "wb")`` does it."""
        if await self.find(path) is None:
            handle = await self.create(path)
        else:
            handle = await self.open(path, os.O_WRONLY | os.O_TRUNC)
        await self.files.write(handle, 0, data)
        self.close(handle)

    async def patch(self, path: str, offset: int, data: bytes) -> None:
        handle = await self.open(path, os.O_WRONLY)
        await self.files.write(handle, offset, data)
        self.close(handle)

    async def read(self, path: str) -> bytes:
        handle = await self.open(path)
        try:
            return await self.read_all(handle)
        finally:
            self.close(handle)

    async def read_all(self, handle: int) -> bytes:
        data = bytearray()
        while block := await self.files.read(handle, len(data), 1 << 20):
            data += block
        return bytes(data)

    async def cut(self, handle: int, size: int) -> None:
        """ftruncate."""
        await self.files.truncate(0, size, handle)

    async def mkdir(self, path: str, mode: int = 0o700) -> Node:
        parent, name = await self.place(path)
        return await self.names.create(parent, name, Kind.FOLDER, mode)

    async def symlink(self, target: str, path: str) -> Node:
        parent, name = await self.place(path)
        return await self.names.create(parent, name, Kind.SYMLINK, 0o777, target)

    async def unlink(self, path: str) -> None:
        await self.names.unlink(*await self.place(path))

    async def rmdir(self, path: str) -> None:
        await self.names.rmdir(*await self.place(path))

    async def rename(self, old: str, new: str) -> None:
        await self.names.rename(*await self.place(old), *await self.place(new))

    async def chmod(self, path: str, mode: int) -> None:
        await self.fs.setattr((await self.node(path)).inode, Attrs(mode=mode), None)

    async def utime(self, path: str, mtime_ns: int) -> None:
        await self.fs.setattr((await self.node(path)).inode, Attrs(mtime_ns=mtime_ns), None)

    async def truncate(self, path: str, size: int) -> None:
        await self.fs.setattr((await self.node(path)).inode, Attrs(size=size), None)

    async def walk(self, folder: str = "") -> dict[str, Node]:
        """Every node below ``folder`` by its path."""
        found: dict[str, Node] = {}
        for node in await self.names.children((await self.node(folder)).inode):
            path = f"{folder}/{node.shown_name}".lstrip("/")
            found[path] = node
            if node.is_folder:
                found |= await self.walk(path)
        return found

    async def contents(self) -> dict[str, bytes]:
        """Content of every file by path."""
        return {path: await self.read(path) for path, node in (await self.walk()).items() if node.kind is Kind.FILE}

    async def settle(self, seconds: float = 60.0) -> None:
        """Let time pass, so that what is due happens."""
        await trio.sleep(seconds)

    async def drain(self, timeout: float = 3600.0) -> None:
        unsent = await self.uploader.drain(timeout, until_empty=True)
        assert not unsent, unsent


@asynccontextmanager
async def open_world(
    directory: Path,
    fake: FakeDrive,
    *,
    delay: float = 2.0,
    workers: int = 4,
    poll: bool = False,
    cache_limit: int = 1 << 30,
    snapshot_every: float = 0.0,
) -> AsyncIterator[World]:
    """A running world, signed in. poll: read the changes feed every ten seconds; otherwise the test calls ``changes.poll``."""
    world = World(directory, fake, delay=delay, workers=workers, cache_limit=cache_limit, snapshot_every=snapshot_every)
    try:
        if world.tree.account is None:
            await world.account.sign_in(10)
            await world.changes.begin()
        async with trio.open_nursery() as nursery:
            await nursery.start(world.listing.serve)
            await nursery.start(world.prefetch.serve)
            nursery.start_soon(world.keeper.serve)
            nursery.start_soon(world.uploader.serve)
            nursery.start_soon(world.relisting.serve)
            if poll:
                nursery.start_soon(world.changes.serve)
            yield world
            world.cache.check_invariants()
            nursery.cancel_scope.cancel()
    finally:
        world.db.__exit__(None, None, None)
