"""What a restore did, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from drivefs_agent.packages.model import Part

__all__ = ["SCHEMA", "Item", "Report"]

SCHEMA: Final = "drivefs.packages.report/1"
_NAMED: Final = 12  # of a long list, how many are named on the line; all are in the JSON


@dataclass(frozen=True, slots=True)
class Item:
    """A part. reason: why it was not used as it was saved; "" where it was."""

    name: str
    version: str
    reason: str = ""

    @classmethod
    def of(cls, part: Part, reason: str = "") -> Item:
        return cls(part.name, part.version, reason)

    @property
    def titled(self) -> str:
        return f"{self.name} {self.version}".strip()

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version} | ({"reason": self.reason} if self.reason else {})


@dataclass(frozen=True, slots=True)
class Report:
    """A restore, as it ended.

    states: the ids of the manifests that were restored (several where several boxes had saved at once).  saved_on, here: lines.
    restored: fetched from the store, as saved.  linked: the same, but already on this disk.  anew: installed at the same version
    from where it came.  left_out: not here now.  kept: in the layer before, not in the store, and still in the layer.
    seconds: how long it took.
    """

    states: tuple[str, ...] = ()
    saved_on: str = ""
    here: str = ""
    restored: tuple[Item, ...] = ()
    linked: tuple[Item, ...] = ()
    anew: tuple[Item, ...] = ()
    left_out: tuple[Item, ...] = ()
    kept: tuple[Item, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Everything that was saved is here."""
        return not self.left_out

    def lines(self) -> list[str]:
        """For a terminal, without colours; each is a line."""
        lines = []
        if self.saved_on and self.saved_on != self.here:
            lines.append(f"The state was saved on {self.saved_on}; this is {self.here}.")
        lines += _listed("restored as saved", self.restored)
        lines += _listed("already on this disk", self.linked)
        lines += _listed("kept, as the store does not have it yet", self.kept)
        lines += _explained("installed anew at the same version", self.anew)
        lines += _explained("left out", self.left_out)
        if not lines:
            lines.append("The state is empty: nothing to restore.")
        return lines + [f"Note: {note}" for note in self.notes]

    def to_json(self) -> dict[str, Any]:
        """Additive changes keep the schema's number."""
        lists: Mapping[str, Iterable[Item]] = {
            "restored": self.restored,
            "linked": self.linked,
            "anew": self.anew,
            "left_out": self.left_out,
            "kept": self.kept,
        }
        head = {"schema": SCHEMA, "states": list(self.states), "saved_on": self.saved_on, "here": self.here}
        tail = {"complete": self.complete, "notes": list(self.notes), "seconds": round(self.seconds, 3)}
        return head | {name: [item.to_json() for item in items] for name, items in lists.items()} | tail


def _listed(what: str, items: tuple[Item, ...]) -> list[str]:
    if not items:
        return []
    names = ", ".join(item.titled for item in items[:_NAMED])
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return [f"{len(items)} {what}: {names}{more}"]


def _explained(what: str, items: tuple[Item, ...]) -> list[str]:
    """By reason, as dozens may share one."""
    if not items:
        return []
    reasons: dict[str, list[str]] = {}
    for item in items:
        reasons.setdefault(item.reason, []).append(item.titled)
    return [
        f"{len(items)} {what}:",
        *(f"  {', '.join(names)}{': ' if reason else ''}{reason}" for reason, names in reasons.items()),
    ]
