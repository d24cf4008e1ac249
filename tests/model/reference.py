"""What must be seen: the reference, and the verdicts after a kill and after a power cut."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

from drivefs.base.model import Kind

__all__ = ["Entry", "Model", "Past", "adopted", "copy_of", "matches"]

_CONFLICT = re.compile(r" \(conflict [^()]*\)")
_fresh_uid = partial(next, count())


@dataclass
class Entry:
    """What the reference knows of one item. mtime_ms is None where no program set it; uid stays through renames."""

    kind: Kind
    data: bytes = b""
    mode: int | None = None
    mtime_ms: int | None = None
    target: str | None = None
    uid: int = field(default_factory=_fresh_uid)

    @property
    def folder(self) -> bool:
        return self.kind is Kind.FOLDER

    def same(self, other: Entry | None) -> bool:
        """But for the time."""
        return other is not None and replace(self, mtime_ms=None) == replace(other, mtime_ms=None)


Model = dict[str, Entry]


def copy_of(model: Model) -> Model:
    return {path: replace(entry) for path, entry in model.items()}


# -- after a kill ------------------------------------------------------------------------------------------------------


def matches(seen: Model, model: Model, candidates: list[Model]) -> bool:
    """Whether ``seen`` has the names of ``model``, and each item is as in one of ``candidates``."""
    if set(seen) != set(model):
        return False
    versions = {path: [m[path] for m in candidates if path in m] for path in seen}
    return all(_is_one_of(entry, versions[path]) for path, entry in seen.items())


def _is_one_of(entry: Entry, versions: list[Entry]) -> bool:
    """Content is one version; only a write under way may, as on any file system, have reached the disk in part."""
    if not any((entry.kind, entry.target, entry.mode) == (v.kind, v.target, v.mode) for v in versions):
        return False
    return _is_mixture(entry.data, [v.data for v in versions])


def _is_mixture(data: bytes, versions: list[bytes]) -> bool:
    """As long as one of them, and each byte from one of them."""
    if len(data) not in [len(v) for v in versions]:
        return False
    return all(byte in [v[at] for v in versions if at < len(v)] for at, byte in enumerate(data))


def adopted(seen: Model, candidates: list[Model]) -> Model:
    """The reference after a kill: times that programs had set stay expected where the kill cannot have changed them."""
    result = copy_of(seen)
    for path, entry in result.items():
        versions = [model[path] for model in candidates if path in model]
        times = {v.mtime_ms for v in versions}
        entry.mtime_ms = times.pop() if len(times) == 1 else None
        entry.uid = next((v.uid for v in versions if v.data == entry.data), versions[-1].uid)
    return result


# -- after a power cut -------------------------------------------------------------------------------------------------


class Past:
    """All acknowledged states since everything was safe, and which of them a power cut must not touch.

    What was fsynced is there afterwards, as it was then or as it was acknowledged to be later. Anything else may be as it was in
    any acknowledged state since, or missing; but nothing is torn, and no name is seen that no program gave.
    """

    def __init__(self, model: Model) -> None:
        self._models = [copy_of(model)]
        self._names_safe = 0
        self._safe: dict[int, int] = {entry.uid: 0 for entry in model.values()}
        self._replaced_by: dict[int, int] = {}

    def fork(self) -> Past:
        """For what a process that is dead goes on telling; only what replaced what is kept of that."""
        other = Past({})
        other._replaced_by = self._replaced_by
        return other

    def add(self, model: Model) -> None:
        self._models.append(copy_of(model))

    def replaced(self, old: Entry, new: Entry) -> None:
        self._replaced_by[old.uid] = new.uid

    def names_synced(self) -> None:
        """An fsync of a file or a directory has returned: all names are safe, and what has no content but its name."""
        self._names_safe = len(self._models) - 1
        for entry in self._models[-1].values():
            if entry.kind is not Kind.FILE:
                self._safe[entry.uid] = self._names_safe

    def content_synced(self, entry: Entry) -> None:
        self._safe[entry.uid] = len(self._models) - 1

    def all_on_drive(self) -> None:
        """Drive has everything: no content can be lost any more, but for changes that come now."""
        for entry in self._models[-1].values():
            self._safe[entry.uid] = len(self._models) - 1

    def judge(self, seen: Model, in_flight: Model | None, *, complete: bool) -> Model:
        """Raise AssertionError where ``seen`` breaks a promise. complete: all has been sent and fetched, so nothing may lack.

        in_flight: the state that an operation not acknowledged would have made. Returns ``seen`` with the uids recognised.
        """
        models = self._models if in_flight is None else [*self._models, in_flight]
        found: dict[str, set[int]] = {path: self._recognised(path, entry, models, in_flight) for path, entry in seen.items()}
        strange = {path: seen[path] for path, uids in found.items() if not uids}
        assert not strange, f"after a power cut there is {strange}, which was never acknowledged\n{self._told(models)}"
        if complete:
            self._check_nothing_lost(set().union(*found.values()), models, in_flight)
            self._check_untouched(seen, models)
        return {path: replace(entry, uid=max(found[path])) for path, entry in seen.items()}

    def _recognised(self, path: str, entry: Entry, models: list[Model], in_flight: Model | None) -> set[int]:
        """The items that ``entry`` may be, by name and content."""
        last = path.rpartition("/")[2]
        name = _CONFLICT.sub("", last)
        uids: set[int] = set()
        versions: dict[int, list[bytes]] = {}
        for index, model in enumerate(models):
            for known_path, known in model.items():
                # A conflict copy keeps what would otherwise be overwritten, however old it is.
                if index >= self._safe.get(known.uid, 0) or name != last:
                    versions.setdefault(known.uid, []).append(known.data)
                named = known_path.rpartition("/")[2] == name and index >= self._names_safe
                if named and known.kind is entry.kind and known.target == entry.target:
                    uids |= self._former(known.uid)
        under_way = () if in_flight is None else {known.uid for known in in_flight.values()}
        return {
            uid
            for uid in uids
            if entry.data in versions.get(uid, ()) or (uid in under_way and _is_mixture(entry.data, versions.get(uid, [])[-2:]))
        }

    def _former(self, uid: int) -> set[int]:
        """The item, and those it took the place of, as far back as one is safe: if its content is lost, theirs comes back."""
        former = {uid}
        while uid not in self._safe and (before := [old for old, new in self._replaced_by.items() if new == uid]):
            uid = before[-1]
            former.add(uid)
        return former

    def _check_nothing_lost(self, found: set[int], models: list[Model], in_flight: Model | None) -> None:
        alive = [{entry.uid for entry in model.values()} for model in models[-1 if in_flight is None else -2 :]]
        for uid, safe_at in self._safe.items():
            chain = [uid]
            while chain[-1] in self._replaced_by:
                chain.append(self._replaced_by[chain[-1]])
            if all(uids & set(chain) for uids in alive):
                names = {path for model in models[safe_at:] for path, entry in model.items() if entry.uid in chain}
                assert found & set(chain), f"after a power cut {sorted(names)} is lost\n{self._told(models)}"

    def _check_untouched(self, seen: Model, models: list[Model]) -> None:
        """What was safe and nobody touched since is there in every detail."""
        for path, entry in models[-1].items():
            since = min(self._names_safe, self._safe.get(entry.uid, len(models)))
            if entry.uid in self._safe and all(entry.same(model.get(path)) for model in models[since:]):
                there = seen.get(path)
                assert there is not None, f"after a power cut {path} is lost\n{self._told(models)}"
                assert replace(there, uid=entry.uid).same(entry), f"{path}: {there} where {entry} was safe"

    def _told(self, models: list[Model]) -> str:
        safe = f"names safe at {self._names_safe}, items at {self._safe}, replaced: {self._replaced_by}"
        return "\n".join([safe, *(f"{index}: {_told(model)}" for index, model in enumerate(models))])


def _told(model: Model) -> str:
    return ", ".join(f"{path}#{entry.uid}={entry.data[:12]!r}+{len(entry.data)}" for path, entry in sorted(model.items()))
