"""Limits that Drive sets, scaled down, and habits of its index that clients must live with."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from drivefs.emulator import db

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.conftest import Drive

pytestmark = pytest.mark.emulator


def test_children_of_a_folder(drive: Drive, settings: Any) -> None:
    """Limits: one child too many is 403, by create, copy and move; the root is exempt."""
    settings(children_limit=2)
    folder = drive.folder("d")
    first = drive.upload("1", b"x", folder)
    drive.upload("2", b"x", folder)
    third = drive.upload("3", b"x")
    for answer in (
        drive.call("POST", "files", {"parents": [folder]}),
        drive.call("POST", f"files/{first['id']}/copy", {}),
        drive.call("PATCH", f"files/{third['id']}", {}, addParents=folder),
    ):
        assert (answer.status, answer.reason) == (403, "numChildrenInNonRootLimitExceeded")
    assert drive.call("PATCH", f"files/{first['id']}", {"name": "still"}).status == 200


def test_depth_of_folders(drive: Drive, settings: Any) -> None:
    """Limits: one level too many is 403, also where a tree is moved down."""
    settings(depth_limit=3)
    top = drive.folder("1")
    second = drive.folder("2", top)
    third = drive.folder("3", second)
    answer = drive.call("POST", "files", {"parents": [third]})
    assert (answer.status, answer.reason) == (403, "myDriveHierarchyDepthLimitExceeded")
    tree = drive.folder("tree")
    drive.folder("leaf", tree)
    assert drive.call("PATCH", f"files/{tree}", {}, addParents=second).reason == "myDriveHierarchyDepthLimitExceeded"
    assert drive.call("PATCH", f"files/{tree}", {}, addParents=top).status == 200


def test_empty_pages(drive: Drive, settings: Any) -> None:
    """Search: a page may be empty and yet have a token; whoever follows the tokens gets every item once."""
    for number in range(7):
        drive.create(f"f{number}")
    settings(empty_page_every=2)
    seen: list[str] = []
    pages, token = 0, ""
    while True:
        page = drive.get("files", pageSize=2, orderBy="name", **({"pageToken": token} if token else {}))
        pages += not page["files"]
        seen += [one["name"] for one in page["files"]]
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert seen == [f"f{number}" for number in range(7)]
    assert pages > 0


def test_queries_for_several_parents(drive: Drive, settings: Any) -> None:
    """Search: with the setting, a query for two parents finds nothing, and each alone finds its own."""
    first, second = drive.folder("1"), drive.folder("2")
    drive.create("f", first)
    both = f"'{first}' in parents or '{second}' in parents"
    assert drive.names(both) == ["f"]
    settings(empty_multi_parent=1)
    assert drive.names(both) == []
    assert drive.names(f"'{first}' in parents") == ["f"]


def test_queries_that_are_too_complex(drive: Drive, settings: Any) -> None:
    """Search: too many terms are 400 "The query is too complex."."""
    settings(query_terms=3)
    assert drive.names(" or ".join(["name = 'x'"] * 3)) == []
    answer = drive.call("GET", "files", q=" or ".join(["name = 'x'"] * 4))
    assert (answer.status, answer.json()["error"]["message"]) == (400, "The query is too complex.")


@pytest.mark.parametrize("body", [{"no_such": 1}, {"depth_limit": -1}, {"depth_limit": True}, {"empty_page_every": 1}])
def test_settings_that_are_refused(drive: Drive, body: dict[str, Any]) -> None:
    """Control: an unknown or impossible setting is 400 with a sentence, and none is changed."""
    before = drive.send("GET", "/_emulator/settings").json()
    answer = drive.send("POST", "/_emulator/settings", body=json.dumps({"depth_limit": 7} | body).encode())
    assert answer.status == 400
    assert drive.send("GET", "/_emulator/settings").json() == before


def test_settings_from_the_command_line(start: Callable[..., Any]) -> None:
    """Options: --set gives a setting from the start; one that there is not ends the server with status 2."""
    drive = start("--set", "depth_limit=1", "--set", "children_limit=7").drive
    told = drive.send("GET", "/_emulator/settings").json()
    assert (told["depth_limit"], told["children_limit"]) == (1, 7)
    assert drive.call("POST", "files", {"parents": [drive.folder("d")]}).reason == "myDriveHierarchyDepthLimitExceeded"
    for wrong in ("no_such=1", "depth_limit=x", "depth_limit"):
        command = [sys.executable, "-m", "drivefs.emulator", "--set", wrong]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert (done.returncode, "--set NAME=NUMBER" in done.stderr) == (2, True)


def test_a_drive_filled_at_once(drive: Drive) -> None:
    """Control: fill makes folders of files that are listed, downloaded and told by the feed like any others."""
    token = drive.get("changes/startPageToken")["startPageToken"]
    made = drive.send("POST", "/_emulator/fill", body=b'{"folders": 2, "files_per_folder": 30, "size": 500}').json()
    assert (len(made["folders"]), made["items"], len(drive.tree())) == (2, 62, 62)
    page = drive.get("files", q=f"'{made['folders'][1]}' in parents", orderBy="name", fields="files(id,name,size,version)")
    assert [one["name"] for one in page["files"]] == [f"file {n:07}.bin" for n in range(30)]
    assert len(drive.download(page["files"][3]["id"])) == 500
    changes = drive.get("changes", pageToken=token, pageSize=1000)
    assert (len(changes["changes"]), "newStartPageToken" in changes) == (62, True)
    assert drive.get("about", fields="storageQuota")["storageQuota"]["usage"] == str(60 * 500)
    assert drive.call("DELETE", f"files/{made['folders'][0]}").status == 204
    assert len(drive.download(page["files"][3]["id"])) == 500


def test_databases_of_before_are_brought_up_to_date(start: Callable[..., Any], tmp_path: Any) -> None:
    """Data folders: a database of the first version is migrated, and what is in it stays."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    old = sqlite3.connect(data / "drive.db", isolation_level=None)
    old.executescript(f"BEGIN; {db.SCHEMA} PRAGMA user_version=1; COMMIT;")
    old.execute("INSERT INTO drive (root_id, secret, first_change, last_change) VALUES ('0Aold', x'00', 1, 5)")
    columns = "INSERT INTO items (id, name, name_folded, mime_type, parent, created_ms, modified_ms)"
    old.execute(f"{columns} VALUES ('0Aold', 'My Drive', 'my drive', 'application/vnd.google-apps.folder', NULL, 0, 0)")
    old.execute(f"{columns} VALUES ('1kept', 'kept', 'kept', 'text/plain', '0Aold', 0, 0)")
    old.close()
    drive = start("--data", str(data)).drive
    assert [one["path"] for one in drive.tree()] == ["kept"]
    assert drive.item("1kept")["ownedByMe"] is True


def test_uploads_under_way(drive: Drive, settings: Any) -> None:
    """Resumable uploads: one session too many is 403, until one is finished or cancelled."""
    settings(sessions_limit=2)

    def begin() -> Any:
        target = "/upload/drive/v3/files?uploadType=resumable"
        return drive.send("POST", target, body=b"{}", headers={"Content-Type": "application/json"})

    first, second = begin(), begin()
    refused = begin()
    assert (refused.status, refused.reason) == (403, "UrlLeaseLimitExceeded")
    assert drive.send("PUT", first.headers["location"], body=b"all").status == 200
    assert begin().status == 200
    assert begin().status == 403
    assert drive.send("DELETE", second.headers["location"]).status == 499
    assert begin().status == 200


def test_a_search_of_all_drives_may_be_incomplete(drive: Drive, settings: Any) -> None:
    """Search: incompleteSearch is stated for all drives only, and only where the index is said to have missed something."""
    flags = {"includeItemsFromAllDrives": "true", "supportsAllDrives": "true"}
    assert drive.get("files", corpora="allDrives", **flags)["incompleteSearch"] is False
    settings(incomplete_search=1)
    assert drive.get("files", corpora="allDrives", **flags)["incompleteSearch"] is True
    assert drive.get("files")["incompleteSearch"] is False
