"""Who may ask the served page, by real requests: everything that is not the owner, by an address that is ours, is refused."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from drivefs_agent.state import State, StateError, state_folder
from tests.agent.running import TOKEN, Served, serving

ROUTES = (
    "/",
    "/page.js",
    "/page.css",
    "/icon.svg",
    "/api/specs",
    "/api/colab/resources",
    "/api/events",
    "/metrics",
    "/healthz",
    "/no",
)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    home = Path(tempfile.mkdtemp(prefix="ag-"))
    try:
        with serving(home, "--allow-host", "box.example:8787") as one:
            yield one
    finally:
        shutil.rmtree(home)


@pytest.mark.parametrize("path", ROUTES)
def test_nothing_without_the_token(served: Served, path: str) -> None:
    """Every route, known or not, answers 401 to no token, to a wrong one, to half of it, and to a wrong cookie."""
    wrong: list[Mapping[str, str]] = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer \xe9"},
        {"Cookie": f"drivefs-agent-{served.port}={TOKEN}"},  # the cookie is not the token
    ]
    for headers in wrong:
        response, text = served.ask(path, headers, token=False)
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer"), headers
        assert TOKEN not in text
    for query in ("?token=", "?token=wrong", "?token=a&token=b", "?" + "&" * 3000, "?" + "x=1&" * 500):
        assert served.ask(path + query, token=False)[0].status == 401, query


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example:{port}", "", "127.1:{port}"],
)
@pytest.mark.parametrize("path", ROUTES)
def test_no_name_but_ours(served: Served, host: str, path: str) -> None:
    """A name that somebody's DNS points here is refused even with the token, and before anything else is looked at."""
    assert served.ask(path, {"Host": host.format(port=served.port)})[0].status == 403


def test_our_names(served: Served) -> None:
    """The loopback's names with our port, and the one that was allowed."""
    for host in (
        f"127.0.0.1:{served.port}",
        f"localhost:{served.port}",
        f"LOCALHOST:{served.port}",
        f"[::1]:{served.port}",
        "box.example:8787",
    ):
        assert served.ask("/healthz", {"Host": host})[0].status == 200, host


def test_bound_to_every_address() -> None:
    """A fleet's Prometheus calls a box by its address: the one connected to is ours, any other name still is not."""
    home = Path(tempfile.mkdtemp(prefix="ag-"))
    try:
        with serving(home, "--bind", "0.0.0.0") as one:
            assert one.ask("/healthz")[0].status == 200
            for host in ("evil.example:{port}", "0.0.0.0:{port}", "10.1.2.3:{port}"):
                assert one.ask("/healthz", {"Host": host.format(port=one.port)})[0].status == 403, host
            assert one.ask("/healthz", token=False)[0].status == 401
    finally:
        shutil.rmtree(home)


@pytest.mark.parametrize("other", ["evil.example", "127.0.0.1:{port}"])
def test_two_hosts_are_none(served: Served, other: str) -> None:
    """Which of them a proxy in between believed cannot be known."""
    hosts = f"Host: 127.0.0.1:{served.port}\r\nHost: {other.format(port=served.port)}\r\n"
    request = f"GET /healthz HTTP/1.1\r\n{hosts}Authorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(request.encode())
        assert connection.recv(100).startswith((b"HTTP/1.1 403", b"HTTP/1.1 400"))


@pytest.mark.parametrize("path", ROUTES)
def test_other_pages_are_refused(served: Served, path: str) -> None:
    """Origin and Sec-Fetch-Site of other sites, another port of this host among them, are 403 with the token too."""
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{served.port + 1}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ):
        response, _ = served.ask(path, headers)
        assert response.status == 403, headers
        assert not [name for name in response.headers if name.lower().startswith("access-control")]


def test_a_followed_link_and_our_own_page_are_served(served: Served) -> None:
    """A person who clicks on the address in a chat gets the page; the page gets its data."""
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert served.ask("/", link)[0].status == 200
    own = {"Origin": f"http://127.0.0.1:{served.port}", "Sec-Fetch-Site": "same-origin"}
    assert served.ask("/api/specs", own)[0].status == 200


def test_the_token_becomes_a_cookie_that_does_not_tell_it(served: Served) -> None:
    """Only the page with the token in its address sets it: for this host alone, no script reads it, no other site sends it."""
    response, _ = served.ask(f"/?token={TOKEN}", token=False)
    cookie = response.headers["Set-Cookie"]
    assert response.status == 200
    assert TOKEN not in cookie
    assert {"httponly", "samesite=strict", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
    assert served.ask("/api/specs", {"Cookie": cookie.partition(";")[0]}, token=False)[0].status == 200
    assert "Set-Cookie" not in served.ask("/")[0].headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_there_is_nothing_to_change(served: Served, method: str) -> None:
    """Only GET and HEAD are known, and so nothing can be made to happen."""
    for path in ROUTES:
        assert served.ask(path, method=method)[0].status in (405, 400)


@pytest.mark.parametrize("path", [*ROUTES, "/%2e%2e/%2e%2e/etc/passwd", "/../../etc/passwd", "/page.js/../../state.py"])
@pytest.mark.parametrize("token", [True, False])
def test_every_answer_is_marked(served: Served, path: str, token: bool) -> None:
    """Refusals and errors too carry the policy: no foreign content, no frames, no guessing of types, no keeping."""
    if path == "/api/events" and token:
        return  # it never ends; test_page reads it
    response, text = served.ask(path, token=token)
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert (response.headers["X-Content-Type-Options"], response.headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
    assert response.headers["Cache-Control"] == "no-store"
    assert "server" not in response.headers
    assert "root:" not in text
    assert response.status == (401 if not token else 200 if path in ROUTES[:-1] else 404)


def test_those_who_only_hold_connections_shut_nobody_out(served: Served) -> None:
    """Of 300 connections that say nothing those beyond the limit are dropped at once; when they go, the page is back."""
    idle = [socket.create_connection(("127.0.0.1", served.port), timeout=10) for _ in range(300)]
    try:
        for one in idle[-50:]:
            assert is_dropped(one)
    finally:
        for one in idle:
            one.close()
    assert served.ask("/healthz")[0].status == 200


def is_dropped(connection: socket.socket) -> bool:
    """Waits for the other side to end it."""
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


@pytest.mark.slow
def test_who_says_nothing_is_dropped(served: Served) -> None:
    """A connection that sends half a request is closed within some seconds."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost:")
        assert is_dropped(slow)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_the_port_serves_its_owner_only() -> None:
    """Another user of the machine can reach the port, but can read neither the token's file nor, without it, the page."""
    home = Path(tempfile.mkdtemp(prefix="ag-"))
    home.chmod(0o755)
    try:
        with serving(home, token=None) as one:
            path = home / "agent" / "token"
            assert path.read_text().strip() == one.token
            assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
            done = subprocess.run(["cat", str(path)], user=65534, capture_output=True, text=True, check=False)
            assert (done.returncode, one.token in done.stdout) == (1, False)
            curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{one.port}/api/specs"]
            assert subprocess.run(curl, user=65534, capture_output=True, text=True, check=True).stdout == "401"
    finally:
        shutil.rmtree(home)


# -- the token's file ------------------------------------------------------------------------------------------------------


def test_the_token_stays_the_same(tmp_path: Path) -> None:
    """It is made once, long enough, and found again; nothing is left beside it."""
    state = State(tmp_path / "new" / "agent")
    token = state.token({})
    assert (len(token) >= 32, State(tmp_path / "new" / "agent").token({})) == (True, token)
    assert [path.name for path in state.folder.iterdir()] == ["token"]
    assert State(tmp_path / "other").token({}) != token


@pytest.mark.parametrize("given", ["short", "twenty-two characters\xe9", "with blanks in it, and long enough"])
def test_a_token_that_is_none(tmp_path: Path, given: str) -> None:
    """One from the environment must be long enough to be a secret and fit for a header."""
    with pytest.raises(StateError, match="is no token: it needs 22 characters"):
        State(tmp_path).token({"DRIVEFS_AGENT_TOKEN": given})


def test_a_prepared_file_is_refused(tmp_path: Path) -> None:
    """A file that others can read, a link to elsewhere and a folder that others can enter are not used."""
    folder = tmp_path / "agent"
    folder.mkdir(mode=0o700)
    token = folder / "token"
    token.write_text("x" * 32)
    token.chmod(0o644)
    with pytest.raises(StateError, match="is open to other users"):
        State(folder).token({})
    token.unlink()
    token.symlink_to("/etc/passwd")
    with pytest.raises(StateError, match="cannot be read"):
        State(folder).token({})
    token.unlink()
    folder.chmod(0o755)
    with pytest.raises(StateError, match="is not a folder of yours alone"):
        State(folder).token({})
    assert not token.exists()


def test_where_the_folder_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root has one place whatever its login says; others theirs; the environment's word comes first."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state_folder({"XDG_STATE_HOME": "/x"}) == Path("/var/lib/drivefs-agent")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert state_folder({"XDG_STATE_HOME": "/x"}) == Path("/x/drivefs-agent")
    assert state_folder({"DRIVEFS_AGENT_DIR": "/y"}) == Path("/y")
