"""One schedule of random operations, faults and kills, run against the whole core and a reference model at the same time.

The reference is a dictionary: path -> entry. After each step the names and sizes seen through the file system must be those of
the reference; after a kill the operation under way may have happened or not, and nothing else may have changed. At the end
everything is sent, and then Drive, the local view and the view of a fresh cache must all be the reference.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import trio

from drivefs.base.errors import DriveFull, RateLimited, RemoteError, ServerFault, SessionGone
from drivefs.base.model import FOLDER_MIME, Kind
from drivefs.jobs import prefetch, transfer
from drivefs.store.db import Database
from drivefs.store.merging import MODE_PROPERTY
from drivefs.store.tree import Node
from tests.support.fake_drive import ROOT_ID, FakeDrive, Lost, Refused
from tests.support.world import World, clone_cache, open_world, run_inline

__all__ = ["FAR", "Entry", "Model", "Open", "Schedule", "Step"]

# A folder in which somebody else works, and where we only look.
FAR = "far"
# Virtual seconds: a task that waits so long waits for ever.
_FOREVER = 1e7


@dataclass(frozen=True)
class Step:
    """An operation and three numbers that it interprets as it needs. kill: die at that many changes of disk or rows from now."""

    operation: str
    i: int = 0
    j: int = 0
    k: int = 0
    kill: int | None = None


@dataclass
class Entry:
    """What the reference knows of one item. mtime_ms is None where no program set it."""

    folder: bool
    data: bytes = b""
    mode: int | None = None
    mtime_ms: int | None = None


Model = dict[str, Entry]
Operation = Callable[["Schedule", World, Step], Awaitable[None]]


def _copy(model: Model) -> Model:
    return {path: replace(entry) for path, entry in model.items()}


@dataclass
class Open:
    """A handle that stays open over several steps, and the entry it was opened on, wherever that is now."""

    number: int
    entry: Entry


class _Killer:
    """Calls ``act`` just before the n-th change of a file or row from now on."""

    def __init__(self) -> None:
        self.countdown: int | None = None
        self.act: Callable[[], None] = lambda: None

    def _tick(self) -> None:
        if self.countdown is None:
            return
        self.countdown -= 1
        if self.countdown <= 0:
            self.countdown = None
            self.act()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """All changes of the disk that the core makes pass here."""
        execute = Database.execute

        def counted(db: Database, sql: str, parameters: Any = ()) -> Any:
            if not sql.lstrip().startswith(("SELECT", "WITH")):
                self._tick()
            return execute(db, sql, parameters)

        system: dict[str, Any] = {n: self._before(getattr(os, n)) for n in ("rename", "ftruncate", "pwrite", "unlink")}
        with mock.patch.multiple(os, **system), mock.patch.object(Database, "execute", counted):
            yield

    def _before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            self._tick()
            return function(*arguments, **options)

        return changed


class Schedule:
    """Runs steps. seed: of the faults; faults: how probable one is in a call."""

    def __init__(self, directory: Path, steps: list[Step], operations: dict[str, Operation], seed: int, faults: float) -> None:
        self.directory = directory
        self.operations = operations
        self.left = list(steps)
        self.faults = faults
        self.rng = random.Random(seed)
        self.model: Model = {}
        self.handles: list[Open] = []
        self.fake = FakeDrive()
        self.far_versions: set[bytes] = set()
        self._history: list[Model] = []
        self._killer = _Killer()
        self._corpse: Path | None = None
        self._died_at = 0
        self._calm = False
        self._lives = 0
        self._prepare()

    def acknowledged(self) -> None:
        """The operation under way has come one answered call further; ``model`` says what must be seen from now on."""
        self._history.append(_copy(self.model))

    # -- the server's side -----------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        fake = self.fake
        folder = fake.put_folder("d")
        inner = fake.put_folder("f", folder.id)
        self.model |= {"d": Entry(True), "d/f": Entry(True)}
        for name, parent, path in (("a", ROOT_ID, "a"), ("a", folder.id, "d/a"), ("a", inner.id, "d/f/a")):
            data = self.rng.randbytes(40)
            fake.put_file(name, data, parent)
            self.model[path] = Entry(False, data)
        self.far = fake.put_folder(FAR).id
        for name in ("x", "y"):
            self.put_far(name)
        fake.fault = self._fault
        fake.delay = lambda _method: 0.0 if self._calm else self.rng.choice((0.0, 0.01, 0.3))
        fake.short_chunk = lambda size: size if self._calm else self.rng.randint(min(1, size), size)
        fake.arrives_after_death = lambda: self.rng.random() < 0.3

    def put_far(self, name: str) -> None:
        data = self.rng.randbytes(30)
        self.far_versions.add(data)
        self.fake.put_file(name, data, self.far)

    def _fault(self, method: str) -> Lost | None:
        if self._calm or self.rng.random() >= self.faults:
            return None
        refusals: list[RemoteError] = [ServerFault("trouble", status=503), RateLimited("slower", status=429, retry_after=1.0)]
        if method in ("create", "create_with_content", "update_with_content", "open_upload"):
            refusals.append(DriveFull("full", status=403))
        if method in ("send_chunk", "probe_upload"):
            refusals.append(SessionGone("gone", status=404))
        return self.rng.choice([Lost(applied=True), Lost(applied=False), *map(Refused, refusals)])

    # -- running ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        small = mock.patch.multiple(prefetch, _WHOLE=8, _SMALLEST_UNIT=8, _LARGEST_UNIT=16)
        chunks = mock.patch.multiple(transfer, _MULTIPART_LIMIT=16, _CHUNK=8)
        inline = mock.patch.object(trio.to_thread, "run_sync", run_inline)
        directory: Path | None = self.directory / "life0"
        with small, chunks, inline, self._killer.watching():
            with trio.fail_after(_FOREVER):
                while directory is not None:
                    directory = await self._live(directory)
                await self._compare_fresh()

    async def _live(self, directory: Path) -> Path | None:
        """Until the end of the steps, or until a kill: then the directory as the kill left it."""
        async with self._world(directory) as world:
            await self._choose(world)
            while self.left:
                await self._perform(world, self.left.pop(0))
                if self._corpse is not None:
                    break
                await self._check(world, contents=False)
            else:
                await self._finish(world)
        corpse, self._corpse = self._corpse, None
        self.fake.dead = False
        self.handles.clear()
        return corpse

    @asynccontextmanager
    async def _world(self, directory: Path) -> AsyncIterator[World]:
        self._lives += 1
        self._calm = True
        async with open_world(directory, self.fake, delay=1.0, poll=True) as world:
            self._scope = trio.CancelScope()
            self._killer.act = lambda: self._die(world)
            yield world
        self._calm = True

    def _die(self, world: World) -> None:
        self._corpse = self.directory / f"life{self._lives}"
        clone_cache(world.directory, self._corpse)
        self.fake.dead = True
        self._died_at = len(self._history)
        self._scope.cancel()

    async def _perform(self, world: World, step: Step) -> None:
        self._history = [_copy(self.model)]
        self._calm = False
        self._killer.countdown = step.kill
        self._scope = trio.CancelScope()
        with self._scope:
            try:
                await self.operations[step.operation](self, world, step)
            except RemoteError:
                await trio.sleep(0)  # a read or a first listing failed: nothing was acknowledged, the reference is as it was
        self._killer.countdown = None

    # -- comparing -------------------------------------------------------------------------------------------------

    async def _choose(self, world: World) -> None:
        """After a kill the call under way has happened or not; the reference becomes whichever of the two is there."""
        if self._history:
            candidates = self._history[self._died_at - 1 : self._died_at + 1]
            seen = await self._see(world)
            matching = [model for model in candidates if _matches(seen, model, candidates)]
            assert matching, f"after a kill there is\n{seen}\nwhich is none of\n" + "\n".join(map(str, candidates))
            self.model = _adopted(seen, candidates)
        await self._check(world, contents=True)

    async def _see(self, world: World) -> Model:
        self._calm = True
        seen: Model = {}
        for path, node in (await self._walk(world)).items():
            data = await _read(world, path) if node.kind is Kind.FILE else b""
            seen[path] = Entry(node.is_folder, data, node.local_mode, node.local_mtime_ms)
        return seen

    async def _walk(self, world: World) -> dict[str, Node]:
        return {path: node for path, node in (await _walk(world)).items() if path.split("/")[0] != FAR}

    async def _check(self, world: World, *, contents: bool) -> None:
        """The local view is the reference."""
        self._calm = True
        walk = await self._walk(world)
        assert set(walk) == set(self.model), f"names: {sorted(walk)} where {sorted(self.model)} were expected"
        for path, node in walk.items():
            self._check_one(world, path, node)
            if contents and not node.is_folder:
                assert await _read(world, path) == self.model[path].data, path
        world.cache.check_invariants()
        assert world.stats.internal_errors == 0, world.stats.last_errors

    def _check_one(self, world: World, path: str, node: Node) -> None:
        expected = self.model[path]
        assert node.is_folder == expected.folder, path
        assert node.local_mode == expected.mode, f"{path}: mode {node.local_mode} where {expected.mode} was expected"
        if not node.is_folder:
            size = world.fs.attributes(node).size
            assert size == len(expected.data), f"{path}: {size} bytes where {len(expected.data)} were expected"
            assert expected.mtime_ms in (None, node.local_mtime_ms), path

    # -- the end ---------------------------------------------------------------------------------------------------

    async def _finish(self, world: World) -> None:
        while self.handles:
            world.close(self.handles.pop().number)
        self._calm = True
        await world.drain()
        await world.changes.poll()
        await world.drain()
        assert world.tree.count_pending() == 0
        self._compare_drive()
        await self._check(world, contents=True)
        await self._compare_others(world)

    def _compare_drive(self) -> None:
        tree = {path: items for path, items in self.fake.tree().items() if path.split("/")[0] != FAR}
        assert sorted(tree) == sorted(self.model), f"Drive has {sorted(tree)} where {sorted(self.model)} were expected"
        for path, items in tree.items():
            assert len(items) == 1, f"{path} exists {len(items)} times on Drive"
            item, expected = items[0], self.model[path]
            assert (item.mime_type == FOLDER_MIME) == expected.folder, path
            assert item.app_properties.get(MODE_PROPERTY) == (None if expected.mode is None else f"{expected.mode:o}"), path
            if not expected.folder:
                assert self.fake.content(item.id) == expected.data, path

    async def _compare_others(self, world: World) -> None:
        """What somebody else did is seen, and times are the same on both sides."""
        walk = await _walk(world)
        files = self.fake.files()
        assert {path for path, node in walk.items() if node.kind is Kind.FILE} == set(files)
        for path, data in files.items():
            assert self.fake.tree()[path][0].modified_ms == walk[path].local_mtime_ms, path
            assert await _read(world, path) == data, path

    async def _compare_fresh(self) -> None:
        """A cache that knows nothing shows the same."""
        async with self._world(self.directory / "fresh") as world:
            await self._check(world, contents=True)
            assert world.tree.count_pending() == 0


async def _read(world: World, path: str) -> bytes:
    """Joining a request that had begun, and was doomed, before the faults were switched off."""
    for _attempt in range(5):
        try:
            return await world.read(path)
        except RemoteError:
            await trio.sleep(1)
    return await world.read(path)


async def _walk(world: World) -> dict[str, Node]:
    for _attempt in range(5):
        try:
            return await world.walk()
        except RemoteError:
            await trio.sleep(1)
    return await world.walk()


def _matches(seen: Model, model: Model, candidates: list[Model]) -> bool:
    if set(seen) != set(model):
        return False
    versions = {path: [m[path] for m in candidates if path in m] for path in seen}
    return all(_is_one_of(entry, versions[path]) for path, entry in seen.items())


def _is_one_of(entry: Entry, versions: list[Entry]) -> bool:
    """Content is one version; only a write under way may, as on any file system, have reached the disk in part."""
    if entry.folder != versions[0].folder or entry.mode not in [v.mode for v in versions]:
        return False
    lengths = [len(v.data) for v in versions]
    return len(entry.data) in lengths and all(
        byte in [v.data[at] for v in versions if at < len(v.data)] for at, byte in enumerate(entry.data)
    )


def _adopted(seen: Model, candidates: list[Model]) -> Model:
    """The reference after a kill: times that programs had set stay expected where the kill cannot have changed them."""
    adopted = _copy(seen)
    for path, entry in adopted.items():
        times = {model[path].mtime_ms for model in candidates if path in model}
        entry.mtime_ms = times.pop() if len(times) == 1 else None
    return adopted
