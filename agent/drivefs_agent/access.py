"""Who may ask the agent, decided before anything else looks at a request.

The page shows names of files and programs, so even reading needs the token: every user of the box can reach the port, and so can
every web page that a browser on it has open. Therefore, in this order:

- Host must be an address by which we are meant to be called. A name that an attacker's DNS points here is not (DNS rebinding).
- Origin, where a browser sends one, must be ourselves, and so must Sec-Fetch-Site, save where a person follows a link.
- GET and HEAD only: nothing here has side effects.
- The token, as a bearer header, in the query, or as the cookie that the page sets.

Sources: https://www.rfc-editor.org/rfc/rfc9110#field.host.and.authority, https://www.rfc-editor.org/rfc/rfc6750,
https://www.w3.org/TR/fetch-metadata/
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Access", "Keys"]

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Keys:
    """The token, and the cookie that stands for it in browsers. The cookie is made from the token and does not tell it."""

    token: str
    port: int

    @property
    def cookie_name(self) -> str:
        """Browsers keep one set of cookies for all ports of a host."""
        return f"drivefs-agent-{self.port}"

    @property
    def cookie(self) -> str:
        return hmac.new(self.token.encode(), b"drivefs-agent page", hashlib.sha256).hexdigest()

    def opens(self, given: str, *, wanted: str) -> bool:
        """In a time that does not depend on how much of it is right."""
        return hmac.compare_digest(given.encode(), wanted.encode())

    def fit_query(self, query: bytes) -> bool:
        """Whether the query carries the token."""
        given = parse_qs(query.decode("latin-1"), max_num_fields=16).get("token", [""]) if len(query) < 4096 else [""]
        return self.opens(given[0], wanted=self.token)

    def fit(self, headers: Headers, query: bytes) -> bool:
        """Whether a request carries the token, or the cookie."""
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.opens(bearer.strip(), wanted=self.token):
            return True
        cookie = cookie_parser(headers.get("cookie", "")).get(self.cookie_name, "")
        return self.opens(cookie, wanted=self.cookie) or self.fit_query(query)


class Access:
    """ASGI middleware. ``hosts``: further values of Host, as "box.example:8787", by which we may be called."""

    def __init__(self, app: ASGIApp, keys: Keys, hosts: Iterable[str] = ()) -> None:
        self._app, self._keys = app, keys
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, marked)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if not self._is_ours(headers.getlist("host"), scope):
            return _refuse(
                403, "This is not a name of this server. Call it by its address, or allow the name: --allow-host NAME:PORT"
            )
        if _comes_from_elsewhere(headers):
            return _refuse(403, "Other web pages may not ask this server.")
        if scope["method"] not in ("GET", "HEAD"):
            return _refuse(405, "There is nothing to change here: GET only.", {"Allow": "GET, HEAD"})
        try:
            fits = self._keys.fit(headers, scope["query_string"])
        except ValueError:  # a query of very many fields
            fits = False
        if not fits:
            return _refuse(401, "The token is missing or wrong. `drivefs-agent url` tells the address with it.", {
                "WWW-Authenticate": "Bearer",
            })  # fmt: skip
        return None

    def _is_ours(self, named: list[str], scope: Scope) -> bool:
        """Exactly one Host: a name of the loopback with our port, the very address that was connected to, or one allowed."""
        if len(named) != 1 or scope.get("server") is None:
            return False
        host = named[0].lower()
        address, port = scope["server"]
        if host in self._hosts:
            return True
        if _is_loopback(address) and host in {f"{name}:{port}" for name in _LOOPBACK_NAMES}:
            return True
        return host == (f"[{address}]:{port}" if ":" in address else f"{address}:{port}")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _comes_from_elsewhere(headers: Headers) -> bool:
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in {f"{scheme}://{headers['host'].lower()}" for scheme in ("http", "https")}:
        return True
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    # Only a person who follows a link to the page, in a window of its own.
    return (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) != ("navigate", "document")


def _refuse(status: int, sentence: str, headers: dict[str, str] | None = None) -> PlainTextResponse:
    return PlainTextResponse(sentence + "\n", status, headers)
