"""The real Drive as a target of the contract: a scratch folder for each test, deleted for good when the test ends.

DRIVEFS_LIVE_TOKEN is an access token for the whole Drive (scope ``drive``). DRIVEFS_LIVE_URL leads elsewhere than to Google.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.contract.conftest import Drive

__all__ = ["TOKEN", "URL", "scratch", "skip_what_needs_the_emulator"]

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
        deleted = drive.call("DELETE", f"files/{drive.root}")
        assert deleted.status == 204, deleted.body
