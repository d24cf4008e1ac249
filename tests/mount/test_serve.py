"""A mount beside what programs keep on Drive through it, and in the place of a daemon without a mount."""

from __future__ import annotations

import os
import signal

import pytest

from drivefs.base.errors import ExitCode
from drivefs.client import ClientError, statuses

from ..support.mounts import Mount, end_process, eventually
from ..support.served import Served
from ..support.server import Server
from .conftest import NewMount

pytestmark = pytest.mark.slow


def served_beside(mount: Mount, server: Server) -> Served:
    """A daemon without a mount for the same home, so for the same cache."""
    return Served(mount.home, server, supervise=True)


def test_what_is_put_and_trashed_is_seen_at_once(mount: Mount) -> None:
    """The kernel, which remembers for minutes that there is no such name, or what the name had, is told."""
    folder = mount.my / "env"
    assert not folder.exists()
    done = mount.client.put("MyDrive/env/f", b"one")
    assert eventually(lambda: (folder / "f").read_bytes()) == b"one"
    mount.client.put("MyDrive/env/f", b"three")
    assert eventually(lambda: (folder / "f").read_bytes() == b"three")
    mount.client.trash(done["id"])
    assert eventually(lambda: not (folder / "f").exists())


def test_what_programs_write_is_what_is_got(mount: Mount) -> None:
    """A file written through the kernel is listed and streamed once Drive has it."""
    data = os.urandom(3_000_000)
    (mount.my / "f").write_bytes(data)
    mount.flush()
    (item,) = mount.client.list("MyDrive")
    assert b"".join(mount.client.get(item["id"], item["size"], item["md5"])) == data


def test_a_file_of_the_mount_itself_is_no_source(mount: Mount) -> None:
    """A daemon that read from its own mount could not be killed any more."""
    (mount.my / "f").write_bytes(b"x")
    with pytest.raises(ClientError, match="this mount itself") as caught:
        mount.client.put("MyDrive/g", mount.my / "f")
    assert caught.value.exit_code == ExitCode.USAGE
    assert not (mount.my / "g").exists()


def test_a_mount_takes_over_with_all_that_is_pending(new_mount: NewMount, server: Server) -> None:
    """What the daemon without a mount could not send is sent by the mount; nobody starts that daemon again."""
    mount = new_mount()
    served = served_beside(mount, server).serve()
    served.put("MyDrive/first", b"x")
    server.ask("POST", "/_emulator/faults", {"method": "upload.*", "status": 503})
    mount.expect_log("503|WARNING")
    with pytest.raises(ClientError):
        served.put("MyDrive/f", b"content", timeout=0.5)
    server.ask("DELETE", "/_emulator/faults")
    assert served.supervisor is not None
    mount.mount()
    mount.flush()
    assert server.content(server.paths()["f"]["id"]) == b"content"
    assert (mount.my / "f").read_bytes() == b"content"
    assert not served.answers()
    assert eventually(lambda: served.supervisor is None)
    assert [state.get("mounted") for state in _states(mount)] == [None]
    told = served.run("serve", "--cache-dir", mount.cache, "--json")
    assert told.stdout.strip() == f'{{"place": "{mount.point}", "mounted": true, "already": true}}'


def test_a_crashed_mount_comes_back_from_a_daemon_without_one(new_mount: NewMount, server: Server) -> None:
    """While it was dead somebody served its cache; its supervisor mounts it again all the same."""
    mount = new_mount()
    mount.supervise = True
    mount.mount()
    mount.expect_log("SIGKILL|in use by another")
    supervisor, pid = mount.supervisor, mount.pid
    assert supervisor is not None
    assert pid is not None
    os.kill(supervisor, signal.SIGSTOP)
    try:
        end_process(pid)
        served = served_beside(mount, server)
        served.serve()
        served.put("MyDrive/f", b"content")
    finally:
        os.kill(supervisor, signal.SIGCONT)
    eventually(lambda: mount.answers() and (mount.my / "f").read_bytes() == b"content")
    assert not served.answers()


def _states(mount: Mount) -> list[dict[str, object]]:
    return statuses(runtime=str(mount.home / "run"))
