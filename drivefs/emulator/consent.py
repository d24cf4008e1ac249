"""The consent page: a person allows or denies an app, in a browser, and is sent back to it with a code.

Apps are reached at a loopback address of any port, or at an address that a registered web client named. Mistakes in a request are
shown and never sent to an address that was not checked.
Sources: RFC 6749 (4.1.1, 4.1.2), RFC 7636 (4.3), RFC 8252 (7.3).
"""

from __future__ import annotations

import secrets
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from drivefs.emulator import pages
from drivefs.emulator.identities import Client, Clients
from drivefs.emulator.oauth import OAuthError, check_scopes, read_pairs
from drivefs.emulator.tokens import SignIn, Steps
from drivefs.emulator.wire import Traffic

__all__ = ["Consent"]

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_PAGE_SECONDS: Final = 600  # to decide
_CODE_SECONDS: Final = 600


class Consent:
    def __init__(self, clients: Clients, steps: Steps, traffic: Traffic) -> None:
        self._clients, self._steps, self._traffic = clients, steps, traffic

    def routes(self) -> list[Route]:
        return [
            *(Route(path, self.ask, methods=["GET"]) for path in ("/o/oauth2/auth", "/o/oauth2/v2/auth")),
            Route("/o/oauth2/consent", self.decide, methods=["POST"]),
            Route("/device", self.device, methods=["GET"]),
        ]

    async def ask(self, request: Request) -> Response:
        """The page, or why there is none."""
        self._traffic.count("oauth2.auth", f"GET {request.url.path}")
        query = dict(request.query_params)
        try:
            client = self._clients.find(query.get("client_id", ""))
            step = _read(client, query)
        except OAuthError as error:
            return pages.failure(error.status, error.error, error.description)
        name = self._steps.put("consent", step, _PAGE_SECONDS)
        return self._page(step, name, [_origin(step["redirect_uri"])])

    def _page(self, step: dict[str, Any], name: str, targets: list[str]) -> Response:
        return pages.choice(step["client_id"], step["scopes"], name, form_targets=targets)

    async def device(self, request: Request) -> Response:
        """Where the code of a device is typed."""
        typed = request.query_params.get("user_code")
        if typed is None:
            return pages.typing(wrong=False)
        found = self._steps.get("user_code", typed.strip().upper())
        state = self._steps.get("device", found["device_code"]) if found else None
        if found is None or state is None or state["decision"] is not None:
            return pages.typing(wrong=True)
        step = {"client_id": state["client_id"], "scopes": state["scopes"], "device_code": found["device_code"]}
        return self._page(step, self._steps.put("consent", step, _PAGE_SECONDS), [])

    async def decide(self, request: Request) -> Response:
        """Allow or Deny was pressed. Each page counts once."""
        self._traffic.count("oauth2.consent", f"POST {request.url.path}")
        try:
            pairs = await read_pairs(request)
        except OAuthError as error:
            return pages.failure(error.status, error.error, error.description)
        form, ticked = dict(pairs), {value for name, value in pairs if name == "scope"}
        step = self._steps.take("consent", form.get("request", ""))
        if step is None:
            return pages.failure(400, "invalid_request", "This page was answered already, or its time is over. Start again.")
        granted = [one for one in step["scopes"] if one in ticked] if form.get("decision") == "allow" else []
        if "device_code" in step:
            return self._tell_device(step["device_code"], granted)
        return RedirectResponse(self._address(step, granted), 302)

    def _tell_device(self, device_code: str, granted: list[str]) -> Response:
        state = self._steps.get("device", device_code)
        if state is None or state["decision"] is not None:
            return pages.typing(wrong=True)
        self._steps.set("device", device_code, state | {"decision": granted})
        self._steps.take("user_code", state["user_code"])
        return pages.note("Connected" if granted else "Denied", "You may close this page and go back to your device.")

    def _address(self, step: dict[str, Any], granted: list[str]) -> str:
        """Where the browser goes with the answer."""
        answer = {"state": step["state"]} if step["state"] is not None else {}
        if granted:
            sign_in = SignIn(step["client_id"], tuple(granted))
            code = step | {"scopes": granted, "sign_in": sign_in.id, "used": False}
            name = self._steps.put("code", code, _CODE_SECONDS, name=f"4/{secrets.token_urlsafe(48)}")
            answer |= {"code": name, "scope": " ".join(granted)}
        else:
            answer["error"] = "access_denied"
        joint = "&" if urlsplit(step["redirect_uri"]).query else "?"
        return f"{step['redirect_uri']}{joint}{urlencode(answer)}"


def _read(client: Client, query: dict[str, str]) -> dict[str, Any]:
    """What a request asks for. Raises OAuthError."""
    redirect = query.get("redirect_uri", "")
    if not redirect:
        raise OAuthError("invalid_request", "Missing required parameter: redirect_uri")
    if not _may_return(client, redirect):
        raise OAuthError("redirect_uri_mismatch", "You can't sign in because this app sent an invalid request.")
    if query.get("response_type") != "code":
        raise OAuthError("unsupported_response_type", "The response_type must be code.")
    challenge = query.get("code_challenge", "")
    if challenge and query.get("code_challenge_method", "plain") != "S256":
        raise OAuthError("invalid_request", "The code_challenge_method must be S256.")
    return {
        "client_id": client.id,
        "redirect_uri": redirect,
        "scopes": check_scopes(query.get("scope", "").split()),
        "state": query.get("state"),
        "challenge": challenge,
        # Apps on a machine of their user's always get a refresh token, others when they ask.
        "offline": client.kind == "installed" or query.get("access_type") == "offline",
    }


def _may_return(client: Client, redirect: str) -> bool:
    """Whether the app may be answered there."""
    try:
        parts = urlsplit(redirect)
        port = parts.port
    except ValueError:
        return False
    clean = (
        redirect.isascii() and redirect.isprintable() and " " not in redirect and not parts.fragment and "@" not in parts.netloc
    )
    if client.kind == "web":
        return clean and redirect in client.redirects
    return clean and parts.scheme == "http" and parts.hostname in _LOOPBACK and port != 0


def _origin(address: str) -> str:
    """As a content security policy names it, which has no form for IPv6 addresses."""
    parts = urlsplit(address)
    return f"{parts.scheme}:" if ":" in (parts.hostname or "") else f"{parts.scheme}://{parts.netloc}"
