"""Declared directories come back where they are missing. What is on the box is left alone: it may be newer, and is not merged.

Each child of a directory is unpacked beside its place and takes it by one rename, so a kill leaves it whole or not there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from drivefs_agent.packages.arrival import Destination, fetch
from drivefs_agent.packages.candidate import Candidate
from drivefs_agent.packages.errors import Misdeclared
from drivefs_agent.packages.folder import Entry
from drivefs_agent.packages.history import Store
from drivefs_agent.packages.layer import Layer
from drivefs_agent.packages.model import Kind, Part
from drivefs_agent.packages.more import declared
from drivefs_agent.packages.report import Item
from drivefs_agent.packages.save import Watcher
from drivefs_agent.packages.state import LayerState

__all__ = ["Brought", "bring_back"]

_ASIDE: Final = ".drivefs-restoring-"


@dataclass(frozen=True, slots=True)
class Brought:
    """notes: sentences about what was not brought back, and why."""

    restored: tuple[Item, ...] = ()
    notes: tuple[str, ...] = ()


def bring_back(store: Store, layer: Layer, candidate: Candidate, stored: Mapping[str, Entry], watcher: Watcher | None) -> Brought:
    """The caller holds the layer's lock. What came back is noted in the layer as what both have."""
    parts = [part for part in candidate.parts.values() if part.kind == Kind.DIRECTORY and part.object in stored]
    if not parts:
        return Brought()
    try:
        places = declared(store, layer)
    except Misdeclared as error:
        return Brought(notes=(f"{error} No directory was brought back.",))
    restored: list[Part] = []
    notes: list[str] = []
    for name, path in places.items():
        missing = [part for part in parts if part.name.startswith(f"dir/{name}/")]
        came, there = _bring(store, candidate, stored, missing, path, watcher)
        restored += came
        if there:
            notes.append(f"Left alone in {path}, as it is there already: {', '.join(sorted(there))}.")
    if restored:
        noted = LayerState.from_json(layer.read_state())
        objects = {**noted.objects, **{part.object: candidate.objects[part.object] for part in restored}}
        layer.write_state(
            replace(noted, parts={**noted.parts, **{part.name: part for part in restored}}, objects=objects).to_json()
        )
    return Brought(tuple(Item.of(part) for part in restored), tuple(notes))


def _bring(
    store: Store,
    candidate: Candidate,
    stored: Mapping[str, Entry],
    parts: list[Part],
    path: Path,
    watcher: Watcher | None,
) -> tuple[list[Part], list[str]]:
    """What came, and the children that are there already."""
    came: list[Part] = []
    there: list[str] = []
    for left in path.glob(f"{_ASIDE}*") if parts else ():  # by a kill
        shutil.rmtree(left)
    for part in parts:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=path))
        try:
            if _is_there(path, part):
                there.append(part.name.rpartition("/")[2])
                continue
            archive = {part.object: (stored[part.object], candidate.objects[part.object])}
            fetch(store.folder, archive, [part], Destination(aside, {"data": ""}), watcher)
            for child in os.listdir(aside):
                if os.path.lexists(path / child):
                    there.append(child)
                else:
                    os.rename(aside / child, path / child)
                    came.append(part)
        finally:
            shutil.rmtree(aside)
    return came, there


def _is_there(path: Path, part: Part) -> bool:
    """By the part's name, which is the child's own where that is plain; where it is not, its archive tells."""
    return os.path.lexists(path / part.name.rpartition("/")[2])
