"""Request parameters, strictly read, and page tokens.

A page token is opaque and signed: it is good for some hours, for the Drive that gave it out, and for a request whose other
parameters are the same.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

from drivefs.emulator.errors import ApiError, bad_request, invalid_value
from drivefs.emulator.fields import Mask, parse
from drivefs.emulator.store import Store

__all__ = ["Parameters", "open_token", "seal_token"]

_LIFETIME_MS: Final = 6 * 3600 * 1000
_UNBOUND: Final = frozenset({"pageToken", "alt", "key", "quotaUser", "access_token", "oauth_token", "prettyPrint", "$.xgafv"})
_MOST_WITH_PARENTS: Final = 460  # a page whose items state their parents is never longer


class Parameters:
    """The query parameters of one request. A wrong value is refused by name."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self._query = query
        if query.get("alt", "json") not in ("json", "media"):
            raise invalid_value("alt", f"Invalid value '{query['alt']}'. Allowed values: [json, media]")

    def text(self, name: str, default: str = "") -> str:
        return self._query.get(name, default)

    def required(self, name: str) -> str:
        if not self._query.get(name):
            raise bad_request(f"Required parameter: {name}", location=name, reason="required")
        return self._query[name]

    def boolean(self, name: str, default: bool = False) -> bool:
        value = self._query.get(name)
        if value is None:
            return default
        if value.lower() not in ("true", "false"):
            raise ApiError(400, "invalidParameter", f"Invalid boolean value: '{value}'.", location=name)
        return value.lower() == "true"

    def integer(self, name: str, default: int, most: int, *, coerce: bool = False) -> int:
        """A value of 1 ... ``most``; above it, ``most`` where ``coerce``."""
        raw = self._query.get(name)
        if raw is None:
            return default
        digits = raw.isascii() and raw.isdigit() and len(raw) < 12
        if not digits or int(raw) < 1 or (int(raw) > most and not coerce):
            message = f"Invalid value '{raw}'. Values must be within the range: [1, {most}]"
            raise ApiError(400, "invalidParameter", message, location=name)
        return min(int(raw), most)

    def id_list(self, name: str) -> list[str]:
        return [one.strip() for one in self.text(name).split(",") if one.strip()]

    @property
    def wants_media(self) -> bool:
        return self.text("alt") == "media"

    def mask(self, resource: str, default: str) -> Mask:
        """The ``fields`` mask; an empty one counts as absent."""
        return parse(self.text("fields").strip() or default, resource)

    def page_size(self, default: int, most: int, *, with_parents: bool = False) -> int:
        size = self.integer("pageSize", default, most, coerce=True)
        return min(size, _MOST_WITH_PARENTS) if with_parents else size

    def binding(self) -> str:
        """All that a page token is bound to."""
        bound = sorted((name, value) for name, value in self._query.items() if name not in _UNBOUND)
        return hashlib.sha256(json.dumps(bound).encode()).hexdigest()


def _proof(store: Store, body: bytes, call: str, binding: str) -> bytes:
    return hmac.digest(store.secret, b"\0".join((call.encode(), binding.encode(), body)), "sha256")[:16]


def seal_token(store: Store, call: str, parameters: Parameters, position: Any) -> str:
    """A page token for ``position`` (any JSON value) in the answers to ``call``."""
    body = json.dumps([store.clock(), position]).encode()
    return "~!!~" + base64.urlsafe_b64encode(_proof(store, body, call, parameters.binding()) + body).decode().rstrip("=")


def open_token(store: Store, call: str, parameters: Parameters, token: str) -> Any:
    """The position within; 400 for a token that is foreign, stale, or brought with other parameters."""
    padded = token.removeprefix("~!!~") + "=" * (-len(token.removeprefix("~!!~")) % 4)
    try:
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
    except ValueError:
        raise invalid_value("pageToken") from None
    if not hmac.compare_digest(raw[:16], _proof(store, raw[16:], call, parameters.binding())):
        raise invalid_value("pageToken")
    made_ms, position = json.loads(raw[16:])
    if store.clock() - made_ms > _LIFETIME_MS:
        raise invalid_value("pageToken")
    return position
