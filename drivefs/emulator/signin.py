"""All that belongs to signing in, put together: OAuth's endpoints, the pages, and what tests may do to them."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from drivefs.emulator.auth import Gate
from drivefs.emulator.consent import Consent
from drivefs.emulator.errors import bad_request
from drivefs.emulator.grants import Grants
from drivefs.emulator.identities import Clients, ServiceAccounts, new_key_file
from drivefs.emulator.scopes import FULL, unknown
from drivefs.emulator.store import Store
from drivefs.emulator.tokens import TOKEN_SECONDS, SignIn, Steps, Tokens
from drivefs.emulator.wire import Traffic

__all__ = ["SigningIn"]

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", re.ASCII)  # of a service account, as Google has it


class SigningIn:
    """``gate`` checks tokens; ``routes`` gives them out. listed, seconds: as for Gate and Tokens."""

    def __init__(self, store: Store, traffic: Traffic, listed: frozenset[str], seconds: int = TOKEN_SECONDS) -> None:
        self._tokens, self._clients, self._accounts = Tokens(store, seconds), Clients(store), ServiceAccounts(store)
        steps = Steps(store)
        self.gate = Gate(store, self._tokens, listed)
        self._grants = Grants(self._clients, self._tokens, steps, self._accounts, traffic)
        self._consent = Consent(self._clients, steps, traffic)

    def routes(self) -> list[Route]:
        return [
            *self._grants.routes(),
            *self._consent.routes(),
            Route("/_emulator/clients", self.add_client, methods=["POST"]),
            Route("/_emulator/service-accounts", self.add_service_account, methods=["POST"]),
            Route("/_emulator/tokens", self.add_token, methods=["POST"]),
        ]

    async def add_client(self, request: Request) -> Response:
        """Register an OAuth client: ``{"type": "installed"}`` or ``{"type": "web", "redirect_uris": [...]}``."""
        body = await _object(request)
        kind, redirects = body.get("type", "installed"), body.get("redirect_uris", [])
        listed = isinstance(redirects, list) and all(isinstance(one, str) for one in redirects)
        if kind not in ("installed", "web") or not listed or (kind == "web") != bool(redirects):
            raise bad_request('Send {"type": "installed"}, or {"type": "web", "redirect_uris": ["https://..."]}.')
        return JSONResponse(self._clients.register(kind, redirects, str(request.base_url)))

    async def add_service_account(self, request: Request) -> Response:
        """A new service account's key file: ``{"name": "robot-1"}``."""
        name = (await _object(request)).get("name", "service-account")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise bad_request('Send {"name": "..."}: 6 to 30 lower-case letters, digits and hyphens, a letter first.')
        described, public_key = await anyio.to_thread.run_sync(new_key_file, name, str(request.base_url))
        self._accounts.add(described, public_key)
        return JSONResponse(described)

    async def add_token(self, request: Request) -> Response:
        """An access token: ``{"scopes": [...], "client_id": "...", "seconds": 60}``, all optional."""
        body = await _object(request)
        wanted, client = body.get("scopes", [FULL]), body.get("client_id", "")
        seconds = body.get("seconds", self._tokens.seconds)
        listed = isinstance(wanted, list) and all(isinstance(one, str) for one in wanted)
        if not listed or unknown(wanted) or not isinstance(client, str) or type(seconds) is not int or not 0 < seconds < 10**9:
            raise bad_request('Send {"scopes": ["https://www.googleapis.com/auth/..."], "client_id": "...", "seconds": 60}.')
        return JSONResponse(self._tokens.issue(SignIn(client, tuple(wanted)), seconds))


async def _object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise bad_request("Send a JSON object.")
    return body
