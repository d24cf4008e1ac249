"""What a writer has done, replayed from its journal, and the verdict on what is there after a crash.

Every file and folder is a thing that keeps its identity through renames. Of each thing the model knows every place and content
that it had, and from when on they must have survived: the last acknowledged operation on it where a process was killed, the last
one that was followed by fsync of file and folder where the power was cut. A thing must then be found in a state that it had at
that time or later; whatever else is found is a finding.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any

from .matching import match
from .writer import State, content

__all__ = ["Finding", "History", "Kind", "Seen", "digest", "digest_of", "parts_in_flight"]

# So few bytes may be another file's as well.
_ANYBODY = 90

# Path -> MD5 of a file, None for a folder.
Seen = dict[str, str | None]


class Kind(str, Enum):
    """What a crash can do to what was acknowledged."""

    LOST = "LOST"  # a name that must be there is not
    STALE = "STALE"  # a whole content, but an older one than may be
    TORN = "TORN"  # bytes that the file never had
    DUP = "DUP"  # one name twice on the server
    RESURRECTED = "RESURRECTED"  # a name that was removed for good
    GHOST = "GHOST"  # a name that nobody made
    TIME = "TIME"  # stat shows another modification time
    UNREADABLE = "UNREADABLE"  # listed, and cannot be read
    HUNG = "HUNG"  # the mount did not answer in time


@dataclass(frozen=True)
class Finding:
    kind: Kind
    path: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind.value} {self.path} {self.detail}".rstrip()


def digest_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@lru_cache(maxsize=4096)
def _digest(made_from: str) -> str:
    return digest_of(content(json.loads(made_from)))


def digest(made_from: list[list[int]]) -> str:
    return _digest(json.dumps(made_from))


@dataclass(eq=False)
class Thing:
    """One file or folder. was: (time, path or None for removed, what it is made from or None for a folder)."""

    was: list[tuple[int, str | None, list[list[int]] | None]] = field(default_factory=list)
    floor: int = -1  # what it was then, or something later, must be found

    def since_floor(self, *, emptied: bool) -> Iterator[tuple[str | None, list[list[int]] | None]]:
        """Its states that are right, the latest first; never having been is one where nothing was promised.

        emptied: what has no promise may also be as it was between its creation and its first byte.
        """
        for time, path, made_from in reversed(self.was):
            yield path, made_from
            if time <= self.floor:
                return
            if emptied and made_from is not None:
                yield path, []
        yield None, None

    @property
    def may_be_gone(self) -> bool:
        return any(path is None for path, _ in self.since_floor(emptied=False))


class History:
    """Of one writer's folder. ``durably``: only what was followed by fsync must be there."""

    def __init__(self, state: State | None = None, *, durably: bool = False) -> None:
        self._durably = durably
        self._time = 0
        self._things: list[Thing] = []
        self._now: dict[str, Thing] = {}
        self._adopted: set[str] = set()  # contents found after former crashes, halves of what was in flight included
        self.operations = 0
        self.restart(state or {})

    def restart(self, state: State) -> None:
        """``state`` was found and judged: it is what everything begins from now."""
        self._things, self._now = [], {}
        self._adopted |= {digest(made_from) for made_from in state.values() if made_from is not None}
        for name, made_from in state.items():
            self._place(name, Thing(), made_from)
        self.promise_all()

    def promise_all(self) -> None:
        """All of it was found after a restart that nothing is missing from, or is on the server: it has to stay."""
        for thing in self._things:
            thing.floor = self._time

    @property
    def state(self) -> State:
        return {path: thing.was[-1][2] for path, thing in self._now.items()}

    # -- replaying -------------------------------------------------------------------------------------------------

    def read(self, entries: list[dict[str, Any]]) -> dict[str, Any] | None:
        """The journal of one life of the daemon; returns the entry of the operation in flight."""
        in_flight: dict[str, Any] | None = None
        touched: list[Thing] = []
        for entry in entries:
            if "begin" in entry:
                in_flight = entry
            elif "done" in entry:
                assert in_flight is not None
                touched = self._apply(in_flight)
                in_flight = None
                self.operations += 1
                if not self._durably:
                    self._promise(touched)
            elif "durable" in entry:
                self._promise(touched)
        return in_flight

    def begin(self, entry: dict[str, Any]) -> None:
        """It was in flight: what it does may be found, and need not be."""
        self._apply(entry)

    def _promise(self, things: list[Thing]) -> None:
        for thing in things:
            thing.floor = self._time

    def _apply(self, entry: dict[str, Any]) -> list[Thing]:
        """Bring all things to what they are after the operation; returns those that it was about."""
        self._time += 1
        kind, *names = entry["begin"]
        after: State = entry["after"]
        name = names[-1]
        if kind in ("create", "mkdir"):
            return [self._place(name, Thing(), after[name])]
        if kind in ("overwrite", "append"):
            return [self._place(name, self._now[name], after[name])]
        if kind in ("unlink", "rmdir"):
            return [self._remove(name)]
        victim = [self._remove(name)] if name in self._now else []
        return [*victim, *self._move(names[0], name)]

    def _place(self, path: str, thing: Thing, made_from: list[list[int]] | None) -> Thing:
        if not thing.was:
            self._things.append(thing)
        self._now[path] = thing
        thing.was.append((self._time, path, made_from))
        return thing

    def _remove(self, path: str) -> Thing:
        thing = self._now.pop(path)
        thing.was.append((self._time, None, None))
        return thing

    def _move(self, old: str, new: str) -> list[Thing]:
        moved = [path for path in self._now if f"{path}/".startswith(f"{old}/")]
        things = {path: self._now.pop(path) for path in moved}
        return [self._place(new + path[len(old) :], thing, thing.was[-1][2]) for path, thing in things.items()]

    # -- judging ---------------------------------------------------------------------------------------------------

    def judge(self, found: Seen, parts: dict[str, list[list[int]]]) -> tuple[list[Finding], State]:
        """What is wrong with ``found``, and the state that it is. parts: contents that an operation in flight may have left."""
        findings: list[Finding] = []
        state: State = {}
        fits = {path: self._fitting(path, md5) for path, md5 in found.items()}
        # Things may look alike, as empty files do: those who must be there are looked for first.
        matched = match(fits, [thing for thing in self._things if not thing.may_be_gone])
        explained = set(matched.values())
        for path, md5 in found.items():
            if path in matched:
                state[path] = fits[path][matched[path]]
                continue
            if left_over := self._left_over(path, md5):
                state |= left_over
                continue
            if path in parts and md5 == digest(parts[path]):
                state[path] = parts[path]
            else:
                findings.append(self._accuse(path, md5))
            if path in self._now:
                explained.add(self._now[path])
        accused = {finding.path for finding in findings}
        for thing in self._things:
            places = [path for path, _ in thing.since_floor(emptied=False)]
            if thing not in explained and not thing.may_be_gone and accused.isdisjoint(places):
                findings.append(Finding(Kind.LOST, str(places[0])))
        return findings, state

    def _fitting(self, path: str, md5: str | None) -> dict[Thing, list[list[int]] | None]:
        """The things that may be it, with what they are made from then."""
        fitting: dict[Thing, list[list[int]] | None] = {}
        for thing in self._things:
            for place, made_from in self._right(thing):
                if place == path and md5 == (None if made_from is None else digest(made_from)):
                    fitting.setdefault(thing, made_from)
        return fitting

    def _right(self, thing: Thing) -> list[tuple[str | None, list[list[int]] | None]]:
        """Where it may be, with which content. After a power cut its name may be newer than its bytes, or older."""
        states = list(thing.since_floor(emptied=self._durably))
        if not self._durably:
            return states
        return [(place, made_from) for place, _ in states for _, made_from in states]

    def _left_over(self, path: str, md5: str | None) -> State | None:
        """A temporary file whose renaming the power cut undid: empty, or what was to be saved."""
        if not self._durably or os.path.basename(path) != ".tmp":
            return None
        contents = [[], *(made for thing in self._things for _, _, made in thing.was if made is not None)]
        return next(({path: made} for made in contents if digest(made) == md5), None)

    def _accuse(self, path: str, md5: str | None) -> Finding:
        """Why nothing explains it."""
        had = {None if m is None else digest(m) for thing in self._things for _, place, m in thing.was if place == path}
        if not had:
            return Finding(Kind.GHOST, path)
        if all(place != path for thing in self._things for place, _ in thing.since_floor(emptied=False)):
            return Finding(Kind.RESURRECTED, path)
        return Finding(Kind.STALE if md5 in had else Kind.TORN, path)

    # -- the order on the server -----------------------------------------------------------------------------------

    def judge_midway(self, found: list[tuple[str, str | None]], known: set[str]) -> list[Finding]:
        """On the server while changes are under way: whole contents only, and nothing vanishes that was there and still is here.

        known: contents that the server had before. So never a deletion without the copy before it, never a rename's removal of
        one name without the other. A newcomer and its victim may lie there together for a moment.
        """
        whole = {digest(made) for thing in self._things for _, _, made in thing.was if made is not None} | self._adopted
        findings = [Finding(Kind.TORN, path, "on the server") for path, md5 in found if md5 is not None and md5 not in whole]
        there = {md5 for _path, md5 in found}
        for thing in set(self._now.values()):
            contents = {digest(made): _size(made) for _, _, made in thing.was if made is not None}
            were_there = {md5 for md5, size in contents.items() if md5 in known and size > _ANYBODY}
            if were_there and not contents.keys() & there:
                findings.append(Finding(Kind.LOST, str(thing.was[-1][1]), "on the server, midway"))
        return findings


def _size(made_from: list[list[int]]) -> int:
    return sum(arrived[0] if arrived else size for _seed, size, *arrived in made_from)


def parts_in_flight(history: History, entry: dict[str, Any] | None, read: dict[str, bytes]) -> dict[str, list[list[int]]]:
    """The contents that an operation in flight may have left half-way: a prefix of what it was writing, by path."""
    if entry is None or entry["begin"][0] not in ("create", "append", "overwrite"):
        return {}
    kind, name = entry["begin"][:2]
    path = os.path.join(os.path.dirname(name), ".tmp") if kind == "overwrite" else name
    *before, last = entry["after"][name]
    arrived = len(read.get(path, b"")) - len(content(before))
    return {path: [*before, [*last, arrived]]} if path in read and 0 <= arrived <= last[1] else {}
