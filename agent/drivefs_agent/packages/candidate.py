"""Which state of a store a box begins from: that of its own kind of Python where there is one, else the newest of any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drivefs_agent.packages.errors import NothingFits
from drivefs_agent.packages.history import Graph, Joined, Store
from drivefs_agent.packages.model import Object, Part, Target

__all__ = ["Candidate", "choose"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """states: ids of the manifests; several where several boxes had saved at once.  made_for: the box of the newest."""

    states: tuple[str, ...]
    made_for: Target
    parts: Mapping[str, Part]
    objects: Mapping[str, Object]
    apt: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose(store: Store, here: Target, state: str | None = None) -> Candidate:
    """``state``: the one that a person named, by id or by the beginning of its last part. NothingFits where there is none."""
    store.require_trusted()
    lines = store.lines()
    if state is not None:
        return _named(store, sorted(lines, key=lambda line: line != here.line), state)
    if here.line in lines and (joined := store.join(store.graph(here.line))) is not None:
        return _joined(joined)
    others = [(graph, joined) for line in lines if (joined := store.join(graph := store.graph(line))) is not None]
    if not others:
        raise NothingFits(
            f"Nothing is saved in {store.folder.address} for the environment {store.env!r} yet. "
            "Install something with pip and save it: drivefs-agent packages save"
        )
    # Lines have no common history, so here times decide, by the store's own clock.
    return _joined(max(others, key=lambda one: (_written(one[0], one[1]), one[1].newest.id))[1])


def _written(graph: Graph, joined: Joined) -> float:
    return max(commit.entry.created for commit in graph.newest_first() if commit.id in {head.id for head in joined.heads})


def _joined(joined: Joined) -> Candidate:
    newest = joined.newest
    states = tuple(head.id for head in joined.heads)
    return Candidate(states, newest.target, joined.merged.parts, joined.objects, newest.apt, joined.merged.notes)


def _named(store: Store, lines: list[str], state: str) -> Candidate:
    problem: NothingFits | None = None
    for line in lines:
        try:
            manifest = store.read(store.graph(line).find(state))
        except NothingFits as error:
            problem = problem or error
            continue
        return Candidate((manifest.id,), manifest.target, manifest.by_name(), manifest.objects, manifest.apt)
    raise problem or NothingFits(f"No state is called {state!r}. See: drivefs-agent packages history")
