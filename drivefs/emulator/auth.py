"""Who may ask: bearer tokens, and the token endpoint for refresh tokens and service accounts.

Sources: RFC 6749 (5, 6), RFC 6750 (2), RFC 7523 (2.1).
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from drivefs.emulator.errors import ApiError
from drivefs.emulator.store import Store

__all__ = ["Gate"]

TOKEN_SECONDS: Final = 3599
_DEFAULT_SCOPE: Final = "https://www.googleapis.com/auth/drive"
_JWT_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_FORM_LIMIT: Final = 64 << 10


class _Refused(Exception):
    """An OAuth error (RFC 6749, 5.2)."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error, self.description, self.status = error, description, status


class Gate:
    """Checks and issues access tokens. ``listed``: where not empty, only these and issued ones are accepted."""

    def __init__(self, store: Store, listed: frozenset[str] = frozenset()) -> None:
        self._store = store
        self._listed = listed

    def check(self, request: Request) -> None:
        """Raise 401 unless the request brings a token that is good now."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        token = value.strip() if scheme.lower() == "bearer" else ""
        token = token or request.query_params.get("access_token", "") or request.query_params.get("oauth_token", "")
        if not token:
            raise self._unauthorized("required", "Login Required")
        row = self._store.connection.execute("SELECT expires_ms FROM tokens WHERE token = ?", (token,)).fetchone()
        good = row["expires_ms"] > self._store.clock() if row else (not self._listed or token in self._listed)
        if not good:
            raise self._unauthorized("authError", "Invalid Credentials")

    def _unauthorized(self, reason: str, message: str) -> ApiError:
        error = ApiError(401, reason, message, location="Authorization", location_type="header")
        error.headers["WWW-Authenticate"] = 'Bearer realm="https://accounts.google.com/", error="invalid_token"'
        return error

    def revoke(self, token: str) -> None:
        """From now on ``token`` is refused, wherever it came from."""
        self._store.connection.execute("INSERT OR REPLACE INTO tokens (token, expires_ms, scopes) VALUES (?, 0, '')", (token,))

    def expire(self, token: str) -> None:
        """Let one token from the token endpoint expire now. Others, which need not be known here, stay good."""
        now = self._store.clock()
        self._store.connection.execute("UPDATE tokens SET expires_ms = ? WHERE token = ? AND expires_ms > ?", (now, token, now))

    def expire_issued(self) -> int:
        """Expire every token that the token endpoint gave out. Returns how many were good until now."""
        now = self._store.clock()
        return self._store.connection.execute("UPDATE tokens SET expires_ms = ? WHERE expires_ms > ?", (now, now)).rowcount

    async def token_endpoint(self, request: Request) -> Response:
        """POST /token."""
        headers = {"cache-control": "no-cache, no-store, max-age=0, must-revalidate", "pragma": "no-cache"}
        try:
            return JSONResponse(self._grant(request, await _form(request)), headers=headers)
        except _Refused as error:
            body = {"error": error.error, "error_description": error.description}
            return JSONResponse(body, error.status, headers=headers)

    def _grant(self, request: Request, form: dict[str, str]) -> dict[str, Any]:
        grant = form.get("grant_type", "")
        if grant == "refresh_token":
            return self._refresh(form | _basic_client(request))
        if grant == _JWT_GRANT:
            return self._service_account(form.get("assertion", ""))
        raise _Refused("unsupported_grant_type", f"Invalid grant_type: {grant}")

    def _refresh(self, form: dict[str, str]) -> dict[str, Any]:
        if not form.get("client_id"):
            raise _Refused("invalid_request", "Could not determine client ID from request.")
        refresh_token = form.get("refresh_token", "")
        if not refresh_token:
            raise _Refused("invalid_request", "Missing required parameter: refresh_token")
        row = self._store.connection.execute("SELECT expires_ms FROM tokens WHERE token = ?", (refresh_token,)).fetchone()
        if row is not None and row["expires_ms"] == 0:
            raise _Refused("invalid_grant", "Token has been expired or revoked.")
        return self._issue(form.get("scope") or _DEFAULT_SCOPE)

    def _service_account(self, assertion: str) -> dict[str, Any]:
        """The assertion's form and claims are checked. Its signature is not: there is no registry of keys yet."""
        header, claims = _decode_jwt(assertion)
        now = self._store.clock() / 1000
        if header.get("alg") != "RS256":
            raise _Refused("invalid_grant", "Invalid JWT: the algorithm must be RS256.")
        missing = [name for name in ("iss", "scope", "aud", "iat", "exp") if not claims.get(name)]
        if missing:
            raise _Refused("invalid_grant", f"Invalid JWT: missing claims {', '.join(missing)}.")
        issued, expires = claims["iat"], claims["exp"]
        numeric = all(isinstance(one, (int, float)) for one in (issued, expires))
        if not numeric or not issued - 300 <= now < expires or expires - issued > 3600:
            raise _Refused(
                "invalid_grant",
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
                " Check your iat and exp values in the JWT claim.",
            )
        return self._issue(str(claims["scope"]))

    def _issue(self, scope: str) -> dict[str, Any]:
        token = f"ya29.{secrets.token_urlsafe(64)}"
        expires_ms = self._store.clock() + TOKEN_SECONDS * 1000
        self._store.connection.execute(
            "INSERT INTO tokens (token, expires_ms, scopes) VALUES (?, ?, ?)", (token, expires_ms, scope)
        )
        return {"access_token": token, "expires_in": TOKEN_SECONDS, "scope": scope, "token_type": "Bearer"}


async def _form(request: Request) -> dict[str, str]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_LIMIT:
            raise _Refused("invalid_request", "The request is too large.", 413)
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise _Refused("invalid_request", "The body must be application/x-www-form-urlencoded.")
    return dict(parse_qsl(body.decode("latin-1")))


def _basic_client(request: Request) -> dict[str, str]:
    """Client credentials from the Authorization header, where some clients put them (RFC 6749, 2.3.1)."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return {}
    try:
        client_id, _, client_secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise _Refused("invalid_client", "The OAuth client was not found.", 401) from None
    return {"client_id": unquote(client_id), "client_secret": unquote(client_secret)}


def _decode_jwt(assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
    parts = assertion.split(".")
    try:
        if len(parts) != 3 or not parts[2]:
            raise ValueError("three parts")
        header, claims = (json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2])
    except ValueError:
        raise _Refused("invalid_grant", "Invalid JWT: it could not be decoded.") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise _Refused("invalid_grant", "Invalid JWT: it could not be decoded.")
    return header, claims
