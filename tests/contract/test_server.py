"""The process: how it starts and ends, what it keeps, and what a kill leaves."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import socket
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.contract.conftest import Drive, Server

pytestmark = pytest.mark.emulator
GRANULE = 256 * 1024


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "drivefs.emulator", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_ready_line_and_memory(start: Callable[..., Server]) -> None:
    """The ready line says where it is and who; nothing of a memory Drive is left after SIGTERM, and the exit status is 0."""
    server = start()
    assert set(server.ready) == {"url", "pid", "root_id", "data"}
    assert (server.ready["pid"], server.ready["data"]) == (server.process.pid, None)
    assert server.ready["root_id"] == server.drive.item("root")["id"]
    server.drive.upload("x", b"x")
    assert server.stop() == 0


def test_data_is_kept(start: Callable[..., Server], tmp_path: Path) -> None:
    """With --data a restart finds the same Drive at the same address; all of it is private to the user."""
    data = tmp_path / "data"
    first = start("--data", str(data))
    made = first.drive.upload("x", b"bytes")
    token = first.drive.get("changes/startPageToken")["startPageToken"]
    assert json.loads((data / "server.json").read_text()) == {"url": first.ready["url"], "pid": first.process.pid}
    assert first.stop() == 0
    second = start("--data", str(data))
    assert second.ready["url"] == first.ready["url"]
    assert second.drive.item(made["id"]) == made
    assert second.drive.download(made["id"]) == b"bytes"
    assert second.drive.get("changes", pageToken=token)["changes"] == []
    for path in [data, *data.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_one_server_per_folder(start: Callable[..., Server], tmp_path: Path) -> None:
    """A second server on a folder is refused with status 8 and the owner's pid; one that others may write in with 2."""
    server = start("--data", str(tmp_path / "data"))
    second = _run("--data", str(tmp_path / "data"))
    assert (second.returncode, second.stdout) == (8, "")
    assert f"pid {server.process.pid}" in second.stderr
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    refused = _run("--data", str(tmp_path / "open"))
    assert refused.returncode == 2
    assert "others may write" in refused.stderr


def test_a_port_that_is_taken(start: Callable[..., Server], tmp_path: Path) -> None:
    """--port that is taken is refused with a sentence; a former port that is taken is replaced."""
    data = tmp_path / "data"
    former = start("--data", str(data))
    port = int(former.ready["url"].rsplit(":", 1)[1])
    former.stop()
    with socket.create_server(("127.0.0.1", port)):
        refused = _run("--port", str(port))
        assert (refused.returncode, "cannot listen" in refused.stderr) == (2, True)
        assert start("--data", str(data)).ready["url"] != former.ready["url"]


def test_idle_exit(start: Callable[..., Server]) -> None:
    """--idle-exit ends the server by itself, with status 0, but not while a request is in progress."""
    server = start("--idle-exit", "1")
    connection = http.client.HTTPConnection(server.ready["url"].removeprefix("http://"), timeout=20)
    connection.putrequest("POST", "/upload/drive/v3/files?uploadType=media")
    connection.putheader("Authorization", "Bearer t")
    connection.putheader("Content-Length", "2")
    connection.endheaders(b"x")
    with pytest.raises(subprocess.TimeoutExpired):
        server.process.wait(2)
    connection.send(b"y")
    assert connection.getresponse().status == 200
    connection.close()
    assert server.wait(10) == 0


def test_requests_are_counted(drive: Drive) -> None:
    """The request log counts by method and by route, bodies each way, and leaves /_emulator out."""
    drive.upload("x", b"x" * 1000)
    drive.names("")
    log = drive.send("GET", "/_emulator/requests", token=None).json()
    assert log["by_method"] == {"files.create": 1, "files.list": 1}
    assert log["by_route"] == {"POST /upload/drive/v3/files": 1, "GET /drive/v3/files": 1}
    assert 1000 < log["bytes_in"] < 1500
    assert log["bytes_out"] > 1000
    drive.send("POST", "/_emulator/reset", token=None)
    assert drive.send("GET", "/_emulator/requests", token=None).json() == {
        "by_method": {},
        "by_route": {},
        "bytes_in": 0,
        "bytes_out": 0,
    }


def test_tree(drive: Drive) -> None:
    """The tree lists each untrashed item with its path, parents before children, same-name siblings each."""
    folder = drive.folder("d")
    first, second = drive.upload("same", b"1", folder), drive.upload("same", b"22", folder)
    drive.call("PATCH", f"files/{drive.create('trashed')['id']}", {"trashed": True})
    tree = drive.tree()
    assert [(one["path"], one["id"], one["size"]) for one in tree] == [
        ("d", folder, None),
        ("d/same", first["id"], 1),
        ("d/same", second["id"], 2),
    ]
    assert set(tree[1]) == {"path", "id", "name", "size", "md5", "mimeType", "modifiedTime", "parents", "headRevisionId"}
    assert (tree[1]["md5"], tree[1]["parents"]) == (first["md5Checksum"], [folder])


def test_control_endpoints_answer_only_to_this_machine(start: Callable[..., Server]) -> None:
    """A server that listens on all addresses refuses /_emulator to peers that are not loopback."""
    server = start("--host", "0.0.0.0")
    port = int(server.ready["url"].rsplit(":", 1)[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # documentation network: nothing is sent, only the own address is chosen
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    connection = http.client.HTTPConnection(address, port, timeout=20)
    connection.request("POST", "/_emulator/reset")
    assert connection.getresponse().status == 403
    connection.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example:8080"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost:8080"}, 200),
        ({"Host": "localhost:8080", "Origin": "http://localhost:8080"}, 200),
        ({"Host": "[::1]:8080"}, 200),
    ],
)
def test_web_pages_are_kept_out(drive: Drive, headers: dict[str, str], status: int) -> None:
    """A page in the user's browser reaches neither API nor control endpoints: foreign Origin and rebound names are 403."""
    assert drive.send("GET", "/drive/v3/about?fields=kind", headers=headers).status == status
    assert drive.send("GET", "/_emulator/tree", headers=headers).status == status


def _upload_until_killed(drive: Drive, seed: int, done: dict[str, str], expected: dict[str, str]) -> None:
    chance = random.Random(seed)
    try:
        for number in range(10_000):
            content = chance.randbytes(chance.choice([10, 5000, 700_000]))
            name, digest = f"{seed}-{number}", hashlib.md5(content).hexdigest()
            expected[name] = digest
            done[drive.upload(name, content)["id"]] = digest
    except (OSError, http.client.HTTPException):
        pass  # the server was killed: just what this is for


def _blobs(data: Path) -> int:
    return sum(1 for path in (data / "blobs").rglob("*") if path.is_file())


def test_kill_during_uploads(start: Callable[..., Server], tmp_path: Path) -> None:
    """SIGKILL in the middle of uploads: what was confirmed is there, what is there is whole, and no stray bytes stay; a resumable
    session goes on after the restart, at the same address."""
    data = tmp_path / "data"
    server = start("--data", str(data))
    content = random.Random(9).randbytes(3 * GRANULE + 5)
    headers = {"Content-Type": "application/json"}
    session = server.drive.send("POST", "/upload/drive/v3/files?uploadType=resumable", body=b'{"name": "r"}', headers=headers)
    location, total = session.headers["location"], len(content)
    first = {"Content-Range": f"bytes 0-{2 * GRANULE - 1}/{total}"}
    assert server.drive.send("PUT", location, body=content[: 2 * GRANULE], headers=first).status == 308
    done: dict[str, str] = {}
    expected: dict[str, str] = {}
    threads = [threading.Thread(target=_upload_until_killed, args=(server.drive, seed, done, expected)) for seed in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while len(done) < 25 and time.monotonic() < deadline:
        time.sleep(0.01)
    server.kill()
    for thread in threads:
        thread.join()
    assert len(done) >= 25
    drive = start("--data", str(data)).drive
    tree = {one["id"]: one for one in drive.tree()}
    assert {one: tree[one]["md5"] for one in done} == done
    for one in tree.values():
        assert one["md5"] == expected[one["name"]] == hashlib.md5(drive.download(one["id"])).hexdigest()
    assert _blobs(data) == len(tree)
    assert os.listdir(data / "uploads") == [location.rpartition("=")[2]]
    _resume(drive, location, content)


def _resume(drive: Drive, location: str, content: bytes) -> None:
    total = len(content)
    held = drive.send("PUT", location, body=b"", headers={"Content-Range": f"bytes */{total}"})
    assert (held.status, held.headers["range"]) == (308, f"bytes=0-{2 * GRANULE - 1}")
    rest = {"Content-Range": f"bytes {2 * GRANULE}-{total - 1}/{total}"}
    made: Any = drive.send("PUT", location, body=content[2 * GRANULE :], headers=rest).json()
    assert drive.download(made["id"]) == content


def test_blobs_of_deleted_files_go(start: Callable[..., Server], tmp_path: Path) -> None:
    """Content that no revision names any more leaves the disk: after delete, reset and a refused upload."""
    data = tmp_path / "data"
    drive = start("--data", str(data)).drive
    made = drive.upload("x", b"one")
    copied = drive.call("POST", f"files/{made['id']}/copy", {}).json()
    assert _blobs(data) == 1
    drive.call("DELETE", f"files/{made['id']}")
    assert _blobs(data) == 1
    drive.call("DELETE", f"files/{copied['id']}")
    assert _blobs(data) == 0
    drive.upload("y", b"two")
    headers = {"Content-Type": "multipart/related; boundary=B"}
    body = b'--B\n\n{"parents": ["missing"]}\n--B\n\nthree\n--B--'
    assert drive.send("POST", "/upload/drive/v3/files?uploadType=multipart", body=body, headers=headers).status == 404
    assert _blobs(data) == 1
    drive.send("POST", "/_emulator/reset", token=None)
    assert (_blobs(data), os.listdir(data / "uploads")) == (0, [])
