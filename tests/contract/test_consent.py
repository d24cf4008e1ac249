"""The consent page, the code it leads to, and the device flow: signing in as people do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.contract.signins import CHALLENGE, REDIRECT, SCOPE, ask, control, exchange, fields_of, post, press, returned

if TYPE_CHECKING:
    from tests.contract.conftest import Drive


pytestmark = pytest.mark.emulator


def _about(drive: Drive, token: str) -> int:
    return drive.send("GET", "/drive/v3/about?fields=kind", token=token).status


@pytest.mark.parametrize("path", ["/o/oauth2/auth", "/o/oauth2/v2/auth"])
def test_allow(drive: Drive, path: str) -> None:
    """Allow leads back to the loopback address with a code and the very state; the code buys a token that works."""
    page = ask(drive, path)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    answer = press(drive, page, "allow")
    assert urlsplit(answer.headers["location"])._replace(query="").geturl() == REDIRECT
    back = returned(answer)
    assert (set(back), back["state"], back["scope"]) == ({"state", "code", "scope"}, "s&<t>", f"{SCOPE}drive")
    granted = exchange(drive, back["code"]).json()
    assert set(granted) == {"access_token", "refresh_token", "expires_in", "scope", "token_type"}
    assert _about(drive, granted["access_token"]) == 200
    refresh = {"grant_type": "refresh_token", "client_id": "app", "refresh_token": granted["refresh_token"]}
    assert _about(drive, post(drive, "/token", refresh).json()["access_token"]) == 200


def test_deny(drive: Drive) -> None:
    """Deny leads back with error=access_denied and the state, and no code."""
    assert returned(press(drive, ask(drive), "deny")) == {"state": "s&<t>", "error": "access_denied"}


def test_a_scope_that_was_not_ticked(drive: Drive) -> None:
    """Where several scopes are asked for, each can be refused: the app must look at what it was given. None = denied."""
    both = f"{SCOPE}drive {SCOPE}drive.readonly"
    back = returned(press(drive, ask(drive, scope=both), "allow", without=f"{SCOPE}drive"))
    assert exchange(drive, back["code"]).json()["scope"] == f"{SCOPE}drive.readonly"
    page = ask(drive, scope=f"{SCOPE}drive {SCOPE}drive")
    assert returned(press(drive, page, "allow", without=f"{SCOPE}drive"))["error"] == "access_denied"


def test_the_page_is_inert(drive: Drive) -> None:
    """No scripts; whatever the request says is escaped; the policy lets forms lead here and to the app, and forbids framing."""
    page = ask(drive, client_id='"><script>alert(1)</script>')
    assert b"<script" not in page.body
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self' http://127.0.0.1:8765;" in policy
    style = re.search(rb"<style>(.*?)</style>", page.body)
    assert style is not None
    assert page.headers["referrer-policy"] == "same-origin"


def test_a_page_counts_once(drive: Drive) -> None:
    """A second press of the button, and a form that nobody was shown, get nothing."""
    page = ask(drive)
    assert press(drive, page, "allow").status == 302
    assert press(drive, page, "allow").status == 400
    assert post(drive, "/o/oauth2/consent", {"request": "made-up", "decision": "allow", "scope": f"{SCOPE}drive"}).status == 400


@pytest.mark.parametrize(
    "redirect", ["http://localhost:1", "http://127.0.0.1", "http://[::1]:80/x?y=1", "http://127.0.0.1:65535/a/b"]
)
def test_loopback_addresses(drive: Drive, redirect: str) -> None:
    """Every port and path of this machine is good; a query there is kept."""
    location = press(drive, ask(drive, redirect_uri=redirect), "allow").headers["location"]
    assert location.startswith(redirect + ("&" if "?" in redirect else "?"))


BAD_REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"client_id": None}, "invalid_request"),
    ({"redirect_uri": None}, "invalid_request"),
    ({"redirect_uri": "https://app.example/back"}, "redirect_uri_mismatch"),
    ({"redirect_uri": "http://127.0.0.1.example.com/"}, "redirect_uri_mismatch"),
    ({"redirect_uri": "http://app@127.0.0.1/"}, "redirect_uri_mismatch"),
    ({"redirect_uri": "http://127.0.0.1:99999/"}, "redirect_uri_mismatch"),
    ({"redirect_uri": "http://127.0.0.1/#here"}, "redirect_uri_mismatch"),
    ({"redirect_uri": "http://127.0.0.1/\r\nX: y"}, "redirect_uri_mismatch"),
    ({"redirect_uri": "urn:ietf:wg:oauth:2.0:oob"}, "redirect_uri_mismatch"),
    ({"redirect_uri": "javascript:alert(1)"}, "redirect_uri_mismatch"),
    ({"response_type": "token"}, "unsupported_response_type"),
    ({"scope": None}, "invalid_scope"),
    ({"scope": "everything"}, "invalid_scope"),
    ({"code_challenge_method": "plain"}, "invalid_request"),
    ({"code_challenge_method": None}, "invalid_request"),
]


@pytest.mark.parametrize(("changes", "error"), BAD_REQUESTS)
def test_requests_that_are_refused(drive: Drive, changes: dict[str, Any], error: str) -> None:
    """Mistakes are shown on a page of status 400, and the browser is sent nowhere."""
    answer = ask(drive, **changes)
    assert (answer.status, "location" in answer.headers) == (400, False)
    assert f"Error 400: {error}".encode() in answer.body


BAD_EXCHANGES: list[tuple[dict[str, Any], str]] = [
    ({"code": "4/made-up"}, "invalid_grant"),
    ({"code_verifier": None}, "invalid_grant"),
    ({"code_verifier": "x" * 50}, "invalid_grant"),
    ({"code_verifier": CHALLENGE}, "invalid_grant"),
    ({"redirect_uri": None}, "redirect_uri_mismatch"),
    ({"redirect_uri": REDIRECT + "/"}, "redirect_uri_mismatch"),
    ({"client_id": "another"}, "invalid_grant"),
    ({"client_id": None}, "invalid_request"),
]


@pytest.mark.parametrize(("changes", "error"), BAD_EXCHANGES)
def test_exchanges_that_are_refused(drive: Drive, changes: dict[str, Any], error: str) -> None:
    """A code is good for the app, the address and the verifier it was made for; after a wrong attempt for nobody."""
    code = returned(press(drive, ask(drive), "allow"))["code"]
    answer = exchange(drive, **{"code": code} | changes)
    assert (answer.status, answer.json()["error"]) == (400, error)
    spent = "client_id" not in changes or changes["client_id"]
    if "code" not in changes and spent:
        assert exchange(drive, code).json()["error"] == "invalid_grant"


def test_a_code_without_pkce(drive: Drive) -> None:
    """An app that sent no challenge needs no verifier."""
    page = ask(drive, code_challenge=None, code_challenge_method=None)
    assert exchange(drive, returned(press(drive, page, "allow"))["code"], code_verifier=None).status == 200


def test_a_code_that_is_used_twice(drive: Drive) -> None:
    """The second use is refused, and what the first was given ends: a thief and the app cannot both hold tokens."""
    code = returned(press(drive, ask(drive), "allow"))["code"]
    granted = exchange(drive, code).json()
    assert _about(drive, granted["access_token"]) == 200
    assert exchange(drive, code).json()["error"] == "invalid_grant"
    assert _about(drive, granted["access_token"]) == 401
    refresh = {"grant_type": "refresh_token", "client_id": "app", "refresh_token": granted["refresh_token"]}
    assert post(drive, "/token", refresh).json()["error"] == "invalid_grant"


def test_registered_clients(drive: Drive) -> None:
    """Once a client is registered, strangers are refused, secrets are checked, and refresh tokens belong to their client."""
    client = control(drive, "clients", type="installed")["installed"]
    web = control(drive, "clients", type="web", redirect_uris=["https://app.example/back"])["web"]
    stranger = ask(drive)
    assert (stranger.status, b"invalid_client" in stranger.body) == (401, True)
    names = {"client_id": client["client_id"], "client_secret": client["client_secret"]}
    code = returned(press(drive, ask(drive, client_id=client["client_id"]), "allow"))["code"]
    assert exchange(drive, code, **names | {"client_secret": "wrong"}).json()["error"] == "invalid_client"
    granted = exchange(drive, code, **names).json()
    refresh = {"grant_type": "refresh_token", "refresh_token": granted["refresh_token"]}
    assert post(drive, "/token", refresh | names).status == 200
    others = {"client_id": web["client_id"], "client_secret": web["client_secret"]}
    assert post(drive, "/token", refresh | others).json()["error"] == "unauthorized_client"
    assert post(drive, "/token", refresh | names | {"refresh_token": "1//made-up"}).json()["error"] == "invalid_grant"


def test_a_web_client(drive: Drive) -> None:
    """A web client is answered at the addresses it named and at no other, and gets a refresh token only when it asks."""
    client = control(drive, "clients", type="web", redirect_uris=["https://app.example/back"])["web"]
    names = {"client_id": client["client_id"], "client_secret": client["client_secret"]}
    assert ask(drive, client_id=client["client_id"]).status == 400
    address = {"redirect_uri": "https://app.example/back"}
    page = ask(drive, client_id=client["client_id"], **address)
    granted = exchange(drive, returned(press(drive, page, "allow"))["code"], **names, **address).json()
    assert "refresh_token" not in granted
    page = ask(drive, client_id=client["client_id"], access_type="offline", **address)
    assert "refresh_token" in exchange(drive, returned(press(drive, page, "allow"))["code"], **names, **address).json()


DEVICE = {"client_id": "tv", "scope": f"{SCOPE}drive.file"}
POLL = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "client_id": "tv", "client_secret": "s"}


def test_a_device(drive: Drive) -> None:
    """Pending, then too fast, then allowed on the page that the answer names; the code is then spent."""
    begun = post(drive, "/device/code", DEVICE).json()
    assert set(begun) == {"device_code", "user_code", "verification_url", "expires_in", "interval"}
    assert (begun["verification_url"], begun["expires_in"], begun["interval"]) == (f"{drive.url}/device", 1800, 5)
    poll = POLL | {"device_code": begun["device_code"]}
    first, second = post(drive, "/token", poll), post(drive, "/token", poll)
    assert (first.status, first.json()["error"]) == (428, "authorization_pending")
    assert (second.status, second.json()["error"]) == (403, "slow_down")
    assert drive.send("GET", "/device", token=None).status == 200
    page = drive.send("GET", f"/device?user_code={begun['user_code'].lower()}", token=None)
    assert press(drive, page, "allow").status == 200
    granted = post(drive, "/token", poll).json()
    assert (granted["scope"], "refresh_token" in granted) == (f"{SCOPE}drive.file", True)
    assert post(drive, "/token", poll).json()["error"] == "invalid_grant"


def test_a_device_that_is_denied(drive: Drive) -> None:
    """403 access_denied; a code typed wrongly, or already decided on, leads to no page with buttons."""
    begun = post(drive, "/device/code", DEVICE).json()
    page = drive.send("GET", f"/device?user_code={begun['user_code']}", token=None)
    assert press(drive, page, "deny").status == 200
    answer = post(drive, "/token", POLL | {"device_code": begun["device_code"]})
    assert (answer.status, answer.json()["error"]) == (403, "access_denied")
    for code in (begun["user_code"], "AAAA-AAAA"):
        again = drive.send("GET", f"/device?user_code={code}", token=None)
        assert (again.status, [name for name, _ in fields_of(again)]) == (400, ["user_code"])


@pytest.mark.parametrize("scope", ["drive", "drive.readonly", "drive.file drive"])
def test_scopes_that_devices_cannot_have(drive: Drive, scope: str) -> None:
    """Of Drive's scopes the device flow gives drive.file and drive.appdata only: it cannot sign in a mount."""
    wanted = " ".join(SCOPE + one for one in scope.split())
    answer = post(drive, "/device/code", DEVICE | {"scope": wanted})
    assert (answer.status, answer.json()["error"]) == (400, "invalid_scope")
