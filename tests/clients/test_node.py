"""Google's client library for Node as npm has it: sign-in with PKCE, then create, list, update, download, resumable."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import urllib.parse
from pathlib import Path

import pytest

from ..support.consent import allow
from .conftest import Door

HERE = Path(__file__).parent / "node"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None or shutil.which("npm") is None, reason="node and npm are not installed"),
]


def _install() -> None:
    """``npm ci``, unless that was done for this very lock. A registry that cannot be reached skips the test."""
    stamp, wanted = HERE / "node_modules" / ".made-from", hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    done = subprocess.run(
        ["npm", "ci", "--silent", "--no-progress"], cwd=HERE, capture_output=True, text=True, timeout=110, check=False
    )
    if re.search(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH", done.stdout + done.stderr):
        pytest.skip("npm's registry cannot be reached")
    assert done.returncode == 0, done.stderr
    stamp.write_text(wanted)


def test_a_whole_cycle(door: Door) -> None:
    """The consent page's code, bought with a PKCE verifier, signs the library in; every call does what Google's would."""
    _install()
    client = door.server.ask("POST", "/_emulator/clients", {"type": "installed"})["installed"]
    command = ["node", "cycle.mjs", client["client_id"], client["client_secret"]]
    environment = door.environment(NODE_EXTRA_CA_CERTS=door.ca)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=HERE, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        address = urllib.parse.urlsplit(process.stdout.readline().strip())
        assert (address.scheme, address.netloc) == ("https", "accounts.google.com")
        back = allow(door.server, f"{address.path}?{address.query}")
        assert back["state"] == "from-node"
        out, errors = process.communicate(back["code"] + "\n", timeout=60)
    assert process.returncode == 0, errors
    assert json.loads(out) == {
        "scope": "https://www.googleapis.com/auth/drive",
        "refreshable": True,
        "small": hashlib.md5(b"hello from node\r\n").hexdigest(),
        "kept": f"bytes=0-{2 * 262144 - 1}",
        "big": True,
        "listed": [{"name": "big.bin", "size": str(5 * 262144 + 123)}, {"name": "small.txt", "size": "17"}],
        "downloaded": "second",
        "same": True,
        "missing": [404, "File not found: nothing."],
    }
    assert sorted(door.server.paths()) == ["runs", "runs/renamed.txt"]
