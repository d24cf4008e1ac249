"""PyDrive2 as it is on PyPI, which speaks version 2 of the API: create, list, update, download, resumable, trash, delete."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Door

PYTHON = Path(sys.prefix) / "clients" / "bin" / "python"  # its requirements contradict ours


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason="scripts/setup has not made .venv/clients")
def test_a_whole_cycle(door: Door, tmp_path: Path) -> None:
    """Signed in with a service account's key through oauth2.googleapis.com, every step does what Google's server would."""
    key = tmp_path / "key.json"
    key.write_text(json.dumps(door.server.ask("POST", "/_emulator/service-accounts", {})))
    environment = door.environment(HTTPLIB2_CA_CERTS=door.ca, HOME=str(tmp_path))
    command = [str(PYTHON), str(Path(__file__).with_name("pydrive2_cycle.py")), str(key), str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    content = random.Random(5).randbytes(3_000_000)
    assert json.loads(done.stdout) == {
        "big": [hashlib.md5(content).hexdigest(), "3000000"],
        "listed": ["big.bin", "notes.txt"],
        "pages": [1, 1],
        "fetched": ["renamed.txt", False, True],
        "text": "second",
        "same": True,
        "trashed": ["renamed.txt"],
        "gone": "notFound",
        "about": "6",
    }
    assert sorted(door.server.paths()) == ["runs", "runs/renamed.txt"]
