"""Every fault as a raw client sees it."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import socket
import struct
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from tests.contract.conftest import Answer, Drive

GRANULE = 256 * 1024
CONTENT = random.Random(5).randbytes(3 * GRANULE + 77)
LOST = (ConnectionResetError, BrokenPipeError)


def _session(drive: Drive, name: str = "x", **metadata: Any) -> str:
    target = "/upload/drive/v3/files?uploadType=resumable"
    body = json.dumps({"name": name, **metadata}).encode()
    return drive.send("POST", target, body=body, headers={"Content-Type": "application/json"}).headers["location"]


def _put(drive: Drive, session: str, start: int, end: int, total: int | str = len(CONTENT)) -> Answer:
    return drive.send("PUT", session, body=CONTENT[start:end], headers={"Content-Range": f"bytes {start}-{end - 1}/{total}"})


def _probe(drive: Drive, session: str) -> Answer:
    return drive.send("PUT", session, body=b"", headers={"Content-Range": "bytes */*"})


def _held(answer: Answer) -> int:
    assert answer.status == 308
    return int(answer.headers["range"].removeprefix("bytes=0-")) + 1 if "range" in answer.headers else 0


# --- answers in place of the right one ---


def test_a_refusal_by_reason(drive: Drive) -> None:
    """A reason brings its status, domain and message; Retry-After is passed on; the call has no effect, and is counted."""
    drive.strike(method="files.create", reason="userRateLimitExceeded", retry_after=7, times=1)
    answer = drive.call("POST", "files", {"name": "x"})
    assert (answer.status, answer.reason, answer.headers["retry-after"]) == (403, "userRateLimitExceeded", "7")
    error = answer.json()["error"]
    assert (error["errors"][0]["domain"], error["message"]) == ("usageLimits", "User Rate Limit Exceeded")
    assert drive.tree() == []
    assert drive.create("x")["name"] == "x"
    counted = drive.send("GET", "/_emulator/requests", token=None).json()
    assert (counted["by_method"]["files.create"], counted["by_route"]["POST /drive/v3/files"]) == (2, 2)


def test_retry_after_as_a_date(drive: Drive) -> None:
    """Retry-After may be an HTTP date."""
    drive.strike(status=503, retry_after="Wed, 21 Oct 2026 07:28:00 GMT")
    assert drive.call("GET", "files").headers["retry-after"] == "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("body", "kind", "begins"),
    [("html", "text/html", b"<!DOCTYPE html>"), ("text", "text/plain", b"Bad Gateway"), ("empty", "", b"")],
)
def test_refusals_that_are_not_json(drive: Drive, body: str, kind: str, begins: bytes) -> None:
    """Front ends answer in HTML, in plain text, or with nothing."""
    drive.strike(status=502, body=body)
    answer = drive.call("GET", "files")
    assert answer.status == 502
    assert answer.headers.get("content-type", "").startswith(kind)
    assert answer.body.startswith(begins)
    assert bool(answer.body) == (body != "empty")


def test_newer_error_details(drive: Drive) -> None:
    """Newer errors spell the reason in capitals, in google.rpc.ErrorInfo, beside a status word."""
    drive.strike(status=429, body="details")
    error = drive.call("GET", "files").json()["error"]
    assert (error["code"], error["status"], error["errors"][0]["reason"]) == (429, "RESOURCE_EXHAUSTED", "rateLimitExceeded")
    (detail,) = error["details"]
    assert (detail["@type"], detail["reason"]) == ("type.googleapis.com/google.rpc.ErrorInfo", "RATE_LIMIT_EXCEEDED")


def test_a_server_error_after_the_work_was_done(drive: Drive) -> None:
    """``applied``: the call takes effect, and its answer is 503 all the same."""
    drive.strike(method="files.create", status=503, applied=True, nth=1)
    assert drive.call("POST", "files", {"name": "x"}).status == 503
    assert [item["name"] for item in drive.tree()] == ["x"]


# --- connections ---


@pytest.mark.parametrize(("reset", "made"), [("before", []), ("after", ["x"])])
def test_a_reset_before_and_after_the_work(drive: Drive, reset: str, made: list[str]) -> None:
    """The client sees "connection reset" both times; only afterwards has the call taken effect."""
    drive.strike(method="files.create", reset=reset, nth=1)
    with pytest.raises(ConnectionResetError):
        drive.call("POST", "files", {"name": "x"})
    assert [item["name"] for item in drive.tree()] == made
    drive.create("y")


@pytest.mark.emulator
def test_a_reset_is_a_tcp_reset(drive: Drive) -> None:
    """RST, not FIN: a raw socket gets ECONNRESET, also on a connection that served requests before."""
    where = urlsplit(drive.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as raw:
        request = b"GET /drive/v3/files?fields=kind HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n\r\n"
        raw.sendall(request)
        got = b""
        while not got.endswith(b"}"):
            got += raw.recv(65536)
        assert got.startswith(b"HTTP/1.1 200")
        drive.strike(reset="before")
        raw.sendall(request)
        with pytest.raises(ConnectionResetError):
            raw.recv(65536)


def test_an_upload_cut_in_the_middle(drive: Drive) -> None:
    """A media upload whose connection is reset half-way leaves nothing."""
    drive.strike(method="files.create", cut_request=100_000)
    with pytest.raises(LOST):
        drive.send("POST", "/upload/drive/v3/files?uploadType=media", body=CONTENT, headers={"Content-Type": "a/b"})
    drive.calm()
    assert drive.tree() == []


def test_a_chunk_cut_in_the_middle(drive: Drive) -> None:
    """Of a chunk whose connection is reset, the granules before the cut are held; the session goes on from there."""
    session = _session(drive)
    drive.strike(method="upload.chunk", cut_request=2 * GRANULE + 5, nth=1)
    with pytest.raises(LOST):
        _put(drive, session, 0, len(CONTENT))
    assert _held(_probe(drive, session)) == 2 * GRANULE
    assert _put(drive, session, 2 * GRANULE, len(CONTENT)).status == 200
    assert drive.tree()[0]["md5"] == hashlib.md5(CONTENT).hexdigest()


@pytest.mark.parametrize("at", [0, 1000, 2 * GRANULE])
def test_a_download_that_ends_early(drive: Drive, at: int) -> None:
    """The head promises all bytes, the connection closes after ``at``."""
    item = drive.upload("x", CONTENT)["id"]
    drive.strike(method="files.get_media", cut_response=at)
    with pytest.raises(http.client.IncompleteRead) as caught:
        drive.download(item)
    assert (caught.value.partial, caught.value.expected) == (CONTENT[:at], len(CONTENT) - at)


def test_a_download_that_is_reset(drive: Drive) -> None:
    """``how = reset``: the connection is reset in the middle of the answer."""
    item = drive.upload("x", CONTENT)["id"]
    drive.strike(method="files.get_media", cut_response={"at": 1000, "how": "reset"})
    with pytest.raises(ConnectionResetError):
        drive.download(item)


def test_an_error_answer_can_be_cut_too(drive: Drive) -> None:
    """Rules add up: one makes the answer, another cuts it."""
    drive.strike(status=500)
    drive.strike(cut_response=10)
    with pytest.raises(http.client.IncompleteRead) as caught:
        drive.call("GET", "files")
    assert len(caught.value.partial) == 10


def test_a_flipped_byte(drive: Drive) -> None:
    """Exactly one bit of the answer is wrong, and nothing on the wire tells."""
    item = drive.upload("x", CONTENT)["id"]
    drive.strike(method="files.get_media", flip=300_000, nth=1)
    altered = drive.download(item)
    assert [n for n in range(len(CONTENT)) if altered[n] != CONTENT[n]] == [300_000]
    assert altered[300_000] ^ CONTENT[300_000] == 1
    assert drive.download(item) == CONTENT


def test_a_byte_flipped_anywhere(drive: Drive) -> None:
    """``flip = random``: a place within the answer, drawn anew for each."""
    item = drive.upload("x", CONTENT)["id"]
    drive.strike(method="files.get_media", flip="random")
    places = []
    for _ in range(3):
        altered = drive.download(item)
        places += [n for n in range(len(CONTENT)) if altered[n] != CONTENT[n]]
    assert len(places) == len(set(places)) == 3


def test_a_stall(drive: Drive) -> None:
    """Nothing comes for a while in the middle of the answer; then the rest."""
    item = drive.upload("x", CONTENT)["id"]
    drive.strike(method="files.get_media", stall={"seconds": 0.4, "at": 1000})
    where = urlsplit(drive.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as raw:
        raw.sendall(
            f"GET /drive/v3/files/{item}?alt=media HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n\r\n".encode()
        )
        head, _, first = raw.recv(1 << 20).partition(b"\r\n\r\n")
        assert b"200 OK" in head
        while len(first) < 1000:
            first += raw.recv(1 << 20)
        assert first == CONTENT[:1000]
        started = time.monotonic()
        rest = raw.recv(1 << 20)
        assert time.monotonic() - started > 0.2
        while len(first) + len(rest) < len(CONTENT):
            rest += raw.recv(1 << 20)
        assert first + rest == CONTENT


def test_offline_and_back(drive: Drive) -> None:
    """Offline: every call is reset, a download under way too; the control endpoints answer. Online again, all is as before."""
    item = drive.upload("x", CONTENT * 30)["id"]
    where = urlsplit(drive.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.sendall(
            f"GET /drive/v3/files/{item}?alt=media HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n\r\n".encode()
        )
        assert raw.recv(100)
        drive.strike(offline="reset")
        with pytest.raises(ConnectionResetError):
            while raw.recv(1 << 20):
                pass
    with pytest.raises(ConnectionResetError):
        drive.call("GET", "files")
    assert len(drive.tree()) == 1
    drive.calm()
    assert drive.item(item)["name"] == "x"


def test_offline_without_a_word(drive: Drive) -> None:
    """``hang``: requests are taken and never answered."""
    drive.strike(offline="hang")
    where = urlsplit(drive.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=0.3) as raw:
        raw.sendall(b"GET /drive/v3/about HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with pytest.raises(TimeoutError):
            raw.recv(1)


# --- meaning ---


def test_a_range_that_is_ignored(drive: Drive) -> None:
    """200 with everything where a range was asked for. Calls without Range are none of the rule's business."""
    item = drive.upload("x", CONTENT)["id"]
    rule = drive.strike(ignore_range=True)
    answer = drive.send("GET", f"/drive/v3/files/{item}?alt=media", headers={"Range": "bytes=10-19"})
    assert (answer.status, answer.body) == (200, CONTENT)
    assert "content-range" not in answer.headers
    assert drive.download(item) == CONTENT
    assert drive.faults()[rule] == (1, 1)


@pytest.mark.parametrize(("keep", "held"), [(0, 0), (GRANULE - 1, 0), (GRANULE, GRANULE), (2 * GRANULE + 9, 2 * GRANULE)])
@pytest.mark.parametrize("total", [len(CONTENT), "*"])
def test_a_chunk_of_which_less_is_kept(drive: Drive, keep: int, held: int, total: int | str) -> None:
    """308 confirms whole granules of what was sent, or nothing at all; the client goes on from there."""
    session, end = _session(drive), len(CONTENT) if total != "*" else 3 * GRANULE
    drive.strike(method="upload.chunk", keep_chunk=keep, nth=1)
    assert _held(_put(drive, session, 0, end, total)) == held
    assert _held(_probe(drive, session)) == held
    assert _put(drive, session, held, len(CONTENT)).status == 200
    assert drive.tree()[0]["md5"] == hashlib.md5(CONTENT).hexdigest()
    assert drive.send("GET", "/_emulator/requests", token=None).json()["by_method"]["upload.chunk"] == 2


def test_a_whole_upload_of_which_less_is_kept(drive: Drive) -> None:
    """A single PUT without Content-Range may be answered 308, too."""
    session = _session(drive)
    drive.strike(keep_chunk=GRANULE, times=1)
    assert _held(drive.send("PUT", session, body=CONTENT)) == GRANULE
    assert _put(drive, session, GRANULE, len(CONTENT)).status == 200
    assert drive.download(drive.tree()[0]["id"]) == CONTENT


@pytest.mark.parametrize("status", [404, 410])
def test_a_session_that_is_gone(drive: Drive, status: int) -> None:
    """A chunk meets 404 or 410 in plain text, and the session stays gone."""
    session = _session(drive)
    assert _held(_put(drive, session, 0, GRANULE)) == GRANULE
    drive.strike(method="upload.chunk", session_gone=status, nth=1)
    answer = _put(drive, session, GRANULE, len(CONTENT))
    assert (answer.status, answer.headers["content-type"]) == (status, "text/plain; charset=UTF-8")
    assert _probe(drive, session).status == 404
    assert drive.tree() == []


def test_an_expired_token(drive: Drive) -> None:
    """A token of the token endpoint is refused from then on; a fresh one is good; one that is not ours is refused once."""
    form = "grant_type=refresh_token&client_id=a&client_secret=b&refresh_token=c"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    first, second = (
        drive.send("POST", "/token", body=form, headers=headers, token=None).json()["access_token"] for _ in range(2)
    )
    drive.strike(method="files.list", token_expired=True, times=2)
    for _ in range(2):
        answer = drive.send("GET", "/drive/v3/files", token=first)
        assert (answer.status, answer.reason, answer.location) == (401, "authError", "Authorization")
    assert drive.send("GET", "/drive/v3/files", token=first).status == 401
    assert drive.send("GET", "/drive/v3/files", token=second).status == 200
    drive.strike(method="files.list", token_expired=True, times=1)
    assert [drive.send("GET", "/drive/v3/files", token="any").status for _ in range(2)] == [401, 200]


def test_a_full_drive(drive: Drive) -> None:
    """No byte more fits, empty files do; about tells; what is there may be read and removed."""
    item = drive.upload("x", b"12345")["id"]
    drive.strike(quota_full=True)
    answer = drive.send("POST", "/upload/drive/v3/files?uploadType=media", body=b"1", headers={"Content-Type": "a/b"})
    assert (answer.status, answer.reason) == (403, "storageQuotaExceeded")
    opening = {"Content-Type": "application/json", "X-Upload-Content-Length": "1"}
    assert drive.send("POST", "/upload/drive/v3/files?uploadType=resumable", body=b"{}", headers=opening).status == 403
    assert drive.call("POST", f"files/{item}/copy", {}).status == 403
    quota = drive.get("about", fields="storageQuota")["storageQuota"]
    assert quota["limit"] == quota["usage"] == "5"
    assert drive.create("empty")["size"] == "0"
    assert drive.download(item) == b"12345"
    assert drive.call("DELETE", f"files/{item}").status == 204


def test_a_fault_ends_on_kept_connections_too(drive: Drive) -> None:
    """Once its rule is forgotten, also where an upload had met it on which the server had to stop reading meanwhile."""
    target = "/upload/drive/v3/files?uploadType=media"
    headers = {"Content-Type": "a/b", "Authorization": "Bearer a-token"}
    connection = http.client.HTTPConnection(urlsplit(drive.url).netloc, timeout=60)
    drive.strike(quota_full=True)
    statuses = []
    for _ in range(2):
        connection.request("POST", target, body=bytes(1 << 20), headers=headers)
        with connection.getresponse() as response:
            response.read()
            statuses.append(response.status)
        drive.calm()
    connection.close()
    assert statuses == [403, 200]


def test_calls_within_a_batch(drive: Drive) -> None:
    """Rules strike the calls within a batch one by one."""
    drive.strike(method="files.get", status=500, nth=2)
    part = "--b\r\nContent-Type: application/http\r\nContent-ID: <i+{}>\r\n\r\nGET /drive/v3/files/root HTTP/1.1\r\n\r\n\r\n"
    body = "".join(part.format(n) for n in range(3)) + "--b--"
    answer = drive.send("POST", "/batch/drive/v3", body=body, headers={"Content-Type": "multipart/mixed; boundary=b"})
    answers = {chunk.split("i+")[1][0]: "HTTP/1.1 200" in chunk for chunk in answer.body.decode().split("--batch_")[1:-1]}
    assert answers == {"0": True, "1": False, "2": True}


def test_a_client_that_hangs_up_during_a_delay(drive: Drive) -> None:
    """Nobody waits for an answer: the server goes on serving others."""
    rule = drive.strike(method="files.list", latency=0.3, nth=1)
    where = urlsplit(drive.url)
    with socket.create_connection((where.hostname or "", where.port or 0)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.sendall(b"GET /drive/v3/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n\r\n")
    assert drive.call("GET", "files").status == 200
    assert drive.faults()[rule] == (2, 1)


def test_nothing_is_left_after_calm(drive: Drive) -> None:
    """DELETE forgets every rule, reset too, and the control endpoints are never struck."""
    drive.strike(status=500)
    assert drive.call("GET", "files").status == 500
    assert drive.send("POST", "/_emulator/reset", token=None).status == 200
    assert drive.faults() == {}
    assert drive.call("GET", "files").status == 200
