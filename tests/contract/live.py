"""The real Drive as a target of the contract: a scratch folder for each test, deleted for good when the test ends.

DRIVEFS_LIVE_TOKEN is an access token for the whole Drive (scope ``drive``). DRIVEFS_LIVE_URL leads elsewhere than to Google.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.contract.conftest import Drive

__all__ = ["TOKEN", "URL", "made_by", "scratch", "skip_what_needs_the_emulator"]

TOKEN = os.environ.get("DRIVEFS_LIVE_TOKEN", "")
URL = os.environ.get("DRIVEFS_LIVE_URL", "https://www.googleapis.com")
_CONTROL = frozenset({"start", "server", "settings"})  # fixtures that only the emulator can give


def skip_what_needs_the_emulator(items: list[pytest.Item]) -> None:
    """Mark, where the target is the real Drive, the tests that need control calls or a process of their own."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "drive" not in fixtures and not fixtures & _CONTROL:
            continue  # it needs no server
        if item.get_closest_marker("emulator") or fixtures & _CONTROL:
            item.add_marker(pytest.mark.skip(reason="needs the embedded Drive's control calls"))


def made_by(method: str, path: str, status: int, body: bytes) -> list[str]:
    """The id of the file that a request made, if it did. (The last request of an upload is a PUT.)"""
    if not TOKEN or method not in ("POST", "PUT") or status != 200 or "/files" not in path:
        return []
    try:
        return [str(json.loads(body)["id"])]
    except (ValueError, KeyError, TypeError):
        return []  # an opened session, or an answer without the id


@contextmanager
def scratch(drive: Drive) -> Iterator[Drive]:
    """``drive`` with a new folder as the place where tests make things."""
    body: dict[str, Any] = {"name": f"drivefs contract {secrets.token_hex(4)}", "mimeType": "application/vnd.google-apps.folder"}
    made = drive.call("POST", "files", body)
    assert made.status == 200, made.body
    drive.root = str(made.json()["id"])
    try:
        yield drive
    finally:
        # Tests may make things in other places too, or move them there. What has gone with its folder is 404.
        left = [one for one in [drive.root, *drive.made] if drive.call("DELETE", f"files/{one}").status not in (204, 404)]
        assert not left, f"these items could not be deleted: {left}"
