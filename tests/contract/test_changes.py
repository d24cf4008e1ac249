"""The changes feed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.conftest import Drive


def _start(drive: Drive) -> str:
    return str(drive.get("changes/startPageToken")["startPageToken"])


def _changes(drive: Drive, token: str, **params: Any) -> list[tuple[str, bool]]:
    found = drive.get("changes", pageToken=token, **params)["changes"]
    return [(one["fileId"], one["removed"]) for one in found]


def test_entries_are_coalesced(drive: Drive) -> None:
    """Changes feed: one entry per item, with its latest state, where its last change stands."""
    token = _start(drive)
    a, b = drive.create("a")["id"], drive.create("b")["id"]
    drive.call("PATCH", f"files/{a}", {"name": "a2"})
    gone = drive.create("gone")["id"]
    drive.call("DELETE", f"files/{gone}")
    answer = drive.get("changes", pageToken=token, fields="*")
    assert [(one["fileId"], one["removed"]) for one in answer["changes"]] == [(b, False), (a, False), (gone, True)]
    assert answer["changes"][1]["file"] == drive.item(a)
    assert "file" not in answer["changes"][2]
    assert {one["changeType"] for one in answer["changes"]} == {"file"}


def test_one_of_two_tokens(drive: Drive) -> None:
    """Changes feed: nextPageToken while there is more, newStartPageToken on the last page, never both; it continues."""
    token = _start(drive)
    ids = [drive.create(str(number))["id"] for number in range(5)]
    seen, params = [], {"pageToken": token}
    while True:
        page = drive.get("changes", pageSize=2, **params)
        assert ("nextPageToken" in page) != ("newStartPageToken" in page)
        seen += [one["fileId"] for one in page["changes"]]
        if "newStartPageToken" in page:
            break
        params = {"pageToken": page["nextPageToken"]}
    assert seen == ids
    assert _changes(drive, page["newStartPageToken"]) == []
    late = drive.create("late")["id"]
    assert _changes(drive, page["newStartPageToken"]) == [(late, False)]


def test_an_item_changed_between_pages_comes_later(drive: Drive) -> None:
    """Changes feed: paging loses nothing when an item changes meanwhile."""
    token = _start(drive)
    a, b, c = (drive.create(name)["id"] for name in "abc")
    page = drive.get("changes", pageToken=token, pageSize=1)
    drive.call("PATCH", f"files/{b}", {"name": "b2"})
    rest = drive.get("changes", pageToken=page["nextPageToken"], pageSize=1)
    last = drive.get("changes", pageToken=rest["nextPageToken"], pageSize=1)
    assert [one["changes"][0]["fileId"] for one in (page, rest, last)] == [a, c, b]
    assert "newStartPageToken" in last


def test_a_folder_speaks_for_its_descendants(drive: Drive) -> None:
    """Changes feed: trashing and deleting a folder make one entry, for the folder: trashed, not removed; then removed."""
    folder = drive.folder("d")
    drive.create("inside", folder)
    token = _start(drive)
    drive.call("PATCH", f"files/{folder}", {"trashed": True})
    found = drive.get("changes", pageToken=token, fields="changes(fileId,removed,file(trashed))")
    assert found["changes"] == [{"fileId": folder, "removed": False, "file": {"trashed": True}}]
    drive.call("DELETE", f"files/{folder}")
    assert _changes(drive, token) == [(folder, True)]
    assert _changes(drive, token, includeRemoved="false") == []


def test_every_change_raises_the_version(drive: Drive) -> None:
    """Files resource: renames, moves, trash, stars, content and kept revisions each give a higher version and an entry."""
    folder, item = drive.folder("d"), drive.upload("x", b"1")["id"]
    steps: list[Callable[[], object]] = [
        lambda: drive.call("PATCH", f"files/{item}", {"name": "y"}),
        lambda: drive.call("PATCH", f"files/{item}", {}, addParents=folder),
        lambda: drive.call("PATCH", f"files/{item}", {"trashed": True}),
        lambda: drive.call("PATCH", f"files/{item}", {"trashed": False}),
        lambda: drive.call("PATCH", f"files/{item}", {"starred": True}),
        lambda: drive.overwrite(item, b"2"),
        lambda: drive.call("PATCH", f"files/{item}/revisions/head", {"keepForever": True}),
    ]
    for step in steps:
        before, token = int(drive.item(item)["version"]), _start(drive)
        step()
        assert int(drive.item(item)["version"]) > before
        assert _changes(drive, token) == [(item, False)]


@pytest.mark.parametrize("token", [None, "", "0", "99999999", "abc", "-1", "9" * 40])
def test_tokens_that_are_refused(drive: Drive, token: str | None) -> None:
    """Changes feed: pageToken is required, and must be one that this Drive gave out."""
    answer = drive.call("GET", "changes", **({} if token is None else {"pageToken": token}))
    assert (answer.status, answer.location) == (400, "pageToken")


def test_a_reset_voids_tokens(drive: Drive) -> None:
    """Changes feed: a token of another Drive is refused, never silently taken for one of this."""
    token = _start(drive)
    drive.create("a")
    drive.send("POST", "/_emulator/reset")
    assert drive.call("GET", "changes", pageToken=token).status == 400
