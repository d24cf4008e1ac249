"""The power is cut at random moments while programs work: what was followed by fsync is there, anything else is whole or older.

The cache lies on a disk of which only what reached the disk survives; the server lives on. A cut may undo what was merely
closed, yet never leave half of it, mix two versions, or bring back what was removed and then synced.

DRIVEFS_POWER_ROUNDS: cuts for each seed (default 8).
"""

from __future__ import annotations

import os
import random
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.mounts import Mount, check_cache, eventually
from ..support.server import Server
from .disk import Disk, why_no_disks
from .history import History
from .people import Person, server_view

WRITERS = 3
ROUNDS = int(os.environ.get("DRIVEFS_POWER_ROUNDS", "8"))
SYNCED = 0.3

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_no_disks() is not None, reason=str(why_no_disks()))]


@pytest.fixture
def disk(home: Path) -> Iterator[Disk]:
    disk = Disk(home)
    yield disk
    disk.close()


@pytest.fixture
def mount(home: Path, server: Server, disk: Disk) -> Iterator[Mount]:
    """Its cache is on the disk whose power is cut."""
    mount = Mount(home, server)
    mount.cache = disk.place / "cache"
    mount.mount()
    yield mount
    mount.end()
    check_cache(mount.cache)


def cut_power(mount: Mount, disk: Disk) -> None:
    """Everything acknowledged so far was acknowledged before the copy; nothing is afterwards."""
    assert mount.pid is not None
    os.kill(mount.pid, signal.SIGSTOP)
    disk.remember()
    mount.end()
    disk.cut()
    mount.environment["DRIVEFS_BOOT_ID"] = str(uuid.uuid4())


def judge_on_drive(mount: Mount, server: Server, people: list[Person]) -> None:
    """Once all was sent and the feed was read, the mount and the server agree, and nothing is wrong with what they show."""
    mount.flush()
    polls = server.requests()["changes.list"]
    eventually(lambda: server.requests()["changes.list"] >= polls + 2)
    for person in people:
        assert person.judge() == [], person.number
    mount.flush()
    for person in people:
        found, twins = server_view(server, person.folder.name)
        findings, _ = person.history.judge(found, {})
        assert [*twins, *findings] == [], person.number


@pytest.mark.timeout(60 + 15 * ROUNDS)
@pytest.mark.parametrize("seed", [1, 2])
def test_power_cuts_at_random_moments(seed: int, mount: Mount, disk: Disk, server: Server, home: Path) -> None:
    """After each cut the mount shows a state that was promised, and so does the server once all was sent."""
    chance = random.Random(seed)
    people = [Person(n, mount.my / f"w{n}", home / f"journal{n}", History(durably=True), SYNCED) for n in range(WRITERS)]
    for person in people:
        person.folder.mkdir()
    mount.flush()
    for _ in range(ROUNDS):
        for person in people:
            person.start(chance.randrange(1 << 30))
        wanted = chance.randrange(3, 120)
        eventually(lambda wanted=wanted: sum(person.acknowledged() for person in people) >= wanted, 30)  # type: ignore[misc]
        cut_power(mount, disk)
        for person in people:
            person.read_journal()
        mount.mount()
        for person in people:
            assert person.judge(adopt=False) == [], person.number
        judge_on_drive(mount, server, people)
    done = sum(person.history.operations for person in people)
    print(f"seed {seed}: {done} operations acknowledged, {ROUNDS} power cuts, no finding")
