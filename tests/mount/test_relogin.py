"""The sign-in is revoked while a program works: what is here stays usable, and signing in anew needs no restart."""

from __future__ import annotations

import errno
import os
import time

from ..support.mounts import errno_of, eventually
from ..support.server import Server
from .conftest import NewMount
from .test_sign_in import _authorized_user, _write


def test_a_revoked_sign_in_and_the_next_one(new_mount: NewMount, server: Server) -> None:
    """Cached files are read and new ones written; the rest is EACCES at once, with the reason; all resumes with a new file."""
    mount = new_mount()
    del mount.environment["DRIVEFS_ACCESS_TOKEN"]
    server.create("cold", b"cold content")
    server.create("warm", b"warm content")
    described = _authorized_user(server)
    mount.mount("--credentials", _write(mount, described), "--api-root", server.url)
    mount.expect_log("refuses the sign-in|not on Drive yet|cannot be read")
    assert (mount.my / "warm").read_bytes() == b"warm content"
    assert (mount.my / "cold").stat().st_size == 12
    pid = mount.pid
    server.ask("POST", "/_emulator/tokens/revoke", {"token": described["refresh_token"]})

    begin = time.monotonic()
    assert errno_of((mount.my / "cold").read_bytes) == errno.EACCES
    assert time.monotonic() - begin < 2
    assert "refuses the sign-in" in os.getxattr(mount.my / "cold", "user.drive.error").decode()
    assert (mount.my / "warm").read_bytes() == b"warm content"
    (mount.my / "meanwhile").write_bytes(b"written meanwhile")
    assert (mount.my / "meanwhile").read_bytes() == b"written meanwhile"
    assert any("refuses the sign-in" in error["what"] for error in mount.status()["last_errors"])

    _write(mount, _authorized_user(server))
    assert eventually(lambda: errno_of((mount.my / "cold").read_bytes) == 0)
    assert (mount.my / "cold").read_bytes() == b"cold content"
    mount.flush()
    assert server.content(server.paths()["meanwhile"]["id"]) == b"written meanwhile"
    server.create("theirs", b"3")
    assert eventually(lambda: (mount.my / "theirs").exists(), 30)
    assert mount.pid == pid
