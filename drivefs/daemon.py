"""The composition root: builds all parts of one daemon, runs them in one nursery, and takes them down in the right order.

Order of the start: lock the cache, recover it, start the jobs, mount, open the control socket, say ready. Signing in goes on
beside that where the Drive is known from an earlier session, and comes before mounting where it is not. Order of the end:
drain, unmount, drain what came in between, say what is left (``manifest``), close. The mount ends in one of three ways, a
control command, a signal, or somebody's umount, and all three send what is pending before the process ends.

A daemon without a mount (``drivefs serve``) opens its control socket first of all, before it has the cache, so that a mount can
always reach it and take its place: it then ends at once, and what it has not sent is sent by the mount.

Invariant: no thread of this process makes a system call on its own mount (see ``look``).
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, Protocol

import trio

from drivefs import control
from drivefs.base.config import GOOGLE_API_ROOT, Config
from drivefs.base.errors import CacheUnusable, ExitCode, UsageError
from drivefs.base.model import Invalidation
from drivefs.base.stats import Stats
from drivefs.jobs.account import AccountInfo
from drivefs.jobs.backpressure import Backpressure
from drivefs.jobs.changes import Changes
from drivefs.jobs.keeping import Keeper
from drivefs.jobs.listing import Listing
from drivefs.jobs.prefetch import Prefetch
from drivefs.jobs.relisting import Relisting
from drivefs.jobs.upload import Uploader
from drivefs.lastword import LastWord
from drivefs.notify import sd_notify
from drivefs.remote.auth import Credential, GoogleCredential, StaticToken
from drivefs.remote.drive import Drive
from drivefs.remote.http import Transport
from drivefs.remote.quota import DEFAULT_BUDGET, Lane, Pacer
from drivefs.serving import Serving
from drivefs.signin import Gate, SignIn
from drivefs.storage import STORAGE_VERBS, Storage
from drivefs.store.cache import Cache
from drivefs.store.db import Database
from drivefs.store.merging import Merger
from drivefs.store.outbox import Unsent
from drivefs.store.tree import Tree
from drivefs.verbs import Verbs, stated
from drivefs.vfs.files import Files
from drivefs.vfs.filesystem import Filesystem
from drivefs.vfs.namespace import Namespace

__all__ = ["run"]

log = logging.getLogger(__name__)

_VERDICT: Final = 0.3  # seconds that a mount waits for Drive's word on the sign-in before it says ready
_KEEP_DELETIONS_MS: Final = 24 * 3600 * 1000
_OTHER_BUDGET: Final = 100 * DEFAULT_BUDGET  # beyond what one machine spends, yet low enough for its slowing down to be felt
_ANSWER_TIME: Final = 5.0  # seconds for the last answer to reach its client
_LAST_MOMENT: Final = 5.0  # seconds of sending that even a late drain gets
_SPARE_CONNECTIONS: Final = 16  # for small calls, so that they never queue behind content


_OWN_VERBS: Final = ("status", "flush", "unmount")

# Told, once the mount answers, how many changes of earlier sessions are still to be sent.
OnReady = Callable[[int], None]


class Door(Protocol):
    """What programs open files through: ``Mounting``, or ``Serving`` where there is no such thing."""

    @property
    def notify(self) -> Callable[[Sequence[Invalidation]], None]:
        """Told what the kernel must forget."""
        ...

    def open(self, fs: Filesystem, stats: Stats) -> AbstractAsyncContextManager[trio.Event]:
        """While it lasts the door is open; the event says that it was closed, by ``close`` or from outside."""
        ...

    async def close(self, *, lazily: bool) -> None:
        """lazily: also where programs still use it. MountpointUnusable where they do."""
        ...


def _door(config: Config) -> Door:
    if config.serves == "socket":
        return Serving()
    from drivefs.mounting import Mounting  # only here: it needs FUSE's library

    return Mounting(config)


def run(config: Config, on_ready: OnReady, supervisor: int | None = None) -> ExitCode:
    """Serve one mount, or one socket, until it is unmounted; blocks. supervisor: the process that starts us again after a crash.

    Returns OK, or NOT_ON_DRIVE where something could not be sent before the end (it stays in the cache).
    Raises DriveFSError where the mount cannot come about.
    """
    _raise_file_limit()
    return trio.run(_Daemon(config, supervisor).serve, on_ready)


def _raise_file_limit() -> None:
    """Each open file takes a descriptor of ours besides the program's own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Daemon:
    def __init__(self, config: Config, supervisor: int | None) -> None:
        self._config = config
        self._supervisor = supervisor
        self._left_by_others = 0
        self._stats = Stats()
        # What the last drain could not send; None while nobody knows.
        self._unsent_at_end: list[Unsent] | None = None
        # Until when a signal lets us go on sending, in trio's time.
        self._drain_until: float | None = None
        # Set when no client waits for the answer to its ``unmount``.
        self._answering = trio.Event()
        self._answering.set()
        # What commands may ask, and that they are answered now.
        self._all_verbs: dict[str, control.Verb | control.Stream] = {}
        self._ready = trio.Event()
        # Another daemon is to take over: when that is so, how to end.
        self._is_taken_over = False
        self._leave: Callable[[], None] = lambda: None

    async def serve(self, on_ready: OnReady) -> ExitCode:
        async with trio.open_nursery() as nursery:
            if self._config.serves == "socket":
                self._leave = nursery.cancel_scope.cancel
                await nursery.start(control.serve, self._config.socket_path, self._early_verbs())
            await self._hold_cache(on_ready)
            nursery.cancel_scope.cancel()
        if self._is_taken_over and not self._ready.is_set():
            raise CacheUnusable("Another drivefs daemon took over this account's cache while this one was starting.")
        return ExitCode.NOT_ON_DRIVE if self._unsent_at_end else ExitCode.OK

    async def _hold_cache(self, on_ready: OnReady) -> None:
        with Database(self._config.cache_dir) as db:
            config = self._config
            transport = Transport(connections=2 * config.downloads + config.uploads + _SPARE_CONNECTIONS)  # see jobs/turns.py
            try:
                await self._serve(db, transport, on_ready)
            finally:
                transport.close()

    # -- building --------------------------------------------------------------------------------------------------

    async def _serve(self, db: Database, transport: Transport, on_ready: OnReady) -> None:
        config, stats = self._config, self._stats
        door = self._door = _door(config)
        credential = self._credential(transport)
        gate = Gate(credential)
        drive = Drive(transport, gate, config.api_root, stats, pacer=self._pacer(), patience=config.io_timeout)
        tree = self._tree = Tree(db)
        tree.forget_old_deletions(time.time_ns() // 10**6 - _KEEP_DELETIONS_MS)
        cache = Cache(db, tree, config.cache_size, config.min_free)
        self._recover(cache)
        keeper = Keeper(db, cache, stats)
        merger = Merger(tree)
        self._account = AccountInfo(Drive(transport, credential, config.api_root, stats, pacer=self._pacer()), tree, stats)
        self._sign_in = SignIn(self._account, gate, stats, config.api_root, config.credentials)
        listing = Listing(drive, tree, merger, door.notify)
        prefetch = Prefetch(drive, tree, cache, stats, config.downloads, door.notify)
        self._uploader = Uploader(
            drive.for_uploads(),
            tree,
            cache,
            merger,
            prefetch,
            keeper,
            door.notify,
            stats,
            delay=config.upload_delay,
            workers=config.uploads,
            snapshot_every=config.open_file_snapshot,
            patience=config.io_timeout,
            on_full=self._account.refresh,
        )
        self._verbs = Verbs(config, cache, self._account, self._uploader, gate, stats, self._supervisor)
        self._last_word = LastWord(config, tree, self._account, self._uploader)
        verifying = Listing(drive.in_lane(Lane.BULK), tree, merger, door.notify)
        relisting = Relisting(verifying, tree, self._uploader.rescan, stats)
        changes = Changes(
            drive.in_lane(Lane.BULK),
            tree,
            merger,
            door.notify,
            self._uploader.rescan,
            relisting.begin,
            stats,
            config.poll_interval,
        )
        if tree.account is None:
            await self._sign_in.first()
            await changes.begin()
        for path in cache.adopt_orphans():
            stats.record_error("it was not on Drive when the cache's database was lost, and was saved under this name", path)
        backpressure = Backpressure(cache, self._uploader.make_room, config.io_timeout)
        names = Namespace(tree, cache, keeper, listing, self._uploader, read_only=config.read_only)
        files = Files(
            tree,
            cache,
            keeper,
            backpressure,
            prefetch,
            self._uploader,
            self._account,
            read_only=config.read_only,
            fsync_remote=config.fsync_remote,
        )
        fs = Filesystem(tree, cache, names, files, self._account, uid=os.geteuid(), gid=os.getegid())
        storage = Storage(config, drive, tree, merger, listing, fs, self._account, self._uploader, door.notify)
        self._all_verbs.update(storage.verbs())
        services = [
            keeper.serve,
            self._uploader.serve,
            changes.serve,
            relisting.serve,
            self._account.serve,
            self._sign_in.serve,
            self._last_word.mind,
        ]
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(listing.serve)
                await nursery.start(prefetch.serve)
                for service in services:
                    nursery.start_soon(service)
                async with door.open(fs, stats) as ended:
                    await self._stay(ended, on_ready)
                nursery.cancel_scope.cancel()
            await keeper.finish()
        finally:
            if self._unsent_at_end is None:
                self._unsent_at_end = self._uploader.unsent()
            self._last_word.say(self._unsent_at_end)

    def _pacer(self) -> Pacer:
        """Google publishes a budget, and we keep within it; another server says itself when it has had enough."""
        google = self._config.api_root == GOOGLE_API_ROOT
        return Pacer(trio.current_time) if google else Pacer(trio.current_time, _OTHER_BUDGET)

    def _credential(self, transport: Transport) -> Credential:
        if self._config.credentials is not None:
            return GoogleCredential.from_file(self._config.credentials, transport, self._config.api_root)
        if self._config.access_token is None:
            raise UsageError("No account is configured. Give --credentials, or DRIVEFS_ACCESS_TOKEN, or --embedded.")
        return StaticToken(self._config.access_token)

    def _recover(self, cache: Cache) -> None:
        for lost in cache.recover():
            log.error("%r: %s", lost.path, lost.reason)
            self._stats.record_error(lost.reason, lost.path)
        self._left_by_others = self._tree.count_pending()
        if self._left_by_others:
            log.info("%d changes of an earlier session are still to be sent", self._left_by_others)

    # -- living ----------------------------------------------------------------------------------------------------

    async def _stay(self, ended: trio.Event, on_ready: OnReady) -> None:
        """Until the mount is over: by a command, by a signal, or because somebody ran umount."""
        async with trio.open_nursery() as nursery:
            own = (self._verbs.status, self._verbs.flush, partial(self._unmount, ended))
            self._all_verbs.update(zip(_OWN_VERBS, own, strict=True))
            if self._config.serves == "mount":
                await nursery.start(control.serve, self._config.socket_path, self._all_verbs)
            await nursery.start(self._obey_signals, ended)
            await self._sign_in.verdict(_VERDICT)
            self._last_word.prepare()
            on_ready(self._left_by_others)
            self._leave = ended.set
            self._ready.set()
            log.info("mounted at %s" if self._config.serves == "mount" else "serving %s", self._config.mountpoint)
            await ended.wait()
            if not self._is_taken_over:
                await self._drain_leftovers()
            with trio.move_on_after(_ANSWER_TIME):  # the client that asked for the end may have gone
                await self._answering.wait()
            nursery.cancel_scope.cancel()

    # -- ending ----------------------------------------------------------------------------------------------------

    async def _obey_signals(self, ended: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                log.info("%s: sending what is pending, then unmounting", signal.Signals(number).name)
                sd_notify("STOPPING=1")
                self._drain_until = trio.current_time() + self._config.drain_timeout
                await self._drain(self._config.drain_timeout)
                if not ended.is_set():
                    await self._door.close(lazily=True)
                # Programs that have files open keep a mount alive that nobody sees any more.
                with trio.move_on_at(max(self._drain_until, trio.current_time() + self._last_moment)):
                    await ended.wait()
                ended.set()
                return

    @property
    def _last_moment(self) -> float:
        return min(_LAST_MOMENT, self._config.drain_timeout)

    async def _drain_leftovers(self) -> None:
        """Whatever is pending now that no program can add to it."""
        left = self._config.drain_timeout if self._drain_until is None else self._drain_until - trio.current_time()
        await self._drain(max(left, self._last_moment))

    async def _drain(self, timeout: float) -> None:
        """Send; say at once, now and then, and at the end what is left: who asked may switch the machine off any moment."""
        self._unsent_at_end = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._last_word.foretell)
            nursery.start_soon(self._last_word.tell_progress)
            self._unsent_at_end = await self._uploader.drain(timeout, until_empty=True)
            nursery.cancel_scope.cancel()

    async def _unmount(self, ended: trio.Event, arguments: Mapping[str, Any], progress: control.Progress) -> Any:
        """The verb ``unmount``: send, unmount, answer, and let the daemon end; with anything unsent the mount stays."""
        unsent = await self._verbs.drain(float(arguments["timeout"]), [], progress, until_empty=True)
        if unsent:
            return {"unsent": [stated(entry) for entry in unsent], "pid": os.getpid()}
        self._answering = trio.Event()
        try:
            await self._door.close(lazily=False)
        except BaseException:
            self._answering.set()
            raise
        await ended.wait()
        return control.Reply({"unsent": [], "pid": os.getpid()}, self._answering.set)

    def _early_verbs(self) -> dict[str, control.Verb | control.Stream]:
        """Those of a daemon that is not ready yet: what is asked of it waits until it is, but for ``give_way``."""

        def later(name: str) -> control.Verb | control.Stream:
            async def verb(arguments: Mapping[str, Any], tell: Any) -> Any:
                await self._ready.wait()
                actual = self._all_verbs[name]
                return await (actual.verb if isinstance(actual, control.Stream) else actual)(arguments, tell)

            return control.Stream(verb) if name == "get" else verb

        names = (*_OWN_VERBS, *STORAGE_VERBS)
        return {"give_way": self._give_way, **{name: later(name) for name in names}}

    async def _give_way(self, _arguments: Mapping[str, Any], _progress: control.Progress) -> control.Reply:
        """The verb ``give_way``: end at once, for a mount is to have the cache, with all that is still to be sent."""

        def leave() -> None:
            self._is_taken_over = True
            self._leave()

        return control.Reply({"pid": os.getpid()}, leave)
