"""From a Config to a mount that answers: what ``drivefs mount`` does once it knows what is wanted."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from drivefs import background, mountpoint
from drivefs.base import log
from drivefs.base.config import Config
from drivefs.base.errors import CacheUnusable, ExitCode
from drivefs.client import Client, ClientError
from drivefs.embedded import ensure_embedded
from drivefs.gone import remove_dead
from drivefs.notify import sd_notify
from drivefs.private import NO_WRITE, private_directory
from drivefs.record import Record
from drivefs.settings import data_home
from drivefs.supervisor import Supervisor

__all__ = ["already_mounted", "in_background", "in_foreground", "prepared", "with_server"]

logger = logging.getLogger(__name__)


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

        # A crash may have taken the embedded Drive along.
        return daemon.run(with_server(config), on_ready, supervisor=os.getppid() if supervise else None)

    supervisor = Supervisor(config.mountpoint, Record(config.socket_path)) if supervise else None
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
    if code := daemon.run(config, on_ready):
        sys.exit(code)
