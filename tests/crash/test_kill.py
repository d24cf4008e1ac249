"""SIGKILL of the daemon at random moments while programs work: nothing acknowledged is lost, mixed, doubled or resurrected.

The model is what the writers wrote down as acknowledged; of the one operation in flight, either state is right, and of a file
that was being written, any prefix. It is compared with the mount at once after each restart, with the server once all was sent,
and with the mount again once the cache was wiped.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ..support.mounts import QUICK, Mount, eventually
from ..support.server import FOLDER, Server, environment
from .writer import State, content

WRITERS = 3
ROUNDS = 12
SECOND_KILL = 0.3
# Seconds until a mount answers after a kill, whatever is to be recovered.
RESTART = 5.0


@dataclass
class Person:
    """One writer and the model of its folder. times: what stat said of a content, by what that is made from."""

    number: int
    folder: Path
    journal: Path
    state: State = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, seed: int) -> None:
        self.journal.write_bytes(b"")
        command = [sys.executable, str(Path(__file__).with_name("writer.py")), str(self.folder), str(self.journal), str(seed)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment())
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(self.state).encode())
        self.process.stdin.close()

    def acknowledged(self) -> int:
        return self.journal.read_bytes().count(b'{"done"')

    def read_journal(self) -> dict[str, Any] | None:
        """Bring the model to what was acknowledged; returns the entry of the operation in flight."""
        assert self.process is not None
        self.process.wait(30)
        in_flight = None
        entries = [json.loads(line) for line in self.journal.read_bytes().splitlines()]
        for entry in entries:
            if "begin" in entry:
                in_flight = entry
            elif "done" in entry:
                assert in_flight is not None
                self.state, in_flight = in_flight["after"], None
            elif "of" in entry:
                self.times[json.dumps(entry["of"])] = entry["mtime_ns"] // 10**6
        assert entries[-1].get("errno") in (errno.ENOTCONN, errno.ECONNABORTED), entries[-2:]
        return in_flight


def seen(folder: Path) -> dict[str, bytes | None]:
    """Everything below, by path: bytes of files, None for directories. Opening what is listed must succeed."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in paths}


def bytes_of(state: State) -> dict[str, bytes | None]:
    return {name: None if made_from is None else content(made_from) for name, made_from in state.items()}


def arrivals(state: State, name: str, whole: list[list[int]], actual: bytes | None) -> Iterator[State]:
    """The state in which a prefix of the last piece of ``whole`` has arrived at ``name``, if that is what ``actual`` shows."""
    *before, last = whole
    arrived = len(actual or b"") - len(content(before))
    if actual is not None and 0 <= arrived <= last[1]:
        yield state | {name: [*before, [*last, arrived]]}


def possible(state: State, entry: dict[str, Any] | None, actual: dict[str, bytes | None]) -> Iterator[State]:
    """All states that are right after a kill with ``entry`` in flight."""
    yield state
    if entry is None:
        return
    after: State = entry["after"]
    yield after
    kind, name = entry["begin"][:2]
    if kind in ("create", "append"):
        yield from arrivals(state, name, after[name], actual.get(name))
    elif kind == "overwrite":
        temporary = os.path.join(os.path.dirname(name), ".tmp")
        yield from arrivals(state, temporary, after[name], actual.get(temporary))


def judge_locally(person: Person, entry: dict[str, Any] | None) -> None:
    """The mount shows the model, or what the operation in flight may have made of it; which is the model from now on."""
    actual = seen(person.folder)
    for state in possible(person.state, entry, actual):
        if bytes_of(state) == actual:
            person.state = state
            break
    else:
        wanted = bytes_of(person.state)
        wrong = {n for n in wanted.keys() | actual.keys() if n not in wanted or n not in actual or wanted[n] != actual[n]}
        raise AssertionError(f"writer {person.number}, in flight {entry and entry['begin']}: wrong are {sorted(wrong)}")
    judge_times(person)
    for name in [name for name in person.state if os.path.basename(name) == ".tmp"]:
        os.unlink(person.folder / name)
        del person.state[name]


def judge_times(person: Person) -> None:
    for name, made_from in person.state.items():
        noted = person.times.get(json.dumps(made_from))
        if noted is not None:
            assert (person.folder / name).stat().st_mtime_ns // 10**6 == noted, name


def milliseconds(time_text: str) -> int:
    return round(datetime.fromisoformat(time_text.replace("Z", "+00:00")).timestamp() * 1000)


def judge_server(server: Server, people: list[Person]) -> None:
    """After a drain the server has the model, the whole model and nothing else, with the times that stat shows."""
    wanted: dict[str, str | None] = {}
    for person in people:
        wanted[person.folder.name] = None
        for name, data in bytes_of(person.state).items():
            wanted[f"{person.folder.name}/{name}"] = None if data is None else hashlib.md5(data).hexdigest()
    items = server.paths()
    assert {path: item["md5"] for path, item in items.items()} == wanted
    assert all((item["mimeType"] == FOLDER) == (wanted[path] is None) for path, item in items.items())
    for path, item in items.items():
        if wanted[path] is not None:
            local = (people[0].folder.parent / path).stat().st_mtime_ns // 10**6
            assert milliseconds(item["modifiedTime"]) == local, path


def restart(mount: Mount, chance: random.Random) -> None:
    """Mount again; sometimes kill the daemon again as soon as its recovery has begun, or just after it answered."""
    if chance.random() < SECOND_KILL:
        command = [sys.executable, "-m", "drivefs", "mount", str(mount.point), "--cache-dir", str(mount.cache), *QUICK]
        starting = subprocess.Popen(command, env=mount.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: mount.pid is not None)
        if chance.random() < 0.5:
            starting.wait(30)
        mount.kill()
        starting.wait(30)
    begin = time.monotonic()
    mount.mount()
    assert time.monotonic() - begin < RESTART


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_kills_at_random_moments(seed: int, mount: Mount, server: Server, home: Path) -> None:
    """Twelve kills under three writers, some with a second kill during recovery; every comparison with the model is exact."""
    chance = random.Random(seed)
    people = [Person(n, mount.my / f"w{n}", home / f"journal{n}") for n in range(WRITERS)]
    for person in people:
        person.folder.mkdir()
    for _ in range(ROUNDS):
        for person in people:
            person.start(chance.randrange(1 << 30))
        wanted = chance.randrange(3, 120)
        eventually(lambda wanted=wanted: sum(person.acknowledged() for person in people) >= wanted, 30)  # type: ignore[misc]
        mount.kill()
        entries = [person.read_journal() for person in people]
        restart(mount, chance)
        for person, entry in zip(people, entries, strict=True):
            judge_locally(person, entry)
        if chance.random() < 0.4:
            mount.flush()
            judge_server(server, people)
    mount.flush()
    judge_server(server, people)
    mount.remount(wipe=True)
    for person in people:
        judge_locally(person, None)
    judge_server(server, people)
