"""From a Config to a daemon that answers: what ``drivefs mount`` and ``drivefs serve`` do once they know what is wanted."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from drivefs import background, mountpoint
from drivefs.base import log
from drivefs.base.config import Config, socket_path
from drivefs.base.errors import CacheUnusable, ExitCode
from drivefs.client import Client, ClientError, statuses
from drivefs.embedded import ensure_embedded
from drivefs.gone import remove_dead
from drivefs.notify import sd_notify
from drivefs.private import NO_WRITE, private_directory
from drivefs.record import Record
from drivefs.settings import data_home
from drivefs.supervisor import Supervisor

__all__ = ["already_mounted", "holder", "in_background", "in_foreground", "prepared", "with_server"]

logger = logging.getLogger(__name__)

_LOOK: Final = 0.1  # seconds


def already_mounted(config: Config, say: Callable[[str], None]) -> bool:
    """Whether a living daemon serves this place. A dead mount is removed on the way; MountpointUnusable for a foreign one."""
    while entry := mountpoint.mount_at(config.mountpoint):
        client = Client(config.mountpoint, runtime=str(config.runtime_dir))
        try:
            client.status()
            return True
        except ClientError as error:
            if error.exit_code != ExitCode.NOT_MOUNTED:
                raise
        remove_dead(entry, client)
        say(
            f"Removed the dead mount that a killed daemon left at {entry.path!r}. What it had not sent is in its account's cache."
        )
    return False


def holder(config: Config, patience: float = 0.0) -> dict[str, Any] | None:
    """The status of the living daemon that has this account's cache, whatever it serves; None where none says so.

    patience: seconds for one that has the cache and is still starting.
    """
    deadline = time.monotonic() + patience
    while True:
        for state in statuses(runtime=str(config.runtime_dir)):
            if state.get("cache_dir") == str(config.cache_dir) and state.get("mounted") is not False:
                return state
        if time.monotonic() >= deadline:
            return None
        time.sleep(_LOOK)


def _take_over(config: Config) -> None:
    """A daemon without a mount gives way to a mount, whoever came first, and is not to come back."""
    if config.serves != "mount":
        return
    served = Client(config.cache_dir, runtime=str(config.runtime_dir))
    Record(socket_path(config.runtime_dir, config.cache_dir)).add(stop=True)
    try:
        served.give_way()
    except ClientError as error:
        if error.exit_code != ExitCode.NOT_MOUNTED:
            raise CacheUnusable(str(error)) from error


@contextmanager
def prepared(path: Path) -> Iterator[None]:
    """The mountpoint is there and empty; one that we made is removed again where the mount does not come about."""
    made = mountpoint.prepare(path)
    try:
        yield
    except BaseException:
        if made:
            _remove(path)
        raise


def _remove(path: Path) -> None:
    try:
        os.rmdir(path)
    except OSError as error:
        logger.debug("the mountpoint stays: %s", error)


def with_server(config: Config) -> Config:
    """For the embedded Drive: start it, or find it running, and fill in where and how to reach it."""
    if not config.embedded:
        return config
    # The changes feed is asked once per poll interval: a server that ends sooner would end under its mount.
    url, token = ensure_embedded(data_home(os.environ), max(60.0, 3 * config.poll_interval))
    return replace(config, api_root=url, access_token=token)


def in_background(config: Config, announce: background.OnReady, level: int, *, supervise: bool) -> None:
    """Return once the mount answers; it lives on in a daemon of its own, which is started again where it crashes."""

    def serve(on_ready: background.OnReady) -> ExitCode:
        from drivefs import daemon  # only here: it loads an event loop, and must not before the fork

        _take_over(config)  # also after a crash: somebody may have served the cache meanwhile
        # A crash may have taken the embedded Drive along.
        return daemon.run(with_server(config), on_ready, supervisor=os.getppid() if supervise else None)

    place = config.mountpoint if config.serves == "mount" else None
    supervisor = Supervisor(place, Record(config.socket_path)) if supervise else None
    announce(background.start(serve, config.cache_dir / "daemon.log", level, supervisor))


def in_foreground(config: Config, announce: background.OnReady, level: int) -> None:
    """Return when the mount has ended. Exits with the daemon's code where that is not 0."""
    from drivefs import daemon

    def on_ready(unsent: int) -> None:
        announce(unsent)
        sd_notify("READY=1")

    private_directory(config.cache_dir, "The cache directory", NO_WRITE, CacheUnusable)
    log.configure(level)
    background.forbid_memory_dumps()
    _take_over(config)
    if code := daemon.run(config, on_ready):
        sys.exit(code)
