"""Files as records: creating, updating, moving, trashing, deleting, copying; what is refused and how."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.contract.conftest import Drive

FOLDER = "application/vnd.google-apps.folder"
SHORTCUT = "application/vnd.google-apps.shortcut"
DOCUMENT = "application/vnd.google-apps.document"


def test_default_fields_and_formats(drive: Drive) -> None:
    """Files resource: four default fields; int64 as strings; times with three decimals and Z; what does not apply is absent."""
    made = drive.upload("notes.tar.gz", b"12345", modifiedTime="2024-02-02T11:40:02.874999999+01:00")
    assert set(drive.get(f"files/{made['id']}")) == {"kind", "id", "name", "mimeType"}
    assert made["size"] == "5"
    assert made["modifiedTime"] == "2024-02-02T10:40:02.874Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made["createdTime"])
    assert isinstance(made["version"], str)
    assert (made["fileExtension"], made["headRevisionId"] != "") == ("gz", True)
    folder = drive.item(drive.folder("d"))
    assert not {"size", "md5Checksum", "headRevisionId", "originalFilename", "webContentLink"} & set(folder)
    assert None not in folder.values()


@pytest.mark.emulator
def test_root_alias_and_default_parent(drive: Drive) -> None:
    """Files resource: ``root`` is an alias; without parents an item lands in the root; the root has none."""
    root = drive.item("root")
    assert root["id"].startswith("0A")
    assert root["name"] == "My Drive"
    assert "parents" not in root
    made = drive.call("POST", "files", {}, fields="name,parents,size,mimeType").json()
    assert made == {"name": "Untitled", "parents": [root["id"]], "size": "0", "mimeType": "application/octet-stream"}


def test_a_file_without_media_is_an_empty_blob(drive: Drive) -> None:
    """Metadata calls: metadata alone makes a real file of 0 bytes, downloadable with 200."""
    made = drive.create("x.txt", mimeType="text/plain")
    assert (made["size"], made["md5Checksum"]) == ("0", "d41d8cd98f00b204e9800998ecf8427e")
    assert drive.download(made["id"]) == b""


def test_siblings_may_share_a_name_and_names_may_be_anything(drive: Drive) -> None:
    """Files resource: names are not unique and hold slashes, dots, control characters, both Unicode normal forms, or nothing."""
    names = ["same", "same", "a/b", ".", "..", "", "x\x00y\n", "\u00e9", "e\u0301", "𝒳" * 200, " lead and trail "]
    for name in names:
        assert drive.create(name)["name"] == name
    assert sorted(one["name"] for one in drive.tree()) == sorted(names)


def test_a_reserved_id_makes_creation_repeatable(drive: Drive) -> None:
    """Metadata calls: create with an id from generateIds; repeating answers 409 fileIdInUse, and one file results."""
    ids = drive.get("files/generateIds", count=3)["ids"]
    assert drive.create("one", id=ids[0])["id"] == ids[0]
    again = drive.call("POST", "files", {"name": "one", "id": ids[0]})
    assert (again.status, again.reason) == (409, "fileIdInUse")
    assert again.json()["error"]["message"] == "A file already exists with the provided ID."
    assert [one["name"] for one in drive.tree()] == ["one"]
    drive.call("DELETE", f"files/{ids[0]}")
    assert drive.call("POST", "files", {"id": ids[0]}).status == 409


@pytest.mark.parametrize("count", ["0", "1001", "x", "-1"])
def test_generate_ids_bounds(drive: Drive, count: str) -> None:
    """Metadata calls: count is 1 to 1000."""
    answer = drive.call("GET", "files/generateIds", count=count)
    assert (answer.status, answer.location) == (400, "count")


def test_ids_that_are_refused(drive: Drive) -> None:
    """Metadata calls: never generated: 400; of the other kind: 400; for a Docs editors file: 403."""
    of_file = drive.get("files/generateIds", count=1)["ids"][0]
    of_shortcut = drive.get("files/generateIds", count=1, type="shortcuts")["ids"][0]
    target = drive.create("t")["id"]
    shortcut = {"mimeType": SHORTCUT, "shortcutDetails": {"targetId": target}}
    assert drive.call("POST", "files", {"id": "1" + "a" * 32}).status == 400
    assert drive.call("POST", "files", {"id": of_shortcut}).status == 400
    assert drive.call("POST", "files", {"id": of_file, **shortcut}).status == 400
    assert drive.call("POST", "files", {"id": of_file, "mimeType": DOCUMENT}).status == 403
    assert drive.call("POST", "files", {"id": of_shortcut, **shortcut}).status == 200


def test_update_merges(drive: Drive) -> None:
    """Metadata calls: PATCH changes what it names; null clears; version grows; an empty PATCH changes nothing."""
    made = drive.create("a", description="d", appProperties={"k": "v", "l": "w"})
    changed = drive.call(
        "PATCH", f"files/{made['id']}", {"appProperties": {"k": None, "m": "x"}, "description": None}, fields="*"
    ).json()
    assert changed["appProperties"] == {"l": "w", "m": "x"}
    assert "description" not in changed
    assert (changed["name"], int(changed["version"]) > int(made["version"])) == ("a", True)
    assert drive.call("PATCH", f"files/{made['id']}", {}, fields="*").json() == changed


def test_modified_time_rules(drive: Drive) -> None:
    """Files resource: a rename bumps modifiedTime, an explicit value wins, a move leaves it."""
    old = "2001-01-01T00:00:00.123Z"
    made = drive.create("a", modifiedTime=old)
    folder = drive.folder("d")
    moved = drive.call("PATCH", f"files/{made['id']}", {}, addParents=folder, fields="modifiedTime").json()
    assert moved["modifiedTime"] == old
    renamed = drive.call("PATCH", f"files/{made['id']}", {"name": "b"}, fields="modifiedTime").json()
    assert renamed["modifiedTime"] > "2020"
    both = drive.call("PATCH", f"files/{made['id']}", {"name": "c", "modifiedTime": old}, fields="modifiedTime").json()
    assert both["modifiedTime"] == old


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"parents": ["root"]}, 403, "fieldNotWritable"),
        ({"size": "5"}, 403, "fieldNotWritable"),
        ({"createdTime": "2024-01-01T00:00:00Z"}, 403, "fieldNotWritable"),
        ({"id": "x"}, 403, "fieldNotWritable"),
        ({"mimeType": "text/html"}, 403, "fieldNotWritable"),
        ({"noSuchField": 1}, 400, "badRequest"),
        ({"name": 5}, 400, "invalid"),
        ({"name": None}, 400, "invalid"),
        ({"starred": "yes"}, 400, "invalid"),
        ({"modifiedTime": "yesterday"}, 400, "invalid"),
        ({"modifiedTime": "2024-01-01T00:00:00"}, 400, "invalid"),
        ({"modifiedTime": "2024-02-30T00:00:00Z"}, 400, "invalid"),
        ({"modifiedTime": "2024-01-01T00:00:00+24:00"}, 400, "invalid"),
        ({"modifiedTime": "0001-01-01T00:00:00+00:01"}, 400, "invalid"),
        ({"viewedByMeTime": "9999-12-31T23:59:59-00:01"}, 400, "invalid"),
        ({"appProperties": {"k": "v" * 124}}, 400, "invalid"),
        ({"appProperties": {str(n): "v" for n in range(31)}}, 403, "forbidden"),
    ],
)
def test_bodies_that_are_refused(drive: Drive, body: Any, status: int, reason: str) -> None:
    """Files resource: read-only, unknown and ill-typed fields; nothing is applied."""
    made = drive.create("a")
    answer = drive.call("PATCH", f"files/{made['id']}", {"description": "new", **body})
    assert (answer.status, answer.reason) == (status, reason)
    assert drive.item(made["id"]) == made


@pytest.mark.parametrize("raw", [b"{", b"[]", b'"x"', b"\xff", b'{"name": "\\ud800"}', b"[" * 5000])
def test_bodies_that_are_not_json_objects(drive: Drive, raw: bytes) -> None:
    """Errors: 400 parseError, also for text that is no Unicode."""
    answer = drive.send("POST", "/drive/v3/files", body=raw, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.reason) == (400, "parseError")


def _parents(drive: Drive, item: str) -> list[str]:
    return list(drive.get(f"files/{item}", fields="parents")["parents"])


def test_moves(drive: Drive) -> None:
    """Metadata calls: addParents replaces; the same id in both cancels; removing the only parent leads to the root."""
    root, a, b = drive.item("root")["id"], drive.folder("a"), drive.folder("b")
    item = drive.create("x", a)["id"]
    path = f"files/{item}"
    assert drive.call("PATCH", path, {"name": "y"}, addParents=b).json()["name"] == "y"
    assert _parents(drive, item) == [b]
    drive.call("PATCH", path, {}, addParents=a, removeParents=a)
    assert _parents(drive, item) == [b]
    drive.call("PATCH", path, {}, removeParents=a)
    assert _parents(drive, item) == [b]
    drive.call("PATCH", path, {}, removeParents=b)
    assert _parents(drive, item) == [root]
    drive.call("PATCH", path, {}, addParents=a, removeParents="root")
    assert _parents(drive, item) == [a]


def test_moves_that_are_refused(drive: Drive) -> None:
    """Metadata calls: two new parents, a missing one, a file, oneself, a descendant; not even the new name is applied."""
    a = drive.folder("a")
    inner = drive.folder("inner", a)
    other, file = drive.folder("other"), drive.create("f")["id"]
    refused = [
        (f"{inner},{other}", 403, "cannotAddParent"),
        ("missing", 404, "notFound"),
        (file, 403, "parentNotAFolder"),
        (a, 400, "badRequest"),
        (inner, 400, "badRequest"),
    ]
    for parents, status, reason in refused:
        answer = drive.call("PATCH", f"files/{a}", {"name": "changed"}, addParents=parents)
        assert (answer.status, answer.reason) == (status, reason)
    assert drive.item(a)["name"] == "a"
    assert drive.call("POST", "files", {"parents": [other, inner]}).reason == "cannotAddParent"
    assert drive.call("POST", "files", {"parents": ["missing"]}).status == 404


def _trashed(drive: Drive, item: str) -> tuple[bool, bool]:
    found = drive.get(f"files/{item}", fields="trashed,explicitlyTrashed")
    return found["trashed"], found["explicitlyTrashed"]


def test_trash_is_inherited(drive: Drive) -> None:
    """Files resource, metadata calls: descendants are trashed, not explicitly; untrashing spares those trashed on their own."""
    a = drive.folder("a")
    b = drive.folder("b", a)
    item, own, upper = drive.create("x", b)["id"], drive.create("own", b)["id"], drive.create("upper", a)["id"]
    for one in (own, upper):
        drive.call("PATCH", f"files/{one}", {"trashed": True})
    drive.call("PATCH", f"files/{a}", {"trashed": True})
    assert [_trashed(drive, one) for one in (a, b, item, own)] == [(True, True), (True, False), (True, False), (True, True)]
    assert drive.create("late", b)["trashed"] is True
    drive.call("PATCH", f"files/{item}", {}, addParents="root")
    assert _trashed(drive, item) == (False, False)
    drive.call("PATCH", f"files/{item}", {}, addParents=b)
    assert _trashed(drive, item) == (True, False)
    drive.call("PATCH", f"files/{a}", {"trashed": False})
    assert [_trashed(drive, one) for one in (b, item, own, upper)] == [(False, False)] * 2 + [(True, True)] * 2


@pytest.mark.emulator
def test_delete_takes_descendants_and_empty_trash_the_trashed(drive: Drive) -> None:
    """Metadata calls: 204 without body; later 404; emptyTrash through the reserved id ``trash``; storage is given back."""
    a = drive.folder("a")
    inside = drive.upload("x", b"12345", drive.folder("b", a))["id"]
    other = drive.upload("y", b"123")["id"]
    deleted = drive.call("DELETE", f"files/{a}")
    assert (deleted.status, deleted.body) == (204, b"")
    missing = drive.call("GET", f"files/{inside}")
    assert (missing.status, missing.reason, missing.location) == (404, "notFound", "fileId")
    drive.call("PATCH", f"files/{other}", {"trashed": True})
    quota = drive.get("about", fields="storageQuota")["storageQuota"]
    assert (quota["usage"], quota["usageInDriveTrash"]) == ("3", "3")
    assert drive.call("DELETE", "files/trash").status == 204
    assert drive.call("GET", f"files/{other}").status == 404
    quota = drive.get("about", fields="storageQuota")["storageQuota"]
    assert (quota["usage"], quota["usageInDriveTrash"]) == ("0", "0")


def test_the_root_is_protected(drive: Drive) -> None:
    """Errors: the root cannot be renamed, moved, trashed or deleted."""
    folder = drive.folder("a")
    assert drive.call("DELETE", "files/root").reason == "insufficientFilePermissions"
    assert drive.call("PATCH", "files/root", {"name": "x"}).reason == "insufficientFilePermissions"
    assert drive.call("PATCH", "files/root", {"trashed": True}).reason == "insufficientFilePermissions"
    assert drive.call("PATCH", "files/root", {}, addParents=folder).reason == "insufficientFilePermissions"


def test_copy(drive: Drive) -> None:
    """Metadata calls: same parent and bytes, "Copy of", properties come along; the copy lives on alone; folders are refused."""
    folder = drive.folder("d")
    source = drive.upload("x", b"bytes", folder, appProperties={"k": "v"})
    copied = drive.call("POST", f"files/{source['id']}/copy", {}, fields="*").json()
    assert (copied["name"], copied["parents"], copied["appProperties"]) == ("Copy of x", [folder], {"k": "v"})
    assert copied["headRevisionId"] != source["headRevisionId"]
    drive.overwrite(source["id"], b"other")
    drive.call("DELETE", f"files/{source['id']}")
    assert drive.download(copied["id"]) == b"bytes"
    assert drive.call("POST", f"files/{folder}/copy", {}).reason == "cannotCopyFile"


def test_shortcuts(drive: Drive) -> None:
    """Files resource: a snapshot of the target's type, no bytes, and it may dangle once the target is gone."""
    target = drive.upload("t.txt", b"x", mimeType="text/plain")
    made = drive.create("s", mimeType=SHORTCUT, shortcutDetails={"targetId": target["id"]})
    assert made["shortcutDetails"] == {"targetId": target["id"], "targetMimeType": "text/plain"}
    assert "size" not in made
    assert drive.names(f"shortcutDetails.targetId = '{target['id']}'") == ["s"]
    media = drive.call("GET", f"files/{made['id']}", alt="media")
    assert (media.status, media.reason) == (403, "fileNotDownloadable")
    drive.call("DELETE", f"files/{target['id']}")
    assert drive.item(made["id"])["shortcutDetails"]["targetId"] == target["id"]
    assert drive.call("POST", "files", {"mimeType": SHORTCUT}).reason == "required"


def test_capabilities(drive: Drive) -> None:
    """Files resource: what may be done depends on what the item is."""
    of_root = drive.item("root")["capabilities"]
    assert (of_root["canAddChildren"], of_root["canTrash"], of_root["canRename"]) == (True, False, False)
    of_file = drive.create("f")["capabilities"]
    assert (of_file["canAddChildren"], of_file["canEdit"], of_file["canDownload"], of_file["canUntrash"]) == (
        False,
        True,
        True,
        False,
    )


def test_about_requires_fields(drive: Drive) -> None:
    """Files resource: without fields, or with dotted ones, 400 required; numbers are strings."""
    for fields in (None, "", "storageQuota.limit"):
        answer = drive.call("GET", "about", **({} if fields is None else {"fields": fields}))
        assert (answer.status, answer.reason, answer.location) == (400, "required", "fields")
    about = drive.get("about", fields="user/emailAddress,storageQuota,maxUploadSize")
    assert set(about) == {"user", "storageQuota", "maxUploadSize"}
    assert about["storageQuota"]["limit"] == str(15 << 30)


def test_no_etag_and_if_match_is_ignored(drive: Drive) -> None:
    """HTTP, concurrency: v3 has no ETag, and a wrong If-Match changes nothing: the last writer wins."""
    made = drive.create("a")
    got = drive.call("GET", f"files/{made['id']}")
    assert "etag" not in got.headers
    assert got.headers["cache-control"] == "no-cache, no-store, max-age=0, must-revalidate"
    headers = {"If-Match": '"wrong"', "Content-Type": "application/json"}
    assert drive.send("PATCH", f"/drive/v3/files/{made['id']}", body=b'{"name":"b"}', headers=headers).json()["name"] == "b"


def test_unknown_paths_are_answered_in_html(drive: Drive) -> None:
    """Simple upload, errors: PUT on a v3 file and unknown paths are 404 in HTML: not every error is JSON."""
    made = drive.create("a")
    for method, path in (
        ("PUT", f"/drive/v3/files/{made['id']}"),
        ("GET", "/drive/v3/nothing"),
        ("PUT", "/upload/drive/v3/files"),
    ):
        answer = drive.send(method, path, body=b"x")
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (404, "text/html")


def test_head(drive: Drive) -> None:
    """HTTP: HEAD answers like GET, with Date and without body."""
    made = drive.upload("a", b"12345")
    answer = drive.send("HEAD", f"/drive/v3/files/{made['id']}?alt=media")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "5", b"")
    assert "date" in answer.headers


@pytest.mark.emulator
def test_shared_drives_there_are_none(drive: Drive) -> None:
    """Shared drives: drives.list is empty, a driveId is unknown, corpora=drive wants both flags."""
    assert drive.get("drives")["drives"] == []
    assert drive.call("GET", "drives/0Axyz").status == 404
    assert drive.call("GET", "changes/startPageToken", driveId="0Axyz").status == 404
    assert drive.call("GET", "files", corpora="drive", driveId="0Axyz").status == 403
    flags = {"includeItemsFromAllDrives": "true", "supportsAllDrives": "true"}
    assert drive.call("GET", "files", corpora="drive", driveId="0Axyz", **flags).status == 404
    assert drive.call("GET", "files", corpora="allDrives", **flags).status == 200
