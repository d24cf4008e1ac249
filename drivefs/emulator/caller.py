"""Who asks. Known for the length of one request, and consulted wherever an answer depends on it.

Each request is a task of its own, and so has a context of its own: what ``enter`` sets is seen by that request only.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Final

__all__ = ["MAIN", "Caller", "User", "current", "enter"]


@dataclass(frozen=True, slots=True)
class User:
    """An account. root_id: its My Drive."""

    id: str
    email: str
    name: str
    root_id: str = ""

    @property
    def owner(self) -> str | None:
        """As ``items.owner`` and ``items.modified_by`` have it: NULL for the main account."""
        return None if self.id == MAIN.id else self.id

    def resource(self, me: User) -> dict[str, Any]:
        """As the API shows it to ``me``."""
        return {
            "kind": "drive#user",
            "displayName": self.name,
            "me": self.id == me.id,
            "permissionId": self.id,
            "emailAddress": self.email,
        }

    def at(self, root_id: str) -> User:
        return replace(self, root_id=root_id)


# The account of the one who started the server, and of every token that is not bound to another.
MAIN: Final = User("01234567890123456789", "drive.user@example.com", "Drive User")


@dataclass(frozen=True, slots=True)
class Caller:
    """user None: the main account. all_drives: supportsAllDrives was sent. keys: ``id/key`` of X-Goog-Drive-Resource-Keys.

    base_url: where links in answers lead to.
    """

    user: User | None = None
    all_drives: bool = True
    keys: frozenset[str] = frozenset()
    base_url: str = ""


_NOBODY: Final = Caller()
_current: ContextVar[Caller] = ContextVar("caller", default=_NOBODY)


def current() -> Caller:
    """Outside of requests: the main account, with no restraint."""
    return _current.get()


def enter(caller: Caller) -> None:
    _current.set(caller)
