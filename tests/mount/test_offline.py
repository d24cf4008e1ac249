"""Without the server: what is cached can be read, what is written waits, and everything comes through afterwards."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.mounts import Mount, eventually, mounted_at
from ..support.server import Server


@pytest.fixture
def own_server(home: Path) -> Iterator[Server]:
    """One that the test may stop and start."""
    server = Server(home / "server")
    yield server
    server.stop()


@pytest.fixture
def own_mount(home: Path, own_server: Server) -> Iterator[Mount]:
    """Not mounted yet; its log may speak of the server's absence."""
    mount = Mount(home, own_server)
    yield mount
    mount.end()
    mount.expect_log("cannot be reached|cannot be read|not on Drive yet|not on Drive, kept in the cache|refused|broke")
    mount.judge_log()


def test_server_down_at_the_first_start(own_server: Server, own_mount: Mount) -> None:
    """Nothing is known yet, so there is nothing to show: exit code 5 within 30 s, a sentence with the address, no mount."""
    own_server.stop()
    begin = time.monotonic()
    done = own_mount.run("mount", own_mount.point, "--cache-dir", own_mount.cache)
    assert done.returncode == 5
    assert own_server.url in done.stderr
    assert time.monotonic() - begin < 30
    assert not own_mount.point.exists()
    own_server.start()
    own_mount.mount().unmount()


def test_warm_start_without_the_server(own_server: Server, own_mount: Mount) -> None:
    """Mounted at once, without waiting for Drive: cached files are read, writes wait and come through later; status says why."""
    own_server.create("cached", b"cached content")
    own_server.create("never read", b"x" * 100)
    own_mount.mount()
    assert sorted(os.listdir(own_mount.my)) == ["cached", "never read"]
    assert (own_mount.my / "cached").read_bytes() == b"cached content"
    own_mount.unmount()
    own_server.stop()
    own_mount.mount()
    assert sorted(os.listdir(own_mount.my)) == ["cached", "never read"]
    assert (own_mount.my / "cached").read_bytes() == b"cached content"
    assert (own_mount.my / "never read").stat().st_size == 100
    (own_mount.my / "d").mkdir()
    (own_mount.my / "d" / "new").write_bytes(b"written offline")
    os.rename(own_mount.my / "cached", own_mount.my / "d" / "moved")
    with (own_mount.my / "d" / "moved").open("ab") as file:
        file.write(b", longer")
    state = own_mount.status()
    assert state["pending_files"] == 3
    assert state["offline"]
    eventually(lambda: "cannot be reached" in own_mount.status()["offline"])
    eventually(lambda: own_mount.status()["last_errors"])
    own_server.start()
    own_mount.flush()
    items = own_server.paths()
    assert items.keys() == {"never read", "d", "d/new", "d/moved"}
    assert own_server.content(items["d/new"]["id"]) == b"written offline"
    assert own_server.content(items["d/moved"]["id"]) == b"cached content, longer"
    assert (own_mount.my / "never read").read_bytes() == b"x" * 100
    own_mount.unmount()


def test_server_goes_while_mounted(own_server: Server, own_mount: Mount) -> None:
    """Local operations stay quick, nothing vanishes, and what happened on both sides meanwhile meets when the server is back."""
    own_mount.mount()
    (own_mount.my / "before").write_bytes(b"before")
    own_mount.flush()
    own_server.stop()
    begin = time.monotonic()
    for n in range(20):
        (own_mount.my / f"offline {n}").write_bytes(b"%d" % n)
    assert time.monotonic() - begin < 5
    assert len(os.listdir(own_mount.my)) == 21
    os.unlink(own_mount.my / "before")
    own_server.start()
    own_server.create("elsewhere", b"made elsewhere")
    own_mount.flush()
    eventually(lambda: (own_mount.my / "elsewhere").exists(), 30)
    assert own_server.paths().keys() == {"elsewhere", *(f"offline {n}" for n in range(20))}
    own_mount.unmount()


def test_unmount_without_the_server(own_server: Server, own_mount: Mount) -> None:
    """unmount --timeout gives exit code 3, lists the file with its reason, and leaves the mount working; flush gives 3 too."""
    own_mount.mount()
    (own_mount.my / "known").write_bytes(b"k")
    own_mount.flush()
    own_server.stop()
    (own_mount.my / "unsent").write_bytes(b"u" * 2048)
    done = own_mount.run("unmount", own_mount.point, "--timeout", "1")
    assert done.returncode == 3
    assert "'MyDrive/unsent'  2.0 KiB" in done.stderr
    assert "stays mounted" in done.stderr
    assert mounted_at(own_mount.point)
    assert (own_mount.my / "unsent").read_bytes() == b"u" * 2048
    flushed = own_mount.run("flush", own_mount.my / "unsent", "--timeout", "1")
    assert flushed.returncode == 3
    assert "MyDrive/unsent" in flushed.stderr
    assert own_mount.run("flush", own_mount.my / "known", "--timeout", "1").returncode == 0
    own_server.start()
    own_mount.unmount()
    assert own_server.paths().keys() == {"known", "unsent"}


def test_unreachable_is_never_taken_for_deleted(own_server: Server, own_mount: Mount) -> None:
    """A file never read keeps its size while the server is away, and who reads it waits; the bytes come when the server does."""
    own_server.create("f", b"content")
    own_mount.mount()
    assert os.listdir(own_mount.my) == ["f"]
    own_server.stop()
    path = own_mount.my / "f"
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    eventually(lambda: own_mount.status()["api_requests"].get("files.download", 0) > 1)
    assert path.stat().st_size == 7
    assert os.listdir(own_mount.my) == ["f"]
    assert read == []
    own_server.start()
    reader.join(30)
    assert read == [b"content"]
    own_mount.unmount()
