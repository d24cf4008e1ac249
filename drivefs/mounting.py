"""The door that is a mount: attached to the kernel and detached again. The rest of a daemon needs neither it nor FUSE."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from drivefs import fuse
from drivefs.base.config import Config
from drivefs.base.errors import MountpointUnusable
from drivefs.base.stats import Stats
from drivefs.guard import BareMountpoint
from drivefs.jobs.patience import Waits
from drivefs.mountpoint import mount_at
from drivefs.vfs.filesystem import Filesystem

__all__ = ["Mounting"]


class Mounting:
    """The mount of one daemon. ``notify`` tells the kernel what it must forget."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._notifier = fuse.Notifier()
        self.notify = self._notifier.notify

    @asynccontextmanager
    async def open(self, fs: Filesystem, stats: Stats) -> AsyncIterator[trio.Event]:
        """The mount; the event says that it has ended, from outside or by ``close``."""
        door = fuse.Door(fs, stats, Waits(self._config.io_timeout))
        self._attach(door)
        try:
            async with trio.open_nursery() as nursery:
                ended = trio.Event()
                await nursery.start(self._answer_kernel, door, ended)
                await door.introduced.wait()
                self._notifier.start()  # not before: the kernel would not know whom it is from
                if (entry := mount_at(self._config.mountpoint)) is not None:
                    await trio.to_thread.run_sync(fuse.tune, entry.device)
                yield ended
                nursery.cancel_scope.cancel()
        finally:
            self._notifier.stop()
            fuse.release()

    def _attach(self, door: fuse.Door) -> None:
        """Mount, and close the directory underneath to writers, for the time when nothing is mounted there."""
        bare = BareMountpoint(self._config.mountpoint)
        try:
            bare.admit()
            fuse.mount(door, self._config.mountpoint, read_only=self._config.read_only)
        except BaseException:
            bare.put_back()
            raise
        else:
            bare.close_up()
        finally:
            bare.forget()

    async def _answer_kernel(self, door: fuse.Door, ended: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        await fuse.serve(door, task_status)
        ended.set()

    async def close(self, *, lazily: bool) -> None:
        """Run fusermount3, which serves root and users alike; MountpointUnusable where programs still use the mount."""
        command = ["fusermount3", "-uz" if lazily else "-u", "--", os.fspath(self._config.mountpoint)]
        result = await trio.run_process(command, check=False, capture_stdout=True, stderr=subprocess.STDOUT)
        if result.returncode and mount_at(self._config.mountpoint) is not None:
            said = result.stdout.decode(errors="replace").strip()
            raise MountpointUnusable(
                f"{self._config.mountpoint} cannot be unmounted: {said}. Everything is on Drive. "
                "Close the files and shells that are in it, then unmount again."
            )
