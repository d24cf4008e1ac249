"""Control calls of the embedded Drive that its users' tests lean on: the log of calls, and the clock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.conftest import Drive

pytestmark = pytest.mark.emulator
HOUR, DAY = 3600, 24 * 3600


def _advance(drive: Drive, seconds: float) -> int:
    answer = drive.send("POST", "/_emulator/clock", body=json.dumps({"advance": seconds}).encode())
    assert answer.status == 200, answer.body
    return int(answer.json()["now_ms"])


def test_the_log_tells_calls_in_their_order(drive: Drive) -> None:
    """Each call with the time it came; control calls are not among them."""
    made = drive.create("a")
    drive.call("PATCH", f"files/{made['id']}", {"name": "b"})
    log = drive.send("GET", "/_emulator/log").json()
    assert [one["method"] for one in log][-2:] == ["files.create", "files.update"]
    assert log == sorted(log, key=lambda one: one["time"])
    assert not any(one["route"].startswith("GET /_emulator") for one in log)


def test_a_page_token_grows_old(drive: Drive) -> None:
    """Tokens of listings are good for hours, not for days."""
    for name in "abc":
        drive.create(name)
    token = drive.get("files", pageSize=1)["nextPageToken"]
    _advance(drive, 5 * HOUR)
    assert drive.call("GET", "files", pageSize=1, pageToken=token).status == 200
    _advance(drive, 2 * HOUR)
    answer = drive.call("GET", "files", pageSize=1, pageToken=token)
    assert (answer.status, answer.location) == (400, "pageToken")


def test_an_upload_session_lives_a_week(drive: Drive) -> None:
    """Then its address is gone."""
    opened = drive.send(
        "POST", "/upload/drive/v3/files?uploadType=resumable", body=b"{}", headers={"Content-Type": "application/json"}
    )
    probe = {"Content-Range": "bytes */10", "Content-Length": "0"}
    _advance(drive, 6 * DAY)
    assert drive.send("PUT", opened.headers["location"], headers=probe).status == 308
    _advance(drive, 2 * DAY)
    assert drive.send("PUT", opened.headers["location"], headers=probe).status == 404


def test_stamps_follow_the_clock_and_a_reset_sets_it_back(drive: Drive) -> None:
    """What is made tomorrow is stamped tomorrow; an empty Drive has the machine's time again."""
    before = drive.item(drive.create("now")["id"])["modifiedTime"]
    ahead = _advance(drive, DAY)
    assert drive.item(drive.create("tomorrow")["id"])["modifiedTime"] > before
    drive.send("POST", "/_emulator/reset")
    assert _advance(drive, 0) < ahead


@pytest.mark.parametrize("body", [b"", b"[]", b'{"advance": -1}', b'{"advance": "soon"}', b'{"advance": NaN}', b"{}"])
def test_a_clock_goes_forward_only(drive: Drive, body: bytes) -> None:
    """Anything else is refused with what to send."""
    answer = drive.send("POST", "/_emulator/clock", body=body)
    assert answer.status == 400
    assert "advance" in answer.json()["error"]["message"]
