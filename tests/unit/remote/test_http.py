"""The transport, against a server that misbehaves as told."""

from __future__ import annotations

import gzip
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from drivefs.base.errors import BadRequest, RemoteError, RemoteUnreachable
from drivefs.remote.http import Transport, trust_store
from drivefs.remote.transfer import Cancelled, Request, Transfer

if TYPE_CHECKING:
    from tests.unit.remote.conftest import Script


async def test_an_answer_comes_back_whole(transport: Transport, server: Script) -> None:
    """Status, headers with folded names and joined repeats, body and time are what the server sent; nothing is added to us."""

    def give(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(404)
        handler.send_header("X-Two", "a")
        handler.send_header("x-two", "b")
        handler.send_header("Content-Length", "4")
        handler.end_headers()
        handler.wfile.write(b"body")

    server.will(give)
    response = await transport.request("GET", f"{server.url}/a?b=c", {"x-mine": "1"})
    assert (response.status, response.headers["x-two"], response.body) == (404, "a, b", b"body")
    assert 0 < response.elapsed < 5
    assert set(server.seen[0].headers) == {"host", "x-mine", "accept-encoding", "user-agent"}


async def test_connections_are_kept(transport: Transport, server: Script) -> None:
    """Ten requests one after another, errors among them, travel over one connection."""
    server.will(*[server.answer(200 if n % 2 else 500, b"x") for n in range(10)])
    for _ in range(10):
        await transport.request("GET", server.url, {})
    assert len({seen.connection for seen in server.seen}) == 1


async def test_a_connection_that_died_idle_is_replaced(transport: Transport, server: Script) -> None:
    """The server closes a kept connection between requests: the next request, body and all, arrives once on a new one."""

    def give_and_close(handler: BaseHTTPRequestHandler) -> None:
        server.answer(200)(handler)
        handler.close_connection = True

    server.will(give_and_close, server.answer(200, b"ok"))
    await transport.request("GET", server.url, {})
    response = await transport.request("PUT", server.url, {}, b"payload")
    assert response.body == b"ok"
    assert [seen.body for seen in server.seen] == [b"", b"payload"]


@pytest.mark.parametrize("body", [b"", b"x", bytes(range(256)) * 4096, memoryview(b"012345")[2:5]], ids=["0", "1", "1M", "view"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_bodies_go_out_as_they_are(transport: Transport, server: Script, method: str, body: bytes | memoryview) -> None:
    """Every method carries its body with its length, without Expect or chunking; an empty body states length 0."""
    server.will(server.answer(200))
    await transport.request(method, server.url, {}, body)
    (seen,) = server.seen
    assert (seen.method, seen.body, seen.headers["content-length"]) == (method, bytes(body), str(len(body)))
    assert not {"expect", "transfer-encoding"} & set(seen.headers)


async def test_redirects_are_answers(transport: Transport, server: Script) -> None:
    """No status makes the transport go elsewhere: 308 is how an upload says that it wants more."""
    server.will(server.answer(308, headers={"Location": "/elsewhere"}), server.answer(302, headers={"Location": "/elsewhere"}))
    assert (await transport.request("PUT", server.url, {}, b"")).status == 308
    assert (await transport.request("GET", server.url, {})).status == 302
    assert len(server.seen) == 2


async def test_gzip_is_for_small_answers_only(transport: Transport, server: Script) -> None:
    """Control calls offer gzip and decode it; content is asked for as it is."""
    server.will(server.answer(200, gzip.compress(b"json" * 1000), {"Content-Encoding": "gzip"}), server.answer(200))
    assert (await transport.request("GET", server.url, {})).body == b"json" * 1000
    await transport.request("GET", server.url, {}, decode=False, sink=lambda _data: None)
    assert [seen.headers["accept-encoding"] for seen in server.seen] == ["gzip", "identity"]


async def test_a_sink_gets_everything_in_order_on_the_loop(transport: Transport, server: Script) -> None:
    """Head first, then pieces of at most 256 KiB, all in the trio thread; the answer itself carries no body then."""
    content = bytes(range(256)) * 8192  # 2 MiB
    server.will(server.answer(200, content))
    loop, events = threading.get_ident(), list[object]()

    def on_head(status: int, headers: Mapping[str, str]) -> None:
        events.append((status, headers["content-length"], threading.get_ident()))

    pieces: list[bytes] = []

    def sink(data: bytes) -> None:
        assert threading.get_ident() == loop
        pieces.append(data)

    response = await transport.request("GET", server.url, {}, sink=sink, on_head=on_head)
    assert events == [(200, str(len(content)), loop)]
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= 256 * 1024
    assert response.body == b""


async def test_a_slow_links_bytes_are_not_kept_back(transport: Transport, server: Script) -> None:
    """A few bytes that came are handed over while the server is still thinking about the rest."""
    arrived = trio.Event()

    def give(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "3")
        handler.end_headers()
        for _ in range(2):
            time.sleep(0.08)
            handler.wfile.write(b"x")
            handler.wfile.flush()
        server.released.wait(30)

    server.will(give)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def fetch() -> None:
                await transport.request("GET", server.url, {}, sink=lambda _data: arrived.set())

            nursery.start_soon(fetch)
            await arrived.wait()
            nursery.cancel_scope.cancel()


async def test_an_errors_body_is_bounded_and_bypasses_the_sink(transport: Transport, server: Script) -> None:
    """An error page is kept for its reason, up to about a megabyte, and never passes for content."""
    server.will(server.answer(403, b"e" * 3_000_000))
    pieces: list[bytes] = []
    response = await transport.request("GET", server.url, {}, sink=pieces.append)
    assert response.status == 403
    assert 1 << 20 <= len(response.body) <= (1 << 20) + 65536
    assert not pieces


async def test_a_small_answer_must_be_small(transport: Transport, server: Script) -> None:
    """Ten megabytes that unpack to a hundred are not swallowed where a small answer is due."""
    server.will(server.answer(200, gzip.compress(b"\0" * 100_000_000, 1), {"Content-Encoding": "gzip"}))
    with pytest.raises(RemoteError, match="more than 64 MiB"):
        await transport.request("GET", server.url, {})


class Disk(Exception):
    """Something only the sink knows."""


@pytest.mark.parametrize("where", ["sink", "on_head"])
async def test_what_the_sink_raises_comes_out(transport: Transport, server: Script, where: str) -> None:
    """A full disk in the sink ends the transfer and reaches the caller as itself; the transport works on."""

    def fail(*_args: object) -> None:
        raise Disk

    server.will(server.answer(200, b"x" * 1_000_000), server.answer(200, b"ok"))
    sink, on_head = (fail, None) if where == "sink" else (bytearray().extend, fail)
    with pytest.raises(Disk):
        await transport.request("GET", server.url, {}, sink=sink, on_head=on_head)
    assert (await transport.request("GET", server.url, {})).body == b"ok"


def _start_of_a_long_answer(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.wfile.write(b"x" * 300_000)


@pytest.mark.parametrize("begun", [False, True], ids=["before the answer", "in the middle"])
async def test_cancelling_returns_at_once_and_ends_the_thread(transport: Transport, server: Script, begun: bool) -> None:
    """A cancelled request returns within a moment, calls nobody afterwards, and its thread and connection are gone soon."""
    server.will(server.hang(_start_of_a_long_answer if begun else None))
    pieces: list[bytes] = []
    with trio.move_on_after(0.3) as scope:
        await transport.request("GET", server.url, {}, sink=pieces.append)
    assert scope.cancelled_caught
    assert trio.current_time() - scope.deadline < 0.5
    assert bool(pieces) == begun
    with trio.fail_after(1.5):
        while transport.busy:
            await trio.sleep(0.02)
    seen = len(pieces)
    await trio.sleep(0.1)
    assert len(pieces) == seen


async def test_a_callback_that_comes_too_late_is_dropped() -> None:
    """A thread that was about to hand over when its caller was cancelled does not reach the caller's sink any more."""
    late: list[bytes] = []
    go, outcome = threading.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()
    transfer = Transfer(Request("GET", "http://x", {}, None, late.append, None, False, None, 60.0))

    def thread() -> None:
        assert go.wait(5)
        with pytest.raises(Cancelled):
            transfer.on_loop(lambda: late.append(b"late"))
        token.run_sync_soon(outcome.set)

    with trio.move_on_after(0.01):
        await trio.to_thread.run_sync(thread, abandon_on_cancel=True)
    transfer.cancelled = True
    go.set()
    with trio.fail_after(5):
        await outcome.wait()
    assert not late


async def test_a_cancelled_upload_ends_too(transport: Transport) -> None:
    """A server that accepts a connection and reads nothing cannot hold a big upload beyond its cancellation."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        with trio.move_on_after(0.3) as scope:
            await transport.request("PUT", f"http://127.0.0.1:{deaf.getsockname()[1]}", {}, bytes(30_000_000), timeout=None)
        assert scope.cancelled_caught
        with trio.fail_after(1.5):
            while transport.busy:
                await trio.sleep(0.02)


async def test_a_sink_can_hold_up_the_server(transport: Transport, server: Script) -> None:
    """While it wants no more, a piece or two come and no others, for longer than what counts as a stall; then all the rest."""
    size, go = 30_000_000, threading.Event()
    server.will(server.answer(200, bytes(size)))
    got = 0

    def sink(piece: bytes) -> None:
        nonlocal got
        got += len(piece)

    async with trio.open_nursery() as nursery:

        async def fetch() -> None:
            await transport.request("GET", server.url, {}, sink=sink, timeout=None, stall=1.0, go=go)

        nursery.start_soon(fetch)
        await trio.sleep(1.5)
        assert 0 < got < 1_000_000
        go.set()
    assert got == size


async def test_whoever_is_held_up_ends_when_the_caller_leaves(transport: Transport, server: Script) -> None:
    """A thread that waits for a sink to want more does not wait for one that has gone."""
    server.will(server.answer(200, bytes(30_000_000)))
    with trio.move_on_after(0.3) as scope:
        await transport.request("GET", server.url, {}, sink=lambda _piece: None, timeout=None, go=threading.Event())
    assert scope.cancelled_caught
    with trio.fail_after(1.5):
        while transport.busy:
            await trio.sleep(0.02)


async def test_a_stalled_transfer_is_given_up(transport: Transport, server: Script) -> None:
    """A second without a byte, where a second is the limit, ends the transfer although no total time is set."""
    server.will(server.hang(_start_of_a_long_answer))
    pieces: list[bytes] = []
    with trio.fail_after(10), pytest.raises(RemoteUnreachable, match="sent nothing for 1 s"):
        await transport.request("GET", server.url, {}, sink=pieces.append, timeout=None, stall=1.0)
    assert sum(map(len, pieces)) > 0


async def test_the_whole_time_is_bounded(transport: Transport, server: Script) -> None:
    """A silent server costs a control call its timeout and no more; a POST may have been carried out."""
    server.will(server.hang())
    before = trio.current_time()
    with pytest.raises(RemoteUnreachable) as caught:
        await transport.request("POST", server.url, {}, b"x", timeout=0.3)
    assert trio.current_time() - before < 1.5
    assert caught.value.may_have_applied


async def test_a_short_body_is_an_error(transport: Transport, server: Script) -> None:
    """Fewer bytes than announced never pass for the whole."""
    server.will(server.answer(200, b"x" * 10, length=20))
    with pytest.raises(RemoteUnreachable, match="broke off its answer") as caught:
        await transport.request("GET", server.url, {})
    assert not caught.value.may_have_applied  # a GET applies nothing


async def test_a_server_that_hangs_up_may_have_acted(transport: Transport, server: Script) -> None:
    """No answer to a POST that went out: nobody knows."""
    server.will(server.hang_up)
    with pytest.raises(RemoteUnreachable) as caught:
        await transport.request("POST", server.url, {}, b"x")
    assert caught.value.may_have_applied


async def test_no_connection_means_nothing_happened(transport: Transport) -> None:
    """A refused connection is certain: the request was not sent, and the text says what to look at."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RemoteUnreachable, match=rf"127\.0\.0\.1:{port} cannot be reached.*server runs") as caught:
        await transport.request("POST", f"http://127.0.0.1:{port}/secret?upload_id=abc", {}, b"x")
    assert not caught.value.may_have_applied
    assert "abc" not in str(caught.value)


async def test_other_protocols_are_refused(transport: Transport) -> None:
    """libcurl speaks many protocols and reads files; we speak HTTP."""
    with pytest.raises(BadRequest):
        await transport.request("GET", "file:///etc/hostname", {})


async def test_a_proxy_is_not_asked_for_the_loopback(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment has no way to our own local server, so it is passed by."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server.will(server.answer(200, b"direct"))
    transport = Transport()
    assert (await transport.request("GET", server.url, {})).body == b"direct"
    transport.close()


async def test_a_closed_transport_keeps_no_connection(server: Script) -> None:
    """What ends after close() closes its connection, too."""
    transport = Transport()
    server.will(server.answer(200))
    await transport.request("GET", server.url, {})
    assert transport.idle == 1
    transport.close()
    server.will(server.answer(200))
    await transport.request("GET", server.url, {})
    assert transport.idle == 0


# --- TLS ---


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.DNSName("drive.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"private")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _QuietServer(HTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that distrusts us hangs up."""


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    cert_file, key_file = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    server = _QuietServer(("127.0.0.1", 0), _Hello)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"https://localhost:{server.server_port}", cert_file
    server.shutdown()
    server.server_close()


async def test_an_unknown_certificate_is_refused(transport: Transport, tls_server: tuple[str, Path]) -> None:
    """TLS is verified against the system's authorities; nothing of the request is sent to a stranger."""
    with pytest.raises(RemoteUnreachable, match=r"not trusted.*SSL_CERT_FILE") as caught:
        await transport.request("POST", tls_server[0], {"authorization": "Bearer x"}, b"x")
    assert not caught.value.may_have_applied


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "CURL_CA_BUNDLE"])
async def test_a_company_authority_is_named_in_the_environment(
    tls_server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The standard variables add trust where a company's proxy needs it."""
    for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tls_server[1]))
    transport = Transport()
    assert (await transport.request("GET", tls_server[0], {})).body == b"private"
    transport.close()


class _Proxy(socketserver.StreamRequestHandler):
    """A company's proxy that joins every CONNECT to one server, with an answer that could be mistaken for the server's."""

    target: ClassVar[tuple[str, int]]

    def handle(self) -> None:
        line = self.rfile.readline()
        assert line == b"CONNECT drive.test:443 HTTP/1.1\r\n"
        while self.rfile.readline() not in (b"\r\n", b""):
            pass
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\nX-Proxy: 1\r\n\r\n")
        with socket.create_connection(self.target) as server:
            back = threading.Thread(target=self._pump, args=(server, self.connection), daemon=True)
            back.start()
            self._pump(self.connection, server)
            back.join(5)

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


async def test_a_proxys_answer_is_not_the_servers(tls_server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a proxy the server itself is verified, and its head alone reaches the caller, once."""
    port = int(tls_server[0].rpartition(":")[2])

    class ToServer(_Proxy):
        target = ("127.0.0.1", port)

    proxy = socketserver.ThreadingTCPServer(("127.0.0.1", 0), ToServer)
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    transport = Transport(ca_file=str(tls_server[1]))
    heads: list[Mapping[str, str]] = []
    pieces: list[bytes] = []
    await transport.request(
        "GET", "https://drive.test/x", {}, sink=pieces.append, on_head=lambda _status, headers: heads.append(headers)
    )
    transport.close()
    proxy.shutdown()
    proxy.server_close()
    assert b"".join(pieces) == b"private"
    (head,) = heads
    assert "x-proxy" not in head
    assert head["content-length"] == "7"


def test_the_systems_trust_is_found() -> None:
    """Without variables a bundle that exists is used: the one compiled into a packaged libcurl may not be there."""
    found = trust_store({})
    assert found is None or Path(found).is_file()
    assert trust_store({"CURL_CA_BUNDLE": "/b", "SSL_CERT_FILE": "/a"}) == "/b"
