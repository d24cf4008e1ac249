"""What a token allows: which methods, and of which items.

The API's own description names the scopes that suffice for each method. Under ``drive.file`` an app sees only what it made:
everything else does not exist for it, the root included.
Source: https://developers.google.com/workspace/drive/api/guides/api-specific-auth
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Final

from drivefs.emulator.discovery import scopes_of
from drivefs.emulator.errors import ApiError, not_found

__all__ = ["DEVICE_SCOPES", "FULL", "UNBOUND", "Grant", "confinement", "current", "enter", "narrowed", "see", "unknown"]

_PREFIX: Final = "https://www.googleapis.com/auth/"
FULL: Final = f"{_PREFIX}drive"
_FILE: Final = f"{_PREFIX}drive.file"
_METADATA: Final = frozenset({f"{_PREFIX}drive.metadata", f"{_PREFIX}drive.metadata.readonly"})
# Those that show every item. Scopes that Drive knows beside these and drive.file allow nothing here.
_SEE_ALL: Final = frozenset({FULL, f"{_PREFIX}drive.readonly"}) | _METADATA
DEVICE_SCOPES: Final = frozenset({_FILE, f"{_PREFIX}drive.appdata", "openid", "email", "profile"})


@dataclass(frozen=True, slots=True)
class Grant:
    """What the asking token was given. client_id: "" for one that nobody issued. confined: for this call only own items exist."""

    client_id: str = ""
    scopes: frozenset[str] = frozenset({FULL})
    confined: bool = False


UNBOUND: Final = Grant()
_current: ContextVar[Grant] = ContextVar("grant", default=UNBOUND)


def current() -> Grant:
    """The grant of the request under way; outside of requests, all."""
    return _current.get()


def enter(grant: Grant) -> None:
    _current.set(grant)


def unknown(scopes: Iterable[str]) -> list[str]:
    """Those that are no scopes of Google's."""
    return [one for one in scopes if one not in ("openid", "email", "profile") and not one.startswith(_PREFIX)]


def narrowed(grant: Grant, method: str, *, media: bool) -> Grant:
    """The grant for one call of ``method`` (``files.get``). media: it reads or writes content. Raises 403."""
    if grant is UNBOUND:
        return grant
    enough = (_SEE_ALL | {_FILE}) & scopes_of(method) - (_METADATA if media else frozenset())
    usable = grant.scopes & enough
    if not usable:
        raise InsufficientScope(method, enough)
    return replace(grant, confined=not usable & _SEE_ALL)


def see(row: sqlite3.Row) -> None:
    """Raise where the item does not exist for the asking app: 403 where its token shows the item, but not for this method."""
    grant = current()
    if not grant.confined or row["app"] == grant.client_id:
        return
    if grant.scopes & _SEE_ALL:
        message = f"The user has not granted the app {grant.client_id} write access to the file {row['id']}."
        raise ApiError(403, "appNotAuthorizedToFile", message)
    raise not_found(row["id"])


def confinement() -> tuple[str, list[Any]]:
    """The SQL condition on a column ``id`` that leaves what the asking app may see, or could see until it was deleted."""
    grant = current()
    own = "id IN (SELECT id FROM items WHERE app = ? AND app <> '' UNION ALL SELECT id FROM gone_of_apps WHERE app = ?)"
    return (own, [grant.client_id] * 2) if grant.confined else ("1", [])


class InsufficientScope(ApiError):
    """The newer form of an error, whose ``details`` alone tell a small scope from a missing right."""

    def __init__(self, method: str, enough: frozenset[str]) -> None:
        super().__init__(403, "insufficientPermissions", "Request had insufficient authentication scopes.")
        self._method = method
        self.headers["WWW-Authenticate"] = (
            f'Bearer realm="https://accounts.google.com/", error="insufficient_scope", scope="{" ".join(sorted(enough))}"'
        )

    def envelope(self) -> dict[str, Any]:
        envelope = super().envelope()
        resource, _, verb = self._method.partition(".")
        name = f"google.apps.drive.v3.Drive{resource[:1].upper()}{resource[1:]}.{verb[:1].upper()}{verb[1:]}"
        detail = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
            "domain": "googleapis.com",
            "metadata": {"service": "drive.googleapis.com", "method": name},
        }
        envelope["error"]["errors"][0]["message"] = "Insufficient Permission"
        envelope["error"] |= {"status": "PERMISSION_DENIED", "details": [detail]}
        return envelope
