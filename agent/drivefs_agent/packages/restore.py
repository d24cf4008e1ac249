"""The newest fitting state of a store becomes the layer of this box, or nothing changes.

A new generation is built beside the one in use and takes its place by one rename, when everything in it has been verified: the
archives against the manifest's SHA-256, the files against their RECORD. What the layer holds already is linked, not fetched; what
it holds and the store does not is kept. What is not for this Python or this box is installed anew at the same version, or left
out, and the report says so.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from drivefs_agent import text
from drivefs_agent.packages import resolve
from drivefs_agent.packages.activation import write_protected
from drivefs_agent.packages.arrival import Destination, adopt_scripts, fetch
from drivefs_agent.packages.candidate import Candidate, choose
from drivefs_agent.packages.clone import clone
from drivefs_agent.packages.decide import Decided, Mode, decide
from drivefs_agent.packages.directories import bring_back
from drivefs_agent.packages.errors import Conflict, LayerUnusable
from drivefs_agent.packages.fit import Judged
from drivefs_agent.packages.folder import Entry
from drivefs_agent.packages.history import Store
from drivefs_agent.packages.landing import layer_schemes
from drivefs_agent.packages.layer import Layer
from drivefs_agent.packages.model import Kind, Object, Part, Target
from drivefs_agent.packages.more import on_apt
from drivefs_agent.packages.report import Item, Report
from drivefs_agent.packages.save import Watcher
from drivefs_agent.packages.scan import Place, Scan, scan
from drivefs_agent.packages.state import LayerState
from drivefs_agent.packages.unmet import unmet

__all__ = ["Restorer"]


@dataclass(frozen=True, slots=True)
class _Situation:
    """What a restore begins from."""

    candidate: Candidate
    noted: LayerState
    scanned: Scan
    stored: Mapping[str, Entry]
    marks: list[tuple[str, int]]
    mode: str

    @property
    def ours(self) -> dict[str, Part]:
        return {found.part.name: found.part for found in self.scanned.found}


class Restorer:
    """Restores from one store into one layer.

    resolving: parts that do not fit are installed anew, from the index; without, they are left out.
    """

    def __init__(
        self, layer: Layer, store: Store, here: Target, *, resolving: bool = True, watcher: Watcher | None = None
    ) -> None:
        self._layer = layer
        self._store = store
        self._here = here
        self._resolving = resolving
        self._watcher = watcher

    def restore(self, state: str | None = None, *, exact: bool = False) -> Report:
        """``state``: a state by name, in place of the newest. exact: what it does not have goes, also what is not saved."""
        began = time.monotonic()
        mode = Mode.EXACT if exact else Mode.MERGE if state is None else Mode.NAMED
        with self._layer.locked(wait=True):
            self._layer.collect()
            situation = self._look(state, mode)
            decided = decide(
                situation.candidate,
                situation.noted.parts,
                situation.ours,
                situation.stored,
                self._here,
                mode=mode,
                resolving=self._resolving,
            )
            if decided.changes(situation.ours) or not self._layer.exists():
                decided = self._build(situation, decided)
            else:
                self._layer.write_state(self._note(situation, decided, {}).to_json())
            brought = bring_back(self._store, self._layer, situation.candidate, situation.stored, self._watcher)
            return self._report(situation.candidate, decided, brought.restored, brought.notes, time.monotonic() - began)

    def _look(self, state: str | None, mode: str) -> _Situation:
        marks = self._layer.marks()  # before the layer is looked at
        return _Situation(
            candidate=choose(self._store, self._here, state),
            noted=LayerState.from_json(self._layer.read_state()),
            scanned=scan(self._layer.place) if self._layer.exists() else Scan((), ()),
            stored=self._store.objects(),
            marks=marks,
            mode=mode,
        )

    # -- building --------------------------------------------------------------------------------------------------

    def _build(self, situation: _Situation, decided: Decided) -> Decided:
        self._require_room(decided)
        with self._layer.new_generation() as generation:
            if self._layer.exists():
                clone(self._layer.current, generation, situation.scanned.found, decided.stays)
            self._fetch(situation, decided, generation)
            decided, installed = self._install_anew(decided, generation)
            self._layer.write_state(self._note(situation, decided, installed).to_json(), generation)
            if self._layer.marks() != situation.marks:
                raise Conflict("pip has installed or removed something meanwhile, so the layer is what pip left. Restore again.")
            self._layer.switch(generation)
        return decided

    def _require_room(self, decided: Decided) -> None:
        """Better to say so at once than when the disk is full."""
        needed = sum(part.size for part in decided.fetched)
        free = shutil.disk_usage(self._layer.root).free
        if needed > free:
            raise LayerUnusable(
                f"The packages need {text.size(needed)} on the disk of {str(self._layer.root)!r}; {text.size(free)} are free. "
                "Make room, or name another place: DRIVEFS_LAYERS=/some/where"
            )

    def _fetch(self, situation: _Situation, decided: Decided, generation: Path) -> None:
        objects, stored = situation.candidate.objects, situation.stored
        archives = {part.object: (stored[part.object], objects[part.object]) for part in decided.fetched}
        there = [found for found in situation.scanned.found if found.part.name in decided.stays]
        schemes = layer_schemes(self._layer.interpreter.layer_site)
        destination = Destination(generation, schemes, str(self._layer.python), there)
        fetch(self._store.folder, archives, decided.fetched, destination, self._watcher)

    def _install_anew(self, decided: Decided, generation: Path) -> tuple[Decided, Mapping[str, Part]]:
        """What could not be installed is left out; the rest is there with bytes of its own."""
        if not decided.anew:
            return decided, {}
        reasons = {one.part.name: one.reason for one in decided.anew}
        python = generation / "bin" / "python"
        write_protected(self._layer)  # on a fresh box nothing was enabled yet
        done = resolve.resolve(python, [one.part for one in decided.anew], self._layer.root / "protected.txt")
        place = Place(generation / self._layer.interpreter.layer_site, generation / "bin", generation, str(self._layer.python))
        adopt_scripts(place.site, place.scripts, python, self._layer.python)
        failed = [Judged(one.part, f"{reasons[one.part.name]} Installing it anew failed: {one.reason}") for one in done.failed]
        anew = tuple(Judged(part, reasons[part.name]) for part in done.installed)
        found = {found.part.name: found.part for found in scan(place, orphans=False).found}
        installed = {one.part.name: found[one.part.name] for one in anew if one.part.name in found}
        return replace(decided, anew=anew, left_out=(*decided.left_out, *failed)), installed

    # -- the common past from now on -------------------------------------------------------------------------------

    def _note(self, situation: _Situation, decided: Decided, installed: Mapping[str, Part]) -> LayerState:
        """Of what the layer alone has, the store's own; of what was left out, nothing, so that it is missed and not removed."""
        candidate, noted = situation.candidate, situation.noted
        elsewhere: dict[str, Part] = {}
        if situation.mode == Mode.EXACT:
            parts, objects = self._newest(decided)
        else:
            parts = {part.name: part for part in decided.fetched} | dict(decided.held) | dict(installed) | dict(decided.removed)
            parts |= {name: candidate.parts[name] for name in decided.kept if name in candidate.parts}
            objects = dict(candidate.objects)
            if candidate.made_for.line != self._here.line:
                parts, elsewhere = {}, parts
        parts |= {name: part for name, part in noted.parts.items() if part.kind == Kind.DIRECTORY}
        known, named = {**noted.objects, **objects}, [*parts.values(), *elsewhere.values()]
        return LayerState(
            manifest=candidate.states[0],
            parts=parts,
            elsewhere=elsewhere,
            objects={part.object: known[part.object] for part in named if part.object in known},
            walked=time.time(),
        )

    def _newest(self, decided: Decided) -> tuple[dict[str, Part], dict[str, Object]]:
        """Going back is a change of ours against what the store has now, and the next save says so."""
        joined = self._store.join(self._store.graph(self._here.line))
        missed = {one.part.name for one in decided.left_out}
        parts = joined.merged.parts if joined is not None else {}
        return {name: part for name, part in parts.items() if name not in missed}, dict(joined.objects if joined else {})

    # -- telling ---------------------------------------------------------------------------------------------------

    def _report(
        self, candidate: Candidate, decided: Decided, directories: tuple[Item, ...], notes: tuple[str, ...], seconds: float
    ) -> Report:
        return Report(
            states=candidate.states,
            saved_on=candidate.made_for.line,
            here=self._here.line,
            restored=(*(Item.of(part) for part in decided.fetched), *directories),
            linked=tuple(Item.of(part) for part in decided.held.values()),
            anew=tuple(Item.of(one.part, one.reason) for one in decided.anew),
            left_out=tuple(Item.of(one.part, one.reason) for one in decided.left_out),
            kept=tuple(Item.of(part) for part in decided.kept.values()),
            notes=(*decided.notes, *notes, *unmet(self._layer.python), *on_apt(candidate.apt)),
            seconds=seconds,
        )
