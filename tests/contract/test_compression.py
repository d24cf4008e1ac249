"""JSON answers as gzip: for those who ask as Google wants to be asked, and never for content."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.conftest import Drive

ASKED = {"Accept-Encoding": "gzip, deflate", "User-Agent": "a-client/1.0 (gzip)"}


def test_json_is_compressed_where_it_is_asked_for(drive: Drive) -> None:
    """Performance guide: Accept-Encoding and a User-Agent with "gzip" bring a compressed answer of no stated length."""
    answer = drive.send("GET", f"/drive/v3/files/{drive.root}?fields=id,mimeType", headers=ASKED)
    assert (answer.status, answer.headers["content-encoding"]) == (200, "gzip")
    assert "content-length" not in answer.headers
    assert json.loads(gzip.decompress(answer.body))["mimeType"] == "application/vnd.google-apps.folder"


@pytest.mark.parametrize(
    "headers",
    [{"Accept-Encoding": "identity", "User-Agent": "x (gzip)"}, {"Accept-Encoding": "gzip", "User-Agent": "x"}, {}],
)
def test_json_is_plain_otherwise(drive: Drive, headers: dict[str, str]) -> None:
    """Either half of the question alone brings the plain answer."""
    answer = drive.send("GET", f"/drive/v3/files/{drive.root}?fields=id", headers=headers)
    assert "content-encoding" not in answer.headers
    assert answer.json()["id"]


def test_errors_are_compressed_too(drive: Drive) -> None:
    """The envelope of an error is JSON like any other."""
    answer = drive.send("GET", "/drive/v3/files/0Bnothing-of-this-name", headers=ASKED)
    assert (answer.status, answer.headers["content-encoding"]) == (404, "gzip")
    assert json.loads(gzip.decompress(answer.body))["error"]["code"] == 404


def test_content_is_never_compressed(drive: Drive) -> None:
    """Downloads keep their length and ranges, also of a file that holds JSON."""
    made = drive.upload("a.json", b'{"a": 1}', mimeType="application/json")
    answer = drive.send("GET", f"/drive/v3/files/{made['id']}?alt=media", headers=ASKED)
    assert (answer.body, answer.headers["content-length"]) == (b'{"a": 1}', "8")
    assert "content-encoding" not in answer.headers
