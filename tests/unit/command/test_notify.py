"""The word to the service manager."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from drivefs.notify import sd_notify


@pytest.mark.parametrize("abstract", [False, True])
def test_the_message_arrives(home: Path, abstract: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a socket in the file system and on an abstract one, as systemd and container managers use them."""
    name = f"@drivefs-test-{home.name}" if abstract else str(home / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0", 1))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert sd_notify("READY=1") is True
        assert manager.recv(100) == b"READY=1"


def test_nobody_asked(home: Path) -> None:
    """Without a service manager nothing is sent."""
    assert sd_notify("READY=1") is False


def test_a_lost_manager_does_not_end_the_mount(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A socket that is gone is a warning in the log, no exception."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(home / "gone"))
    with caplog.at_level(logging.WARNING):
        assert sd_notify("STOPPING=1") is False
    assert "STOPPING=1" in caplog.text
