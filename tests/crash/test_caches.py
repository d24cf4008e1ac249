"""The cache directory comes to harm between two sessions: bits of it flip, it is copied to another host, it is deleted.

Nothing wrong is ever read or sent, and nothing unsent is thrown away: the daemon starts, or refuses with a sentence.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ..support.mounts import Mount, check_cache, eventually
from ..support.server import Server

pytestmark = pytest.mark.slow

DAMAGE = "the disk has changed|came to harm|cannot be used|was not on Drive|lost\\+found|not on Drive yet|malformed|kept in"
MIB = 1 << 20
SIZES = (1, 5000, 70_000, MIB, 2 * MIB + 17)
LATER = ("--upload-delay", "600")
FLIPS = int(os.environ.get("DRIVEFS_FLIPS", "3"))  # of the database in each of two ways; each is a round of its own


@pytest.fixture
def mount(home: Path, server: Server) -> Iterator[Mount]:
    """Mounted; the test says itself what the log may hold."""
    mount = Mount(home, server).mount(*LATER)
    yield mount
    mount.end()
    mount.expect_log(DAMAGE)
    mount.judge_log()


@dataclass
class Contents:
    """Every content that anybody wrote whole, by its MD5; and those of this round that Drive has not got, by name."""

    random: random.Random
    known: set[str] = field(default_factory=set)
    unsent: dict[str, bytes] = field(default_factory=dict)

    def new(self, size: int) -> bytes:
        data = self.random.randbytes(size)
        self.known.add(hashlib.md5(data).hexdigest())
        return data

    def prepare(self, mount: Mount, server: Server, number: int) -> dict[str, bytes]:
        """Fetched and unsent files of each size, all of it on the disk; returns the fetched ones. Then the daemon is killed."""
        fetched = {f"{number} fetched {size}": self.new(size) for size in SIZES}
        for name, data in fetched.items():
            server.create(name, data)
        eventually(lambda: fetched.keys() <= set(os.listdir(mount.my)))
        assert {name: (mount.my / name).read_bytes() for name in fetched} == fetched
        self.unsent = {f"{number} unsent {size}": self.new(size) for size in SIZES}
        for name, data in self.unsent.items():
            with (mount.my / name).open("wb", buffering=0) as file:
                file.write(data)
                os.fsync(file.fileno())
        eventually(lambda: settled(mount.cache))
        mount.kill()
        return fetched


def settled(cache: Path) -> bool:
    """Whether every complete content has its checksums."""
    with sqlite3.connect(f"file:{cache}/state.db?mode=ro", uri=True) as db:
        (waiting,) = db.execute("SELECT count(*) FROM content WHERE id NOT IN (SELECT content FROM block)").fetchone()
    db.close()
    return not waiting


def flip(path: Path, chance: random.Random, beyond: int = 0) -> None:
    """One bit, anywhere after the first ``beyond`` bytes."""
    with path.open("r+b") as file:
        place = chance.randrange(beyond, path.stat().st_size)
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << chance.randrange(8)]))


def read(path: Path) -> bytes | None:
    """None: EIO, which is right where the disk has changed what nobody else has."""
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None


def test_flipped_bits_of_contents(mount: Mount, server: Server) -> None:
    """One bit of each of ten files: what Drive has is fetched again, what it has not is EIO, named, kept, and never sent."""
    chance = random.Random(1)
    contents = Contents(chance)
    fetched = contents.prepare(mount, server, 0)
    files = sorted([*mount.cache.glob("clean/*/*"), *mount.cache.glob("dirty/*/*")])
    assert len(files) == 2 * len(SIZES)
    for file in files:
        flip(file, chance)
    mount.mount(*LATER)
    assert {name: (mount.my / name).read_bytes() for name in fetched} == fetched
    assert [name for name in contents.unsent if read(mount.my / name) is not None] == []
    unsent = {one["path"]: one["reason"] for one in mount.client.flush(timeout=5)}
    assert unsent.keys() == {f"MyDrive/{name}" for name in contents.unsent}
    assert all("the disk has changed" in reason for reason in unsent.values()), unsent
    assert server.paths().keys() == fetched.keys()
    kept = [path for path in (mount.cache / "lost+found").iterdir() if path.suffix != ".json"]
    assert len(kept) >= len(SIZES)
    for name in contents.unsent:
        (mount.my / name).write_bytes(b"anew")
    mount.flush()
    assert all(server.content(server.paths()[name]["id"]) == b"anew" for name in contents.unsent)


@pytest.mark.parametrize("victim", ["state.db", "state.db-wal"])
def test_flipped_bits_of_the_database(victim: str, mount: Mount, server: Server) -> None:
    """The daemon starts or refuses with a sentence; every byte that is read or sent is of some whole content; all that was
    unsent is on Drive or still in the cache directory."""
    chance = random.Random(victim)
    contents = Contents(chance)
    for number in range(FLIPS):
        contents.prepare(mount, server, number)
        if victim == "state.db":  # without the journal, whose newer pages would hide it
            db = sqlite3.connect(mount.cache / "state.db")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.close()
        flip(mount.cache / victim, chance)
        judge_start(mount, server, contents)


def judge_start(mount: Mount, server: Server, contents: Contents) -> None:
    done = mount.run("mount", mount.point, "--cache-dir", mount.cache, *LATER, "--poll-interval", "0.2", "--no-supervise")
    if done.returncode:
        assert done.stderr.startswith("drivefs: ") or "Error" not in done.stderr, done
        assert "Traceback" not in done.stderr, done
        assert_kept(mount, server, contents)
        mount.wipe()
        mount.mount(*LATER)
        return
    wrong = []
    for path in [path for path in mount.my.rglob("*") if path.is_file()]:
        data = read(path)
        if data is not None and hashlib.md5(data).hexdigest() not in contents.known:
            wrong.append((path.name, len(data)))
    assert wrong == []
    mount.client.flush(timeout=10)
    sent = [item["path"] for item in server.tree() if item["md5"] and item["md5"] not in contents.known]
    assert sent == []
    assert_kept(mount, server, contents)


def assert_kept(mount: Mount, server: Server, contents: Contents) -> None:
    places = [path for path in mount.cache.rglob("*") if path.is_file() and path.suffix != ".json"]
    there = {hashlib.md5(path.read_bytes()).hexdigest() for path in places} | {item["md5"] for item in server.tree()}
    lost = [name for name, data in contents.unsent.items() if hashlib.md5(data).hexdigest() not in there]
    assert lost == []


def test_a_cache_that_was_copied_to_another_host(mount: Mount, server: Server, home: Path) -> None:
    """With ``cp -a``, after a kill: there, under another boot, what was unsent and on the disk is shown and sent."""
    contents = Contents(random.Random(2))
    fetched = contents.prepare(mount, server, 0)
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    other = Mount(elsewhere, server)
    subprocess.run(["cp", "-a", mount.cache, other.cache], check=True)
    other.environment["DRIVEFS_BOOT_ID"] = "another machine's"
    other.mount()
    try:
        assert {path.name: path.read_bytes() for path in other.my.iterdir()} == fetched | contents.unsent
        other.flush()
        assert {name: server.content(item["id"]) for name, item in server.paths().items()} == fetched | contents.unsent
        other.unmount()
    finally:
        other.end()
    other.judge_log()
    check_cache(other.cache)


def test_a_cache_that_was_deleted(mount: Mount, server: Server) -> None:
    """``rm -rf`` after a kill: what was unsent went with it, and nothing on Drive is deleted, changed or taken for gone."""
    on_drive = {f"f{number}": b"%d" % number for number in range(5)}
    for name, data in on_drive.items():
        server.create(name, data)
    eventually(lambda: len(os.listdir(mount.my)) == len(on_drive))
    (mount.my / "f0").unlink()
    (mount.my / "f1").rename(mount.my / "renamed")
    (mount.my / "f2").write_bytes(b"changed")
    (mount.my / "unsent").write_bytes(b"unsent")
    mount.kill()
    mount.wipe()
    mount.mount()
    assert {path.name: path.read_bytes() for path in mount.my.iterdir()} == on_drive
    mount.flush()
    assert {name: server.content(item["id"]) for name, item in server.paths().items()} == on_drive
