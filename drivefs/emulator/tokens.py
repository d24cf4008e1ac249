"""Access and refresh tokens, and the sign-ins they come from.

All tokens of one sign-in go together: revoking one revokes the rest. A token that was never issued here may be revoked as well.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from drivefs.emulator.store import Store

__all__ = ["TOKEN_SECONDS", "SignIn", "Steps", "Tokens"]

TOKEN_SECONDS: Final = 3599
_FOR_EVER: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class SignIn:
    """What somebody agreed to. client_id: the app's; "" where there is none. id: common to all its tokens."""

    client_id: str
    scopes: tuple[str, ...]
    id: str = field(default_factory=lambda: secrets.token_hex(16))


class Tokens:
    """``seconds``: how long access tokens live."""

    def __init__(self, store: Store, seconds: int = TOKEN_SECONDS) -> None:
        self._store = store
        self.seconds = seconds

    def issue(self, sign_in: SignIn, seconds: int | None = None) -> dict[str, Any]:
        """A new access token, as /token answers."""
        token, seconds = f"ya29.{secrets.token_urlsafe(64)}", self.seconds if seconds is None else seconds
        self._insert(token, "access", sign_in, self._store.clock() + seconds * 1000)
        return {"access_token": token, "expires_in": seconds, "scope": " ".join(sign_in.scopes), "token_type": "Bearer"}

    def refresh_token(self, sign_in: SignIn) -> str:
        token = f"1//{secrets.token_urlsafe(60)}"
        self._insert(token, "refresh", sign_in, _FOR_EVER)
        return token

    def _insert(self, token: str, kind: str, sign_in: SignIn, expires_ms: int) -> None:
        self._store.connection.execute(
            "INSERT INTO tokens (token, expires_ms, scopes, kind, client, sign_in) VALUES (?, ?, ?, ?, ?, ?)",
            (token, expires_ms, " ".join(sign_in.scopes), kind, sign_in.client_id, sign_in.id),
        )

    def find(self, token: str) -> sqlite3.Row | None:
        """What is known of a token, good or not."""
        row: sqlite3.Row | None = self._store.connection.execute("SELECT * FROM tokens WHERE token = ?", (token,)).fetchone()
        return row

    def good(self, row: sqlite3.Row) -> bool:
        return bool(row["expires_ms"] > self._store.clock())

    def describe(self, row: sqlite3.Row) -> dict[str, str]:
        """An access token as /tokeninfo tells of it: all values are strings."""
        left = (row["expires_ms"] - self._store.clock()) // 1000
        known = {"azp": row["client"], "aud": row["client"], "scope": row["scopes"], "access_type": "offline"}
        return known | {"exp": str(row["expires_ms"] // 1000), "expires_in": str(left)}

    def sign_in_of(self, row: sqlite3.Row, scopes: Sequence[str] | None = None) -> SignIn:
        """The sign-in that a token came from; with ``scopes``, narrowed to those."""
        return SignIn(row["client"], tuple(row["scopes"].split() if scopes is None else scopes), row["sign_in"])

    def revoke(self, token: str) -> None:
        """From now on ``token`` is refused, wherever it came from, and with it all others of its sign-in."""
        row = self.find(token)
        if row is not None and row["sign_in"]:
            self.revoke_sign_in(row["sign_in"])
        self._store.connection.execute(
            "INSERT INTO tokens (token, expires_ms, scopes) VALUES (?, 0, '') ON CONFLICT DO UPDATE SET expires_ms = 0", (token,)
        )

    def revoke_sign_in(self, sign_in: str) -> None:
        self._store.connection.execute("UPDATE tokens SET expires_ms = 0 WHERE sign_in = ?", (sign_in,))

    def expire(self, token: str) -> None:
        """Expire one access token now."""
        now, query = self._store.clock(), "UPDATE tokens SET expires_ms = ? WHERE token = ? AND expires_ms > ?"
        self._store.connection.execute(query, (now, token, now))

    def expire_issued(self) -> int:
        """Expire every access token that was given out. Returns how many were good until now."""
        now = self._store.clock()
        query = "UPDATE tokens SET expires_ms = ? WHERE expires_ms > ? AND kind = 'access'"
        return self._store.connection.execute(query, (now, now)).rowcount


class Steps:
    """What a sign-in under way has reached: JSON values under secret names, each of one kind and good for a while."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, kind: str, value: dict[str, Any], seconds: int, name: str | None = None) -> str:
        """Remember ``value``. Returns its name, an unguessable one unless given."""
        name = name or secrets.token_urlsafe(32)
        now = self._store.clock()
        self._store.connection.execute("DELETE FROM sign_in_steps WHERE expires_ms <= ?", (now - 24 * 3600 * 1000,))
        self._store.connection.execute(
            "INSERT INTO sign_in_steps (kind, name, value, expires_ms) VALUES (?, ?, ?, ?)",
            (kind, name, json.dumps(value), now + seconds * 1000),
        )
        return name

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """The value; None where there is none, or where its time is over."""
        row = self._store.connection.execute(
            "SELECT value FROM sign_in_steps WHERE kind = ? AND name = ? AND expires_ms > ?", (kind, name, self._store.clock())
        ).fetchone()
        return None if row is None else dict(json.loads(row["value"]))

    def set(self, kind: str, name: str, value: dict[str, Any]) -> None:
        self._store.connection.execute(
            "UPDATE sign_in_steps SET value = ? WHERE kind = ? AND name = ?", (json.dumps(value), kind, name)
        )

    def take(self, kind: str, name: str) -> dict[str, Any] | None:
        """The value, which is gone then: for what may be used once."""
        value = self.get(kind, name)
        self._store.connection.execute("DELETE FROM sign_in_steps WHERE kind = ? AND name = ?", (kind, name))
        return value
