"""Which calls a rule strikes, that the same seed gives the same outcomes, and where rules come from."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.conftest import Drive, Server


def _outcomes(drive: Drive, count: int, path: str = "about", **params: str) -> str:
    """One letter for each of so many calls: ``x`` where it was struck."""
    params = params or {"fields": "user"}
    return "".join("." if drive.call("GET", path, **params).status == 200 else "x" for _ in range(count))


@pytest.mark.parametrize(
    ("which", "struck"),
    [
        ({"nth": 3}, "..x......."),
        ({"every": 3}, "..x..x..x."),
        ({"after": 7}, ".......xxx"),
        ({"times": 2}, "xx........"),
        ({"every": 2, "after": 3, "times": 2}, "....x.x..."),
        ({"probability": 0}, ".........."),
    ],
)
def test_which_of_the_matching_calls(drive: Drive, which: dict[str, int], struck: str) -> None:
    """nth, every, after, times and probability, alone and together. Counts tell what matched and what was struck."""
    rule = drive.strike(status=500, **which)
    assert _outcomes(drive, 10) == struck
    assert drive.faults()[rule] == (10, struck.count("x"))


@pytest.mark.parametrize(
    ("match", "struck"),
    [
        ({"method": "files.list"}, "x..."),
        ({"method": "files.*"}, "xxx."),
        ({"method": "*.get*"}, ".xxx"),
        ({"method": "files.get_media"}, "..x."),
        ({"verb": "POST"}, "...."),
        ({"route": "/drive/v3/files/{file_id}"}, ".xx."),
        ({"route": "/drive/v3/about"}, "...x"),
        ({"name": "*.bin"}, ".xx."),
        ({"name": "other"}, "...."),
    ],
)
def test_what_matches(drive: Drive, match: dict[str, str], struck: str) -> None:
    """Patterns for the method, the verb, the path or its template, and the name of the file."""
    item = drive.upload("a.bin", b"1")["id"]
    drive.strike(status=500, **match)
    paths = ["files", f"files/{item}", f"files/{item}?alt=media", "about?fields=user"]
    assert "".join("." if drive.call("GET", path).status == 200 else "x" for path in paths) == struck


def test_the_name_of_a_file_that_is_to_be_made(drive: Drive) -> None:
    """A name is known before the file exists: from JSON, from a multipart body, and of an upload session."""
    rule = drive.strike(name="secret*", status=500)
    assert drive.call("POST", "files", {"name": "secret 1"}).status == 500
    headers = {"Content-Type": "multipart/related; boundary=XX"}
    body = b'--XX\r\nContent-Type: application/json\r\n\r\n{"name": "secret 2"}\r\n--XX\r\n\r\ncontent\r\n--XX--\r\n'
    target = "/upload/drive/v3/files?uploadType="
    assert drive.send("POST", target + "multipart", body=body, headers=headers).status == 500
    assert drive.upload("other", b"x" * 100_000)["size"] == "100000"
    drive.calm()
    session = drive.send("POST", target + "resumable", body=b'{"name": "secret 3"}').headers["location"]
    rule = drive.strike(name="secret*", method="upload.*", status=500)
    assert drive.send("PUT", session, body=b"1").status == 500
    assert drive.faults()[rule] == (1, 1)


def test_uploads_have_names_of_their_own(drive: Drive) -> None:
    """Opening a session, a multipart and a media upload, chunks and probes can each be struck."""
    for method in ("upload.open", "upload.media", "upload.multipart", "upload.chunk", "upload.probe", "upload.cancel"):
        drive.strike(method=method, status=503, times=1)
    target, json_type = "/upload/drive/v3/files?uploadType=", {"Content-Type": "application/json"}
    both = {"Content-Type": "multipart/related; boundary=XX"}
    assert drive.send("POST", target + "media", body=b"1", headers={"Content-Type": "a/b"}).status == 503
    assert drive.send("POST", target + "multipart", body=b"1", headers=both).status == 503
    assert drive.send("POST", target + "resumable", body=b"{}", headers=json_type).status == 503
    session = drive.send("POST", target + "resumable", body=b"{}", headers=json_type).headers["location"]
    assert drive.send("PUT", session, body=b"", headers={"Content-Range": "bytes */*"}).status == 503
    assert drive.send("PUT", session, body=b"1").status == 503
    assert drive.send("DELETE", session).status == 503
    assert drive.send("PUT", session, body=b"1").status == 200


def test_the_same_seed_the_same_outcomes(start: Callable[..., Server], tmp_path: Path) -> None:
    """Two servers with one seed agree, a third differs; other rules and other calls do not change what a rule does."""
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rules]]\nmethod = "about.get"\nprobability = 0.5\nstatus = 500\n')
    seen = [_outcomes(start("--faults", str(rules), "--seed", seed).drive, 40) for seed in ("1", "1", "2")]
    assert seen[0] == seen[1] != seen[2]
    assert 8 <= seen[0].count("x") <= 32
    drive = start("--faults", str(rules), "--seed", "1").drive
    drive.strike(method="files.list", probability=0.5, status=500)
    outcomes = ""
    for _ in range(40):
        outcomes += _outcomes(drive, 1)
        drive.call("GET", "files")
    assert outcomes == seen[0]
    drive.send("POST", "/_emulator/reset", token=None)
    assert _outcomes(drive, 40) == seen[0]


def test_a_rule_of_its_own_seed(drive: Drive) -> None:
    """``seed`` in a rule: the same outcomes wherever it stands."""
    seen = []
    for _ in range(2):
        drive.calm()
        drive.strike(probability=0.5, seed=7, status=500)
        seen.append(_outcomes(drive, 30))
    assert seen[0] == seen[1]
    assert "x" in seen[0]


def test_a_file_is_read_again_when_it_changes(start: Callable[..., Server], tmp_path: Path) -> None:
    """A rule that still stands there goes on counting; a file that cannot be used changes nothing, and is told of."""
    rules = tmp_path / "rules.toml"
    about = '[[rules]]\nmethod = "about.get"\nnth = 3\nstatus = 500\n'
    rules.write_text(about)
    drive = start("--faults", str(rules)).drive
    assert _outcomes(drive, 2) == ".."
    rules.write_text('[[rules]]\nmethod = "files.list"\nstatus = 418\n\n' + about)
    assert drive.call("GET", "files").status == 418
    assert _outcomes(drive, 2) == "x."
    rules.write_text("[[rules]]\nmethod = 7\nstatus = 500\n")
    assert drive.call("GET", "files").status == 418
    problem = drive.send("GET", "/_emulator/faults", token=None).json()["problem"]
    assert "Rule 1: 'method' must be a text." in problem
    rules.unlink()
    assert drive.call("GET", "files").status == 418
    rules.write_text("rules = []\n")
    assert drive.call("GET", "files").status == 200
    assert drive.send("GET", "/_emulator/faults", token=None).json()["problem"] == ""


def test_a_reset_keeps_the_rules_of_the_file(start: Callable[..., Server], tmp_path: Path) -> None:
    """Posted rules go with a reset; those of the file (JSON here) stay and count from the beginning."""
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"rules": [{"method": "about.get", "nth": 2, "status": 500}]}))
    drive = start("--faults", str(rules)).drive
    drive.strike(method="files.list", status=500)
    assert _outcomes(drive, 3) == ".x."
    drive.send("POST", "/_emulator/reset", token=None)
    assert drive.faults() == {"file-0": (0, 0)}
    assert _outcomes(drive, 3) == ".x."
    drive.calm()
    assert drive.faults() == {"file-0": (3, 1)}


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"stats": 500}, "There is no key 'stats'"),
        ({"method": "files.list"}, "must do something"),
        ({"status": 99}, "'status' must be a whole number from 200"),
        ({"status": True}, "'status'"),
        ({"body": "html"}, "needs 'status' or 'reason'"),
        ({"status": 500, "body": "xml"}, "'body' must be one of"),
        ({"status": 500, "nth": 0}, "'nth'"),
        ({"status": 500, "probability": 2}, "'probability'"),
        ({"latency": -1}, "'latency'"),
        ({"latency": {"median": 2, "p90": 1}}, "'latency'"),
        ({"latency": {"uniform": [2, 1]}}, "'latency'"),
        ({"bandwidth": {}}, "'bandwidth'"),
        ({"bandwidth": {"down": 0}}, "'bandwidth.down'"),
        ({"cut_response": {"how": "close"}}, "'cut_response'"),
        ({"session_gone": 409}, "'session_gone' must be 404 or 410"),
        ({"reset": "never"}, "'reset' must be one of before, after"),
        ({"offline": True}, "'offline'"),
        ({"quota_full": False}, "'quota_full'"),
        (["status"], "must be a table"),
        ({"rules": {}}, "a list named 'rules'"),
    ],
)
def test_rules_that_cannot_be_used(drive: Drive, rule: object, why: str) -> None:
    """Refused with a sentence that names the key; nothing of the request is in force then."""
    answer = drive.send("POST", "/_emulator/faults", body=json.dumps({"rules": [{"status": 500}, rule]}), token=None)
    if isinstance(rule, dict) and "rules" in rule:
        answer = drive.send("POST", "/_emulator/faults", body=json.dumps(rule), token=None)
    assert answer.status == 400
    assert why in answer.json()["error"]["message"]
    assert drive.faults() == {}


def test_what_is_no_json(drive: Drive) -> None:
    """400, and how to do it."""
    answer = drive.send("POST", "/_emulator/faults", body=b"status=500", token=None)
    assert (answer.status, answer.reason) == (400, "parseError")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read"),
        ("[[rules]", "neither TOML nor"),
        ("[[rules]]\nx = 1\n", "Rule 1: There is no key 'x'"),
        ("a = 1", "a list"),
    ],
)
def test_a_file_that_cannot_be_used_at_the_start(tmp_path: Path, content: str | None, why: str) -> None:
    """Exit status 2 and one sentence that names the file."""
    rules = tmp_path / "rules.toml"
    if content is not None:
        rules.write_text(content)
    command = [sys.executable, "-m", "drivefs.emulator", "--faults", str(rules)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert str(rules) in done.stderr
    assert why in done.stderr
    assert "Traceback" not in done.stderr
