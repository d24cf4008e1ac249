"""SIGKILL while a large file is being sent: the upload goes on or begins anew, and the server never has the file twice."""

from __future__ import annotations

import hashlib
import os

import pytest

from ..support.mounts import Mount, eventually
from ..support.server import Server

MIB = 1 << 20
SIZE = 40_000_000
# Bytes of one chunk: what a kill may make us send again.
CHUNK = 16 * MIB


def bytes_in(server: Server) -> int:
    return int(server.ask("GET", "/_emulator/requests")["bytes_in"])


def chunks(server: Server) -> int:
    routes = server.ask("GET", "/_emulator/requests")["by_route"]
    return sum(count for route, count in routes.items() if route.startswith("PUT "))


@pytest.mark.slow
@pytest.mark.parametrize("seen", [0, 1, 2, 3])
def test_kill_during_a_resumable_upload(seen: int, mount: Mount, server: Server) -> None:
    """Killed after 0 to 3 chunks had begun: one item, one revision, the right bytes, and no more sent than a chunk twice."""
    data = os.urandom(MIB) * (SIZE // MIB) + b"end"
    path = mount.my / "checkpoint"
    path.write_bytes(data)
    eventually(lambda: chunks(server) >= seen)
    mount.kill()
    mount.mount()
    assert path.read_bytes() == data
    mount.flush()
    (item,) = server.tree()
    assert (item["path"], item["md5"]) == ("checkpoint", hashlib.md5(data).hexdigest())
    assert len(server.revisions(item["id"])) == 1
    assert bytes_in(server) <= len(data) + CHUNK + 100_000


@pytest.mark.slow
def test_kill_during_the_upload_of_a_new_version(mount: Mount, server: Server) -> None:
    """The same for a change of a file that exists: its id stays, and there are just the two versions that were closed."""
    path = mount.my / "checkpoint"
    path.write_bytes(b"first")
    mount.flush()
    (before,) = server.tree()
    data = os.urandom(MIB) * (SIZE // MIB)
    path.write_bytes(data)
    eventually(lambda: chunks(server) >= 1)
    mount.kill()
    mount.mount()
    mount.flush()
    (after,) = server.tree()
    assert (after["id"], after["md5"]) == (before["id"], hashlib.md5(data).hexdigest())
    assert len(server.revisions(after["id"])) == 2


@pytest.mark.slow
def test_server_restart_during_an_upload(mount: Mount, server: Server) -> None:
    """The server is killed in the middle and comes back: the file arrives once, whole, and the mount never noticed."""
    mount.expect_log("not on Drive yet|remote changes cannot be read")
    data = os.urandom(MIB) * (SIZE // MIB)
    path = mount.my / "checkpoint"
    path.write_bytes(data)
    eventually(lambda: chunks(server) >= 1)
    server.stop(9)
    assert path.read_bytes() == data
    server.start()
    mount.flush()
    (item,) = server.tree()
    assert item["md5"] == hashlib.md5(data).hexdigest()
    assert len(server.revisions(item["id"])) == 1
