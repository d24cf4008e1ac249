"""Every short sequence of operations on few names, then a kill: the bugs of file systems that crashes show need three or fewer.

All sequences of one to three operations on two names in two folders and a third folder that may come and go. Each has a folder
of its own. The daemon is killed once when everything is acknowledged and nothing was sent, and once while it is being sent.
Source of the idea: Mohan et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing", OSDI 2018.

DRIVEFS_SEQUENCES: how many, drawn by chance (default 160); 0: all of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..support.mounts import Mount, eventually
from ..support.server import Server
from .history import digest_of
from .people import read_folder, server_view

SEQUENCES = int(os.environ.get("DRIVEFS_SEQUENCES", "160"))
LONGEST = 3
FILES = ("d/x", "d/y", "e/x", "e/y")
FOLDERS = ("d", "e", "f")

# Path -> bytes of a file, None for a folder.
State = dict[str, bytes | None]
BEGINNING: State = {"d": None, "e": None, "d/x": b"first", "e/y": b"second"}


@dataclass(frozen=True)
class Step:
    """``act`` is told the folder that the sequence has for itself."""

    name: str
    act: Callable[[Path], object]
    after: State


def put(path: str, mode: str, data: bytes) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        with open(folder / path, mode) as file:
            file.write(data)

    return act


def moved(state: State, old: str, new: str) -> State:
    rest = {path: data for path, data in state.items() if f"{path}/".startswith(f"{old}/") is False and path != new}
    return rest | {new + path[len(old) :]: data for path, data in state.items() if f"{path}/".startswith(f"{old}/")}


def without(state: State, path: str) -> State:
    return {other: data for other, data in state.items() if other != path}


def steps(state: State, number: int) -> Iterator[Step]:
    """Every operation that is possible in ``state``; what the ``number``-th one writes is its own."""
    fresh = b"written by step %d" % number
    for path in (path for path in FILES if os.path.dirname(path) in state):
        data = state.get(path)
        if data is None:
            yield Step(f"create {path}", put(path, "xb", fresh), state | {path: fresh})
            continue
        yield Step(f"overwrite {path}", put(path, "wb", fresh), state | {path: fresh})
        yield Step(f"append {path}", put(path, "ab", fresh), state | {path: data + fresh})
        yield Step(f"truncate {path}", lambda f, p=path: os.truncate(f / p, 3), state | {path: data[:3]})  # type: ignore[misc]
        yield Step(f"unlink {path}", lambda f, p=path: os.unlink(f / p), without(state, path))  # type: ignore[misc]
        for new in (new for new in FILES if new != path and os.path.dirname(new) in state):
            yield rename(state, path, new)
    for path in FOLDERS:
        if path not in state:
            yield Step(f"mkdir {path}", lambda f, p=path: os.mkdir(f / p), state | {path: None})  # type: ignore[misc]
            continue
        if is_empty(state, path):
            yield Step(f"rmdir {path}", lambda f, p=path: os.rmdir(f / p), without(state, path))  # type: ignore[misc]
        for new in (new for new in FOLDERS if new != path and is_empty(state, new)):
            yield rename(state, path, new)


def is_empty(state: State, folder: str) -> bool:
    """Or not there at all."""
    return not any(path.startswith(f"{folder}/") for path in state)


def rename(state: State, old: str, new: str) -> Step:
    return Step(f"rename {old} {new}", lambda f: os.rename(f / old, f / new), moved(state, old, new))


def sequences(state: State, length: int, number: int = 1) -> Iterator[list[Step]]:
    """All of at most ``length`` steps."""
    for step in steps(state, number):
        yield [step]
        if length > 1:
            for rest in sequences(step.after, length - 1, number + 1):
                yield [step, *rest]


def chosen() -> list[list[Step]]:
    everything = list(sequences(BEGINNING, LONGEST))
    return everything if SEQUENCES == 0 else random.Random(1).sample(everything, min(SEQUENCES, len(everything)))


def prepare(folder: Path) -> None:
    folder.mkdir()
    for path, data in BEGINNING.items():
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)


def judge_locally(place: Path, cases: list[list[Step]]) -> None:
    for number, case in enumerate(cases):
        read, unreadable = read_folder(place / str(number))
        assert not unreadable, [step.name for step in case]
        assert read == case[-1].after, [step.name for step in case]


def judge_server(server: Server, place: str, cases: list[list[Step]]) -> None:
    found, twins = server_view(server, place)
    assert not twins
    wanted: dict[str, str | None] = {}
    for number, case in enumerate(cases):
        state: State = {"": None, **{f"/{path}": data for path, data in case[-1].after.items()}}
        wanted |= {f"{number}{path}": None if data is None else digest_of(data) for path, data in state.items()}
    wrong = {path.split("/")[0] for path in wanted.keys() | found.keys() if wanted.get(path, "-") != found.get(path, "-")}
    assert not wrong, [[step.name for step in cases[int(number)]] for number in sorted(wrong)[:5]]


def perform(place: Path, cases: list[list[Step]]) -> None:
    for number, case in enumerate(cases):
        for step in case:
            step.act(place / str(number))


@pytest.mark.slow
@pytest.mark.timeout(120 if SEQUENCES else 3600)
@pytest.mark.parametrize("sent", [False, True])
def test_short_sequences(sent: bool, mount: Mount, server: Server) -> None:
    """Killed before anything was sent, or in the middle of it: the mount at once, the server in the end, a fresh cache too."""
    cases = chosen()
    place = mount.my / "all"
    place.mkdir()
    for number in range(len(cases)):
        prepare(place / str(number))
    mount.remount(*(() if sent else ("--upload-delay", "600")))
    list(place.rglob("*"))  # a fresh listing is no part of what is being tested
    before = sum(server.requests().values())
    perform(place, cases)
    if sent:
        several = len(cases) // 2
        eventually(lambda: sum(server.requests().values()) > before + several, 60)
    mount.kill()
    mount.mount()
    judge_locally(place, cases)
    mount.flush()
    judge_server(server, "all", cases)
    mount.remount(wipe=True)
    judge_locally(place, cases)
    print(f"{len(cases)} sequences, {sum(map(len, cases))} operations, no finding")


def test_all_sequences_are_made() -> None:
    """Each kind of operation is among them, and the first of each sequence is possible at the beginning."""
    everything = list(sequences(BEGINNING, 2))
    kinds = {step.name.split()[0] for case in everything for step in case}
    assert kinds == {"create", "overwrite", "append", "truncate", "unlink", "rename", "mkdir", "rmdir"}
    assert {len(case) for case in everything} == {1, 2}
