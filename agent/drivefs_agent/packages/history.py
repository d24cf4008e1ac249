"""Manifests in a store: which there are, which are the newest, and what several newest ones amount to.

    objects/NAME-VERSION-SHA.tar.zst            see ``model``
    envs/ENV/LINE/ID[.after-HEX…].json          manifests; ID is TIME-BOX-HEX, and after "after" come its parents' HEX
    requirements.txt, README.txt                for people

The names alone tell who follows whom, so one listing is the whole history of a line, and only what is wanted is read. A manifest
without followers is a *head*; where two boxes saved at once there are two, and they are merged when something is next written,
or in memory when something is restored.

Invariant: what a name says of parents is compared with the manifest itself when it is read.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import reduce
from pathlib import Path
from typing import Final

from drivefs_agent.packages.errors import NothingFits, StoreDamaged, Untrusted
from drivefs_agent.packages.folder import Entry, Folder
from drivefs_agent.packages.merge import Merged, merge
from drivefs_agent.packages.model import Manifest, Object

__all__ = ["Commit", "Graph", "Joined", "Store", "new_id"]

_FILE: Final = re.compile(
    r"(?P<id>(?P<time>\d{8}T\d{9})Z-(?P<box>\w{1,64})-(?P<hex>[0-9a-f]{12}))(?P<after>(?:[.]after)?(?:-[0-9a-f]{12})*)[.]json"
)
_LARGEST: Final = 64 << 20  # bytes of a manifest; 10,000 parts have some 4 MB
_ENV: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Commit:
    """A manifest as its name tells it. hex: what names it among its line; parents: theirs.  time: by the clock of its box."""

    id: str
    hex: str
    parents: tuple[str, ...]
    time: datetime
    box: str
    entry: Entry


class Graph:
    """The history of one line, from one listing."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        found = (_commit(entry) for entry in entries)
        self._commits = {commit.hex: commit for commit in found if commit is not None}

    def __bool__(self) -> bool:
        return bool(self._commits)

    def newest_first(self) -> list[Commit]:
        return sorted(self._commits.values(), key=lambda commit: commit.id, reverse=True)

    def heads(self) -> list[Commit]:
        """Those that none came after, newest first."""
        followed = {parent for commit in self._commits.values() for parent in commit.parents}
        return [commit for commit in self.newest_first() if commit.hex not in followed]

    def find(self, text: str) -> Commit:
        """By id, or by the beginning of its HEX. NothingFits where there is none, or several."""
        fitting = [
            commit for commit in self.newest_first() if commit.id == text or (len(text) >= 4 and commit.hex.startswith(text))
        ]
        if len(fitting) != 1:
            some = "Several states are" if fitting else "No state is"
            raise NothingFits(f"{some} called {text!r}. See: drivefs-agent packages history")
        return fitting[0]

    def ancestors(self, commit: Commit) -> set[str]:
        """HEX of it and of all before it that are still there."""
        seen: set[str] = set()
        waiting = [commit.hex]
        while waiting:
            each = waiting.pop()
            if each in self._commits and each not in seen:
                seen.add(each)
                waiting += self._commits[each].parents
        return seen

    def common(self, commits: Iterable[Commit], other: Commit) -> Commit | None:
        """The newest state that ``other`` and any of ``commits`` both came after."""
        before = set().union(*(self.ancestors(commit) for commit in commits)) & self.ancestors(other)
        return max((self._commits[each] for each in before), key=lambda commit: commit.id, default=None)


@dataclass(frozen=True, slots=True)
class Joined:
    """Heads as one state. newest: the latest of them, whose target counts."""

    newest: Manifest
    heads: tuple[Commit, ...]
    merged: Merged
    objects: Mapping[str, Object]


class Store:
    """One environment in a folder.

    cache: where manifests are kept once they were read; they never change.  trust: also what other people own is used.
    """

    def __init__(self, folder: Folder, env: str = "default", *, cache: Path | None = None, trust: bool = False) -> None:
        if not _ENV.fullmatch(env):
            raise StoreDamaged(f"{env!r} is no name for an environment. Use letters, digits, '-', '_' and '.'.")
        self.folder = folder
        self.env = env
        self._cache = cache
        self._trust = trust

    @property
    def trusts(self) -> bool:
        """What other people own is used."""
        return self._trust

    # -- reading ---------------------------------------------------------------------------------------------------

    def require_trusted(self) -> None:
        """Objects are code that runs at the next start of Python, so the folder must be the account's own."""
        if not self._trust and not self.folder.owned():
            raise Untrusted(
                f"The store {self.folder.address} belongs to somebody else, and its packages would run as you. "
                "If you trust them with your account, use --trust."
            )

    def envs(self) -> list[str]:
        return [name for name in self.folder.folders("envs") if _ENV.fullmatch(name)]

    def of(self, env: str) -> Store:
        """Another environment in the same folder."""
        return self if env == self.env else Store(self.folder, env, cache=self._cache, trust=self._trust)

    def lines(self) -> list[str]:
        return self.folder.folders(f"envs/{self.env}")

    def graphs(self) -> dict[tuple[str, str], Graph]:
        """Of each line, by environment and line."""
        return {(self.env, line): self.graph(line) for line in self.lines()}

    def graph(self, line: str) -> Graph:
        return Graph(self._trusted(self.folder.files(f"envs/{self.env}/{line}"), "state"))

    def objects(self) -> dict[str, Entry]:
        """By name. Of several with one name, which hold the same, the oldest."""
        entries = self._trusted(self.folder.files("objects"), "object")
        return {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.created, reverse=True)}

    def _trusted(self, entries: list[Entry], what: str) -> list[Entry]:
        strange = [entry for entry in entries if not entry.owned]
        if strange and not self._trust:
            raise Untrusted(
                f"The store {self.folder.address} holds the {what} {strange[0].name!r}, which belongs to somebody else. "
                "Remove what you did not put there, or use --trust if you trust everybody who can write into it."
            )
        return entries

    def read(self, commit: Commit) -> Manifest:
        content = self._cached(commit) or self._fetch(commit)
        try:
            manifest = Manifest.from_json(json.loads(content))
        except (ValueError, RecursionError) as error:
            raise StoreDamaged(f"The manifest {commit.id} is damaged: {error}") from error
        parents = tuple(parent.rpartition("-")[2] for parent in manifest.parents)
        if manifest.id != commit.id or sorted(parents) != sorted(commit.parents) or manifest.env != self.env:
            raise StoreDamaged(f"The manifest {commit.id} says that it is another. Remove it from {self.folder.address}.")
        self._keep(commit, content)
        return manifest

    def _fetch(self, commit: Commit) -> bytes:
        if commit.entry.size > _LARGEST:
            raise StoreDamaged(f"The manifest {commit.id} has {commit.entry.size} bytes, which none of ours has.")
        with self.folder.open(commit.entry) as chunks:
            return b"".join(chunks)

    def _cache_path(self, commit: Commit) -> Path | None:
        """Of a manifest whose bytes the store vouches for: the checksum is part of the name, so a changed one is read anew."""
        return self._cache / f"{commit.id}-{commit.entry.md5}.json" if self._cache and commit.entry.md5 else None

    def _cached(self, commit: Commit) -> bytes | None:
        path = self._cache_path(commit)
        with contextlib.suppress(OSError):
            return path.read_bytes() if path is not None else None
        return None

    def _keep(self, commit: Commit, content: bytes) -> None:
        path = self._cache_path(commit)
        if path is None or path.exists():
            return
        with contextlib.suppress(OSError):  # it is only a convenience
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            aside = path.with_suffix(f".{secrets.token_hex(4)}")
            aside.write_bytes(content)
            aside.replace(path)

    # -- joining ---------------------------------------------------------------------------------------------------

    def join(self, graph: Graph) -> Joined | None:
        """All heads as one state; None where there is none."""
        heads = graph.heads()
        if not heads:
            return None
        manifests = [self.read(head) for head in heads]
        merged = Merged(manifests[0].by_name())
        for position, (head, manifest) in enumerate(zip(heads[1:], manifests[1:], strict=True), 1):
            past = graph.common(heads[:position], head)
            base = self.read(past).by_name() if past is not None else {}
            step = merge(base, merged.parts, manifest.by_name())
            merged = Merged(step.parts, merged.notes + step.notes)
        objects: dict[str, Object] = reduce(lambda known, manifest: {**manifest.objects, **known}, manifests, {})
        return Joined(manifests[0], tuple(heads), merged, objects)

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, manifest: Manifest) -> None:
        """Publish it. Everything that it names must be in the store."""
        hexes = [parent.rpartition("-")[2] for parent in manifest.parents]
        after = "".join(f"-{each}" for each in hexes)
        name = f"{manifest.id}.after{after}.json" if hexes else f"{manifest.id}.json"
        content = json.dumps(manifest.to_json(), indent=1).encode() + b"\n"
        self.folder.put(f"envs/{self.env}/{manifest.target.line}/{name}", content)


def new_id(time: float, box: str) -> str:
    """``box``: the host's name; what it has besides letters and digits is left out."""
    moment = datetime.fromtimestamp(time, timezone.utc)
    host = re.sub(r"[^A-Za-z0-9]+", "_", box).strip("_")[:64] or "box"
    return f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03d}Z-{host}-{secrets.token_hex(6)}"


def _commit(entry: Entry) -> Commit | None:
    """None for a file that is no manifest by its name: people put all sorts of things into their Drive."""
    match = _FILE.fullmatch(entry.name)
    if match is None:
        return None
    try:
        time = datetime.strptime(match["time"][:15], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    parents = tuple(re.findall(r"-([0-9a-f]{12})", match["after"]))
    return Commit(match["id"], match["hex"], parents, time, match["box"], entry)
