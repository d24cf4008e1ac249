"""Two boxes changed one environment: what becomes of it. Pure.

Three-way, by part: what only one side changed since their common past is taken from that side. Where both changed the same part,
the version that was installed later wins, and a part that one side removed and the other changed is kept; either is said aloud.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from drivefs_agent.packages.model import Part

__all__ = ["Merged", "merge", "same"]

Parts = Mapping[str, Part]


@dataclass(frozen=True, slots=True)
class Merged:
    """parts: by name.  notes: sentences about what could not be merged without a choice."""

    parts: Mapping[str, Part]
    notes: tuple[str, ...] = ()


def same(one: Part | None, other: Part | None) -> bool:
    """Whether two boxes have the same: equal bytes, or neither has it, or both have it from their own sources."""
    if one is None or other is None:
        return one is other
    return (one.version, one.key, one.editable) == (other.version, other.key, other.editable)


def merge(base: Parts, ours: Parts, theirs: Parts) -> Merged:
    """``base``: what both sides began from; empty where that is not known."""
    parts: dict[str, Part] = {}
    notes: list[str] = []
    for name in sorted({*base, *ours, *theirs}):
        before, here, there = base.get(name), ours.get(name), theirs.get(name)
        chosen = _undisputed(before, here, there)
        if isinstance(chosen, _Disputed):
            chosen, note = _choose(here, there)
            notes += [note] if note else []
        if chosen is not None:
            parts[name] = chosen
    return Merged(parts, tuple(notes))


class _Disputed:
    pass


def _undisputed(before: Part | None, here: Part | None, there: Part | None) -> Part | _Disputed | None:
    if same(here, there):
        # Either is right; one of them may know already where its bytes are stored.
        return there if there is not None and (there.object or here is None) else here
    if same(here, before):
        return there
    if same(there, before):
        return here
    return _Disputed()


def _choose(here: Part | None, there: Part | None) -> tuple[Part | None, str]:
    if here is None or there is None:
        kept = here or there
        assert kept is not None, "both absent is no dispute"
        return kept, f"{_titled(kept)} was removed on one box and changed on another: it is kept."
    first, last = sorted((here, there), key=lambda part: (part.installed, part.version, part.key))
    if first.version == last.version:
        return last, f"{_titled(last)} differs between two boxes: the one installed later ({_when(last)}) is kept."
    return last, f"{last.name}: {last.version}, installed later ({_when(last)}), replaces {first.version} of another box."


def _titled(part: Part) -> str:
    return f"{part.name} {part.version}".strip()


def _when(part: Part) -> str:
    return datetime.fromtimestamp(part.installed, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
