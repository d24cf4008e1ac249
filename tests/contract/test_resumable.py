"""Resumable uploads on the wire: every way to open, send, ask, finish and break off."""

from __future__ import annotations

import hashlib
import random
import socket
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.contract.conftest import Answer, Drive

GRANULE = 256 * 1024
CONTENT = random.Random(7).randbytes(3 * GRANULE + 1000)
JSON = {"Content-Type": "application/json; charset=UTF-8"}


def _open(drive: Drive, body: bytes = b'{"name": "x"}', *, item: str = "", query: str = "", **headers: str) -> str:
    """Open a session; returns its address."""
    sent = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
    target = f"/upload/drive/v3/files{'/' + item if item else ''}?uploadType=resumable{query}"
    answer = drive.send("PATCH" if item else "POST", target, body=body, headers=sent)
    assert (answer.status, answer.body) == (200, b""), answer.body
    assert answer.headers["location"].endswith(f"&upload_id={answer.headers['x-guploader-uploadid']}")
    return answer.headers["location"]


def _put(drive: Drive, session: str, data: Any, content_range: str | None = None, method: str = "PUT") -> Answer:
    headers = {"Content-Range": content_range} if content_range else {}
    return drive.send(method, session, body=data, headers=headers, token=None)


def _held(answer: Answer) -> int:
    """How many bytes a 308 confirms."""
    assert answer.status == 308
    assert "location" not in answer.headers
    return int(answer.headers["range"].removeprefix("bytes=0-")) + 1 if "range" in answer.headers else 0


def _check(drive: Drive, made: Any, content: bytes = CONTENT) -> None:
    assert drive.item(made["id"])["md5Checksum"] == hashlib.md5(content).hexdigest()
    assert drive.download(made["id"]) == content


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_chunks_of_known_length(drive: Drive, method: str) -> None:
    """Resumable upload: 308 with the range held after each chunk, then the file; by PUT or (Go) POST, without a token."""
    session = _open(drive, X_Upload_Content_Length=str(len(CONTENT)), X_Upload_Content_Type="text/csv")
    assert drive.tree() == []
    total = len(CONTENT)
    for start in range(0, 3 * GRANULE, GRANULE):
        end = start + GRANULE
        assert _held(_put(drive, session, CONTENT[start:end], f"bytes {start}-{end - 1}/{total}", method)) == end
    made = _put(drive, session, CONTENT[3 * GRANULE :], f"bytes {3 * GRANULE}-{total - 1}/{total}", method)
    assert made.status == 200
    assert (made.json()["name"], made.json()["mimeType"]) == ("x", "text/csv")
    _check(drive, made.json())


def test_chunks_of_unknown_length(drive: Drive) -> None:
    """Resumable upload: ``*`` until the last chunk states the total."""
    session = _open(drive)
    assert _held(_put(drive, session, CONTENT[: 2 * GRANULE], f"bytes 0-{2 * GRANULE - 1}/*")) == 2 * GRANULE
    rest = CONTENT[2 * GRANULE :]
    _check(drive, _put(drive, session, rest, f"bytes {2 * GRANULE}-{len(CONTENT) - 1}/{len(CONTENT)}").json())


def test_a_total_that_turns_out_to_be_reached(drive: Drive) -> None:
    """Resumable upload: where the stream ended at a chunk's end, an empty request that states the total finishes."""
    session = _open(drive)
    assert _held(_put(drive, session, CONTENT[:GRANULE], f"bytes 0-{GRANULE - 1}/*")) == GRANULE
    _check(drive, _put(drive, session, b"", f"bytes */{GRANULE}").json(), CONTENT[:GRANULE])


def test_one_request_without_content_range(drive: Drive) -> None:
    """Resumable upload: a single PUT carries everything, with a length or chunked."""
    _check(drive, _put(drive, _open(drive), CONTENT).json())
    chunked = {"Transfer-Encoding": "chunked"}
    _check(drive, drive.send("PUT", _open(drive), body=iter([CONTENT[:77], CONTENT[77:]]), headers=chunked).json())


@pytest.mark.parametrize("content_range", [None, "bytes */0"])
def test_the_empty_file(drive: Drive, content_range: str | None) -> None:
    """Resumable upload: PUT with Content-Length 0 and no Content-Range makes an empty file."""
    made = _put(drive, _open(drive), b"", content_range)
    assert made.status == 200
    _check(drive, made.json(), b"")


def test_opening_without_metadata(drive: Drive) -> None:
    """Resumable upload: an empty body opens a session for "Untitled"."""
    assert _put(drive, _open(drive, b""), b"x").json()["name"] == "Untitled"


def test_final_fields_and_metadata_of_an_update(drive: Drive) -> None:
    """Resumable upload: PATCH updates content and metadata; the last answer has the ``fields`` of the opening request."""
    made = drive.upload("a", b"old")
    session = _open(drive, b'{"name": "b"}', item=made["id"], query="&fields=id,name,size")
    assert drive.item(made["id"]) == made
    assert _put(drive, session, CONTENT).json() == {"id": made["id"], "name": "b", "size": str(len(CONTENT))}
    _check(drive, made)


def test_probe(drive: Drive) -> None:
    """Resumable upload: ``bytes */N`` or ``*/*`` tells what is held: no Range header for nothing; once done, the file again."""
    session = _open(drive, query="&fields=id,name")
    for asked in (f"bytes */{len(CONTENT)}", "bytes */*"):
        assert _held(_put(drive, session, b"", asked)) == 0
    _put(drive, session, CONTENT[:GRANULE], f"bytes 0-{GRANULE - 1}/{len(CONTENT)}")
    assert _held(_put(drive, session, b"", "bytes */*")) == GRANULE
    made = _put(drive, session, CONTENT[GRANULE:], f"bytes {GRANULE}-{len(CONTENT) - 1}/{len(CONTENT)}").json()
    for asked in (f"bytes */{len(CONTENT)}", "bytes */*"):
        assert _put(drive, session, b"", asked).json() == made
    assert len(drive.tree()) == 1


def test_a_chunk_that_breaks_off_is_kept_in_granules(drive: Drive) -> None:
    """Resumable upload: of a broken chunk whole multiples of 256 KiB are held; overlap is harmless."""
    session = _open(drive)
    total = len(CONTENT)

    def broken() -> Any:
        yield CONTENT[: 2 * GRANULE + 500]
        raise ConnectionAbortedError

    headers = {"Content-Range": f"bytes 0-{total - 1}/{total}", "Content-Length": str(total)}
    with pytest.raises(ConnectionAbortedError):
        drive.send("PUT", session, body=broken(), headers=headers)
    held = _held(_put(drive, session, b"", f"bytes */{total}"))
    while held < 2 * GRANULE:  # what was on its way arrives yet
        held = _held(_put(drive, session, b"", f"bytes */{total}"))
    assert held == 2 * GRANULE
    ahead = f"bytes {2 * GRANULE + 500}-{total - 1}/{total}"
    assert _put(drive, session, CONTENT[2 * GRANULE + 500 :], ahead).status == 503
    _check(drive, _put(drive, session, CONTENT[GRANULE:], f"bytes {GRANULE}-{total - 1}/{total}").json())


def test_a_newcomer_takes_the_upload_over(drive: Drive) -> None:
    """Resumable upload: a client that gave up on a stalled connection goes on with another; the old one is refused."""
    session, total = _open(drive, query="&fields=id"), len(CONTENT)
    host, port = drive.url.removeprefix("http://").split(":")
    target = session.removeprefix(drive.url)
    with socket.create_connection((host, int(port)), timeout=20) as stalled:
        head = f"PUT {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {total}\r\n"
        head += f"Content-Range: bytes 0-{total - 1}/{total}\r\n\r\n"
        stalled.sendall(head.encode() + CONTENT[:GRANULE])
        while "upload.chunk" not in drive.send("GET", "/_emulator/requests").json()["by_method"]:
            pass  # the stalled request must have begun before the newcomer's
        first = CONTENT[: 2 * GRANULE]
        assert _held(_put(drive, session, first, f"bytes 0-{2 * GRANULE - 1}/{total}")) == 2 * GRANULE
        stalled.sendall(b"\0" * (total - GRANULE))
        assert stalled.recv(65536).startswith(b"HTTP/1.1 503 ")
    made = _put(drive, session, CONTENT[2 * GRANULE :], f"bytes {2 * GRANULE}-{total - 1}/{total}").json()
    _check(drive, made)


@pytest.mark.parametrize(
    "content_range",
    ["bytes 0-9", "0-9/10", "bytes 5-2/10", "bytes 0-10/10", "bytes a-b/c", "bytes */", "bytes -5/10", "bytes 0-0/1e3"],
)
def test_content_range_that_cannot_be_read(drive: Drive, content_range: str) -> None:
    """Resumable upload: 400 in plain text; the session lives on."""
    session = _open(drive)
    answer = _put(drive, session, b"0123456789", content_range)
    assert (answer.status, answer.body) == (400, b"Failed to parse Content-Range header.")
    assert answer.headers["content-type"].startswith("text/plain")
    _check(drive, _put(drive, session, b"0123456789", "bytes 0-9/10").json(), b"0123456789")


def test_chunks_that_are_refused(drive: Drive) -> None:
    """Resumable upload: not a multiple of 256 KiB, a gap, another length than announced, another total than before."""
    session, total = _open(drive, X_Upload_Content_Length=str(len(CONTENT))), len(CONTENT)
    assert _put(drive, session, CONTENT[:1000], f"bytes 0-999/{total}").status == 400
    assert _put(drive, session, CONTENT[:1000], "bytes 0-999/*").status == 400
    gap = _put(drive, session, CONTENT[GRANULE : 2 * GRANULE], f"bytes {GRANULE}-{2 * GRANULE - 1}/{total}")
    assert (gap.status, b"exceeds already uploaded size of 0 byte(s)" in gap.body) == (503, True)
    assert _put(drive, session, CONTENT[:999], f"bytes 0-{GRANULE - 1}/{total}").status == 400
    assert _put(drive, session, CONTENT[:GRANULE], f"bytes 0-{GRANULE - 1}/{GRANULE}").status == 400
    assert _put(drive, session, CONTENT[:1000]).status == 400
    assert _held(_put(drive, session, b"", f"bytes */{total}")) == 0
    _check(drive, _put(drive, session, CONTENT).json())


def test_sessions_that_are_gone(drive: Drive) -> None:
    """Resumable upload: unknown and cancelled sessions are 404, in plain text; DELETE answers 499."""
    session = _open(drive)
    assert _put(drive, session[:-1] + ("a" if session[-1] != "a" else "b"), b"x").status == 404
    assert drive.send("DELETE", session).status == 499
    answer = _put(drive, session, b"x")
    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (404, "text/plain")
    assert drive.tree() == []


def test_opening_is_refused_early_and_repeatable(drive: Drive) -> None:
    """Resumable upload: a bad parent, id or mask shows when opening; of two sessions for one id the later to finish is 409."""
    target = "/upload/drive/v3/files?uploadType=resumable"
    assert drive.send("POST", target, body=b'{"parents": ["missing"]}', headers=JSON).status == 404
    assert drive.send("POST", target + "&fields=etag", body=b"{}", headers=JSON).location == "fields"
    assert drive.send("PATCH", target.replace("?", "/missing?"), body=b"{}", headers=JSON).status == 404
    reserved = drive.get("files/generateIds", count=1)["ids"][0]
    body = f'{{"id": "{reserved}"}}'.encode()
    first, second = _open(drive, body), _open(drive, body)
    assert _put(drive, first, b"one").json()["id"] == reserved
    late = _put(drive, second, b"two")
    assert (late.status, late.reason) == (409, "fileIdInUse")
    assert drive.download(reserved) == b"one"
    assert drive.send("POST", target, body=body, headers=JSON).status == 409


def test_a_reader_never_sees_half_an_update(drive: Drive) -> None:
    """Resumable upload: until the last chunk the old bytes are served, then the new ones."""
    made = drive.upload("x", b"old")
    session, total = _open(drive, b"", item=made["id"]), len(CONTENT)
    _put(drive, session, CONTENT[: 3 * GRANULE], f"bytes 0-{3 * GRANULE - 1}/{total}")
    assert drive.download(made["id"]) == b"old"
    _put(drive, session, CONTENT[3 * GRANULE :], f"bytes {3 * GRANULE}-{total - 1}/{total}")
    _check(drive, made)


def test_the_old_upload_path(drive: Drive) -> None:
    """Endpoints: /resumable/upload, which the API's description also lists, works alike."""
    answer = drive.send("POST", "/resumable/upload/drive/v3/files?uploadType=resumable", body=b"{}", headers=JSON)
    _check(drive, _put(drive, answer.headers["location"], CONTENT).json())
