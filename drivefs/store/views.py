"""The three views of an item's metadata and how they are merged. Pure.

local: what the user sees.  remote: what the server has.  synced: what both last agreed on, field by field.
A field the user has not touched (local == synced) follows the server; a field the user has touched stays, and the uploader
brings the server to it. After a merge, synced equals remote in every field where local does too.
A field that was sent in a call not answered yet counts as touched, and what the server states of it meanwhile is agreed on as
the server's side only: so the answer to a change that the user has taken back since does not undo the taking back.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import Any

__all__ = ["View", "merge"]


@dataclass(frozen=True, slots=True)
class View:
    """Metadata as one of the three parties knows it. parent is an inode; None: not in the tree we show."""

    parent: int | None
    name: str
    mtime_ms: int
    mode: int | None
    trashed: bool = False


def merge(local: View, synced: View | None, remote: View, sent: Collection[str] = ()) -> tuple[View, View]:
    """(local, synced) after the server has stated ``remote``. synced None: nothing was agreed on, so the user's fields stand.

    sent: names of the fields that a call carried of which no answer has come.
    """
    new_local: dict[str, Any] = {}
    new_synced: dict[str, Any] = {}
    for field in fields(View):
        name = field.name
        ours, theirs = getattr(local, name), getattr(remote, name)
        touched = synced is None or ours != getattr(synced, name) or name in sent
        if not touched:
            new_local[name] = theirs
        if not touched or ours == theirs or name in sent:
            new_synced[name] = theirs
    return replace(local, **new_local), replace(synced or remote, **new_synced)
