"""What is wrong with the Drive while one call is answered: indexes that lag behind, storage that is full.

Set for the length of a request, which is a task with a context of its own; read where the answer is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

__all__ = ["NORMAL", "Conditions", "conditions", "under"]


@dataclass(frozen=True, slots=True)
class Conditions:
    """Lags in milliseconds. full: not a byte more fits."""

    listing_lag: int = 0
    changes_lag: int = 0
    property_lag: int = 0
    full: bool = False


NORMAL: Final = Conditions()
_current: ContextVar[Conditions] = ContextVar("conditions", default=NORMAL)


def conditions() -> Conditions:
    """Those of the call that is being answered."""
    return _current.get()


@contextmanager
def under(wanted: Conditions) -> Iterator[None]:
    """For what runs within, in this task.

    Normal ones are set like any others: a connection on which reading was resumed while a call was answered hands that call's
    conditions on to all later ones.
    """
    token = _current.set(wanted)
    try:
        yield
    finally:
        _current.reset(token)
