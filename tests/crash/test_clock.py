"""The wall clock jumps while the daemon runs: nothing is fetched or sent again because of it, and nothing waits for it."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from ..mount.test_sign_in import _authorized_user, _write
from ..support.mounts import Mount, eventually
from ..support.server import Server
from .clock import Clock, why_no_clock
from .test_kill import milliseconds

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_no_clock() is not None, reason=str(why_no_clock()))]

DAYS_2 = 2 * 86400
POLLS = 5  # so many looks at the changes feed are "a while"
SET_BY_A_PROGRAM = 1_234_567_890_123


@pytest.fixture
def clock(home: Path) -> Clock:
    return Clock(home)


@pytest.fixture
def mount(home: Path, server: Server, clock: Clock) -> Mount:
    """Signed in with tokens that end; not mounted yet."""
    mount = Mount(home, server)
    del mount.environment["DRIVEFS_ACCESS_TOKEN"]
    mount.environment |= clock.environment
    return mount


def calls(server: Server) -> Counter[str]:
    """But for the polls, which go on by themselves."""
    counted = server.requests()
    del counted["changes.list"]
    return counted


def let_it_poll(server: Server) -> None:
    before = server.requests()["changes.list"]
    eventually(lambda: server.requests()["changes.list"] >= before + POLLS, 10)


def shown(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns // 10**6) for path in folder.iterdir()}


def test_the_clock_jumps_under_a_running_mount(mount: Mount, server: Server, clock: Clock) -> None:
    """Two days on, two days back from the truth, and home: no listing, download or upload follows, no time of a file changes,
    new files are sent at once with the times that programs gave them, and a token that Drive refuses is replaced."""
    server.create("theirs", os.urandom(100_000))
    mount.mount("--credentials", _write(mount, _authorized_user(server)), "--api-root", server.url)
    try:
        (mount.my / "ours").write_bytes(b"ours")
        os.utime(mount.my / "ours", ns=(0, SET_BY_A_PROGRAM * 10**6))
        mount.flush()
        let_it_poll(server)  # what we sent comes back in the feed
        view = shown(mount.my)
        assert view["ours"] == (b"ours", SET_BY_A_PROGRAM)
        for number, offset in enumerate((DAYS_2, -DAYS_2, 0)):
            before = calls(server)
            clock.jump(offset)
            let_it_poll(server)
            assert shown(mount.my) == view
            assert calls(server) == before, "the jump caused traffic"
            server.ask("POST", "/_emulator/tokens/expire", {})
            name = f"new {number}"
            (mount.my / name).write_bytes(b"new")
            written = (mount.my / name).stat().st_mtime
            assert abs(written - (time.time() + offset)) < 60, "the clock did not jump for the daemon"
            (mount.my / f"set {number}").write_bytes(b"set")
            os.utime(mount.my / f"set {number}", ns=(0, SET_BY_A_PROGRAM * 10**6 + number * 10**6))
            eventually(lambda number=number: {f"new {number}", f"set {number}"} <= server.paths().keys(), 10)  # type: ignore[misc]
            mount.flush()
            let_it_poll(server)
            view = shown(mount.my)
        for path, item in server.paths().items():
            assert milliseconds(item["modifiedTime"]) == view[path][1], path
            if path.startswith("set "):
                assert view[path][1] == SET_BY_A_PROGRAM + int(path.split()[1])
        mount.unmount()
    finally:
        mount.end()
    mount.judge_log()


def test_the_clock_jumps_while_drive_is_away(mount: Mount, server: Server, clock: Clock) -> None:
    """What waits for the server is tried again as soon as without the jump, wherever the clock went meanwhile."""
    mount.environment["DRIVEFS_ACCESS_TOKEN"] = "token-of-tests"
    mount.mount()
    assert os.listdir(mount.my) == []
    mount.expect_log("not on Drive yet|remote changes cannot be read|cannot be reached")
    try:
        for offset in (DAYS_2, -DAYS_2):
            server.ask("POST", "/_emulator/faults", {"offline": "reset"})
            (mount.my / f"{offset}").write_bytes(b"waits")
            eventually(lambda: mount.client.flush(timeout=0.3)[0]["reason"] not in ("being sent", "waiting for its turn"), 20)
            clock.jump(offset)
            server.ask("DELETE", "/_emulator/faults")
            eventually(lambda offset=offset: f"{offset}" in server.paths(), 20)  # type: ignore[misc]
        mount.unmount()
    finally:
        mount.end()
    mount.judge_log()
