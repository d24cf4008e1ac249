"""SIGKILL of the daemon at random moments while programs work: nothing acknowledged is lost, mixed, doubled or resurrected.

The model is what the writers wrote down as acknowledged; of the one operation in flight, either state is right, and of a file
that was being written, any prefix. It is compared with the server at the moment of each kill, with the mount at once after each
restart, with the server once all was sent, and with the mount again once the cache was wiped.

DRIVEFS_CRASH_ROUNDS: kills for each seed (default 20).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from ..support.mounts import QUICK, Mount, eventually
from ..support.server import FOLDER, Server
from .people import Person, server_view

WRITERS = 3
ROUNDS = int(os.environ.get("DRIVEFS_CRASH_ROUNDS", "20"))
SECOND_KILL = 0.3
# Seconds until a mount answers after a kill, whatever is to be recovered.
RESTART = 5.0


def milliseconds(time_text: str) -> int:
    return round(datetime.fromisoformat(time_text.replace("Z", "+00:00")).timestamp() * 1000)


def judge_server(server: Server, people: list[Person]) -> None:
    """After a drain the server has the model, the whole model and nothing else, with the times that stat shows."""
    items = server.paths()
    assert {path for path in items if "/" not in path} == {person.folder.name for person in people}
    for person in people:
        found, twins = server_view(server, person.folder.name)
        person.history.promise_all()
        findings, state = person.history.judge(found, {})
        assert [*twins, *findings] == []
        assert state == person.history.state
        person.known = {md5 for md5 in found.values() if md5 is not None}
    for path, item in items.items():
        if item["mimeType"] != FOLDER:
            local = (people[0].folder.parent / path).stat().st_mtime_ns // 10**6
            assert milliseconds(item["modifiedTime"]) == local, path


def restart(mount: Mount, chance: random.Random) -> int:
    """Mount again; sometimes kill the daemon again as soon as its recovery has begun, or just after it answered.

    Returns how many kills there were.
    """
    kills = 0
    if chance.random() < SECOND_KILL:
        command = [
            sys.executable,
            "-m",
            "drivefs",
            "mount",
            str(mount.point),
            "--cache-dir",
            str(mount.cache),
            *QUICK,
            "--no-supervise",
        ]
        starting = subprocess.Popen(command, env=mount.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: mount.pid is not None)
        if chance.random() < 0.5:
            starting.wait(30)
        mount.kill()
        starting.wait(30)
        kills = 1
    begin = time.monotonic()
    mount.mount()
    assert time.monotonic() - begin < RESTART
    return kills


@pytest.mark.slow
@pytest.mark.timeout(60 + 10 * ROUNDS)
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_kills_at_random_moments(seed: int, mount: Mount, server: Server, home: Path) -> None:
    """Kills under three writers, some with a second kill during recovery; every comparison with the model is exact."""
    chance = random.Random(seed)
    people = [Person(n, mount.my / f"w{n}", home / f"journal{n}") for n in range(WRITERS)]
    for person in people:
        person.folder.mkdir()
    kills = 0
    for _ in range(ROUNDS):
        for person in people:
            person.start(chance.randrange(1 << 30))
        wanted = chance.randrange(3, 120)
        eventually(lambda wanted=wanted: sum(person.acknowledged() for person in people) >= wanted, 30)  # type: ignore[misc]
        mount.kill()
        for person in people:
            person.read_journal()
        for person in people:
            assert person.judge_midway(server) == [], person.number
        kills += 1 + restart(mount, chance)
        for person in people:
            assert person.judge() == [], (person.number, person.in_flight)
        if chance.random() < 0.4:
            mount.flush()
            judge_server(server, people)
    mount.flush()
    judge_server(server, people)
    mount.remount(wipe=True)
    for person in people:
        assert person.judge() == [], person.number
    judge_server(server, people)
    print(
        f"seed {seed}: {sum(person.history.operations for person in people)} operations acknowledged, {kills} kills, no finding"
    )
