"""What tokens allow: scopes by method, and apps that see their own files only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.signins import SCOPE, control, post, token_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.conftest import Answer, Drive, Server


pytestmark = pytest.mark.emulator


def _call(drive: Drive, token: str, method: str, path: str, body: Any = None) -> Answer:
    raw = None if body is None else json.dumps(body).encode()
    return drive.send(method, path, body=raw, headers={"Content-Type": "application/json"} if raw else None, token=token)


def _refused(answer: Answer) -> bool:
    """The exact shape by which clients tell a small scope from a missing right."""
    if answer.status != 403:
        return False
    error = answer.json()["error"]
    assert (error["errors"][0]["reason"], error["status"]) == ("insufficientPermissions", "PERMISSION_DENIED")
    assert error["message"] == "Request had insufficient authentication scopes."
    detail = error["details"][0]
    assert (detail["@type"], detail["reason"]) == ("type.googleapis.com/google.rpc.ErrorInfo", "ACCESS_TOKEN_SCOPE_INSUFFICIENT")
    assert "insufficient_scope" in answer.headers["www-authenticate"]
    return True


def _tries(drive: Drive, token: str, item: str) -> list[str]:
    """Which of these calls a token may make."""
    files = "/drive/v3/files"
    calls = {
        "list": ("GET", files, None),
        "get": ("GET", f"{files}/{item}", None),
        "media": ("GET", f"{files}/{item}?alt=media", None),
        "rename": ("PATCH", f"{files}/{item}", {"name": "n"}),
        "create": ("POST", files, {"name": "x"}),
        "upload": ("PATCH", f"/upload{files}/{item}?uploadType=media", {}),
        "open": ("POST", f"/upload{files}?uploadType=resumable", {}),
        "changes": ("GET", "/drive/v3/changes/startPageToken", None),
        "about": ("GET", "/drive/v3/about?fields=kind", None),
        "trash": ("DELETE", f"{files}/trash", None),
    }
    answers = {name: _call(drive, token, *call) for name, call in calls.items()}
    allowed = [name for name, answer in answers.items() if not _refused(answer)]
    assert all(answers[name].status in (200, 204) for name in allowed), {name: answers[name].body for name in allowed}
    return allowed


READING = ["list", "get", "media", "changes", "about"]
WRITING = ["rename", "create", "upload", "open", "trash"]


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("drive", [*READING, *WRITING]),
        ("drive.readonly", READING),
        ("drive.metadata.readonly", ["list", "get", "changes", "about"]),
        ("drive.metadata", ["list", "get", "rename", "changes", "about"]),
        ("drive.file", ["list", "get", "media", "rename", "create", "upload", "open", "changes", "about"]),
        ("drive.appdata", []),
        ("calendar", []),
    ],
)
def test_methods_by_scope(drive: Drive, scope: str, allowed: list[str]) -> None:
    """Each scope allows the methods that the API's description gives it; content needs more than metadata scopes."""
    client = "app"
    made = _call(drive, token_for(drive, "drive", client_id=client), "POST", "/drive/v3/files", {"name": "mine"}).json()
    assert sorted(_tries(drive, token_for(drive, scope, client_id=client), made["id"])) == sorted(allowed)


def test_a_batch_is_held_to_scopes(drive: Drive) -> None:
    """Each call within a batch is checked like one of its own."""
    item = drive.create("x")["id"]
    inner = f"PATCH /drive/v3/files/{item} HTTP/1.1\r\nContent-Type: application/json\r\n\r\n" + '{"name": "y"}'
    body = f"--b\r\nContent-Type: application/http\r\n\r\n{inner}\r\n--b--".encode()
    headers = {"Content-Type": "multipart/mixed; boundary=b"}
    answer = drive.send("POST", "/batch/drive/v3", body=body, headers=headers, token=token_for(drive, "drive.readonly"))
    assert b"ACCESS_TOKEN_SCOPE_INSUFFICIENT" in answer.body
    assert drive.item(item)["name"] == "x"


def test_an_app_does_not_see_what_others_made(drive: Drive) -> None:
    """Under drive.file all that the app did not create is 404, the root included: by id, as parent, as source of a copy."""
    folder = drive.folder("theirs")
    other = drive.upload("other", b"x", folder)["id"]
    token = token_for(drive, "drive.file", client_id="app")
    mine = _call(drive, token, "POST", "/drive/v3/files", {"name": "mine"}).json()["id"]
    for method, path, body in [
        ("GET", "/drive/v3/files/root", None),
        ("GET", f"/drive/v3/files/{other}", None),
        ("GET", f"/drive/v3/files/{other}?alt=media", None),
        ("GET", f"/drive/v3/files/{other}/revisions", None),
        ("PATCH", f"/drive/v3/files/{other}", {"name": "stolen"}),
        ("PATCH", f"/upload/drive/v3/files/{other}?uploadType=media", {}),
        ("DELETE", f"/drive/v3/files/{other}", None),
        ("POST", f"/drive/v3/files/{other}/copy", {}),
        ("PATCH", f"/drive/v3/files/{mine}?addParents={folder}", {}),
    ]:
        answer = _call(drive, token, method, path, body)
        assert (answer.status, answer.reason) == (404, "notFound"), (method, path, answer.body)
    another_app = token_for(drive, "drive.file", client_id="another")
    assert _call(drive, another_app, "GET", f"/drive/v3/files/{mine}").status == 404
    assert _call(drive, token, "GET", f"/drive/v3/files/{mine}").status == 200
    assert drive.item(mine)["parents"] == [drive.item("root")["id"]]


def test_listings_and_feeds_of_an_app(drive: Drive) -> None:
    """Under drive.file listings and the changes feed hold the app's own items, and deletions of those, only."""
    token = token_for(drive, "drive.file", client_id="app")
    start = drive.get("changes/startPageToken")["startPageToken"]
    theirs, doomed = drive.create("theirs")["id"], drive.create("doomed")["id"]
    mine = [_call(drive, token, "POST", "/drive/v3/files", {"name": name, "parents": ["root"]}).json()["id"] for name in "ab"]
    for item, who in ((mine[1], token), (doomed, "a-token")):
        assert _call(drive, who, "DELETE", f"/drive/v3/files/{item}").status == 204
    listed = _call(drive, token, "GET", "/drive/v3/files?q=%27root%27+in+parents").json()["files"]
    assert [one["id"] for one in listed] == [mine[0]]
    feed = f"/drive/v3/changes?pageToken={start}"
    changes = _call(drive, token, "GET", feed).json()["changes"]
    assert [(one["fileId"], one["removed"]) for one in changes] == [(mine[0], False), (mine[1], True)]
    everything = {one["fileId"] for one in _call(drive, "a-token", "GET", feed).json()["changes"]}
    assert everything == {theirs, doomed, *mine}


def test_an_app_cannot_build_on_what_others_made(drive: Drive) -> None:
    """Under drive.file neither a new file nor a shortcut may name an item that the app did not make; My Drive it may."""
    folder, token = drive.folder("theirs"), token_for(drive, "drive.file", client_id="app")
    shortcut = {"mimeType": "application/vnd.google-apps.shortcut", "shortcutDetails": {"targetId": folder}}
    for body in ({"name": "x", "parents": [folder]}, shortcut):
        answer = _call(drive, token, "POST", "/drive/v3/files", body)
        assert (answer.status, answer.reason) == (404, "notFound")
    assert _call(drive, token, "POST", "/drive/v3/files", {"name": "x", "parents": ["root"]}).status == 200


def test_an_upload_belongs_to_the_app_that_opened_it(drive: Drive) -> None:
    """The last bytes of a resumable upload come without a token; the file still is the app's."""
    token = token_for(drive, "drive.file", client_id="app")
    opened = _call(drive, token, "POST", "/upload/drive/v3/files?uploadType=resumable", {"name": "big"})
    made = drive.send("PUT", opened.headers["location"], body=b"bytes", token=None).json()
    assert _call(drive, token, "GET", f"/drive/v3/files/{made['id']}?alt=media").body == b"bytes"


def test_reading_all_and_writing_own(drive: Drive) -> None:
    """With drive.readonly and drive.file together others' files are seen, and writing to them is 403 appNotAuthorizedToFile."""
    other = drive.create("other")["id"]
    token = token_for(drive, "drive.file", "drive.readonly", client_id="app")
    assert _call(drive, token, "GET", f"/drive/v3/files/{other}").status == 200
    answer = _call(drive, token, "PATCH", f"/drive/v3/files/{other}", {"name": "x"})
    assert (answer.status, answer.reason) == (403, "appNotAuthorizedToFile")


def test_tokeninfo_and_revoke(drive: Drive) -> None:
    """tokeninfo tells scopes and time left, as strings; after revoke it knows the token no more, nor does the API."""
    issued = control(drive, "tokens", scopes=[f"{SCOPE}drive.readonly"], client_id="app", seconds=100)["access_token"]
    info = drive.send("GET", f"/tokeninfo?access_token={issued}", token=None).json()
    assert (info["scope"], info["azp"], 95 <= int(info["expires_in"]) <= 100) == (f"{SCOPE}drive.readonly", "app", True)
    assert post(drive, "/revoke", {"token": issued}).status == 200
    assert _call(drive, issued, "GET", "/drive/v3/files").status == 401
    for answer in (post(drive, "/tokeninfo", {"access_token": issued}), post(drive, "/revoke", {"token": issued})):
        assert (answer.status, answer.json()["error"]) == (400, "invalid_token")


def test_token_lifetime(start: Callable[..., Server]) -> None:
    """Options: --token-lifetime says how long issued tokens are good, and answers say so."""
    drive = start("--token-lifetime", "1").drive
    fields = {"grant_type": "refresh_token", "client_id": "c", "refresh_token": "r"}
    granted = post(drive, "/token", fields).json()
    assert granted["expires_in"] == 1
    control(drive, "tokens/expire")
    assert _call(drive, granted["access_token"], "GET", "/drive/v3/files").reason == "authError"
