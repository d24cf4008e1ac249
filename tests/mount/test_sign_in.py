"""Mounting with credentials: keys and sign-ins that the server gave out and checks, and tokens that end while a program works."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from ..support.consent import allow
from ..support.mounts import Mount
from ..support.server import Server
from .conftest import NewMount

DRIVE = "https://www.googleapis.com/auth/drive"
REDIRECT = "http://127.0.0.1:9/back"


def _service_account(server: Server) -> Any:
    return server.ask("POST", "/_emulator/service-accounts", {"name": "gpu-box"})


def _authorized_user(server: Server) -> Any:
    """The file that a sign-in in the browser leaves: consent page, Allow, code, refresh token."""
    client = server.ask("POST", "/_emulator/clients", {"type": "installed"})["installed"]
    query = {"client_id": client["client_id"], "redirect_uri": REDIRECT, "response_type": "code", "scope": DRIVE}
    code = allow(server, f"/o/oauth2/v2/auth?{urllib.parse.urlencode(query)}")["code"]
    names = {"client_id": client["client_id"], "client_secret": client["client_secret"]}
    form = urllib.parse.urlencode({"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, **names})
    answer = server.call("POST", "/token", form.encode(), kind="application/x-www-form-urlencoded")
    refresh_token = json.loads(answer)["refresh_token"]
    return {"type": "authorized_user", "refresh_token": refresh_token, "token_uri": client["token_uri"], **names}


def _write(mount: Mount, described: Any) -> Path:
    path = mount.home / "key.json"
    path.touch(0o600)
    path.write_text(json.dumps(described))
    return path


@pytest.mark.parametrize("make", [_service_account, _authorized_user])
def test_a_token_that_expires_meanwhile(make: Any, new_mount: NewMount, server: Server) -> None:
    """The key mounts; when every token expires in the middle, reading and writing go on, and the log has no complaint."""
    mount = new_mount()
    del mount.environment["DRIVEFS_ACCESS_TOKEN"]
    mount.mount("--credentials", _write(mount, make(server)), "--api-root", server.url)
    (mount.my / "before").write_bytes(b"1")
    mount.flush()
    exchanges = server.requests()["oauth2.token"]
    assert server.ask("POST", "/_emulator/tokens/expire", {})["expired"] >= 1
    server.create("theirs", b"from elsewhere")
    (mount.my / "after").write_bytes(b"22")
    mount.flush()
    assert {path: item["size"] for path, item in server.paths().items()} == {"before": 1, "theirs": 14, "after": 2}
    assert server.requests()["oauth2.token"] > exchanges
    mount.remount("--credentials", mount.home / "key.json", wipe=True)
    assert (mount.my / "theirs").read_bytes() == b"from elsewhere"


@pytest.mark.parametrize("make", [_service_account, _authorized_user])
def test_a_key_that_is_not_good(make: Any, new_mount: NewMount, server: Server) -> None:
    """A key that the server does not know ends the mount with a sentence and the exit code for a refused sign-in."""
    mount = new_mount()
    del mount.environment["DRIVEFS_ACCESS_TOKEN"]
    path = _write(mount, make(server))
    server.reset()  # forgets service accounts and clients
    server.ask("POST", "/_emulator/clients", {"type": "installed"})  # from now on not any client is good
    done = mount.run("mount", mount.point, "--cache-dir", mount.cache, "--credentials", path)
    assert (done.returncode, "refuses the sign-in" in done.stderr) == (4, True), done
    mount.expect_log("refuses the sign-in")
