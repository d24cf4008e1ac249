"""The TLS door: Google's names over a local certificate, and no way to anywhere else."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from cryptography import x509

from tests.contract.conftest import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.emulator
HOST = "www.googleapis.com"
TOKEN = {"Authorization": "Bearer t"}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server("--tls-proxy-port", "0", "--ca-dir", str(tmp_path_factory.mktemp("ca")))
    yield server
    assert server.stop() == 0


def _connect(server: Server, host: str = HOST) -> http.client.HTTPSConnection:
    proxy = urlsplit(server.ready["tls_proxy"])
    trust = ssl.create_default_context(cafile=server.ready["ca"])
    trust.set_alpn_protocols(["h2", "http/1.1"])
    connection = http.client.HTTPSConnection(str(proxy.hostname), proxy.port, timeout=20, context=trust)
    connection.set_tunnel(host)
    return connection


def _say(server: Server, text: bytes) -> bytes:
    """What the proxy answers to raw bytes until it closes."""
    proxy = urlsplit(server.ready["tls_proxy"])
    with socket.create_connection((str(proxy.hostname), proxy.port or 0), timeout=20) as raw:
        raw.sendall(text)
        answer = b""
        while piece := raw.recv(65536):
            answer += piece
    return answer


@pytest.mark.parametrize("host", [HOST, "oauth2.googleapis.com", "drive.googleapis.com", "accounts.google.com"])
def test_google_names_lead_here(door: Server, host: str) -> None:
    """A client that trusts ca.pem gets a certificate for the very name, speaks HTTP/1.1, and reaches the same Drive."""
    connection = _connect(door, host)
    connection.request("GET", "/drive/v3/files/root", headers=TOKEN)
    answer = connection.getresponse()
    assert isinstance(connection.sock, ssl.SSLSocket)
    assert (connection.sock.selected_alpn_protocol(), answer.status) == ("http/1.1", 200)
    assert json.loads(answer.read())["id"] == door.ready["root_id"]
    connection.close()


def test_session_addresses_stay_behind_the_door(door: Server) -> None:
    """The address of a resumable upload names the host that the client asked, by https; the upload goes on over it."""
    connection = _connect(door)
    connection.request("POST", "/upload/drive/v3/files?uploadType=resumable", headers=TOKEN)
    opened = connection.getresponse()
    opened.read()
    address = urlsplit(opened.headers["Location"])
    assert (address.scheme, address.netloc) == ("https", HOST)
    connection.request("PUT", f"{address.path}?{address.query}", body=b"bytes")
    made = json.loads(connection.getresponse().read())
    connection.close()
    assert door.drive.download(made["id"]) == b"bytes"


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"CONNECT example.com:443 HTTP/1.1", b"403"),
        (b"CONNECT www.googleapis.com:80 HTTP/1.1", b"403"),
        (b"CONNECT www.googleapis.com HTTP/1.1", b"403"),
        (b"CONNECT googleapis.com.example.com:443 HTTP/1.1", b"403"),
        (b"CONNECT notgoogleapis.com:443 HTTP/1.1", b"403"),
        (b"CONNECT 127.0.0.1:443 HTTP/1.1", b"403"),
        (b"CONNECT a..googleapis.com:443 HTTP/1.1", b"403"),
        (b"GET http://www.googleapis.com/ HTTP/1.1", b"405"),
        (b"nonsense", b"400"),
        (b"x" * 9000, b"400"),
    ],
)
def test_it_leads_nowhere_else(door: Server, request_line: bytes, status: bytes) -> None:
    """Other hosts, ports and methods are refused, and so is what is no HTTP: this is not an open proxy."""
    assert _say(door, request_line + b"\r\n\r\n").split(b" ")[1] == status


def test_control_endpoints_are_not_behind_the_door(door: Server) -> None:
    """/_emulator does not answer under Google's names."""
    connection = _connect(door)
    connection.request("GET", "/_emulator/tree")
    assert connection.getresponse().status == 403
    connection.close()


def test_a_client_that_does_not_trust_the_certificate(door: Server) -> None:
    """Its handshake fails with its own verification error, and the server goes on."""
    connection = _connect(door)
    connection._context = ssl.create_default_context()  # type: ignore[attr-defined]
    with pytest.raises(ssl.SSLCertVerificationError):
        connection.request("GET", "/")
    connection.close()
    test_google_names_lead_here(door, HOST)


def test_the_authority_vouches_for_nothing_else(door: Server) -> None:
    """Even with the authority's key nobody could pose as another site: its certificate is bound to Google's API names."""
    extensions = x509.load_pem_x509_certificate(Path(door.ready["ca"]).read_bytes()).extensions
    names = extensions.get_extension_for_class(x509.NameConstraints)
    allowed = [name.value for name in names.value.permitted_subtrees or ()]
    assert (names.critical, allowed) == (True, ["googleapis.com", "accounts.google.com"])
    assert extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)


def test_the_authority_is_made_once(start: Callable[..., Server], tmp_path: Path) -> None:
    """Two servers on one --ca-dir show the same authority; its key is for the owner only. Without --ca-dir it is in --data."""
    first = start("--tls-proxy-port", "0", "--ca-dir", str(tmp_path / "ca"))
    made = (tmp_path / "ca" / "ca.pem").read_bytes()
    assert stat.S_IMODE((tmp_path / "ca" / "ca-key.pem").stat().st_mode) == 0o600
    second = start("--tls-proxy-port", "0", "--ca-dir", str(tmp_path / "ca"))
    assert (tmp_path / "ca" / "ca.pem").read_bytes() == made
    for server in (first, second):
        test_google_names_lead_here(server, HOST)
    assert start("--tls-proxy-port", "0", "--data", str(tmp_path / "data")).ready["ca"] == str(tmp_path / "data/ca/ca.pem")


def test_folders_and_addresses_that_are_refused(tmp_path: Path) -> None:
    """A folder that others may write in, a key that others may read, an address that others reach: status 2 and a sentence."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "read").mkdir(mode=0o700)
    for name in ("ca.pem", "ca-key.pem"):
        (tmp_path / "read" / name).write_text("x")
    (tmp_path / "read" / "ca-key.pem").chmod(0o644)
    cases = [
        (["--ca-dir", str(tmp_path / "open")], "others may write"),
        (["--ca-dir", str(tmp_path / "read")], "others may read"),
        (["--host", "0.0.0.0"], "this machine only"),
    ]
    for arguments, words in cases:
        command = [sys.executable, "-m", "drivefs.emulator", "--tls-proxy-port", "0", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert (done.returncode, done.stdout, words in done.stderr) == (2, "", True), done


@pytest.mark.slow
def test_a_large_download(door: Server) -> None:
    """128 MiB come through the door whole."""
    data = os.urandom(1 << 20) * 128
    made = door.drive.send("POST", "/upload/drive/v3/files?uploadType=media", body=data).json()
    connection = _connect(door)
    connection.request("GET", f"/drive/v3/files/{made['id']}?alt=media", headers=TOKEN)
    received = connection.getresponse().read()
    connection.close()
    assert received == data
