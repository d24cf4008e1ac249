"""Bytes up in one request, bytes down whole or in ranges, and revisions."""

from __future__ import annotations

import hashlib
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.contract.conftest import Answer, Drive, Server

MULTIPART = "/upload/drive/v3/files?uploadType=multipart&fields=*"


def _related(content: bytes, *, end: bytes, boundary: str, extra: bytes = b"", media_type: bytes = b"text/plain") -> bytes:
    delimiter = end + b"--" + boundary.encode()
    body = (
        b"--"
        + boundary.encode()
        + end
        + b"Content-Type: application/json; charset=UTF-8"
        + end
        + b"MIME-Version: 1.0"
        + end
        + end
    )
    body += b'{"name": "x"}\n' + delimiter + end + b"Content-Type: " + media_type + end + extra + end
    return body + content + delimiter + b"--" + end


def _pieces(body: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(body), size):
        yield body[at : at + size]


TRICKY = [b"", b"\r", b"\n", b"\r\n", b"x\r\n--BOUND", b"\r\n--BOUNDAR", b"\n--BOUNDAR\r", bytes(range(256)) * 300]


@pytest.mark.parametrize("content", TRICKY)
def test_multipart_with_lf(drive: Drive, content: bytes) -> None:
    """Simple upload: as the Python client writes it: bare LF, a quoted boundary, extra headers, Content-Length."""
    body = _related(content, end=b"\n", boundary="BOUNDARY", extra=b"Content-Transfer-Encoding: binary\n")
    headers = {"Content-Type": 'multipart/related; boundary="BOUNDARY"'}
    made = drive.send("POST", MULTIPART, body=body, headers=headers).json()
    assert (made["size"], made["md5Checksum"]) == (str(len(content)), hashlib.md5(content).hexdigest())
    assert (made["sha1Checksum"], made["sha256Checksum"]) == (
        hashlib.sha1(content).hexdigest(),
        hashlib.sha256(content).hexdigest(),
    )
    assert drive.download(made["id"]) == content


@pytest.mark.parametrize("content", TRICKY)
@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_multipart_with_crlf_and_chunks(drive: Drive, content: bytes, piece: int) -> None:
    """Simple upload: as Go writes it: CRLF, an unquoted boundary, chunked transfer, however the chunks fall."""
    body = _related(content[:2000], end=b"\r\n", boundary="BOUNDARY")
    headers = {"Content-Type": "multipart/related; boundary=BOUNDARY", "Transfer-Encoding": "chunked"}
    made = drive.send("POST", MULTIPART, body=_pieces(body, piece), headers=headers).json()
    assert drive.download(made["id"]) == content[:2000]
    assert (made["name"], made["mimeType"]) == ("x", "text/plain")


def test_multipart_base64(drive: Drive) -> None:
    """Simple upload: a part may say that it is base64."""
    body = _related(b"aGVs\nbG8=", end=b"\n", boundary="B", extra=b"Content-Transfer-Encoding: base64\n")
    made = drive.send("POST", MULTIPART, body=body, headers={"Content-Type": "multipart/related; boundary=B"}).json()
    assert drive.download(made["id"]) == b"hello"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "multipart/related; boundary=B"),
        (b"--B\r\n\r\n{}\r\n--B--\r\n", "multipart/related; boundary=B"),
        (b"--B\r\n\r\n{}\r\n--B\r\n\r\ncontent without an end", "multipart/related; boundary=B"),
        (b"--B\r\n\r\n{}\r\n--B\r\nContent-Transfer-Encoding: base64\r\n\r\n%%%%\r\n--B--", "multipart/related; boundary=B"),
        (b"--B\r\n\r\nno json\r\n--B\r\n\r\nx\r\n--B--", "multipart/related; boundary=B"),
        (b"--B\r\n\r\n{}\r\n--B\r\n\r\nx\r\n--B--", "multipart/related"),
        (b"--B\r\n\r\n{}\r\n--B\r\n\r\nx\r\n--B--", "text/plain; boundary=B"),
    ],
)
def test_multipart_that_is_refused(drive: Drive, body: bytes, content_type: str) -> None:
    """Simple upload: a malformed body is 400, and nothing is made."""
    assert drive.send("POST", MULTIPART, body=body, headers={"Content-Type": content_type}).status == 400
    assert drive.tree() == []


def test_media_upload(drive: Drive) -> None:
    """Simple upload: bare content makes "Untitled"; PATCH replaces content; PUT, an unknown id and no uploadType are refused."""
    headers = {"Content-Type": "text/csv; charset=utf-8"}
    made = drive.send("POST", "/upload/drive/v3/files?uploadType=media&fields=*", body=b"a,b", headers=headers).json()
    assert (made["name"], made["mimeType"], made["size"]) == ("Untitled", "text/csv", "3")
    target = f"/upload/drive/v3/files/{made['id']}?uploadType=media"
    changed = drive.send("PATCH", target + "&fields=*", body=b"longer", headers=headers).json()
    assert (changed["id"], changed["size"]) == (made["id"], "6")
    assert changed["headRevisionId"] != made["headRevisionId"]
    assert int(changed["version"]) > int(made["version"])
    assert drive.send("PUT", target, body=b"x", headers=headers).status == 404
    assert drive.send("PATCH", "/upload/drive/v3/files/missing?uploadType=media", body=b"x", headers=headers).status == 404
    assert drive.send("POST", "/upload/drive/v3/files", body=b"x", headers=headers).location == "uploadType"


def test_content_needs_an_item_that_has_bytes(drive: Drive) -> None:
    """Files resource: folders and Docs editors files take no content and give none."""
    folder = drive.folder("d")
    document = drive.create("doc", mimeType="application/vnd.google-apps.document")
    for item in (folder, document["id"]):
        assert drive.send("PATCH", f"/upload/drive/v3/files/{item}?uploadType=media", body=b"x").status == 400
        media = drive.call("GET", f"files/{item}", alt="media")
        assert (media.status, media.reason, media.location) == (403, "fileNotDownloadable", "alt")
    assert document["size"] == "1"
    folder_type = {"Content-Type": "application/vnd.google-apps.folder"}
    assert drive.send("POST", "/upload/drive/v3/files?uploadType=media", body=b"x", headers=folder_type).status == 400


def test_metadata_and_content_change_together_or_not_at_all(drive: Drive) -> None:
    """Metadata calls: a refused multipart update leaves name, place and bytes as they were, and no blob behind."""
    made = drive.upload("a", b"old")
    body = b'--B\n\n{"name": "b"}\n--B\nContent-Type: text/plain\n\nnew\n--B--'
    headers = {"Content-Type": "multipart/related; boundary=B"}
    target = f"/upload/drive/v3/files/{made['id']}?uploadType=multipart"
    assert drive.send("PATCH", target + "&addParents=missing", body=body, headers=headers).status == 404
    assert drive.item(made["id"]) == made
    folder = drive.folder("d")
    changed = drive.send("PATCH", f"{target}&addParents={folder}&fields=name,parents,size", body=body, headers=headers).json()
    assert changed == {"name": "b", "parents": [folder], "size": "3"}
    assert drive.download(made["id"]) == b"new"


def _connect(drive: Drive) -> socket.socket:
    host, port = drive.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def _cut_off(drive: Drive, head: str, body: bytes) -> None:
    """Send the beginning of a request, then close the connection; returns when the server has seen that."""
    with _connect(drive) as connection:
        connection.sendall(head.encode() + b"\r\nHost: localhost\r\nAuthorization: Bearer t\r\n\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def test_a_broken_off_upload_leaves_nothing(drive: Drive) -> None:
    """Upload: content is atomic; a connection that breaks in the middle commits nothing, in every form of simple upload."""
    made = drive.upload("a", b"old")
    media = "Content-Type: text/plain\r\nContent-Length: 3000000"
    _cut_off(drive, f"POST /upload/drive/v3/files?uploadType=media HTTP/1.1\r\n{media}", b"x" * 2_900_000)
    _cut_off(drive, f"PATCH /upload/drive/v3/files/{made['id']}?uploadType=media HTTP/1.1\r\n{media}", b"x" * 2_900_000)
    related = "Content-Type: multipart/related; boundary=B\r\nTransfer-Encoding: chunked"
    part = b"--B\n\n{}\n--B\n\n" + b"x" * 2_000_000
    chunk = f"{len(part):x}\r\n".encode() + part + b"\r\n"
    _cut_off(drive, f"POST /upload/drive/v3/files?uploadType=multipart HTTP/1.1\r\n{related}", chunk)
    assert [(one["name"], one["md5"]) for one in drive.tree()] == [("a", hashlib.md5(b"old").hexdigest())]


RANGES = [
    ("bytes=0-0", 206, "bytes 0-0/10", b"0"),
    ("bytes=2-5", 206, "bytes 2-5/10", b"2345"),
    ("bytes=2-", 206, "bytes 2-9/10", b"23456789"),
    ("bytes=8-100", 206, "bytes 8-9/10", b"89"),
    ("bytes=-3", 206, "bytes 7-9/10", b"789"),
    ("bytes=-100", 206, "bytes 0-9/10", b"0123456789"),
    ("bytes=10-", 416, "bytes */10", None),
    ("bytes=100-200", 416, "bytes */10", None),
    ("bytes=-0", 416, "bytes */10", None),
    ("bytes=5-2", 200, None, b"0123456789"),
    ("bytes=0-1,4-5", 200, None, b"0123456789"),
    ("lines=0-1", 200, None, b"0123456789"),
]


@pytest.mark.parametrize(("header", "status", "content_range", "body"), RANGES)
def test_ranges(drive: Drive, header: str, status: int, content_range: str | None, body: bytes | None) -> None:
    """Download, RFC 9110 14: 206 clipped to the end, suffixes, 416 beyond; what is malformed or multiple is answered whole."""
    made = drive.upload("x", b"0123456789")
    answer = drive.send("GET", f"/drive/v3/files/{made['id']}?alt=media", headers={"Range": header})
    assert (answer.status, answer.headers.get("content-range")) == (status, content_range)
    if body is None:
        assert (answer.reason, answer.location) == ("requestedRangeNotSatisfiable", "Range")
    else:
        assert answer.body == body


def test_any_range_of_an_empty_file_is_416(drive: Drive) -> None:
    """Download: with Content-Range ``bytes */0``."""
    made = drive.create("x")
    for header in ("bytes=0-", "bytes=0-0", "bytes=-1"):
        answer = drive.send("GET", f"/drive/v3/files/{made['id']}?alt=media", headers={"Range": header})
        assert (answer.status, answer.headers["content-range"]) == (416, "bytes */0")


def test_if_match_is_ignored_on_media(drive: Drive) -> None:
    """Download: a conditional range request is answered 206."""
    made = drive.upload("x", b"0123456789")
    headers = {"Range": "bytes=0-3", "If-Match": '"other"', "If-Range": '"other"'}
    assert drive.send("GET", f"/drive/v3/files/{made['id']}?alt=media", headers=headers).status == 206


@pytest.mark.emulator
def test_a_download_outlives_the_file(drive: Drive) -> None:
    """Download: bytes that are being sent arrive in full although the file is deleted meanwhile."""
    content = bytes(range(256)) * 64 * 1024
    made = drive.upload("x", content)
    head = f"GET /drive/v3/files/{made['id']}?alt=media HTTP/1.1\r\nHost: localhost\r\n"
    head += "Authorization: Bearer t\r\nConnection: close\r\n\r\n"
    with _connect(drive) as connection:
        connection.sendall(head.encode())
        received = bytearray(connection.recv(1000))
        assert drive.call("DELETE", f"files/{made['id']}").status == 204
        while data := connection.recv(1 << 20):
            received += data
    assert bytes(received).partition(b"\r\n\r\n")[2] == content


def _revisions(drive: Drive, item: str, fields: str = "*") -> list[Any]:
    return list(drive.get(f"files/{item}/revisions", fields=f"revisions({fields})")["revisions"])


def test_revisions(drive: Drive) -> None:
    """Resumable upload: every commit makes one, equal bytes too; oldest first; the last is the head."""
    made = drive.upload("x", b"one")
    for content in (b"two!", b"two!"):
        drive.overwrite(made["id"], content)
    drive.call("PATCH", f"files/{made['id']}", {"name": "y"})
    found = _revisions(drive, made["id"])
    assert [one["size"] for one in found] == ["3", "4", "4"]
    assert found[-1]["id"] == drive.item(made["id"])["headRevisionId"]
    assert found[0]["md5Checksum"] == hashlib.md5(b"one").hexdigest()
    first = f"/drive/v3/files/{made['id']}/revisions/{found[0]['id']}?alt=media"
    assert drive.send("GET", first).body == b"one"
    part = drive.send("GET", first, headers={"Range": "bytes=1-1"})
    assert (part.status, part.body) == (206, b"n")
    assert drive.call("GET", f"files/{made['id']}/revisions/none").location == "revisionId"
    page = drive.get(f"files/{made['id']}/revisions", pageSize=2)
    rest = drive.get(f"files/{made['id']}/revisions", pageSize=2, pageToken=page["nextPageToken"])
    assert [one["id"] for one in page["revisions"] + rest["revisions"]] == [one["id"] for one in found]


@pytest.mark.emulator
def test_kept_revisions_count_and_old_ones_go(drive: Drive) -> None:
    """Files resource: 100 unkept revisions are retained; kept ones stay and count; the last cannot go."""
    made = drive.upload("x", b"12345")
    first = _revisions(drive, made["id"])[0]["id"]
    kept = drive.call("PATCH", f"files/{made['id']}/revisions/{first}", {"keepForever": True}, fields="keepForever")
    assert kept.json() == {"keepForever": True}
    for _ in range(105):
        drive.overwrite(made["id"], b"123")
    found = _revisions(drive, made["id"], "id,keepForever")
    assert (len(found), found[0]["id"]) == (101, first)
    assert drive.item(made["id"])["quotaBytesUsed"] == "8"
    assert drive.get("about", fields="storageQuota/usage")["storageQuota"]["usage"] == "8"
    for one in found[1:]:
        assert drive.call("DELETE", f"files/{made['id']}/revisions/{one['id']}").status == 204
    assert drive.download(made["id"]) == b"12345"
    assert drive.item(made["id"])["headRevisionId"] == first
    assert drive.call("DELETE", f"files/{made['id']}/revisions/{first}").status == 400


def test_storage_quota(start: Callable[..., Server]) -> None:
    """Errors: what does not fit is 403 storageQuotaExceeded in every form of upload; overwriting counts the difference."""
    drive = start("--storage-limit", "1000").drive
    made = drive.upload("x", b"x" * 900)
    media, headers = "/upload/drive/v3/files?uploadType=media", {"Content-Type": "text/plain"}

    def refused(answer: Answer) -> bool:
        return (answer.status, answer.reason) == (403, "storageQuotaExceeded")

    assert refused(drive.send("POST", media, body=b"y" * 101, headers=headers))
    assert refused(drive.send("POST", media, body=iter([b"y" * 101]), headers=headers | {"Transfer-Encoding": "chunked"}))
    body = _related(b"y" * 101, end=b"\n", boundary="B")
    assert refused(drive.send("POST", MULTIPART, body=body, headers={"Content-Type": "multipart/related; boundary=B"}))
    resumable = {"X-Upload-Content-Length": "101", "Content-Type": "application/json"}
    assert refused(drive.send("POST", "/upload/drive/v3/files?uploadType=resumable", body=b"{}", headers=resumable))
    assert refused(drive.call("POST", f"files/{made['id']}/copy", {}))
    assert drive.overwrite(made["id"], b"z" * 1000)["quotaBytesUsed"] == "1000"
    assert drive.get("about", fields="storageQuota")["storageQuota"] == {
        "limit": "1000",
        "usage": "1000",
        "usageInDrive": "1000",
        "usageInDriveTrash": "0",
    }


def test_storage_without_limit(start: Callable[..., Server]) -> None:
    """Revisions and about: an absent limit means unlimited storage."""
    drive = start("--storage-limit", "0").drive
    assert "limit" not in drive.get("about", fields="storageQuota")["storageQuota"]


def test_batch_limits(drive: Drive) -> None:
    """Batch: media ends in an inner 302 to the same address; uploads are refused; the 101st call meets an inner 403."""
    made = drive.upload("x", b"bytes")

    def batch(*lines: str) -> str:
        parts = "".join(
            f"--B\nContent-Type: application/http\nContent-ID: <a + {number}>\n\n{line} HTTP/1.1\n\n\n"
            for number, line in enumerate(lines)
        )
        headers = {"Content-Type": "multipart/mixed; boundary=B"}
        answer = drive.send("POST", "/batch/drive/v3", body=f"{parts}--B--".encode(), headers=headers)
        assert answer.status == 200
        return answer.body.decode()

    media = f"/drive/v3/files/{made['id']}?alt=media"
    answers = batch(f"GET {media}", "POST /upload/drive/v3/files?uploadType=media")
    assert f"location: {drive.url}{media}\r\n" in answers
    assert answers.index("HTTP/1.1 400") < answers.index("Content-ID: <response-a + 0>") < answers.index("HTTP/1.1 302")
    many = batch(*["GET /drive/v3/about?fields=kind"] * 102)
    assert many.count("HTTP/1.1 200 OK") == 100
    assert many.count("Exceeds allowed inner batch requests soft limit. Please retry.") == 4  # each error says it twice
    assert (
        drive.send("POST", "/batch/drive/v3", body=b"nonsense", headers={"Content-Type": "multipart/mixed; boundary=B"}).status
        == 400
    )
    assert json.loads(drive.send("GET", "/_emulator/requests").body)["by_method"]["about.get"] == 100
