"""A stand-in for drivefs.daemon: the real control socket and verbs with canned answers, and no mount.

What it does is told by the mountpoint's name, because a forked or spawned daemon can be told nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import trio

from drivefs.base.config import Config
from drivefs.base.errors import ExitCode, SignInRefused
from drivefs.control import Progress, Reply, serve

UNSENT = {"path": "evil\x1b[31m\u202ename", "size": 1536, "age_s": 75.5, "reason": "Drive is full"}


def run(config: Config, on_ready: Callable[[int], None], supervisor: int | None = None) -> ExitCode:
    """As drivefs.daemon.run: blocks until unmounted, raises for a bad start."""
    if "refused" in config.mountpoint.name:
        raise SignInRefused("Drive refused 'ya29.secret'. Sign in again.")
    seen = {
        "token": config.access_token,
        "api_root": config.api_root,
        "environment": sorted(os.environ),
        "mountpoint": str(config.mountpoint),
        "read_only": config.read_only,
        "poll_interval": config.poll_interval,
        "upload_delay": config.upload_delay,
        "cache_size": config.cache_size,
        "min_free": config.min_free,
        "fsync_remote": config.fsync_remote,
        "open_file_snapshot": config.open_file_snapshot,
        "io_timeout": config.io_timeout,
        "drain_timeout": config.drain_timeout,
    }
    (config.cache_dir / "seen.json").write_text(json.dumps(seen))
    trio.run(_main, config, on_ready, supervisor)
    return ExitCode.OK


async def _main(config: Config, on_ready: Callable[[int], None], supervisor: int | None) -> None:
    async with trio.open_nursery() as nursery:
        unsent = [UNSENT] if "unsent" in config.mountpoint.name else []

        async def status(_: Mapping[str, Any], __: Progress) -> Any:
            return {
                "mountpoint": str(config.mountpoint),
                "serves": config.serves,
                "pid": os.getpid(),
                "supervised": None if supervisor is None else os.getppid() == supervisor,
                "api_root": config.api_root,
                "account": "someone@example.org",
                "cache_dir": str(config.cache_dir),
                "cache_bytes": 2048,
                "read_only": config.read_only,
                "since": 0,
                "pending_files": len(unsent),
                "pending_bytes": sum(entry["size"] for entry in unsent if isinstance(entry["size"], int)),
                "oldest_pending_age_s": 75.5 if unsent else None,
                "pending": unsent,
                "api_requests": {"files.list": 3},
                "last_errors": [{"when": 0, "what": "no room\x07", "subject": "a\nb"}],
            }

        async def flush(_: Mapping[str, Any], __: Progress) -> Any:
            return {"unsent": unsent}

        async def unmount(_: Mapping[str, Any], progress: Progress) -> Any:
            await progress({"pending_files": len(unsent), "pending_bytes": 0})
            if unsent:
                return {"unsent": unsent}
            return Reply({"unsent": []}, nursery.cancel_scope.cancel)

        async def give_way(_: Mapping[str, Any], __: Progress) -> Any:
            return Reply({"pid": os.getpid()}, nursery.cancel_scope.cancel)

        verbs = {"status": status, "flush": flush, "unmount": unmount}
        if config.serves == "socket":
            verbs["give_way"] = give_way
        await nursery.start(serve, config.socket_path, verbs)
        on_ready(3 if "left" in config.mountpoint.name else 0)
