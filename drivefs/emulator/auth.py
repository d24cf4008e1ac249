"""Who may ask: every API request brings a bearer token, and the token's scopes decide what it may do.

By default any token is good and may do everything; one that was given out here is held to its scopes and its time.
Source: RFC 6750 (2, 3).
"""

from __future__ import annotations

import sqlite3

from starlette.requests import Request

from drivefs.emulator import scopes
from drivefs.emulator.discovery import method_of
from drivefs.emulator.errors import ApiError
from drivefs.emulator.identity import token_of
from drivefs.emulator.store import Store
from drivefs.emulator.tokens import Tokens

__all__ = ["Gate"]


class Gate:
    """Checks access tokens. ``listed``: where not empty, only these and issued ones are accepted."""

    def __init__(self, store: Store, tokens: Tokens, listed: frozenset[str] = frozenset()) -> None:
        self._store, self._tokens = store, tokens
        self._listed = listed

    def check(self, request: Request) -> None:
        """Raise 401 unless the token is good now, 403 unless it allows this method, 404 for items it does not show."""
        token = token_of(request)
        if not token:
            raise _unauthorized("required", "Login Required")
        row = self._tokens.find(token)
        good = (row["kind"] == "access" and self._tokens.good(row)) if row else (not self._listed or token in self._listed)
        if not good:
            raise _unauthorized("authError", "Invalid Credentials")
        scopes.enter(scopes.UNBOUND if row is None else self._narrowed(row, request))
        if scopes.current().confined:
            self._check_items(request)

    def _narrowed(self, row: sqlite3.Row, request: Request) -> scopes.Grant:
        path = request.scope["path"]
        method = method_of(request.method, path)
        media = request.query_params.get("alt") == "media" or path.startswith(("/upload", "/resumable"))
        grant = scopes.Grant(row["client"], frozenset(row["scopes"].split()))
        return grant if method is None else scopes.narrowed(grant, method, media=media)

    def _check_items(self, request: Request) -> None:
        """An app that is confined to its own items may name no others, neither in the path nor as new parents."""
        named = [request.path_params.get("file_id"), *request.query_params.get("addParents", "").split(",")]
        for file_id in filter(None, named):
            row = self._store.find(file_id.strip())
            if row is not None:
                scopes.see(row)

    def revoke(self, token: str) -> None:
        """From now on ``token`` is refused, wherever it came from."""
        self._tokens.revoke(token)

    def expire(self, token: str) -> None:
        """Let one token that was given out expire now. Others, which need not be known here, stay good."""
        self._tokens.expire(token)

    def expire_issued(self) -> int:
        """Expire every token that the token endpoint gave out. Returns how many were good until now."""
        return self._tokens.expire_issued()


def _unauthorized(reason: str, message: str) -> ApiError:
    error = ApiError(401, reason, message, location="Authorization", location_type="header")
    error.headers["WWW-Authenticate"] = 'Bearer realm="https://accounts.google.com/", error="invalid_token"'
    return error
