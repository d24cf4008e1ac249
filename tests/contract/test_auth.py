"""Bearer tokens and the token endpoint."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from tests.contract.signins import SCOPE, assertion, control

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.conftest import Answer, Drive, Server

pytestmark = pytest.mark.emulator
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JWT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
REFRESH = {"grant_type": "refresh_token", "client_id": "c", "client_secret": "s", "refresh_token": "1//r"}


def _grant(drive: Drive, fields: dict[str, str], headers: dict[str, str] | None = None) -> Answer:
    return drive.send("POST", "/token", body=urlencode(fields).encode(), headers=FORM | (headers or {}), token=None)


def _about(drive: Drive, token: str | None) -> Answer:
    return drive.send("GET", "/drive/v3/about?fields=kind", token=token)


def _jwt(**changes: Any) -> str:
    now = int(time.time())
    claims = {
        "iss": "robot@example.com",
        "scope": "a b",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": now,
        "exp": now + 3600,
    }
    parts = [{"typ": "JWT", "alg": changes.pop("alg", "RS256")}, claims | changes]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


def test_no_token(drive: Drive) -> None:
    """Errors: 401 required "Login Required"; the message of an API error, blaming the header."""
    answer = _about(drive, None)
    assert (answer.status, answer.reason, answer.location) == (401, "required", "Authorization")
    assert "www-authenticate" in answer.headers


def test_any_token_until_it_is_revoked(drive: Drive) -> None:
    """Errors: by default every token is good; a revoked one is 401 authError "Invalid Credentials"."""
    assert _about(drive, "whatever").status == 200
    drive.send("POST", "/_emulator/tokens/revoke", body=b'{"token": "whatever"}', token=None)
    answer = _about(drive, "whatever")
    assert (answer.status, answer.reason) == (401, "authError")
    assert answer.json()["error"]["message"] == "Invalid Credentials"
    assert drive.send("GET", "/drive/v3/about?fields=kind&access_token=other", token=None).status == 200


def test_listed_tokens(start: Callable[..., Server]) -> None:
    """Options: with --token only the listed tokens and those from /token are accepted."""
    drive = start("--token", "one", "--token", "two").drive
    assert [_about(drive, token).status for token in ("one", "two", "three")] == [200, 200, 401]
    assert _about(drive, _grant(drive, REFRESH).json()["access_token"]).status == 200


@pytest.mark.parametrize("basic", [False, True])
def test_refresh(drive: Drive, basic: bool) -> None:
    """Token endpoint: client credentials in the body or as HTTP Basic; the token lives 3599 s and may be expired by command."""
    fields, headers = dict(REFRESH), {}
    if basic:
        del fields["client_id"], fields["client_secret"]
        headers = {"Authorization": "Basic " + base64.b64encode(b"c:s").decode()}
    granted = _grant(drive, fields, headers).json()
    assert set(granted) == {"access_token", "expires_in", "scope", "token_type"}
    assert (granted["expires_in"], granted["token_type"]) == (3599, "Bearer")
    assert _about(drive, granted["access_token"]).status == 200
    assert drive.send("POST", "/_emulator/tokens/expire", token=None).json() == {"expired": 1}
    assert _about(drive, granted["access_token"]).reason == "authError"


def test_service_account(drive: Drive) -> None:
    """Token endpoint: a JWT grant; aud names Google's endpoint, whatever address the emulator has, or the key's token_uri."""
    key = control(drive, "service-accounts", name="robot-1")
    assert (key["type"], key["token_uri"]) == ("service_account", f"{drive.url}/token")
    for audience in ("https://oauth2.googleapis.com/token", key["token_uri"]):
        granted = _grant(drive, {"grant_type": JWT, "assertion": assertion(key, aud=audience)}).json()
        assert granted["scope"] == f"{SCOPE}drive"
        assert _about(drive, granted["access_token"]).status == 200


def test_signatures_are_checked(drive: Drive) -> None:
    """Token endpoint: a foreign key, an altered claim, a stranger, a wrong audience and an unknown scope buy nothing."""
    key, other = (control(drive, "service-accounts", name=name) for name in ("robot-1", "robot-2"))
    forged = assertion(other | {"client_email": key["client_email"], "private_key_id": key["private_key_id"]})
    good, second = assertion(key).split("."), assertion(key, scope="https://www.googleapis.com/auth/drive.file").split(".")
    cases = {
        forged: "Invalid JWT Signature.",
        f"{good[0]}.{second[1]}.{good[2]}": "Invalid JWT Signature.",
        assertion(key | {"client_email": "nobody@example.com"}): "Invalid grant: account not found",
        assertion(key, aud="https://example.com/token"): "Invalid JWT: Failed audience check.",
        assertion(key, aud=["https://oauth2.googleapis.com/token"]): "Invalid JWT: Failed audience check.",
    }
    for one, text in cases.items():
        answer = _grant(drive, {"grant_type": JWT, "assertion": one})
        assert (answer.status, answer.json()) == (400, {"error": "invalid_grant", "error_description": text})
    assert _grant(drive, {"grant_type": JWT, "assertion": assertion(key, scope="all")}).json()["error"] == "invalid_scope"


REFUSED: list[tuple[dict[str, str], str]] = [
    ({}, "unsupported_grant_type"),
    ({"grant_type": "password"}, "unsupported_grant_type"),
    ({"grant_type": "refresh_token", "refresh_token": "r"}, "invalid_request"),
    ({"grant_type": "refresh_token", "client_id": "c"}, "invalid_request"),
    ({"grant_type": JWT}, "invalid_grant"),
    ({"grant_type": JWT, "assertion": "a.b"}, "invalid_grant"),
    ({"grant_type": JWT, "assertion": _jwt(alg="none")}, "invalid_grant"),
    ({"grant_type": JWT, "assertion": _jwt(exp=1)}, "invalid_grant"),
    ({"grant_type": JWT, "assertion": _jwt(exp=int(time.time()) + 7200)}, "invalid_grant"),
    ({"grant_type": JWT, "assertion": _jwt(iss="")}, "invalid_grant"),
    ({"grant_type": JWT, "assertion": _jwt(iat="now")}, "invalid_grant"),
    ({"grant_type": JWT, "assertion": _jwt()}, "invalid_grant"),
]


@pytest.mark.parametrize(("fields", "error"), REFUSED)
def test_grants_that_are_refused(drive: Drive, fields: dict[str, str], error: str) -> None:
    """Token endpoint: 400 with an OAuth error (RFC 6749, 5.2), not the API's envelope."""
    answer = _grant(drive, fields)
    assert (answer.status, answer.json()["error"]) == (400, error)


@pytest.mark.parametrize("credentials", ["eDp5", "é", "!!", "/w=="])
def test_basic_credentials_that_cannot_be_read(drive: Drive, credentials: str) -> None:
    """Token endpoint: HTTP Basic that is not base64 of a text is 401 invalid_client; what can be read is used."""
    answer = _grant(drive, {"grant_type": "refresh_token", "refresh_token": "r"}, {"Authorization": f"Basic {credentials}"})
    good = credentials == "eDp5"
    assert (answer.status, answer.json().get("error")) == ((200, None) if good else (401, "invalid_client"))


def test_a_revoked_refresh_token(drive: Drive) -> None:
    """Token endpoint: 400 invalid_grant "Token has been expired or revoked."."""
    drive.send("POST", "/_emulator/tokens/revoke", body=b'{"token": "1//r"}', token=None)
    answer = _grant(drive, REFRESH)
    assert answer.json() == {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
