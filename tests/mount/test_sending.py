"""When Drive has what a program wrote: fsync that means Drive, and files that stay open."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

from ..support.mounts import errno_of, eventually
from ..support.server import Server
from .conftest import NewMount


def content_of(server: Server, path: str) -> bytes | None:
    item = server.paths().get(path)
    return None if item is None else server.content(item["id"])


def test_fsync_can_mean_drive(server: Server, new_mount: NewMount) -> None:
    """With --fsync remote, fsync(2) of an open file returns when Drive has its bytes, and says why where it has not."""
    mount = new_mount().mount("--fsync", "remote", "--upload-delay", "600", "--io-timeout", "3")
    with (mount.my / "checkpoint").open("wb", buffering=0) as file:
        file.write(b"epoch 1")
        os.fsync(file.fileno())
        item = server.paths()["checkpoint"]["id"]
        assert server.content(item) == b"epoch 1"
        file.write(b", epoch 2")
        os.fsync(file.fileno())
        assert server.content(item) == b"epoch 1, epoch 2"
        mount.expect_log("not on Drive yet|cannot be reached|remote changes cannot be read")
        server.stop()
        file.write(b", epoch 3")
        assert errno_of(lambda: os.fsync(file.fileno())) in (errno.EIO, errno.ETIMEDOUT)
        server.start()
    mount.flush()
    assert server.content(item) == b"epoch 1, epoch 2, epoch 3"


def test_a_log_that_stays_open_reaches_drive(server: Server, new_mount: NewMount) -> None:
    """With --open-file-snapshot 1 it is there after about a second, again and again under one id, and never torn."""
    mount = new_mount().mount("--open-file-snapshot", "1")
    lines = [b"step %d\n" % n for n in range(3)]
    with (mount.my / "events").open("wb", buffering=0) as file:
        for n, line in enumerate(lines, start=1):
            file.write(line)
            eventually(lambda n=n: content_of(server, "events") == b"".join(lines[:n]))  # type: ignore[misc]
        item = server.paths()["events"]["id"]
        assert len(server.revisions(item)) == 3
    mount.flush()
    assert len(server.revisions(item)) == 3


def test_an_edit_that_comes_between_look_and_upload_is_kept(server: Server, new_mount: NewMount) -> None:
    """Drive takes our content over a stranger's that we never saw: his becomes a conflict copy, and the log says so."""
    item = server.create("plan.txt", b"base")
    mount = new_mount().mount("--upload-delay", "600")
    mount.expect_log("the other content is kept as")
    assert (mount.my / "plan.txt").read_bytes() == b"base"
    (mount.my / "plan.txt").write_bytes(b"ours")
    server.ask("POST", "/_emulator/faults", {"route": "/upload/*", "latency": 5, "times": 1})
    with ThreadPoolExecutor() as pool:
        flushed = pool.submit(mount.flush)
        eventually(lambda: mount.status()["api_requests"].get("files.update"))
        server.write(item, b"theirs")
        flushed.result()
    mount.flush()
    assert server.content(item) == b"ours"
    (copy,) = server.paths().keys() - {"plan.txt"}
    assert copy.startswith("plan (conflict ")
    assert content_of(server, copy) == b"theirs"
    assert (mount.my / copy).read_bytes() == b"theirs"
