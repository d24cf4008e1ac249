"""The inventory beside a real mount of drivefs, well and stuck."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivefs_agent.state import State
from tests.agent.running import AGENT
from tests.support.mounts import Mount, eventually, why_no_mounts
from tests.support.server import Server

pytestmark = [pytest.mark.mount, pytest.mark.slow]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mounted, and what is written waits ten minutes before it is sent."""
    if reason := why_no_mounts():
        pytest.skip(reason)
    home = Path(tempfile.mkdtemp(prefix="dfs-"))  # short: sockets have short paths
    server = Server(home / "server")
    mount = Mount(home, server)
    try:
        yield mount.mount("--upload-delay", "600")
    finally:
        mount.end()
        server.stop()
        shutil.rmtree(home)


def specs(mount: Mount) -> dict[str, Any]:
    command = [sys.executable, "-c", "from drivefs_agent.cli import main; main()", "specs", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, env=mount.environment)
    return dict(json.loads(done.stdout))


def row_of(values: dict[str, Any], mount: Mount) -> dict[str, Any]:
    """Other tests may have mounts at the same time; they belong to other runtime directories, and are shown as not known."""
    (row,) = (row for row in values["drive"]["mounts"] if row["mount"] == str(mount.point))
    return dict(row)


def test_what_waits_to_be_sent_and_how_much_room_drive_has(mount: Mount) -> None:
    """The daemon's word on unsent files is in the inventory, and the mount's disk row is the account's quota."""
    (mount.my / "a").write_bytes(b"12345")
    eventually(lambda: mount.status()["pending_files"] == 1)
    values = specs(mount)
    row = row_of(values, mount)
    assert values["drive"]["error"] is None
    assert (row["mount"], row["pending_files"], row["pending_bytes"]) == (str(mount.point), 1, 5)
    assert row["cache_bytes"] == mount.status()["cache_bytes"]
    (disk,) = (disk for disk in values["disks"] if disk["mount"] == str(mount.point))
    truth = os.statvfs(mount.point)
    assert (disk["kind"], disk["total_bytes"]) == ("fuse", truth.f_blocks * truth.f_frsize)


def test_a_mount_of_another_user_is_not_called_sent(mount: Mount) -> None:
    """Who looks where its daemon does not listen sees the mount in the kernel's table, and that its files are not known."""
    mount.environment["DRIVEFS_RUNTIME_DIR"] = str(mount.home / "elsewhere")
    try:
        row = row_of(specs(mount), mount)
    finally:
        mount.environment["DRIVEFS_RUNTIME_DIR"] = str(mount.home / "run")
    assert (row["pending_files"], "belongs to another user" in row["error"]) == (None, True)


def test_the_guards_end_brings_everything_to_drive(mount: Mount) -> None:
    """A file that would wait ten minutes is on Drive when the guard, told to end as a shutdown does, has ended."""
    (mount.my / "checkpoint.pt").write_bytes(b"w" * 100_000)
    eventually(lambda: mount.status()["pending_files"] == 1)
    state = State(mount.home / "agent")
    environment = {**mount.environment, "DRIVEFS_AGENT_DIR": str(state.folder)}
    guard = subprocess.Popen([*AGENT, "guard", "--cloud", "none"], stderr=subprocess.PIPE, text=True, env=environment)
    eventually(state.report, 30)
    assert mount.status()["pending_files"] == 1
    guard.send_signal(signal.SIGTERM)
    _, said = guard.communicate(timeout=60)
    assert (guard.returncode, "everything is on Drive" in said) == (0, True)
    assert mount.status()["pending_files"] == 0


def test_an_idle_box_is_kept_while_drive_refuses_a_file(mount: Mount) -> None:
    """Every other probe is left out and idle for no time: what keeps the real box is the one unsent file."""
    (mount.my / "checkpoint.pt").write_bytes(b"w")
    eventually(lambda: mount.status()["pending_files"] == 1)
    stopped = mount.home / "stopped"
    state = State(mount.home / "agent")
    out = [word for probe in ("gpu", "cpu", "jupyter", "terminals", "network") for word in ("--without", probe)]
    plan = ["--cloud", "none", "--idle", "0s", "--warn", "0s", "--stop-command", f"touch {stopped}", *out]
    environment = {**mount.environment, "DRIVEFS_AGENT_DIR": str(state.folder)}
    guard = subprocess.Popen([*AGENT, "guard", *plan], stderr=subprocess.PIPE, text=True, env=environment)
    try:
        told = eventually(state.report, 30)
        assert told is not None
        assert [(one["probe"], one["idle"]) for one in told["findings"]] == [("drive", False), ("hold", True)]
        assert not stopped.exists()
    finally:
        guard.kill()
        guard.communicate(timeout=30)
    mount.client.flush(timeout=30)
    guard = subprocess.Popen([*AGENT, "guard", *plan], stderr=subprocess.PIPE, text=True, env=environment)
    eventually(stopped.exists, 30)
    guard.send_signal(signal.SIGTERM)
    guard.communicate(timeout=30)
    assert guard.returncode == 0


def test_a_stopped_daemon_holds_nobody(mount: Mount) -> None:
    """A daemon that neither serves its mount nor its socket: the command ends, and says of both that they are not known."""
    assert mount.pid is not None
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        values = specs(mount)
    finally:
        os.kill(mount.pid, signal.SIGCONT)
    row = row_of(values, mount)
    assert (row["mount"], row["pending_files"], values["drive"]["error"]) == (str(mount.point), None, None)
    assert "has not answered 'status' within 1 s" in row["error"]
    (disk,) = (disk for disk in values["disks"] if disk["mount"] == str(mount.point))
    assert (disk["total_bytes"], "no answer within 1 s" in disk["error"]) == (None, True)
