"""The token endpoints: every grant that Google knows for Drive, revocation, and what a token is.

Sources: RFC 6749 (4.1.3, 6), RFC 7636 (PKCE), RFC 7523 (2.1), RFC 8628 (device), RFC 7009 (revocation).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any, Final

from starlette.requests import Request
from starlette.routing import Route

from drivefs.emulator.device import Devices
from drivefs.emulator.identities import Client, Clients, ServiceAccounts
from drivefs.emulator.oauth import Form, OAuthError, answering, check_scopes, read_form
from drivefs.emulator.scopes import FULL
from drivefs.emulator.tokens import SignIn, Steps, Tokens
from drivefs.emulator.wire import Traffic

__all__ = ["Grants"]

_TOKEN_PATHS: Final = ("/token", "/oauth2/v4/token", "/o/oauth2/token")
_INFO_PATHS: Final = ("/tokeninfo", "/oauth2/v3/tokeninfo", "/oauth2/v1/tokeninfo")
_REVOKED: Final = "Token has been expired or revoked."


class Grants:
    """POST /token and its neighbours."""

    def __init__(self, clients: Clients, tokens: Tokens, steps: Steps, accounts: ServiceAccounts, traffic: Traffic) -> None:
        self._clients, self._tokens, self._steps, self._accounts = clients, tokens, steps, accounts
        self._traffic = traffic
        self._devices = Devices(clients, tokens, steps)
        self._kinds = {
            "authorization_code": self._code,
            "refresh_token": self._refresh,
            "urn:ietf:params:oauth:grant-type:jwt-bearer": self._service_account,
            "urn:ietf:params:oauth:grant-type:device_code": self._devices.poll,
        }

    def routes(self) -> list[Route]:
        return [
            *(Route(path, answering(self._token), methods=["POST"]) for path in _TOKEN_PATHS),
            *(Route(path, answering(self._info), methods=["GET", "POST"]) for path in _INFO_PATHS),
            Route("/revoke", answering(self._revoke), methods=["GET", "POST"]),
            Route("/o/oauth2/revoke", answering(self._revoke), methods=["GET", "POST"]),
            Route("/device/code", answering(self._device), methods=["POST"]),
            Route("/o/oauth2/device/code", answering(self._device), methods=["POST"]),
        ]

    async def _token(self, request: Request) -> dict[str, Any]:
        self._traffic.count("oauth2.token", f"POST {request.url.path}")
        form = await read_form(request)
        grant = self._kinds.get(form.get("grant_type", ""))
        if grant is None:
            raise OAuthError("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')}")
        return grant(form)

    def _code(self, form: Form) -> dict[str, Any]:
        client = self._clients.authenticate(form)
        code = form.get("code", "")
        step = self._steps.get("code", code)
        if step is None:
            raise OAuthError("invalid_grant", "Malformed auth code.")
        if step["used"]:  # whoever comes second may have stolen it: what the first was given ends, too (RFC 6749, 4.1.2)
            self._tokens.revoke_sign_in(step["sign_in"])
            raise OAuthError("invalid_grant", "Bad Request")
        self._steps.set("code", code, step | {"used": True})
        _check_code(step, client, form)
        sign_in = SignIn(client.id, tuple(step["scopes"]), step["sign_in"])
        answer = self._tokens.issue(sign_in)
        return answer | ({"refresh_token": self._tokens.refresh_token(sign_in)} if step["offline"] else {})

    def _refresh(self, form: Form) -> dict[str, Any]:
        client = self._clients.authenticate(form)
        token = form.get("refresh_token", "")
        if not token:
            raise OAuthError("invalid_request", "Missing required parameter: refresh_token")
        row = self._tokens.find(token)
        if row is None and self._clients.any:  # as any access token is good, so is any refresh token
            return self._tokens.issue(SignIn(client.id, check_scopes((form.get("scope") or FULL).split())))
        if row is None or row["kind"] != "refresh" or not self._tokens.good(row):
            raise OAuthError("invalid_grant", _REVOKED)
        if row["client"] != client.id:
            raise OAuthError("unauthorized_client", "Unauthorized", 401)
        asked = form.get("scope", "").split() or None
        if asked and not set(asked) <= set(row["scopes"].split()):
            raise OAuthError("invalid_scope", "Some requested scopes were not granted.")
        return self._tokens.issue(self._tokens.sign_in_of(row, asked))

    def _service_account(self, form: Form) -> dict[str, Any]:
        claims = self._accounts.verify(form.get("assertion", ""))
        return self._tokens.issue(SignIn(str(claims["iss"]), check_scopes(str(claims["scope"]).split())))

    async def _device(self, request: Request) -> dict[str, Any]:
        self._traffic.count("oauth2.device", f"POST {request.url.path}")
        return self._devices.begin(await read_form(request), str(request.base_url))

    async def _revoke(self, request: Request) -> dict[str, Any]:
        """RFC 7009 asks for 200 whatever the token is; Google answers 400 to one that is not good."""
        self._traffic.count("oauth2.revoke", f"{request.method} {request.url.path}")
        token = (await read_form(request, query=True)).get("token", "")
        row = self._tokens.find(token)
        if not token or (row is not None and not self._tokens.good(row)) or (row is None and not self._clients.any):
            raise OAuthError("invalid_token", "Token expired or revoked")
        self._tokens.revoke(token)
        return {}

    async def _info(self, request: Request) -> dict[str, Any]:
        self._traffic.count("oauth2.tokeninfo", f"{request.method} {request.url.path}")
        row = self._tokens.find((await read_form(request, query=True)).get("access_token", ""))
        if row is None or row["kind"] != "access" or not self._tokens.good(row):
            raise OAuthError("invalid_token", "Invalid Value")
        return self._tokens.describe(row)


def _check_code(step: dict[str, Any], client: Client, form: Form) -> None:
    """Whether the one who brings a code is the one it was made for."""
    if step["client_id"] != client.id:
        raise OAuthError("invalid_grant", "Bad Request")
    if form.get("redirect_uri", "") != step["redirect_uri"]:
        raise OAuthError("redirect_uri_mismatch", "Bad Request")
    verifier = form.get("code_verifier", "")
    if not step["challenge"]:
        return
    if not verifier:
        raise OAuthError("invalid_grant", "Missing code verifier.")
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    if not 43 <= len(verifier) <= 128 or not hmac.compare_digest(digest.encode(), step["challenge"].encode()):
        raise OAuthError("invalid_grant", "Invalid code verifier.")
