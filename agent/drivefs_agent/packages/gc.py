"""What a store need not keep: old states, and objects that no state names any more. They go to the trash, never for good.

All ages are told by the store's own clock, and "now" is the creation of its newest file: a box whose clock is wrong must not take
what another box has just put there. So a store in which nothing is saved any more keeps what it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from drivefs_agent.packages.folder import Entry
from drivefs_agent.packages.history import Commit, Graph, Store

__all__ = ["Swept", "sweep"]

_KEPT_STATES: Final = 10  # of each line
_KEPT_SECONDS: Final = 30 * 86400
# An object that nobody names may be that of a save under way, whose manifest comes last.
_GRACE_SECONDS: Final = 86400


@dataclass(frozen=True, slots=True)
class Swept:
    """states: ids of manifests that went.  objects: names of objects that went; bytes: what those had."""

    states: tuple[str, ...]
    objects: tuple[str, ...]
    bytes: int


def sweep(store: Store, *, keep: int = _KEPT_STATES, dry_run: bool = False) -> Swept:
    """``keep``: states of each line that stay whatever their age; at least the heads do. dry_run: only say what would go.

    The order is such that a kill in between leaves no state without its objects: states first, then what only they named.
    """
    store.require_trusted()
    graphs = {name: graph for env in store.envs() for name, graph in store.of(env).graphs().items()}
    objects = store.objects()
    now = max((entry.created for entry in [*_manifests(graphs), *objects.values()]), default=0.0)
    old = {name: _superfluous(graph, now, keep) for name, graph in graphs.items()}
    gone = {commit.id for commits in old.values() for commit in commits}
    named = _named(store, graphs, gone)
    loose = [entry for entry in objects.values() if entry.name not in named and now - entry.created > _GRACE_SECONDS]
    if not dry_run:
        for commit in (commit for commits in old.values() for commit in commits):
            store.folder.trash(commit.entry)
        loose = _still_loose(store, loose)
        for entry in loose:
            store.folder.trash(entry)
    return Swept(tuple(sorted(gone)), tuple(sorted(entry.name for entry in loose)), sum(entry.size for entry in loose))


def _still_loose(store: Store, loose: list[Entry]) -> list[Entry]:
    """Looked at once more, at the last moment: a save that found one of them by its name may have named it meanwhile."""
    if not loose:
        return []
    graphs = {name: graph for env in store.envs() for name, graph in store.of(env).graphs().items()}
    named = _named(store, graphs, set())
    return [entry for entry in loose if entry.name not in named]


def _manifests(graphs: Mapping[tuple[str, str], Graph]) -> list[Entry]:
    return [commit.entry for graph in graphs.values() for commit in graph.newest_first()]


def _superfluous(graph: Graph, now: float, keep: int) -> list[Commit]:
    heads = {commit.id for commit in graph.heads()}
    older = sorted(graph.newest_first(), key=lambda commit: commit.entry.created, reverse=True)[keep:]
    return [commit for commit in older if commit.id not in heads and now - commit.entry.created > _KEPT_SECONDS]


def _named(store: Store, graphs: Mapping[tuple[str, str], Graph], gone: set[str]) -> set[str]:
    """Objects that a state names which stays. A state that cannot be read keeps everything: StoreDamaged ends the sweep."""
    return {
        name
        for (env, _), graph in graphs.items()
        for commit in graph.newest_first()
        if commit.id not in gone
        for name in store.of(env).read(commit).objects
    }
