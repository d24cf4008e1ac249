"""Homes, sockets and a stand-in daemon for the tests of commands and of the control socket."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivefs import client

HERE = Path(__file__).parent
Drivefs = Callable[..., "subprocess.CompletedProcess[str]"]


ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short private directory (sockets have short paths) that holds all of drivefs's state; no account configured."""
    path = Path(tempfile.mkdtemp(prefix="dfs-"))
    for name in ("DRIVEFS_API_ROOT", "DRIVEFS_ACCESS_TOKEN", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("DRIVEFS_DATA_DIR", str(path / "data"))
    monkeypatch.setenv("DRIVEFS_RUNTIME_DIR", str(path / "run"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # children work in / and must find the drivefs under test
    monkeypatch.chdir(path)
    yield path
    _end_embedded(path / "data" / "embedded" / "server.json")
    shutil.rmtree(path)


def _end_embedded(server: Path) -> None:
    if server.exists():
        try:
            os.kill(json.loads(server.read_text())["pid"], signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.fixture
def drivefs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drivefs]:
    """Runs the real command in a process of its own, where drivefs.daemon is the stand-in. Ends daemons that a test leaves."""
    site = home / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import importlib.util, sys\n"
        f"class Finder:\n"
        f"    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'drivefs.daemon':\n"
        f"            return importlib.util.spec_from_file_location(name, {str(HERE / 'fake_daemon.py')!r})\n"
        f"sys.meta_path.insert(0, Finder())\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(ROOT)]))

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "drivefs", *arguments]
        return subprocess.run(
            command, cwd=home, env={**os.environ, **environment}, capture_output=True, text=True, timeout=30, check=False
        )

    yield run
    for left in client.running():
        os.kill(left.status()["pid"], signal.SIGTERM)  # SIGKILL its supervisor would take for a crash
