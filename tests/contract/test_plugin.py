"""The pytest plugin and the context manager, as another project would use them."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from drivefs.emulator import running

if TYPE_CHECKING:
    from pathlib import Path

USE = """
    import json, urllib.request

    def put(drive, name):
        headers = {"Authorization": "Bearer t", "Content-Type": "application/json"}
        body = json.dumps({"name": name}).encode()
        urllib.request.urlopen(urllib.request.Request(drive.url + "/drive/v3/files", body, headers)).close()

    def test_one(drive_emulator):
        put(drive_emulator, "a")
        drive_emulator.control("settings", {"depth_limit": 5})
        assert [one["path"] for one in drive_emulator.tree()] == ["a"]
        assert drive_emulator.requests()["by_method"] == {"files.create": 1}

    def test_two(drive_emulator):
        assert drive_emulator.tree() == []
        assert drive_emulator.control("settings")["depth_limit"] == 100
        assert drive_emulator.control("settings", {"depth_limit": 3})["depth_limit"] == 3
"""


def test_another_project_uses_the_plugin(tmp_path: Path) -> None:
    """With ``-p drivefs.emulator.pytest_plugin``, each test gets an empty Drive and a failing one is told as such."""
    (tmp_path / "test_use.py").write_text(
        textwrap.dedent(USE) + "\ndef test_three(drive_emulator):\n    assert drive_emulator.tree()\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "drivefs.emulator.pytest_plugin",
        "-p",
        "no:cacheprovider",
        "test_use.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=dict(os.environ), check=False)
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr


def test_running_starts_and_stops() -> None:
    """The server answers within the block and is gone after it."""
    with running("--token", "secret") as drive:
        assert drive.tree() == []
        with pytest.raises(RuntimeError, match="404"):
            drive.control("no-such-call")
        port = urlsplit(drive.url).port
        assert not _gone(drive.pid)
    assert _gone(drive.pid)
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()


def test_running_says_that_it_did_not_start() -> None:
    """A server that ends at once is an error with its exit status."""
    with pytest.raises(RuntimeError, match="exit status 2"), running("--no-such-option"):
        pass


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
