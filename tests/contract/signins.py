"""Signing in, as clients of the tests do it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from html import unescape
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from google.auth import crypt, jwt

if TYPE_CHECKING:
    from tests.contract.conftest import Answer, Drive

SCOPE = "https://www.googleapis.com/auth/"
JWT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
REDIRECT = "http://127.0.0.1:8765/back"
VERIFIER = "a-verifier-of-at-least-forty-three-characters-0123"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def post(drive: Drive, path: str, fields: Any, headers: dict[str, str] | None = None) -> Answer:
    """A form; ``fields`` is a mapping or a list of pairs."""
    return drive.send("POST", path, body=urlencode(fields).encode(), headers=_FORM | (headers or {}), token=None)


def control(drive: Drive, path: str, **body: Any) -> Any:
    answer = drive.send("POST", f"/_emulator/{path}", body=json.dumps(body).encode(), token=None)
    assert answer.status == 200, answer.body
    return answer.json()


def token_for(drive: Drive, *scopes: str, client_id: str = "") -> str:
    """An access token with scopes, named without their common beginning."""
    return str(control(drive, "tokens", scopes=[SCOPE + one for one in scopes], client_id=client_id)["access_token"])


def assertion(key: dict[str, Any], **changes: Any) -> str:
    """What a service account signs to get a token."""
    now = int(time.time())
    claims = {"iss": key["client_email"], "scope": f"{SCOPE}drive", "aud": "https://oauth2.googleapis.com/token"}
    claims |= {"iat": now, "exp": now + 3600} | changes
    signer = crypt.RSASigner.from_service_account_info(key)  # type: ignore[no-untyped-call]
    return bytes(jwt.encode(signer, claims)).decode()  # type: ignore[no-untyped-call]


def ask(drive: Drive, path: str = "/o/oauth2/v2/auth", **changes: Any) -> Answer:
    """The consent page; a parameter of None is left out."""
    query = {"client_id": "app", "redirect_uri": REDIRECT, "response_type": "code", "scope": f"{SCOPE}drive", "state": "s&<t>"}
    query |= {"code_challenge": CHALLENGE, "code_challenge_method": "S256"} | changes
    return drive.send("GET", f"{path}?{urlencode({k: v for k, v in query.items() if v is not None})}", token=None)


def fields_of(page: Answer) -> list[tuple[str, str]]:
    """What a browser would send of the page's form, without the pressed button."""
    inputs = re.findall(r"<input ([^>]*)>", page.body.decode())
    attributes = [dict(re.findall(r'(\w+)="([^"]*)"', one)) for one in inputs]
    return [(one["name"], unescape(one.get("value", ""))) for one in attributes]


def press(drive: Drive, page: Answer, decision: str, *, without: str = "") -> Answer:
    """Press Allow or Deny. without: a scope whose box is unticked."""
    pairs = [pair for pair in fields_of(page) if pair != ("scope", without)]
    return post(drive, "/o/oauth2/consent", [*pairs, ("decision", decision)])


def returned(answer: Answer) -> dict[str, str]:
    """What the app learns when the browser comes back to it."""
    assert answer.status == 302, answer.body
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


def exchange(drive: Drive, code: str, **changes: Any) -> Answer:
    fields = {"grant_type": "authorization_code", "code": code, "client_id": "app", "client_secret": "s"}
    fields |= {"redirect_uri": REDIRECT, "code_verifier": VERIFIER} | changes
    return post(drive, "/token", {name: value for name, value in fields.items() if value is not None})
