"""drive.mount and drive.flush_and_unmount: Colab's signatures and sentences over the real command."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from drivefs import client
from drivefs.colab import drive

from .conftest import Drivefs
from .test_cli import ACCOUNT, seen


@pytest.fixture
def account(drivefs: Drivefs, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account in the environment, as a notebook's kernel has it, and the stand-in daemon."""
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name, value)


def test_the_signatures_are_colab_s() -> None:
    """Names, order and defaults, so that every call that works there works here."""
    mount = "(mountpoint: 'str', force_remount: 'bool' = False, timeout_ms: 'int' = 120000, readonly: 'bool' = False) -> 'None'"
    assert str(inspect.signature(drive.mount)) == mount
    assert str(inspect.signature(drive.flush_and_unmount)) == "(timeout_ms: 'int' = 86400000) -> 'None'"


@pytest.mark.usefixtures("account")
def test_a_notebook_s_session(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mount, mount again, remount by force, unmount, unmount again: exactly Colab's lines, and a new daemon after the remount."""
    drive.mount("~/d", readonly=True)
    assert capsys.readouterr().out == f"Mounted at {home}/d\n"
    assert seen(home)["read_only"] is True
    pid = client.Client(home / "d").status()["pid"]
    drive.mount("~/d")
    assert capsys.readouterr().out == (
        f'Drive already mounted at {home}/d; to attempt to forcibly remount, call drive.mount("{home}/d", force_remount=True).\n'
    )
    assert client.Client(home / "d").status()["pid"] == pid
    drive.mount("d", force_remount=True)
    assert capsys.readouterr().out == "Mounted at d\n"
    assert client.Client(home / "d").status()["pid"] != pid
    drive.flush_and_unmount()
    assert capsys.readouterr().out == ""
    assert client.running() == []
    drive.flush_and_unmount()
    assert capsys.readouterr().out == "Drive not mounted, so nothing to flush and unmount.\n"


@pytest.mark.usefixtures("account")
def test_unsent_files_are_not_dropped(home: Path) -> None:
    """Neither flush_and_unmount nor force_remount takes a mount away whose files are not on Drive."""
    drive.mount("unsent")
    with pytest.raises(ValueError, match=r"^flush_and_unmount failed: 1 not on Drive yet") as caught:
        drive.flush_and_unmount(timeout_ms=100)
    assert str(caught.value).isprintable()
    with pytest.raises(ValueError, match=r"^mount failed: 1 not on Drive yet"):
        drive.mount("unsent", force_remount=True, timeout_ms=100)
    assert [mounted.mountpoint for mounted in client.running()] == [str(home / "unsent")]


def _full(path: Path) -> None:
    path.mkdir()
    (path / "file").touch()


@pytest.mark.usefixtures("account")
def test_refusals_are_colab_s_to_the_letter(home: Path) -> None:
    """ValueError with exactly the sentences that notebooks of years match."""
    (home / "link").symlink_to(home)
    (home / "file").touch()
    _full(home / "full")
    for name, sentence in {
        "a b": "Mountpoint must not contain a space.",
        "link": "Mountpoint must not be a symlink",
        "full": "Mountpoint must not already contain files",
        "file": "Mountpoint must either be a directory or not exist",
        "no/such": "Mountpoint must be in a directory that exists",
    }.items():
        with pytest.raises(ValueError, match="Mountpoint") as caught:
            drive.mount(name)
        assert str(caught.value) == sentence


@pytest.mark.usefixtures("account")
def test_other_failures_begin_as_colab_s_and_say_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``mount failed`` alone is what people could do nothing with."""
    with pytest.raises(ValueError, match=r"^mount failed: Drive refused '\[secret\]'\. Sign in again\.$"):
        drive.mount("refused")
    monkeypatch.delenv("DRIVEFS_ACCESS_TOKEN")
    with pytest.raises(ValueError, match=r"^mount failed: 'http://127.0.0.1:9' needs an access token"):
        drive.mount("d")
    assert not (home / "d").exists()


@pytest.mark.usefixtures("account")
def test_a_mount_that_takes_too_long_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's limit (and a grace for starting) ends the wait."""
    monkeypatch.setattr(drive, "_GRACE", -0.999)
    with pytest.raises(ValueError, match=r"^mount failed: timeout"):
        drive.mount("d", timeout_ms=1000)
