"""One schedule of random operations, faults, kills and power cuts, run against the whole core and a reference at the same time.

The reference is a dictionary: path -> entry. After each step the names and sizes seen through the file system must be those of
the reference. After a kill the operation under way may have happened or not, and nothing else may have changed; what a power cut
may take is judged by the reference's past. At the end everything is sent, and then Drive, the local view and the view of a fresh
cache must all be the reference.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

import trio

from drivefs.base.errors import LocalDiskFull, RemoteError
from drivefs.base.model import Kind
from drivefs.store.db import Database
from drivefs.store.tree import Node
from tests.model.claims import Claims
from tests.model.disk import Disk
from tests.model.reference import Entry, Model, Past, adopted, copy_of, matches
from tests.model.server import FAR, SHARED, Server
from tests.support.fake_drive import FakeDrive
from tests.support.world import World, clone_cache, open_world, run_inline

__all__ = ["FAR", "SHARED", "Open", "Operation", "Schedule", "Step"]

# Virtual seconds: a task that waits so long waits for ever.
_FOREVER = 4e4


@dataclass(frozen=True)
class Step:
    """An operation and three numbers that it interprets as it needs.

    kill: die at that many changes of disk or rows from now; power: and what was not synced is lost.
    """

    operation: str
    i: int = 0
    j: int = 0
    k: int = 0
    kill: int | None = None
    power: bool = False


Operation = Callable[["Schedule", World, Step], Awaitable[None]]


@dataclass
class Open:
    """A handle that stays open over several steps, and the entry it was opened on, wherever that is now."""

    number: int
    entry: Entry


class _Killer:
    """Calls ``act`` just before the n-th change of a file or row from now on."""

    def __init__(self) -> None:
        self.countdown: int | None = None
        self.power = False
        self.act: Callable[[], None] = lambda: None

    def tick(self) -> None:
        if self.countdown is None:
            return
        self.countdown -= 1
        if self.countdown <= 0:
            self.countdown = None
            self.act()

    @contextmanager
    def watching_rows(self) -> Iterator[None]:
        execute = Database.execute

        def counted(db: Database, sql: str, parameters: Any = ()) -> Any:
            if not sql.lstrip().startswith(("SELECT", "WITH")):
                self.tick()
            return execute(db, sql, parameters)

        with mock.patch.object(Database, "execute", counted):
            yield


class Schedule:
    """Runs steps over ``server``, which brings the faults. rng: of all chance but theirs.

    small_cache: so few bytes of clean data are kept that files are evicted all the time.
    """

    def __init__(
        self, directory: Path, steps: list[Step], operations: dict[str, Operation], server: Server, rng: random.Random,
        *, small_cache: bool = False,
    ) -> None:  # fmt: skip
        self.directory = directory
        self.operations = operations
        self.left = list(steps)
        self.rng = rng
        self.server = server
        self.model: Model = server.prepared
        self.past = Past(self.model)
        self.claims = Claims(server)
        self.handles: list[Open] = []
        self._small_cache = small_cache
        self._power_cuts = any(step.power for step in steps)
        self._history: list[Model] = []
        self._killer = _Killer()
        self._disk = Disk(rng)
        self._disk.before_change = self._killer.tick
        self._corpse: Path | None = None
        self._died_at = 0
        self._past_at_death: Past | None = None
        self._power_lost = False
        self._boots = 0
        self._lives = 0
        self._numbers = 0

    def acknowledged(self) -> None:
        """The operation under way has come one answered call further; ``model`` says what must be seen from now on."""
        self._history.append(copy_of(self.model))
        self.past.add(self.model)

    def fresh_bytes(self, size: int) -> bytes:
        """Bytes that no other file has."""
        return (b"%05d," % self.fresh_name() * (size // 6 + 1))[:size]

    def fresh_name(self) -> int:
        self._numbers += 1
        return self._numbers

    # -- running ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(trio.to_thread, "run_sync", run_inline))
            stack.enter_context(mock.patch.dict(os.environ, {"DRIVEFS_BOOT_ID": "boot0"}))
            stack.enter_context(self.server.served())
            stack.enter_context(self._disk.watching())
            stack.enter_context(self._killer.watching_rows())
            directory: Path | None = self.directory / "life0"
            self._disk.move_to(self.directory / "life0")
            with trio.fail_after(_FOREVER):
                while directory is not None:
                    directory = await self._live(directory)
                await self._compare_fresh()

    async def _live(self, directory: Path) -> Path | None:
        """Until the end of the steps, or until a kill: then the directory as the kill left it."""
        with trio.CancelScope() as self._scope:  # for a kill while it starts
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
        self.server.revive()
        self.claims.revived()
        self.handles.clear()
        return corpse

    @asynccontextmanager
    async def _world(self, directory: Path, *, kills: bool = True) -> AsyncIterator[World]:
        self._lives += 1
        self.server.calm = True
        self._killer.act = partial(self._die, directory, starting=True)
        if kills and self._lives > 1 and self.rng.random() < 0.2:
            self._killer.countdown = self.rng.randint(1, 30)
            self._killer.power = self._power_cuts and self.rng.random() < 0.3
        limit = 500 if self._small_cache else 1 << 30
        async with open_world(
            directory, cast(FakeDrive, self.server), delay=1.0, poll=True, cache_limit=limit, snapshot_every=30.0
        ) as world:
            self._killer.countdown = None
            await trio.sleep(0)  # where it was killed while it started, this is the end
            self._killer.act = partial(self._die, directory, starting=False)
            yield world
        self.server.calm = True

    def _die(self, directory: Path, *, starting: bool) -> None:
        self._corpse = self.directory / f"life{self._lives}"
        clone_cache(directory, self._corpse)
        if self._killer.power:
            self._power_lost = True
            self._boots += 1
            os.environ["DRIVEFS_BOOT_ID"] = f"boot{self._boots}"
            self._disk.cut_power(self._corpse)
        else:
            self._disk.move_to(self._corpse)
        self.server.kill_client()
        if not starting:
            self._died_at = len(self._history)
            # What the operation under way still tells us is no promise any more.
            self._past_at_death, self.past = self.past, self.past.fork()
        self.claims.uncertain(self._killer.power)
        self._scope.cancel()

    async def _perform(self, world: World, step: Step) -> None:
        self._history = [copy_of(self.model)]
        self.server.calm = False
        self._killer.countdown, self._killer.power = step.kill, step.power
        with trio.CancelScope() as self._scope:
            try:
                await self.operations[step.operation](self, world, step)
            except (RemoteError, LocalDiskFull):
                # A read or a first listing failed, or the cache is full of what cannot be sent: nothing was acknowledged.
                await trio.sleep(0)
        self._killer.countdown = None

    # -- comparing -------------------------------------------------------------------------------------------------

    async def _choose(self, world: World) -> None:
        """After a death: what is there must be what may be there, and becomes the reference."""
        if self._past_at_death is not None:
            self.past, self._past_at_death = self._past_at_death, None
            if self._power_lost:
                await self._judge_power_cut(world)
            else:
                await self._judge_kill(world)
        await self._check(world, contents=True)

    async def _judge_kill(self, world: World) -> None:
        """The call under way has happened or not; the reference becomes whichever of the two is there."""
        candidates = self._history[self._died_at - 1 : self._died_at + 1]
        seen = await self._see(world)
        matching = [model for model in candidates if matches(seen, model, candidates)]
        assert matching, f"after a kill there is\n{seen}\nwhich is none of\n" + "\n".join(map(str, candidates))
        self.model = adopted(seen, candidates)
        self.past.add(self.model)

    async def _judge_power_cut(self, world: World) -> None:
        """At once nothing may be wrong, and nothing lack once Drive and we have told each other everything."""
        self._power_lost = False
        in_flight = self._history[self._died_at] if len(self._history) > self._died_at else None
        self.past.judge(await self._see(world), in_flight, complete=False)
        await self._exchange(world)
        self.model = self.past.judge(await self._see(world), in_flight, complete=True)
        for entry in self.model.values():
            entry.mtime_ms = None
        self.past = Past(self.model)

    async def _exchange(self, world: World) -> None:
        """Drive and we tell each other everything."""
        self.server.calm = True
        for _round in range(2):
            await world.drain()
            await self.server.settle()
            await world.changes.poll()
        await world.drain()
        assert world.tree.count_pending() == 0

    async def _see(self, world: World) -> Model:
        self.server.calm = True
        seen: Model = {}
        for path, node in (await self._walk(world)).items():
            try:
                data = await _read(world, path) if node.kind is Kind.FILE else b""
            except FileNotFoundError:
                continue  # its creation was under way, and is taken back a moment after the start
            target = await world.fs.readlink(node.inode) if node.kind is Kind.SYMLINK else None
            seen[path] = Entry(node.kind, data, node.local_mode, node.local_mtime_ms, target)
        return seen

    async def _walk(self, world: World) -> dict[str, Node]:
        return {path: node for path, node in (await _walk(world)).items() if path.split("/")[0] not in (FAR, SHARED)}

    async def _check(self, world: World, *, contents: bool) -> None:
        """The local view is the reference."""
        self.server.calm = True
        walk = await self._walk(world)
        assert set(walk) == set(self.model), f"names: {sorted(walk)} where {sorted(self.model)} were expected"
        for path, node in walk.items():
            await self._check_one(world, path, node)
            if contents and node.kind is Kind.FILE:
                assert await _read(world, path) == self.model[path].data, path
        world.cache.check_invariants()
        assert world.stats.internal_errors == 0, world.stats.last_errors

    async def _check_one(self, world: World, path: str, node: Node) -> None:
        expected = self.model[path]
        assert node.kind is expected.kind, path
        assert node.local_mode == expected.mode, f"{path}: mode {node.local_mode} where {expected.mode} was expected"
        if node.kind is Kind.FILE:
            size = world.fs.attributes(node).size
            assert size == len(expected.data), f"{path}: {size} bytes where {len(expected.data)} were expected"
            assert expected.mtime_ms in (None, node.local_mtime_ms), path
        elif node.kind is Kind.SYMLINK:
            assert await world.fs.readlink(node.inode) == expected.target, path

    # -- the end ---------------------------------------------------------------------------------------------------

    async def _finish(self, world: World) -> None:
        while self.handles:
            world.close(self.handles.pop().number)
        await self._exchange(world)
        self.server.compare(self.model)
        await self._check(world, contents=True)
        await self._compare_others(world)
        self.claims.check()

    async def _compare_others(self, world: World) -> None:
        """What somebody else did is seen, and times are the same on both sides."""
        walk = {path: node for path, node in (await _walk(world)).items() if not node.is_folder}
        files = {file.id: file for file in self.server.files()}
        assert {node.remote_id for node in walk.values()} == set(files)
        for path, node in walk.items():
            file = files[node.remote_id or ""]
            # Where two have one name on Drive, one of them is shown under another.
            assert path == file.path or path.split("/")[0] == SHARED, path
            assert file.modified_ms == node.local_mtime_ms, path
            if node.kind is Kind.FILE:
                assert await _read(world, path) == file.content, path

    async def _compare_fresh(self) -> None:
        """A cache that knows nothing shows the same."""
        async with self._world(self.directory / "fresh", kills=False) as world:
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
