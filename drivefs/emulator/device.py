"""Signing in on a device without a browser: a short code, typed elsewhere, while the device asks again and again.

Google allows this flow few scopes; of Drive's only those that confine an app to its own files.
Source: RFC 8628; https://developers.google.com/identity/protocols/oauth2/limited-input-device
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

from drivefs.emulator.identities import Clients
from drivefs.emulator.oauth import Form, OAuthError
from drivefs.emulator.scopes import DEVICE_SCOPES
from drivefs.emulator.tokens import SignIn, Steps, Tokens

__all__ = ["Devices"]

_SECONDS: Final = 1800
_INTERVAL: Final = 5  # seconds between polls
_LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ"  # no vowels, as RFC 8628 (6.1) advises: no words arise


class Devices:
    def __init__(self, clients: Clients, tokens: Tokens, steps: Steps) -> None:
        self._clients, self._tokens, self._steps = clients, tokens, steps

    def begin(self, form: Form, base_url: str) -> dict[str, Any]:
        """The answer to a device that wants to sign in."""
        client, scopes = self._clients.find(form.get("client_id", "")), form.get("scope", "").split()
        if not scopes:
            raise OAuthError("invalid_request", "Missing required parameter: scope")
        if refused := set(scopes) - DEVICE_SCOPES:
            raise OAuthError("invalid_scope", f"Invalid device flow scope: {' '.join(sorted(refused))}")
        typed = "".join(secrets.choice(_LETTERS) for _ in range(8))
        user_code = f"{typed[:4]}-{typed[4:]}"
        state = {"client_id": client.id, "scopes": scopes, "user_code": user_code, "interval": _INTERVAL, "asked": None}
        device_code = self._steps.put("device", state | {"decision": None}, _SECONDS)
        self._steps.put("user_code", {"device_code": device_code}, _SECONDS, name=user_code)
        answer = {"device_code": device_code, "user_code": user_code, "expires_in": _SECONDS, "interval": _INTERVAL}
        return answer | {"verification_url": f"{base_url}device"}

    def poll(self, form: Form) -> dict[str, Any]:
        """The answer to a device that asks whether its user has decided."""
        client, code = self._clients.authenticate(form), form.get("device_code", "")
        state = self._steps.get("device", code)
        if state is None or state["client_id"] != client.id:
            raise OAuthError("invalid_grant", "Malformed device code.")
        if state["decision"] is None:
            raise self._not_yet(code, state)
        self._steps.take("device", code)
        if not state["decision"]:
            raise OAuthError("access_denied", "Forbidden", 403)
        sign_in = SignIn(client.id, tuple(state["decision"]))
        return self._tokens.issue(sign_in) | {"refresh_token": self._tokens.refresh_token(sign_in)}

    def _not_yet(self, code: str, state: dict[str, Any]) -> OAuthError:
        now, interval = time.time(), state["interval"]
        hurried = state["asked"] is not None and now - state["asked"] < interval
        self._steps.set("device", code, state | {"asked": now, "interval": interval + _INTERVAL if hurried else interval})
        if hurried:
            return OAuthError("slow_down", "Forbidden", 403)
        return OAuthError("authorization_pending", "Precondition Required", 428)
