"""The embedded Drive is found or started, once, and errors of its start are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from drivefs import embedded
from drivefs.base.errors import CacheUnusable, ExitCode, RemoteUnreachable
from drivefs.embedded import ensure_embedded

# Stands for sys.executable: what the server process does instead of serving.
Impostor = Callable[[str], None]


@pytest.fixture
def impostor(home: Path, monkeypatch: pytest.MonkeyPatch) -> Impostor:
    def make(code: str) -> None:
        script = home / "python"
        script.write_text(f"#!{sys.executable}\n{code}\n")
        script.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(script))

    return make


def server(data: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((data / "embedded" / "server.json").read_text())
    return found


def answers(url: str) -> bool:
    parts = urlsplit(url)
    connection = HTTPConnection(str(parts.hostname), parts.port, timeout=5)
    try:
        connection.request("GET", "/_emulator/tree")
        return connection.getresponse().status == 200
    finally:
        connection.close()


def test_it_is_started_once_and_found_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call starts a server in its own session that does not know our token; the second call finds that one."""
    monkeypatch.setenv("DRIVEFS_ACCESS_TOKEN", "real-secret")
    url, token = ensure_embedded(home / "data")
    assert answers(url)
    assert token
    pid = server(home / "data")["pid"]
    assert isinstance(pid, int)
    assert os.getsid(pid) == pid
    assert b"real-secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert ensure_embedded(home / "data") == (url, token)
    assert server(home / "data")["pid"] == pid


def test_a_killed_one_is_replaced(home: Path) -> None:
    """server.json outlives its server and is not believed."""
    ensure_embedded(home / "data")
    first = server(home / "data")["pid"]
    assert isinstance(first, int)
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    url, _ = ensure_embedded(home / "data")
    assert answers(url)
    assert server(home / "data")["pid"] != first


def test_two_starters_get_one_server(home: Path) -> None:
    """The one that finds the directory locked uses what the other has started."""
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(ensure_embedded(home / "data")[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 2
    assert len(set(got)) == 1
    assert answers(got[0])


def test_a_stranger_on_the_old_port_is_not_taken_for_it(home: Path, impostor: Impostor) -> None:
    """Something else that answers at the address in server.json is not our server, so a start is tried."""
    import http.server

    class Stranger(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"hello": "world"}')

        def log_message(self, format: str, *_: object) -> None:
            """Keeps the test's output clean."""

    (home / "data" / "embedded").mkdir(parents=True)
    impostor("raise SystemExit(3)")
    with http.server.HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        thread = threading.Thread(target=stranger.handle_request)
        thread.start()
        place = {"url": f"http://127.0.0.1:{stranger.server_port}", "pid": 2**22 + 1}
        (home / "data" / "embedded" / "server.json").write_text(json.dumps(place))
        with pytest.raises(RemoteUnreachable, match=r"exit code 3"):
            ensure_embedded(home / "data")
        thread.join()


def test_why_it_did_not_start_is_told(home: Path, impostor: Impostor) -> None:
    """The last thing it said, its exit code, and where the whole log is."""
    impostor("import sys; print('first', file=sys.stderr); sys.exit('no room \\x1b[31m')")
    with pytest.raises(RemoteUnreachable) as caught:
        ensure_embedded(home / "data")
    sentence = str(caught.value)
    assert r"(exit code 1): 'no room \x1b[31m'" in sentence
    assert str(home / "data" / "embedded" / "server.log") in sentence
    assert caught.value.exit_code == ExitCode.UNREACHABLE


def test_one_that_never_gets_ready_is_ended(home: Path, impostor: Impostor, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time limit the start has failed, and the process does not stay behind."""
    monkeypatch.setattr(embedded, "_START_SECONDS", 0.5)
    impostor(f"import os, time; open({str(home / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    with pytest.raises(RemoteUnreachable, match="did not start"):
        ensure_embedded(home / "data")
    assert not Path(f"/proc/{(home / 'pid').read_text()}").exists()


def test_a_directory_that_others_can_change_is_refused(home: Path) -> None:
    """Somebody else could put a server.json there that leads us to his server."""
    (home / "data" / "embedded").mkdir(parents=True)
    (home / "data" / "embedded").chmod(0o777)
    with pytest.raises(CacheUnusable, match="other users can change"):
        ensure_embedded(home / "data")


def test_it_ends_by_itself(home: Path) -> None:
    """With nobody asking it anything, the server is gone after idle_exit seconds."""
    ensure_embedded(home / "data", idle_exit=0.2)
    (process,) = [started for started in embedded._started if started.pid == server(home / "data")["pid"]]
    try:
        assert process.wait(timeout=10) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        raise
