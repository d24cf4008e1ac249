"""How OAuth endpoints are spoken to: forms in, JSON out, and errors in their own shape, which is not the API's.

Source: RFC 6749 (2.3.1, 5).
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from drivefs.emulator.scopes import unknown

__all__ = ["Form", "OAuthError", "answering", "check_scopes", "read_form", "read_pairs"]

Form = dict[str, str]
_FORM_LIMIT: Final = 64 << 10
_NO_STORE: Final = {"cache-control": "no-cache, no-store, max-age=0, must-revalidate", "pragma": "no-cache"}


class OAuthError(Exception):
    """A refusal by an OAuth endpoint (RFC 6749, 5.2)."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error, self.description, self.status = error, description, status


def answering(handler: Callable[[Request], Awaitable[dict[str, Any]]]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint of a handler that returns the answer's fields or raises OAuthError."""

    async def endpoint(request: Request) -> Response:
        try:
            return JSONResponse(await handler(request), headers=_NO_STORE)
        except OAuthError as error:
            body = {"error": error.error, "error_description": error.description}
            return JSONResponse(body, error.status, headers=_NO_STORE)

    return endpoint


async def read_form(request: Request, *, query: bool = False) -> Form:
    """The body's fields, with the client's name and secret where these came as HTTP Basic. query: parameters count, too."""
    return (dict(request.query_params) if query else {}) | dict(await read_pairs(request)) | _basic_client(request)


async def read_pairs(request: Request) -> list[tuple[str, str]]:
    """The body's fields, in which a name may occur several times."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_LIMIT:
            raise OAuthError("invalid_request", "The request is too large.", 413)
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if body and kind != "application/x-www-form-urlencoded":
        raise OAuthError("invalid_request", "The body must be application/x-www-form-urlencoded.")
    return parse_qsl(body.decode("latin-1"))


def check_scopes(scopes: Sequence[str]) -> tuple[str, ...]:
    """``scopes`` without repetition. Raises where any is unknown, or none is asked for."""
    if not scopes or unknown(scopes):
        raise OAuthError("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
    return tuple(dict.fromkeys(scopes))


def _basic_client(request: Request) -> Form:
    """Client credentials from the Authorization header, where some clients put them."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return {}
    try:
        client_id, _, client_secret = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:  # of base64, or of its text
        raise OAuthError("invalid_client", "The OAuth client was not found.", 401) from None
    return {"client_id": unquote(client_id), "client_secret": unquote(client_secret)}
