"""What a restore makes of each part: from a state of the store, what the layer holds, and their common past. Pure.

merge   the newest state: what changed here since the last save stays, and what changed there comes
named   a state that a person named: what it has comes as it has it, and what is in the layer besides and unsaved stays
exact   the same, and what it does not have goes
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from drivefs_agent.packages import fit
from drivefs_agent.packages.candidate import Candidate
from drivefs_agent.packages.fit import Judged
from drivefs_agent.packages.merge import merge, same
from drivefs_agent.packages.model import Kind, Part, Target

__all__ = ["Decided", "Mode", "decide"]

_MISSING: Final = "Its archive is not in the store."
_UNWANTED: Final = "It is not installed anew, as you asked."


class Mode:
    """How a state and the layer come together."""

    MERGE: Final = "merge"
    NAMED: Final = "named"
    EXACT: Final = "exact"


@dataclass(frozen=True, slots=True)
class Decided:
    """held: in the layer already, as the store has it, or installed anew at the same version.  kept: in the layer alone.

    fetched: from the store.  anew: to be installed.  left_out: neither.  removed: in the store, gone here since the last save.
    """

    held: Mapping[str, Part]
    kept: Mapping[str, Part]
    fetched: tuple[Part, ...]
    anew: tuple[Judged, ...]
    left_out: tuple[Judged, ...]
    removed: Mapping[str, Part]
    notes: tuple[str, ...]

    @property
    def stays(self) -> frozenset[str]:
        """Names of what is in the layer and stays there."""
        return frozenset((*self.held, *self.kept))

    def changes(self, ours: Iterable[str]) -> bool:
        """The layer, which holds ``ours``, becomes another."""
        return bool(self.fetched or self.anew) or self.stays != frozenset(ours)


def decide(
    candidate: Candidate,
    past: Mapping[str, Part],
    ours: Mapping[str, Part],
    stored: Collection[str],
    here: Target,
    *,
    mode: str = Mode.MERGE,
    resolving: bool = True,
) -> Decided:
    """past: what layer and store had in common.  ours: what the layer holds.  stored: names of objects in the store.

    resolving: what does not fit may be installed anew.
    """
    theirs = {name: part for name, part in candidate.parts.items() if part.kind != Kind.DIRECTORY}
    wanted, notes = _wanted(candidate, past, ours, theirs, here, mode)
    present = {name: part for name, part in wanted.items() if same(ours.get(name), part)}
    held = {name: part for name, part in present.items() if same(theirs.get(name), part)}
    judged = fit.plan((part for name, part in wanted.items() if name not in present), candidate.made_for, here)
    fetched = tuple(part for part in judged.as_it_is if part.object in stored)
    anew = [*judged.anew, *(Judged(part, _MISSING) for part in judged.as_it_is if part.object not in stored)]
    left_out = list(judged.left_out)
    # What was installed anew at an earlier restore has other bytes than the store's, and is right all the same.
    for refused in (anew, left_out):
        for one in [one for one in refused if _version(ours, one.part.name) == one.part.version]:
            held[one.part.name] = ours[one.part.name]
            refused.remove(one)
    if not resolving:
        left_out += [Judged(one.part, f"{one.reason} {_UNWANTED}") for one in anew]
        anew = []
    removed = {name: part for name, part in theirs.items() if name in past and name not in ours and name not in wanted}
    return Decided(
        held=held,
        kept={name: part for name, part in present.items() if name not in held},
        fetched=fetched,
        anew=tuple(anew),
        left_out=tuple(left_out),
        removed=removed,
        notes=(*candidate.notes, *notes, *judged.notes, *_on_removed(removed, mode)),
    )


def _wanted(
    candidate: Candidate,
    past: Mapping[str, Part],
    ours: Mapping[str, Part],
    theirs: Mapping[str, Part],
    here: Target,
    mode: str,
) -> tuple[Mapping[str, Part], tuple[str, ...]]:
    if mode == Mode.EXACT:
        return theirs, ()
    if mode == Mode.NAMED:
        unsaved = {name: part for name, part in ours.items() if name not in theirs and not same(past.get(name), part)}
        return {**theirs, **unsaved}, ()
    if candidate.made_for.line != here.line:  # no common past: what was installed for this Python is right for it
        return {**theirs, **ours}, ()
    merged = merge({name: part for name, part in past.items() if part.kind != Kind.DIRECTORY}, ours, theirs)
    return merged.parts, merged.notes


def _on_removed(removed: Mapping[str, Part], mode: str) -> tuple[str, ...]:
    if not removed or mode != Mode.MERGE:
        return ()
    names = ", ".join(sorted(removed))
    return (f"Removed here since the last save, and so not brought back: {names}. To have it all the same, name the state.",)


def _version(parts: Mapping[str, Part], name: str) -> str | None:
    return parts[name].version if name in parts else None
