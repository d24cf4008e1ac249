"""rclone as it is on PyPI: its whole cycle, and a mount of its own."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support.mounts import why_no_mounts
from .conftest import Door

CONTENT = random.Random(7).randbytes(20_000_000)
pytestmark = pytest.mark.slow


class Rclone:
    """One configuration with one remote, ``gd:``."""

    def __init__(self, door: Door, home: Path, **token: Any) -> None:
        self.door = door
        signed_in = {"access_token": "t", "token_type": "Bearer", "refresh_token": "r", "expiry": "2099-01-01T00:00:00Z"} | token
        lines = [
            "[gd]",
            "type = drive",
            "client_id = c",
            "client_secret = s",
            "scope = drive",
            f"token = {json.dumps(signed_in)}",
        ]
        self._config = home / "rclone.conf"
        self._config.write_text("\n".join(lines) + "\n")
        self._home = home

    def command(self, *arguments: str | Path) -> list[str]:
        program = Path(sys.executable).with_name("rclone")
        fixed = ["--config", str(self._config), "--ca-cert", self.door.ca, "--cache-dir", str(self._home / "cache")]
        return [str(program), *fixed, *(str(one) for one in arguments)]

    def environment(self) -> dict[str, str]:
        return self.door.environment(HOME=str(self._home))

    def run(self, *arguments: str | Path) -> str:
        done = subprocess.run(
            self.command(*arguments), env=self.environment(), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def rclone(door: Door, tmp_path: Path) -> Rclone:
    return Rclone(door, tmp_path)


def test_a_whole_cycle(rclone: Rclone, door: Door, tmp_path: Path) -> None:
    """mkdir, copy up, lsf, copy down, server-side copy, moveto, md5sum, check, about, delete, cleanup; the bytes are right."""
    source, down = tmp_path / "big.bin", tmp_path / "down"
    source.write_bytes(CONTENT)
    rclone.run("mkdir", "gd:runs")
    rclone.run("copy", source, "gd:runs")
    assert sorted(rclone.run("lsf", "-R", "gd:").split()) == ["runs/", "runs/big.bin"]
    digest = hashlib.md5(CONTENT).hexdigest()
    assert door.server.paths()["runs/big.bin"]["md5"] == digest
    rclone.run("copy", "gd:runs/big.bin", down)
    assert (down / "big.bin").read_bytes() == CONTENT
    rclone.run("copyto", "gd:runs/big.bin", "gd:runs/copy.bin")
    rclone.run("moveto", "gd:runs/copy.bin", "gd:moved.bin")
    assert door.server.requests()["files.copy"] == 1
    assert sorted(door.server.paths()) == ["moved.bin", "runs", "runs/big.bin"]
    assert sorted(rclone.run("md5sum", "gd:").splitlines()) == [f"{digest}  moved.bin", f"{digest}  runs/big.bin"]
    rclone.run("check", down, "gd:runs", "--one-way")
    assert json.loads(rclone.run("about", "--json", "gd:"))["used"] == 2 * len(CONTENT)
    rclone.run("deletefile", "gd:moved.bin")
    assert json.loads(rclone.run("about", "--json", "gd:"))["trashed"] == len(CONTENT)
    rclone.run("cleanup", "gd:")
    assert json.loads(rclone.run("about", "--json", "gd:"))["trashed"] == 0


def test_dedupe(rclone: Rclone, door: Door) -> None:
    """Two files of one name are two to rclone, too; dedupe leaves the one it is told to keep."""
    older, newer = (door.server.create("twin", content, modifiedTime=when) for content, when in TWINS)
    assert rclone.run("lsf", "gd:") == "twin\ntwin\n"
    rclone.run("dedupe", "--dedupe-mode", "newest", "gd:")
    assert [item["id"] for item in door.server.tree()] == [newer]
    assert door.server.get(older)["trashed"] is True


TWINS = [(b"older", "2026-01-01T00:00:00Z"), (b"newer", "2026-02-01T00:00:00Z")]


def test_an_expired_token_is_renewed(door: Door, tmp_path: Path) -> None:
    """rclone's token has expired: it gets another from oauth2.googleapis.com, which the door leads to this server as well."""
    rclone = Rclone(door, tmp_path, expiry="2020-01-01T00:00:00Z")
    door.server.create("x", b"x")
    assert rclone.run("lsf", "gd:") == "x\n"
    assert door.server.requests()["oauth2.token"] == 1


@pytest.fixture
def mounted(rclone: Rclone, tmp_path: Path) -> Iterator[Path]:
    """rclone's mount with its full cache."""
    point = tmp_path / "mnt"
    point.mkdir()
    flags = ["--vfs-cache-mode", "full", "--vfs-write-back", "0s", "--poll-interval", "0", "--dir-cache-time", "0"]
    process = subprocess.Popen(rclone.command("mount", "gd:", point, *flags), env=rclone.environment())
    deadline = time.monotonic() + 30
    while not point.is_mount():
        assert process.poll() is None, "rclone ended before it mounted"
        assert time.monotonic() < deadline, "rclone has not mounted within 30 s"
        time.sleep(0.02)  # nothing tells of a foreign mount but the mount table
    yield point
    process.terminate()  # rclone unmounts on SIGTERM
    assert process.wait(30) in (0, 143)
    assert not point.is_mount()


@pytest.mark.mount
@pytest.mark.skipif(why_no_mounts() is not None, reason=str(why_no_mounts()))
def test_its_mount(mounted: Path, door: Door) -> None:
    """Through rclone's mount, files written arrive with the right md5, and files made elsewhere are read; renames arrive."""
    door.server.create("theirs.bin", CONTENT[:3_000_000])
    assert (mounted / "theirs.bin").read_bytes() == CONTENT[:3_000_000]
    (mounted / "d").mkdir()
    (mounted / "d" / "mine.bin").write_bytes(CONTENT[:9_000_000])
    deadline = time.monotonic() + 30
    while (item := door.server.paths().get("d/mine.bin")) is None or item["size"] != 9_000_000:
        assert time.monotonic() < deadline, door.server.tree()
        time.sleep(0.05)  # rclone tells nobody when an upload is done
    assert item["md5"] == hashlib.md5(CONTENT[:9_000_000]).hexdigest()
    os.rename(mounted / "d" / "mine.bin", mounted / "d" / "renamed.bin")
    assert door.server.paths()["d/renamed.bin"]["id"] == item["id"]
