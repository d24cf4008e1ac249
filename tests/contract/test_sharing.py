"""Several accounts: what others may see and do, what the feeds tell, and somebody else's changes meanwhile."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

if TYPE_CHECKING:
    from tests.contract.conftest import Answer, Drive

pytestmark = pytest.mark.emulator
FOLDER = "application/vnd.google-apps.folder"
BOB = "bob@example.com"


class Account:
    """A second account, with its own token."""

    def __init__(self, drive: Drive, email: str) -> None:
        self._drive = drive
        made = drive.send("POST", "/_emulator/users", body=json.dumps({"email": email}).encode(), token=None).json()
        self.token, self.id, self.root_id = made["token"], made["permissionId"], made["root_id"]

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **params: Any) -> Answer:
        raw = None if body is None else json.dumps(body).encode()
        sent = (headers or {}) | ({"Content-Type": "application/json"} if raw is not None else {})
        query = f"?{urlencode(params)}" if params else ""
        return self._drive.send(method, f"/drive/v3/{path}{query}", body=raw, headers=sent, token=self.token)

    def get(self, path: str, **params: Any) -> Any:
        answer = self.call("GET", path, **params)
        assert answer.status == 200, answer.body
        return answer.json()

    def names(self, query: str, **params: Any) -> list[str]:
        return sorted(one["name"] for one in self.get("files", q=query, fields="files(name)", **params)["files"])

    def changed(self, token: str, **params: Any) -> list[tuple[str, bool]]:
        found = self.get("changes", pageToken=token, fields="changes(fileId,driveId,removed)", **params)["changes"]
        return [(one.get("fileId") or one["driveId"], one["removed"]) for one in found]

    def token_now(self, **params: Any) -> str:
        return str(self.get("changes/startPageToken", **params)["startPageToken"])


@pytest.fixture
def bob(drive: Drive) -> Account:
    return Account(drive, BOB)


def share(drive: Drive, item_id: str, role: str, email: str = BOB) -> str:
    body = {"type": "user", "role": role, "emailAddress": email}
    answer = drive.call("POST", f"files/{item_id}/permissions", body, supportsAllDrives="true")
    assert answer.status == 200, answer.body
    return str(answer.json()["id"])


def test_strangers_see_nothing(drive: Drive, bob: Account) -> None:
    """Access: what was not shared does not exist for others, by id, in listings, in the feed; each has their own root."""
    token = bob.token_now()
    made = drive.upload("mine", b"x")
    assert bob.call("GET", f"files/{made['id']}").status == 404
    assert bob.call("GET", f"files/{made['id']}", alt="media").status == 404
    assert bob.call("PATCH", f"files/{made['id']}", {"name": "taken"}).status == 404
    assert bob.call("POST", "files", {"name": "x", "parents": [drive.item("root")["id"]]}).status == 404
    assert bob.names("name contains 'mine'") == []
    assert bob.changed(token) == []
    assert bob.get("files/root")["id"] == bob.root_id
    assert bob.get("about", fields="user")["user"]["emailAddress"] == BOB
    assert drive.get("about", fields="user")["user"]["emailAddress"] != BOB


def test_what_is_shared_with_me(drive: Drive, bob: Account) -> None:
    """Sharing: found by sharedWithMe, without parents, owned by another; what lies below has parents; the feed tells of it."""
    folder, token = drive.folder("shared"), bob.token_now()
    below = drive.upload("below", b"abc", folder)
    share(drive, folder, "reader")
    assert bob.names("sharedWithMe") == ["shared"]
    assert bob.names(f"'{folder}' in parents") == ["below"]
    seen = bob.get(f"files/{folder}", fields="*")
    assert "parents" not in seen
    assert (seen["ownedByMe"], seen["shared"], seen["owners"][0]["me"]) == (False, True, False)
    assert seen["sharedWithMeTime"]
    assert seen["sharingUser"]["emailAddress"] == seen["owners"][0]["emailAddress"]
    assert bob.get(f"files/{below['id']}", fields="parents")["parents"] == [folder]
    assert bob.call("GET", f"files/{below['id']}", alt="media").body == b"abc"
    assert (folder, False) in bob.changed(token)
    assert bob.names("'me' in owners") == []
    assert drive.names(f"'{BOB}' in readers") == ["below", "shared"]
    assert drive.names("sharedWithMe") == []
    assert drive.item(folder)["shared"] is True


@pytest.mark.parametrize("role", ["reader", "commenter"])
def test_readers_may_not_change(drive: Drive, bob: Account, role: str) -> None:
    """Access: a reader's or commenter's change is 403 insufficientFilePermissions, and nothing of it happens."""
    folder = drive.folder("d")
    made = drive.upload("f", b"x", folder)
    share(drive, folder, role)
    path = f"files/{made['id']}"
    for answer in (
        bob.call("PATCH", path, {"name": "n"}),
        bob.call("PATCH", path, {"trashed": True}),
        bob.call("DELETE", path),
        bob.call("PATCH", path, {}, addParents=bob.root_id),
        bob.call("GET", f"{path}/revisions"),
        bob.call("GET", f"{path}/permissions"),
        bob.call("POST", f"{path}/permissions", {"type": "anyone", "role": "reader"}),
    ):
        assert (answer.status, answer.reason) == (403, "insufficientFilePermissions")
    new = bob.call("POST", "files", {"parents": [folder]})
    assert (new.status, new.reason) == (403, "insufficientParentPermissions")
    able = bob.get(path, fields="capabilities")["capabilities"]
    assert [able[name] for name in ("canEdit", "canRename", "canTrash", "canDelete", "canDownload", "canComment")] == [
        *[False] * 4,
        True,
        role == "commenter",
    ]
    assert drive.item(made["id"])["name"] == "f"
    copy = bob.call("POST", f"{path}/copy", {}, fields="name,ownedByMe,parents")
    assert copy.json() == {"name": "Copy of f", "ownedByMe": True, "parents": [bob.root_id]}


def test_writers_may_change_but_not_discard(drive: Drive, bob: Account) -> None:
    """Access: a writer renames and adds; only the owner trashes, deletes and moves in My Drive."""
    folder = drive.folder("d")
    made = drive.upload("f", b"x", folder)
    share(drive, folder, "writer")
    path = f"files/{made['id']}"
    assert bob.call("PATCH", path, {"name": "renamed"}).status == 200
    assert drive.item(made["id"])["lastModifyingUser"]["emailAddress"] == BOB
    for answer in (
        bob.call("PATCH", path, {"trashed": True}),
        bob.call("DELETE", path),
        bob.call("PATCH", path, {}, addParents=bob.root_id),
        bob.call("PATCH", path, {"writersCanShare": False}),
    ):
        assert (answer.status, answer.reason) == (403, "insufficientFilePermissions")
    added = bob.call("POST", "files", {"name": "bob's", "parents": [folder]}, fields="id,ownedByMe").json()
    assert added["ownedByMe"] is True
    theirs = drive.item(added["id"])
    assert (theirs["ownedByMe"], theirs["capabilities"]["canEdit"], theirs["capabilities"]["canTrash"]) == (False, True, False)
    assert drive.names(f"'{folder}' in parents") == ["bob's", "renamed"]
    assert drive.call("PATCH", f"files/{added['id']}", {"trashed": True}).status == 403


def test_orphans(drive: Drive, bob: Account) -> None:
    """Orphans: deleting a folder leaves what others own in it, without parents; the folder's owner loses it."""
    folder = drive.folder("d")
    share(drive, folder, "writer")
    orphan = bob.call("POST", "files", {"name": "bob's", "parents": [folder]}).json()["id"]
    token = bob.token_now()
    assert drive.call("DELETE", f"files/{folder}").status == 204
    seen = bob.get(f"files/{orphan}", fields="*")
    assert "parents" not in seen
    assert (seen["ownedByMe"], seen["trashed"]) == (True, False)
    assert bob.names("'me' in owners and not 'root' in parents") == ["bob's"]
    assert drive.call("GET", f"files/{orphan}").status == 404
    assert (folder, True) in bob.changed(token)
    moved = bob.call("PATCH", f"files/{orphan}", {}, addParents="root", fields="parents")
    assert moved.json()["parents"] == [bob.root_id]


def test_access_taken_away(drive: Drive, bob: Account) -> None:
    """Changes: who loses access is told so with removed:true; who gets it back sees the item again."""
    made = drive.upload("f", b"x")
    permission, token = share(drive, made["id"], "reader"), bob.token_now()
    assert permission == bob.id
    assert drive.call("DELETE", f"files/{made['id']}/permissions/{permission}").status == 204
    assert bob.changed(token) == [(made["id"], True)]
    assert bob.call("GET", f"files/{made['id']}").status == 404
    share(drive, made["id"], "reader")
    assert bob.changed(token) == [(made["id"], False)]
    assert bob.call("DELETE", f"files/{made['id']}/permissions/{bob.id}").status == 204, "everybody may leave"
    drive.call("DELETE", f"files/{made['id']}")
    assert bob.changed(token) == [(made["id"], True)]


def test_permissions(drive: Drive, bob: Account) -> None:
    """Permissions: list, get, update; ownership only with transferOwnership; what cannot be done is refused."""
    made = drive.upload("f", b"x")
    share(drive, made["id"], "reader")
    path = f"files/{made['id']}/permissions"
    listed = drive.get(path, fields="permissions(role,emailAddress)")["permissions"]
    assert [one["role"] for one in listed] == ["owner", "reader"]
    assert drive.get(f"{path}/{bob.id}")["role"] == "reader"
    assert drive.call("PATCH", f"{path}/{bob.id}", {"role": "writer"}).json()["role"] == "writer"
    assert drive.call("GET", f"{path}/123").status == 404
    assert drive.call("POST", path, {"type": "user", "role": "reader", "emailAddress": "no@one.example"}).status == 400
    assert drive.call("POST", path, {"type": "user", "role": "organizer", "emailAddress": BOB}).status == 400
    refused = drive.call("PATCH", f"{path}/{bob.id}", {"role": "owner"})
    assert (refused.status, refused.location) == (403, "transferOwnership")
    assert drive.call("PATCH", f"{path}/{bob.id}", {"role": "owner"}, transferOwnership="true").json()["role"] == "owner"
    assert (drive.item(made["id"])["ownedByMe"], bob.get(f"files/{made['id']}", fields="ownedByMe")) == (
        False,
        {"ownedByMe": True},
    )
    assert drive.get("about", fields="storageQuota")["storageQuota"]["usage"] == "0"
    assert bob.get("about", fields="storageQuota")["storageQuota"]["usage"] == "1"


def test_links_and_resource_keys(drive: Drive, bob: Account) -> None:
    """Sharing by link: known by id only, not listed; with a resource key, only who sends it sees the item."""
    made = drive.upload("f", b"x")
    assert (
        drive.call("POST", f"files/{made['id']}/permissions", {"type": "anyone", "role": "reader"}).json()["id"]
        == "anyoneWithLink"
    )
    assert drive.names("visibility = 'anyoneWithLink'") == ["f"]
    assert bob.call("GET", f"files/{made['id']}").status == 200
    assert bob.names("name = 'f'") == []
    key = drive.send("POST", f"/_emulator/items/{made['id']}/resource-key").json()["resourceKey"]
    assert bob.call("GET", f"files/{made['id']}").status == 404
    headers = {"X-Goog-Drive-Resource-Keys": f"other/1,{made['id']}/{key}"}
    assert bob.call("GET", f"files/{made['id']}", headers=headers).json()["resourceKey"] == key
    assert drive.get(f"files/{made['id']}")["resourceKey"] == key


def test_downloads_that_readers_are_denied(drive: Drive, bob: Account) -> None:
    """Capabilities: with copyRequiresWriterPermission a reader may neither download nor copy."""
    made = drive.upload("f", b"x", copyRequiresWriterPermission=True)
    share(drive, made["id"], "reader")
    assert bob.get(f"files/{made['id']}", fields="capabilities(canDownload,canCopy)")["capabilities"] == {
        "canDownload": False,
        "canCopy": False,
    }
    assert bob.call("GET", f"files/{made['id']}", alt="media").reason == "cannotDownloadFile"
    assert bob.call("POST", f"files/{made['id']}/copy", {}).reason == "cannotCopyFile"


def test_a_locked_file(drive: Drive) -> None:
    """Content restrictions: a locked file keeps name and content, may be moved and trashed, and can be unlocked."""
    made = drive.upload("f", b"x")
    locked = drive.call(
        "PATCH", f"files/{made['id']}", {"contentRestrictions": [{"readOnly": True, "reason": "done"}]}, fields="*"
    )
    assert locked.json()["contentRestrictions"][0]["reason"] == "done"
    able = locked.json()["capabilities"]
    assert (able["canEdit"], able["canModifyContent"], able["canRename"], able["canTrash"]) == (True, False, False, True)
    assert drive.call("PATCH", f"files/{made['id']}", {"name": "n"}).status == 403
    target = f"/upload/drive/v3/files/{made['id']}?uploadType=media"
    assert drive.send("PATCH", target, body=b"y", headers={"Content-Type": "text/plain"}).status == 403
    opened = drive.send("PATCH", target.replace("media", "resumable"), body=b"", headers={})
    assert opened.status == 403
    assert drive.call("PATCH", f"files/{made['id']}", {"starred": True}, addParents=drive.folder("d")).status == 200
    assert drive.call("PATCH", f"files/{made['id']}", {"contentRestrictions": [{"readOnly": False}]}).status == 200
    assert drive.overwrite(made["id"], b"y")["size"] == "1"


def test_calls_on_behalf_of_somebody(drive: Drive, bob: Account) -> None:
    """Control: /_emulator/as carries out any call as a user, or as the main account; it is not counted."""
    made = drive.upload("f", b"old")
    share(drive, made["id"], "writer")
    before = drive.send("GET", "/_emulator/requests").json()["by_method"]
    target = f"/_emulator/as/{BOB}/upload/drive/v3/files/{made['id']}?uploadType=media"
    assert drive.send("PATCH", target, body=b"bob's", headers={"Content-Type": "text/plain"}, token=None).status == 200
    renamed = drive.send(
        "PATCH",
        f"/_emulator/as/me/drive/v3/files/{made['id']}?fields=name,lastModifyingUser/me",
        body=b'{"name": "by me, elsewhere"}',
        headers={"Content-Type": "application/json"},
        token=None,
    )
    assert renamed.json() == {"name": "by me, elsewhere", "lastModifyingUser": {"me": True}}
    assert drive.send("GET", "/_emulator/as/nobody@example.com/drive/v3/files", token=None).status == 404
    assert drive.send("GET", "/_emulator/requests").json()["by_method"] == before
    assert drive.download(made["id"]) == b"bob's"


def test_an_upload_session_belongs_to_who_opened_it(drive: Drive, bob: Account) -> None:
    """Resumable upload: the session's requests bring no token, and the file is still its opener's."""
    headers = {"Content-Type": "application/json"}
    opened = drive.send(
        "POST", "/upload/drive/v3/files?uploadType=resumable", body=b'{"name": "s"}', headers=headers, token=bob.token
    )
    made = drive.send("PUT", opened.headers["location"], body=b"abc", token=None).json()
    assert bob.get(f"files/{made['id']}", fields="ownedByMe,parents") == {"ownedByMe": True, "parents": [bob.root_id]}
    assert drive.call("GET", f"files/{made['id']}").status == 404


ALL: dict[str, Any] = {"includeItemsFromAllDrives": "true", "supportsAllDrives": "true"}


def test_shared_drives(drive: Drive, bob: Account) -> None:
    """Shared drives: made once per requestId; items are the drive's, exist only with supportsAllDrives, are listed by corpora."""
    made = drive.call("POST", "drives", {"name": "team"}, requestId="r1").json()
    team = made["id"]
    assert (made["name"], len(team), team[:2]) == ("team", 19, "0A")
    assert drive.call("POST", "drives", {"name": "team"}, requestId="r1").status == 409
    assert [one["id"] for one in drive.get("drives")["drives"]] == [team]
    assert bob.get("drives")["drives"] == []
    assert bob.call("GET", f"drives/{team}").status == 404
    new = drive.call("POST", "files", {"name": "f", "parents": [team]}, supportsAllDrives="true", fields="*").json()
    assert (new["driveId"], new["parents"]) == (team, [team])
    assert not {"owners", "ownedByMe", "shared", "permissions"} & set(new)
    assert drive.call("GET", f"files/{new['id']}").status == 404
    assert drive.names("name = 'f'") == []
    assert drive.names("name = 'f'", **ALL) == ["f"]
    assert drive.names(f"'{team}' in parents", corpora="drive", driveId=team, **ALL) == ["f"]
    assert bob.call("GET", "files", corpora="drive", driveId=team, **ALL).status == 404
    assert drive.get(f"files/{team}", supportsAllDrives="true")["name"] == "team"
    refused = drive.call("DELETE", f"drives/{team}")
    assert refused.status == 403
    assert drive.call("DELETE", f"files/{new['id']}", supportsAllDrives="true").status == 204
    assert drive.call("DELETE", f"drives/{team}").status == 204
    assert drive.get("drives")["drives"] == []


def test_members_of_a_shared_drive(drive: Drive, bob: Account) -> None:
    """Shared drives: members see it all; a writer may edit but not trash, an organizer may delete."""
    team = drive.call("POST", "drives", {"name": "team"}, requestId="r1").json()["id"]
    new = drive.call("POST", "files", {"name": "f", "parents": [team]}, supportsAllDrives="true").json()["id"]
    token = bob.token_now()
    share(drive, team, "writer")
    assert [one["id"] for one in bob.get("drives")["drives"]] == [team]
    assert bob.names("name = 'f'", corpora="allDrives", **ALL) == ["f"]
    assert (team, False) in bob.changed(token, **ALL)
    assert bob.changed(token) == []
    flag: dict[str, Any] = {"supportsAllDrives": "true"}
    assert bob.call("PATCH", f"files/{new}", {"name": "g"}, **flag).status == 200
    assert bob.call("PATCH", f"files/{new}", {"trashed": True}, **flag).status == 403
    drive.call("PATCH", f"files/{team}/permissions/{bob.id}", {"role": "organizer"}, **flag)
    assert bob.call("DELETE", f"files/{new}", **flag).status == 204


def test_a_shared_drive_has_tokens_of_its_own(drive: Drive, bob: Account) -> None:
    """Changes: a drive's feed tells of its items only, deletions too; its tokens and the account's are not interchangeable."""
    team = drive.call("POST", "drives", {"name": "team"}, requestId="r1").json()["id"]
    flag: dict[str, Any] = {"supportsAllDrives": "true"}
    own = drive.get("changes/startPageToken")["startPageToken"]
    token = drive.get("changes/startPageToken", driveId=team, **flag)["startPageToken"]
    new = drive.call("POST", "files", {"name": "f", "parents": [team]}, **flag).json()["id"]
    drive.create("in My Drive")

    def feed() -> list[tuple[str, bool]]:
        found = drive.get("changes", pageToken=token, driveId=team, **ALL)["changes"]
        return [(one["fileId"], one["removed"]) for one in found]

    assert feed() == [(new, False)]
    drive.call("DELETE", f"files/{new}", **flag)
    assert feed() == [(new, True)]
    assert drive.call("GET", "changes", pageToken=own, driveId=team, **ALL).status == 400
    assert drive.call("GET", "changes", pageToken=token).status == 400
    assert bob.call("GET", "changes", pageToken=token, driveId=team, **ALL).status == 404


def test_moves_into_a_shared_drive(drive: Drive, settings: Any) -> None:
    """Shared drives: files move in and out, folders do not; the number of items is limited."""
    team = drive.call("POST", "drives", {"name": "team"}, requestId="r1").json()["id"]
    flag: dict[str, Any] = {"supportsAllDrives": "true"}
    folder, made = drive.folder("d"), drive.upload("f", b"xyz")
    refused = drive.call("PATCH", f"files/{folder}", {}, addParents=team, **flag)
    assert (refused.status, refused.reason) == (403, "teamDrivesFolderMoveInNotSupported")
    moved = drive.call("PATCH", f"files/{made['id']}", {}, addParents=team, fields="driveId,ownedByMe", **flag)
    assert moved.json() == {"driveId": team}
    assert drive.get("about", fields="storageQuota")["storageQuota"]["usage"] == "0"
    back = drive.call("PATCH", f"files/{made['id']}", {}, addParents="root", fields="driveId,ownedByMe", **flag)
    assert back.json() == {"ownedByMe": True}
    settings(drive_items_limit=1)
    assert drive.call("POST", "files", {"parents": [team]}, **flag).status == 200
    assert drive.call("POST", "files", {"parents": [team]}, **flag).reason == "teamDriveFileLimitExceeded"
