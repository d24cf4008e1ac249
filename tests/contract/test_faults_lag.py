"""Indexes that lag behind: listings, searches by property and the changes feed, each for itself. By id all is up to date."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.contract.conftest import Drive

LAG = 1.0  # seconds
LONG = 600.0


def _wait() -> None:
    """Until an index that lags by LAG has come to now."""
    time.sleep(LAG + 0.05)


def _start_token(drive: Drive) -> str:
    return str(drive.get("changes/startPageToken")["startPageToken"])


def _changes(drive: Drive, token: str) -> tuple[list[tuple[str, Any]], str]:
    """What the feed tells from a token on, as (name or removal, trashed), and the next token."""
    page = drive.get("changes", pageToken=token, fields="newStartPageToken,changes(fileId,removed,file(name,trashed))")
    seen = [(one["file"]["name"], one["file"]["trashed"]) if "file" in one else (one["fileId"], None) for one in page["changes"]]
    return seen, page["newStartPageToken"]


def test_a_listing_lags_and_a_get_does_not(drive: Drive) -> None:
    """What was made, renamed, moved, trashed or deleted shows by id at once, in listings and searches only later."""
    folder = drive.folder("d")
    kept = {name: drive.create(name, folder)["id"] for name in ("renamed", "moved", "trashed", "deleted", "untouched")}
    query = f"'{folder}' in parents and trashed=false"
    before = sorted(drive.names(query))
    drive.strike(listing_lag=LONG)
    drive.call("PATCH", f"files/{kept['renamed']}", {"name": "new name"})
    drive.call("PATCH", f"files/{kept['moved']}?addParents=root", {})
    drive.call("PATCH", f"files/{kept['trashed']}", {"trashed": True})
    drive.call("DELETE", f"files/{kept['deleted']}")
    made = drive.create("made", folder)["id"]
    assert sorted(drive.names(query)) == before
    assert drive.names("name = 'made'") == []
    assert drive.names("name = 'renamed'") == ["renamed"]
    assert drive.item(made)["name"] == "made"
    assert drive.item(kept["renamed"])["name"] == "new name"
    assert drive.call("GET", f"files/{kept['deleted']}").status == 404
    drive.calm()
    assert sorted(drive.names(query)) == ["made", "new name", "untouched"]


def test_a_listing_catches_up(drive: Drive) -> None:
    """After as long as it lags it shows what was then: also of several changes to one item, one after the other."""
    drive.strike(listing_lag=LAG)
    item = drive.create("one")["id"]
    _wait()
    assert drive.names("'root' in parents") == ["one"]
    drive.call("PATCH", f"files/{item}", {"name": "two"})
    drive.call("PATCH", f"files/{item}", {"name": "three"})
    assert drive.names("'root' in parents") == ["one"]
    _wait()
    assert drive.names("'root' in parents") == ["three"]


def test_pages_of_a_lagging_listing(drive: Drive) -> None:
    """Orders and page tokens work on what the index shows."""
    names = [f"n{number}" for number in range(7)]
    for name in names[:5]:
        drive.create(name)
    drive.strike(listing_lag=LONG)
    for name in names[5:]:
        drive.create(name)
    found, token = [], ""
    while True:
        page = drive.get("files", pageSize=2, orderBy="name", **({"pageToken": token} if token else {}))
        found += [one["name"] for one in page["files"]]
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert found == names[:5]


def test_only_the_struck_listings_lag(drive: Drive) -> None:
    """A lag is an effect like any other: here of every second listing."""
    drive.create("old")
    drive.strike(listing_lag=LONG, every=2)
    drive.create("new")
    assert [sorted(drive.names("trashed=false")) for _ in range(4)] == [["new", "old"], ["old"]] * 2


def test_the_property_index_lags_alone(drive: Drive) -> None:
    """A search by property finds by what was set before; the rest of the same listing is up to date."""
    item = drive.create("x", appProperties={"k": "old"}, properties={"p": "old"})["id"]
    drive.strike(property_lag=LAG)
    drive.call("PATCH", f"files/{item}", {"name": "y", "appProperties": {"k": "new"}, "properties": {"p": "new"}})
    drive.create("z", appProperties={"k": "new"})
    for field, key in (("appProperties", "k"), ("properties", "p")):
        assert drive.names(f"{field} has {{ key='{key}' and value='old' }}") == ["y"]
        assert drive.names(f"{field} has {{ key='{key}' and value='new' }}") == []
    assert sorted(drive.names("name = 'y' or name = 'z'")) == ["y", "z"]
    assert drive.item(item)["appProperties"] == {"k": "new"}
    _wait()
    assert sorted(drive.names("appProperties has { key='k' and value='new' }")) == ["y", "z"]


def test_the_feed_lags_alone(drive: Drive) -> None:
    """Changes come late, in order, each once, and none is lost; listings are up to date meanwhile."""
    kept = {name: drive.create(name)["id"] for name in ("trashed", "deleted")}
    token = _start_token(drive)
    drive.strike(changes_lag=LAG)
    drive.create("made")
    drive.call("PATCH", f"files/{kept['trashed']}", {"trashed": True})
    drive.call("DELETE", f"files/{kept['deleted']}")
    assert _changes(drive, token) == ([], token)
    assert sorted(drive.names("trashed=false")) == ["made"]
    _wait()
    seen, token = _changes(drive, token)
    assert seen == [("made", False), ("trashed", True), (kept["deleted"], None)]
    assert _changes(drive, token) == ([], token)


def test_the_end_of_a_lagging_feed(drive: Drive) -> None:
    """A start token taken from a lagging feed lies before the changes that it does not know yet."""
    drive.strike(changes_lag=LAG)
    drive.create("x")
    token = _start_token(drive)
    _wait()
    assert [name for name, _ in _changes(drive, token)[0]] == ["x"]


def test_an_item_that_changes_again_meanwhile(drive: Drive) -> None:
    """The feed tells of an item as it was when the feed had come so far, and later once more."""
    token = _start_token(drive)
    drive.strike(changes_lag=LAG)
    item = drive.create("one")["id"]
    _wait()
    drive.call("PATCH", f"files/{item}", {"name": "two"})
    seen, token = _changes(drive, token)
    assert seen == [("one", False)]
    _wait()
    assert _changes(drive, token)[0] == [("two", False)]


def test_history_goes_with_the_rule(drive: Drive) -> None:
    """A lag reaches back no further than the rule that makes it."""
    drive.strike(listing_lag=LONG)
    drive.create("x")
    assert drive.names("trashed=false") == []
    drive.calm()
    drive.strike(listing_lag=LONG)
    assert drive.names("trashed=false") == ["x"]
    drive.send("POST", "/_emulator/reset", token=None)
    drive.strike(listing_lag=LONG)
    assert drive.names("trashed=false") == []
