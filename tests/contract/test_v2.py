"""Version 2 of the API, as far as it is served: other names for the same things, and the only compare-and-swap that Drive has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.contract.conftest import Answer, Drive

FILES = "/drive/v2/files"
UPLOAD = "/upload/drive/v2/files"


def _call(drive: Drive, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    kind = {} if body is None or isinstance(body, bytes) else {"Content-Type": "application/json"}
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    sent = kind | {name.replace("_", "-"): value for name, value in headers.items()}
    return drive.send(method, path, body=raw, headers=sent)


def test_both_versions_show_the_same_item(drive: Drive) -> None:
    """Names differ, values do not; the ETag is in body and header and changes with every version of the item."""
    new = drive.upload("a", b"12345", properties={"p": "1"}, appProperties={"q": "2"})
    answer = _call(drive, "GET", f"{FILES}/{new['id']}")
    old = answer.json()
    same = [("title", "name"), ("fileSize", "size"), ("modifiedDate", "modifiedTime"), ("createdDate", "createdTime")]
    assert [old[one] for one, _ in same] == [new[other] for _, other in same]
    assert (old["md5Checksum"], old["parents"][0]["id"], old["parents"][0]["isRoot"]) == (
        new["md5Checksum"],
        new["parents"][0],
        drive.root == "root",
    )
    assert {(one["key"], one["visibility"]) for one in old["properties"]} == {("p", "PUBLIC"), ("q", "PRIVATE")}
    assert answer.headers["etag"] == old["etag"]
    drive.call("PATCH", f"files/{new['id']}", {"starred": True})
    assert _call(drive, "GET", f"{FILES}/{new['id']}?fields=etag,labels").json() != {"etag": old["etag"], "labels": old["labels"]}
    assert _call(drive, "GET", f"{FILES}/{new['id']}?alt=media").body == b"12345"


def test_insert_update_move_delete(drive: Drive) -> None:
    """A PUT may send back all it got: what cannot be written is ignored, parents mean a move, and times need a flag."""
    folder = drive.folder("d")
    made = _call(drive, "POST", FILES, {"title": "x", "modifiedDate": "2020-01-01T00:00:00.000Z"}).json()
    assert made["modifiedDate"] == "2020-01-01T00:00:00.000Z"
    changed = made | {"title": "y", "parents": [{"id": folder}], "modifiedDate": "2021-01-01T00:00:00.000Z", "fileSize": "99"}
    put = _call(drive, "PUT", f"{FILES}/{made['id']}", changed).json()
    assert (put["title"], put["parents"][0]["id"], put["fileSize"]) == ("y", folder, "0")
    assert put["modifiedDate"] > "2025"
    put = _call(drive, "PUT", f"{FILES}/{made['id']}?setModifiedDate=true", changed).json()
    assert put["modifiedDate"] == "2021-01-01T00:00:00.000Z"
    assert _call(drive, "POST", f"{FILES}/{made['id']}/trash").json()["labels"]["trashed"] is True
    assert _call(drive, "DELETE", f"{FILES}/{made['id']}").status == 204
    assert _call(drive, "GET", f"{FILES}/{made['id']}").reason == "notFound"


def test_a_search_in_old_words(drive: Drive) -> None:
    """``title`` is ``name`` outside quotes only; pages go on."""
    for name in ("title", "name", "other"):
        drive.create(name)
    query = f"{FILES}?q=title+%3D+%27title%27+or+title+contains+%27nam%27&orderBy=title&maxResults=1"
    first = _call(drive, "GET", query).json()
    assert [one["title"] for one in first["items"]] == ["name"]
    second = _call(drive, "GET", f"{query}&pageToken={first['nextPageToken']}").json()
    assert [one["title"] for one in second["items"]] == ["title"]


def _multipart(metadata: Any, content: bytes) -> tuple[bytes, str]:
    head = b"--XX\r\nContent-Type: application/json\r\n\r\n" + json.dumps(metadata).encode()
    body = head + b"\r\n--XX\r\nContent-Type: text/plain\r\n\r\n" + content + b"\r\n--XX--\r\n"
    return body, "multipart/related; boundary=XX"


def test_uploads(drive: Drive) -> None:
    """Media, multipart and resumable; the last answers in version 2, too. PATCH does not upload there: 404."""
    body, kind = _multipart({"title": "m"}, b"multi")
    made = _call(drive, "POST", f"{UPLOAD}?uploadType=multipart", body, Content_Type=kind).json()
    assert (made["title"], drive.download(made["id"])) == ("m", b"multi")
    _call(drive, "PUT", f"{UPLOAD}/{made['id']}?uploadType=media", b"media")
    assert drive.download(made["id"]) == b"media"
    opened = _call(drive, "PUT", f"{UPLOAD}/{made['id']}?uploadType=resumable", {"title": "r"})
    done = _call(drive, "PUT", opened.headers["location"], b"resumed").json()
    assert (done["title"], drive.download(made["id"])) == ("r", b"resumed")
    assert _call(drive, "PATCH", f"{UPLOAD}/{made['id']}?uploadType=media", b"x").status == 404


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("PUT", FILES, {"title": "n"}), ("PUT", UPLOAD, b"n"), ("DELETE", FILES, None)],
)
def test_if_match(drive: Drive, method: str, path: str, body: Any) -> None:
    """A wrong If-Match is 412 and changes nothing; the right one is obeyed."""
    made = drive.upload("a", b"a")
    etag = _call(drive, "GET", f"{FILES}/{made['id']}").json()["etag"]
    drive.call("PATCH", f"files/{made['id']}", {"name": "b"})
    query = "?uploadType=media" if path == UPLOAD else ""
    stale = _call(drive, method, f"{path}/{made['id']}{query}", body, If_Match=etag)
    assert (stale.status, stale.reason) == (412, "conditionNotMet")
    assert (drive.item(made["id"])["name"], drive.download(made["id"])) == ("b", b"a")
    etag = _call(drive, "GET", f"{FILES}/{made['id']}").json()["etag"]
    assert _call(drive, method, f"{path}/{made['id']}{query}", body, If_Match=etag).status in (200, 204)


def test_if_none_match_on_create(drive: Drive) -> None:
    """``If-None-Match: *`` on a create is 412."""
    assert _call(drive, "POST", FILES, {"title": "x"}, If_None_Match="*").status == 412
    assert drive.tree() == []
