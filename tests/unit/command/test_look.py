"""Looking at a path from a child process, and telling processes that have ended from those that cannot."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest

from drivefs import look, stuck
from drivefs.look import Look


def test_a_look_follows_links_and_tells_device_and_inode(tmp_path: Path) -> None:
    """What stat(2) says of the target, for any name that a file can have."""
    target = tmp_path / os.fsdecode(b"a\n\xff")
    target.touch()
    (tmp_path / "link").symlink_to(target)
    status = target.stat()
    assert look.look(tmp_path / "link", 30) == look.look(target, 30) == Look(0, status.st_dev, status.st_ino)


def test_what_is_absent_is_an_errno(tmp_path: Path) -> None:
    """As stat(2) gives it."""
    assert look.look(tmp_path / "absent", 30) == Look(errno.ENOENT)
    (tmp_path / "file").touch()
    assert look.look(tmp_path / "file" / "below", 30) == Look(errno.ENOTDIR)


def test_a_look_that_takes_too_long_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ETIMEDOUT; the child is killed, and reaped at a later look."""
    monkeypatch.setattr(look, "_CODE", "import time; time.sleep(600)")
    begin = time.monotonic()
    assert look.look(tmp_path, 0.2) == Look(errno.ETIMEDOUT)
    assert time.monotonic() - begin < 30
    (child,) = look._left
    assert child.wait(30) < 0
    monkeypatch.undo()
    assert look.look(tmp_path, 30).error == 0
    assert look._left == []


def test_a_process_that_lives_or_has_ended_is_not_stuck() -> None:
    """Neither a living one, nor a zombie that merely waits for its parent, nor none at all."""
    with subprocess.Popen(["sleep", "600"]) as process:
        assert not stuck.is_stuck(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not stuck.is_stuck(process.pid)
    assert not stuck.is_stuck(process.pid)
