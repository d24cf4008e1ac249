"""SIGKILL while a large file is being sent: the upload goes on or begins anew, and the server never has the file twice."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time

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


@pytest.mark.slow
def test_sigterm_with_much_to_send(mount: Mount, server: Server) -> None:
    """A slow network and a short deadline: small files arrive, the list names the rest, and the next start goes on with it."""
    mount.remount("--drain-timeout", "4")
    server.ask("POST", "/_emulator/faults", {"bandwidth": {"total_up": 8_000_000}})
    data = os.urandom(MIB) * 60
    (mount.my / "large").write_bytes(data)
    small = {f"small{number}": os.urandom(200_000) for number in range(6)}
    for name, content in small.items():
        (mount.my / name).write_bytes(content)
    begin = time.monotonic()
    mount.signal(signal.SIGTERM)
    assert time.monotonic() - begin < 9
    listed = json.loads((mount.cache / "unsent.json").read_text())
    assert [(entry["path"], entry["size"]) for entry in listed["entries"]] == [("MyDrive/large", len(data))]
    assert server.paths().keys() == small.keys()
    said = mount.run("status", mount.point)
    assert said.returncode == 3
    assert said.stdout.startswith("safe to power off: no")
    assert "'MyDrive/large'  60.0 MiB" in said.stdout
    server.ask("DELETE", "/_emulator/faults")
    mount.mount()
    mount.flush()
    items = server.paths()
    assert items["large"]["md5"] == hashlib.md5(data).hexdigest()
    assert {name: server.content(items[name]["id"]) for name in small} == small
    assert bytes_in(server) <= len(data) + sum(map(len, small.values())) + CHUNK + 100_000
    mount.expect_log("not on Drive")
