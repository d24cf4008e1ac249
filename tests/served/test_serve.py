"""Whole files on Drive through a real daemon without a mount: nothing lost, nothing half, whatever is killed when."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from drivefs.base.errors import ExitCode
from drivefs.client import ClientError

from ..support.mounts import end_process, eventually
from ..support.served import Served
from ..support.server import Server
from .conftest import NewServed

pytestmark = pytest.mark.slow
MIB = 1 << 20


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file of 20 MiB, which takes several blocks, chunks and portions."""
    path = tmp_path / "big"
    path.write_bytes(os.urandom(MIB) * 20)
    return path


class Putting(threading.Thread):
    """A put in a thread of its own. ``reached`` is set once the daemon has taken so many bytes."""

    def __init__(self, served: Served, path: str, source: Path, reach: int = 0, timeout: float = 60.0) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.outcome: Any = None
        self._served, self._path, self._source, self._timeout = served, path, source, timeout
        self._reach = reach
        self.start()

    def _progress(self, news: Any) -> None:
        if news["written"] >= self._reach:
            self.reached.set()

    def run(self) -> None:
        try:
            put = self._served.client.put
            self.outcome = put(self._path, self._source, timeout=self._timeout, progress=self._progress)
        except ClientError as error:
            self.outcome = error


def test_a_day_s_work(served: Served, server: Server, big: Path) -> None:
    """put, list, stat, get, a new revision and trash, with files small and large; then it ends with everything on Drive."""
    assert served.names("MyDrive/env/objects") == []
    done = served.put("MyDrive/env/objects/big", big)
    small = served.put("MyDrive/env/objects/small", b"small")
    assert served.names("MyDrive/env/objects") == ["big", "small"]
    assert served.content("MyDrive/env/objects/big") == big.read_bytes()
    assert server.content(small["id"]) == b"small"
    assert served.put("MyDrive/env/objects/small", b"newer")["id"] == small["id"]
    assert len(server.revisions(small["id"])) == 2
    served.client.trash(done["id"])
    assert set(server.paths()) == {"env", "env/objects", "env/objects/small"}
    ended = served.run("unmount", served.cache)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert served.run("unmount", served.cache).returncode == ExitCode.NOT_MOUNTED


def test_many_at_once(served: Served, server: Server) -> None:
    """Sixteen puts, and then gets, at the same time from threads of one program."""
    contents = {f"MyDrive/env/objects/{n}": os.urandom(200_000 * n) for n in range(16)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(served.put, contents, contents.values()))
        assert list(pool.map(served.content, contents)) == list(contents.values())
    assert len(served.names("MyDrive/env/objects")) == 16
    assert len(server.paths()) == 18


def test_killed_while_the_bytes_come(served: Served, server: Server, big: Path) -> None:
    """SIGKILL in the middle: the client is told, Drive has nothing of it then or later, the daemon is back, and put succeeds."""
    served.put("MyDrive/env/other", b"x")
    served.expect_log("SIGKILL")
    putting = Putting(served, "MyDrive/env/big", big, reach=8 * MIB)
    assert putting.reached.wait(30)
    assert served.pid is not None
    end_process(served.pid)
    putting.join()
    assert isinstance(putting.outcome, ClientError)
    eventually(served.answers)
    assert served.client.flush(timeout=30) == []
    assert set(server.paths()) == {"env", "env/other"}
    assert served.status()["pending_files"] == 0
    served.put("MyDrive/env/big", big)
    assert served.content("MyDrive/env/big") == big.read_bytes()
    assert set(server.paths()) == {"env", "env/other", "env/big"}


@pytest.mark.parametrize("delay", [0.05, 0.4])
def test_killed_while_they_are_sent(served: Served, server: Server, big: Path, delay: float) -> None:
    """SIGKILL later: what has its name is whole and is sent by the next daemon, or there never was anything; and no twins."""
    served.put("MyDrive/env/big", b"the former content")
    served.expect_log("SIGKILL")
    putting = Putting(served, "MyDrive/env/big", big, reach=20 * MIB)
    assert putting.reached.wait(30)
    time.sleep(delay)
    assert served.pid is not None
    end_process(served.pid)
    putting.join()
    eventually(served.answers)
    assert served.client.flush(timeout=60) == []
    item = server.paths()["env/big"]
    assert server.content(item["id"]) in (b"the former content", big.read_bytes())
    assert served.put("MyDrive/env/big", big)["id"] == item["id"]
    assert set(server.paths()) == {"env", "env/big"}


def test_a_server_that_goes_and_comes(new_served: NewServed, server: Server, big: Path) -> None:
    """While it is away a put waits; what is asked says that Drive cannot be reached; when it is back all goes on."""
    served = new_served().serve("--io-timeout", "2")
    done = served.put("MyDrive/env/small", b"small")
    server.stop(signal.SIGKILL)
    served.expect_log("WARNING")
    try:
        putting = Putting(served, "MyDrive/env/big", big)
        with pytest.raises(ClientError) as caught:
            served.put("MyDrive/env/late", b"x", timeout=1)
        assert caught.value.exit_code == ExitCode.NOT_ON_DRIVE
        with pytest.raises(ClientError) as caught:
            list(served.client.get(done["id"], 5))
        assert caught.value.exit_code == ExitCode.UNREACHABLE
    finally:
        server.start()
    putting.join()
    assert isinstance(putting.outcome, dict), putting.outcome
    assert served.content("MyDrive/env/big") == big.read_bytes()
    assert served.client.flush(timeout=60) == []
    assert set(served.names("MyDrive/env")) == {"small", "big", "late"}


def test_a_full_drive(served: Served, server: Server) -> None:
    """Said at once, with exit code 3 and the reason; once there is room the same put succeeds."""
    served.put("MyDrive/env/one", b"x")
    server.ask("POST", "/_emulator/faults", {"quota_full": True})
    served.expect_log("storage")
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(ClientError, match=r"(?i)storage|quota|full") as caught:
            served.put("MyDrive/env/two", bytes(100_000))
        assert caught.value.exit_code == ExitCode.NOT_ON_DRIVE
    assert time.monotonic() - began < 20
    server.ask("DELETE", "/_emulator/faults")
    served.put("MyDrive/env/two", bytes(100_000))
    assert set(server.paths()) == {"env", "env/one", "env/two"}


def test_what_another_machine_put_is_there_at_once(new_served: NewServed, server: Server) -> None:
    """Two daemons with caches of their own that ask Drive for changes once an hour: no folder is made twice, no file missed."""
    here, there = (new_served().serve("--poll-interval", "3600") for _ in range(2))
    for one in (here, there):
        assert one.names("MyDrive/env/objects") == []
    here.put("MyDrive/env/objects/a", b"a")
    assert there.names("MyDrive/env/objects") == ["a"]
    there.put("MyDrive/env/objects/b", b"b")
    assert here.names("MyDrive/env/objects") == ["a", "b"]
    assert here.content("MyDrive/env/objects/a") == b"a"
    item = here.client.list("MyDrive/env/objects")[1]
    assert b"".join(here.client.get(item["id"], item["size"], item["md5"])) == b"b"
    assert set(server.paths()) == {"env", "env/objects", "env/objects/a", "env/objects/b"}


def test_what_a_stranger_puts_into_a_shared_folder_is_not_ours(served: Served, server: Server) -> None:
    """Drive says whose each item is; a name like ours proves nothing."""
    served.put("MyDrive/env/ours", b"x")
    folder = served.client.stat("MyDrive/env")
    assert folder is not None
    assert folder["owned"]
    server.ask("POST", "/_emulator/users", {"email": "mallory@example.com", "name": "Mallory"})
    permission = {"type": "user", "role": "writer", "emailAddress": "mallory@example.com"}
    server.ask("POST", f"/drive/v3/files/{folder['id']}/permissions", permission)
    body = {"name": "theirs", "parents": [folder["id"]]}
    server.ask("POST", "/_emulator/as/mallory@example.com/drive/v3/files", body)
    assert {item["name"]: item["owned"] for item in served.client.list("MyDrive/env")} == {"ours": True, "theirs": False}
    theirs = served.client.stat("MyDrive/env/theirs")
    assert theirs is not None
    assert not theirs["owned"]


def test_wrong_bytes_on_the_way(served: Served, server: Server, big: Path) -> None:
    """A bit that flips between Drive and here is an error at the end of a download, not content."""
    done = served.put("MyDrive/big", big)
    server.ask("POST", "/_emulator/faults", {"method": "*.get_media", "flip": 1000})
    for md5 in (done["md5"], None):
        with pytest.raises(ClientError, match="checksum"):
            list(served.client.get(done["id"], done["size"], md5))


def test_broken_downloads_are_continued(served: Served, server: Server, big: Path) -> None:
    """Connections that break again and again cost time, and not a byte comes twice or is missing."""
    done = served.put("MyDrive/big", big)
    server.ask("POST", "/_emulator/faults", {"method": "*.get_media", "cut_response": 5 * MIB})
    assert b"".join(served.client.get(done["id"], done["size"], done["md5"])) == big.read_bytes()


def test_who_leaves_ends_his_download(served: Served, server: Server, big: Path) -> None:
    """The daemon fetches nothing more than it had by then."""
    done = served.put("MyDrive/big", big)
    server.ask("POST", "/_emulator/faults", {"method": "*.get_media", "bandwidth": {"down": 2_000_000}})
    with closing(served.client.get(done["id"], done["size"], done["md5"])) as chunks:
        assert len(next(chunks)) > 0
    fetched = eventually(lambda: served.status()["bytes_down"])
    time.sleep(0.5)  # the subject of the test: what happens in a while in which nobody takes it
    assert served.status()["bytes_down"] == fetched < done["size"] // 2


@pytest.mark.parametrize("ending", ["unmount", "SIGTERM"])
def test_what_is_pending_is_sent_at_the_end(served: Served, server: Server, ending: str) -> None:
    """As with a mount: a put that could not be confirmed is on Drive when the daemon has ended."""
    served.put("MyDrive/first", b"x")
    server.ask("POST", "/_emulator/faults", {"method": "upload.*", "status": 503})
    served.expect_log("503|WARNING")
    with pytest.raises(ClientError) as caught:
        served.put("MyDrive/f", b"content", timeout=1)
    assert caught.value.exit_code == ExitCode.NOT_ON_DRIVE
    assert [entry["path"] for entry in served.status()["pending"]] == ["MyDrive/f"]
    server.ask("DELETE", "/_emulator/faults")
    if ending == "unmount":
        assert served.run("unmount", served.cache).returncode == 0
    else:
        served.signal(signal.SIGTERM)
    assert server.content(server.paths()["f"]["id"]) == b"content"


def test_it_starts_again_after_a_crash(served: Served) -> None:
    """Its supervisor sees to that, and the next call finds the next daemon."""
    served.put("MyDrive/f", b"content")
    served.expect_log("SIGKILL")
    former = served.pid
    assert former is not None
    end_process(former)
    eventually(lambda: served.answers() and served.pid != former)
    assert served.content("MyDrive/f") == b"content"


def test_without_fuse(new_served: NewServed, server: Server, tmp_path: Path) -> None:
    """Neither the library nor the helper program nor anything else on PATH is there, and all of it works."""
    (tmp_path / "pyfuse3.py").write_text("raise ImportError('there is no FUSE on this machine')")
    served = new_served()
    served.environment |= {"PYTHONPATH": f"{tmp_path}:{served.environment['PYTHONPATH']}", "PATH": "/nonexistent"}
    served.serve()
    served.put("MyDrive/f", b"content")
    assert served.content("MyDrive/f") == b"content"
    assert served.run("mount", tmp_path / "mnt").returncode == ExitCode.NO_FUSE
    assert served.run("unmount", served.cache).returncode == 0


def test_programs_that_start_it_at_the_same_time_share_it(new_served: NewServed) -> None:
    """All of them get the same place, whoever was first."""
    served = new_served()
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: served.run("serve", "--cache-dir", served.cache, "--json"), range(4)))
    assert {one.returncode for one in done} == {0}, done
    assert len({served.status()["pid"]}) == 1
    assert sum('"already": false' in one.stdout for one in done) == 1
    assert all(str(served.cache) in one.stdout for one in done)
    served.expect_log("is in use by another drivefs daemon|Another drivefs daemon")
