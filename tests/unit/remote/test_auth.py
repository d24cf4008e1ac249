"""Sign-in: key files, the token exchange, and what may not leak."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
import trio
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from drivefs.base.errors import ExitCode, RemoteUnreachable, SignInRefused, UsageError
from drivefs.remote.auth import SCOPE, GoogleCredential, StaticToken
from drivefs.remote.http import Transport

if TYPE_CHECKING:
    from tests.unit.remote.conftest import MakeDrive, Script

Write = Callable[[object], Path]


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a value as a private JSON file."""

    def put(value: object) -> Path:
        path = tmp_path / "key.json"
        path.touch(0o600)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return put


def service_account(key: rsa.RSAPrivateKey, token_uri: str) -> dict[str, Any]:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        "type": "service_account",
        "client_email": "robot@project.iam.gserviceaccount.com",
        "private_key": pem.decode(),
        "private_key_id": "k1",
        "token_uri": token_uri,
    }


def authorized_user(token_uri: str, **changed: Any) -> dict[str, Any]:
    return {
        "type": "authorized_user",
        "client_id": "c1",
        "client_secret": "GOCSPX-secret",
        "refresh_token": "1//0refresh",
        "token_uri": token_uri,
        **changed,
    }


def granted(server: Script, token: str, seconds: int = 3599) -> Any:
    return server.json({"access_token": token, "expires_in": seconds, "token_type": "Bearer", "scope": SCOPE})


def later(seconds: float) -> Callable[[], float]:
    """trio's clock, so much later."""
    now = trio.current_time
    return lambda: now() + seconds


def jumped_datetime(by: timedelta) -> type[datetime]:
    class Jumped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + by

    return Jumped


async def test_a_service_account_signs_for_its_token(
    transport: Transport, server: Script, write: Write, key: rsa.RSAPrivateKey
) -> None:
    """The key file's token address gets a JWT that the key has signed, for the drive scope; the token is then used and kept."""
    server.will(granted(server, "tok1"))
    credential = GoogleCredential.from_file(write(service_account(key, f"{server.url}/token")), transport)
    assert credential.identity() == "robot@project.iam.gserviceaccount.com"
    assert await credential.headers() == {"authorization": "Bearer tok1"}
    assert await credential.headers() == {"authorization": "Bearer tok1"}
    (seen,) = server.seen
    form = parse_qs(seen.body.decode())
    assert (seen.method, seen.path) == ("POST", "/token")
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    claims = verified_claims(key, form["assertion"][0])
    assert (claims["iss"], claims["scope"]) == ("robot@project.iam.gserviceaccount.com", SCOPE)


def verified_claims(key: rsa.RSAPrivateKey, token: str) -> dict[str, Any]:
    """A JWT's claims (RFC 7515, RS256). Raises InvalidSignature where the key did not sign them."""

    def decode(text: str) -> bytes:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    signed, _, signature = token.rpartition(".")
    key.public_key().verify(decode(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    claims: dict[str, Any] = json.loads(decode(signed.partition(".")[2]))
    return claims


async def test_an_authorized_user_refreshes(transport: Transport, server: Script, write: Write) -> None:
    """The refresh token goes to the file's own token address, and the account's name holds no secret."""
    server.will(granted(server, "tok1"))
    credential = GoogleCredential.from_file(write(authorized_user(f"{server.url}/token")), transport)
    assert await credential.headers() == {"authorization": "Bearer tok1"}
    form = parse_qs(server.seen[0].body.decode())
    assert (form["grant_type"], form["refresh_token"], form["client_id"]) == (["refresh_token"], ["1//0refresh"], ["c1"])
    identity = credential.identity()
    assert "refresh" not in identity
    assert identity == GoogleCredential.from_file(write(authorized_user(f"{server.url}/other")), transport).identity()
    other = authorized_user(server.url, refresh_token="1//0other")
    assert identity != GoogleCredential.from_file(write(other), transport).identity()


async def test_many_callers_one_exchange(transport: Transport, server: Script, write: Write) -> None:
    """Ten tasks without a token, and ten with a refused one, cost one exchange each time."""
    server.will(granted(server, "tok1"), granted(server, "tok2"))
    credential = GoogleCredential.from_file(write(authorized_user(f"{server.url}/token")), transport)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(credential.headers)
    assert len(server.seen) == 1
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(credential.refresh, "Bearer tok1")
    assert len(server.seen) == 2
    assert await credential.headers() == {"authorization": "Bearer tok2"}


async def test_a_token_about_to_expire_is_replaced(transport: Transport, server: Script, write: Write) -> None:
    """A token with less than half a minute left is not used; one with more is."""
    server.will(granted(server, "short", 5), granted(server, "long", 60))
    credential = GoogleCredential.from_file(write(authorized_user(f"{server.url}/token")), transport)
    assert await credential.headers() == {"authorization": "Bearer short"}
    assert await credential.headers() == {"authorization": "Bearer long"}
    assert await credential.headers() == {"authorization": "Bearer long"}
    assert len(server.seen) == 2


async def test_drive_renews_a_refused_token(transport: Transport, server: Script, write: Write, make_drive: MakeDrive) -> None:
    """A 401 in the middle of the hour: one exchange, and the call succeeds with the new token."""
    server.will(granted(server, "tok1"), server.error(401, "authError"), granted(server, "tok2"), server.json(server.item()))
    credential = GoogleCredential.from_file(write(authorized_user(f"{server.url}/token")), transport)
    assert (await make_drive(credential).get("file1")).id == "file1"
    assert [seen.headers.get("authorization") for seen in server.seen] == [None, "Bearer tok1", None, "Bearer tok2"]


async def test_a_revoked_sign_in_is_said_so(transport: Transport, server: Script, write: Write) -> None:
    """invalid_grant is final: the sentence says what to do, quotes no secret, and the exit code is the sign-in's."""
    answer = {"error": "invalid_grant", "error_description": "Token 1//0refresh has been expired or revoked."}
    server.will(server.json(answer, 400))
    credential = GoogleCredential.from_file(write(authorized_user(f"{server.url}/token")), transport)
    with pytest.raises(SignInRefused, match=r"invalid_grant.*sign in again") as caught:
        await credential.headers()
    assert "1//0refresh" not in str(caught.value)
    assert caught.value.exit_code is ExitCode.SIGN_IN_REFUSED


def refused(server: Script) -> Any:
    return server.json({"error": "invalid_grant"}, 400)


def owner(server: Script, permission_id: str) -> Any:
    return server.json({"user": {"permissionId": permission_id}})


async def revoked(transport: Transport, server: Script, write: Write) -> GoogleCredential:
    """A sign-in that worked, of account p1, and was then refused."""
    server.will(granted(server, "tok1"), refused(server))
    credential = GoogleCredential.from_file(write(authorized_user(f"{server.url}/token")), transport, server.url)
    await credential.headers()
    credential.belongs_to("p1")
    with pytest.raises(SignInRefused, match="invalid_grant"):
        await credential.refresh("Bearer tok1")
    return credential


async def test_a_refusal_is_believed_for_a_moment(transport: Transport, server: Script, write: Write) -> None:
    """Twenty calls right after it fail at once, with the same words, and ask nobody."""
    credential = await revoked(transport, server, write)
    before = len(server.seen)
    for _ in range(20):
        with pytest.raises(SignInRefused, match="invalid_grant"):
            await credential.headers()
    assert len(server.seen) == before


async def test_signing_in_anew_is_noticed(
    transport: Transport, server: Script, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced by one of the same account: the next call after a few seconds has a token again."""
    credential = await revoked(transport, server, write)
    monkeypatch.setattr("drivefs.remote.auth.trio.current_time", later(10.0))
    write(authorized_user(f"{server.url}/token", refresh_token="1//0newer"))
    server.will(granted(server, "tok2"), owner(server, "p1"))
    assert await credential.headers() == {"authorization": "Bearer tok2"}
    assert parse_qs(server.seen[-2].body.decode())["refresh_token"] == ["1//0newer"]
    assert server.seen[-1].headers["authorization"] == "Bearer tok2"
    await credential.headers()
    assert server.unused == 0


async def test_another_account_s_sign_in_is_not_taken(
    transport: Transport, server: Script, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cached and unsent belongs to one account: the refusal stands, and says so."""
    credential = await revoked(transport, server, write)
    monkeypatch.setattr("drivefs.remote.auth.trio.current_time", later(10.0))
    write(authorized_user(f"{server.url}/token", refresh_token="1//0stranger"))
    server.will(granted(server, "tok2"), owner(server, "p2"), refused(server))
    with pytest.raises(SignInRefused, match="of another account"):
        await credential.headers()
    assert parse_qs(server.seen[-1].body.decode())["refresh_token"] == ["1//0refresh"]


async def test_a_damaged_file_does_not_end_a_good_sign_in(transport: Transport, server: Script, write: Write) -> None:
    """The file was replaced by nonsense while the sign-in still works: it goes on working."""
    server.will(granted(server, "tok1"), granted(server, "tok2"))
    credential = GoogleCredential.from_file(write(authorized_user(f"{server.url}/token")), transport, server.url)
    await credential.headers()
    write("{")
    await credential.refresh("Bearer tok1")
    assert await credential.headers() == {"authorization": "Bearer tok2"}


@pytest.mark.parametrize("days", [-2, 2])
async def test_a_clock_that_jumps_changes_nothing(
    transport: Transport, server: Script, write: Write, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """Two days forth or back: the token in use stays in use, and one that is got now lives as long as any."""
    server.will(granted(server, "tok1"), granted(server, "tok2"))
    credential = GoogleCredential.from_file(write(authorized_user(f"{server.url}/token")), transport, server.url)
    await credential.headers()
    jumped = jumped_datetime(timedelta(days=days))
    monkeypatch.setattr("drivefs.remote.auth.datetime", jumped)
    monkeypatch.setattr("google.auth._helpers.datetime", SimpleNamespace(datetime=jumped, timedelta=timedelta, timezone=timezone))
    monkeypatch.setattr(time, "time", lambda real=time.time: real() + days * 86400.0)
    assert await credential.headers() == {"authorization": "Bearer tok1"}
    await credential.refresh("Bearer tok1")
    for _ in range(3):
        assert await credential.headers() == {"authorization": "Bearer tok2"}
    assert len(server.seen) == 2
    monkeypatch.setattr("drivefs.remote.auth.trio.current_time", later(3599.0))
    server.will(granted(server, "tok3"))
    assert await credential.headers() == {"authorization": "Bearer tok3"}


async def test_a_token_server_out_of_reach_is_no_refusal(transport: Transport, server: Script, write: Write) -> None:
    """No connection to the token server says nothing about the sign-in: RemoteUnreachable, which is tried again."""
    credential = GoogleCredential.from_file(write(authorized_user(f"{server.url}/token")), transport)
    server.close()
    with pytest.raises(RemoteUnreachable, match="cannot be reached"):
        await credential.headers()


async def test_cancelling_an_exchange(transport: Transport, server: Script, write: Write) -> None:
    """A silent token server does not hold a cancelled task, and the next task may try."""
    server.will(server.hang(), granted(server, "tok1"))
    credential = GoogleCredential.from_file(write(authorized_user(f"{server.url}/token")), transport)
    with trio.move_on_after(0.2) as scope:
        await credential.headers()
    assert scope.cancelled_caught
    assert trio.current_time() - scope.deadline < 1.0
    assert await credential.headers() == {"authorization": "Bearer tok1"}


# --- files that will not do ---


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o644, 0o666])
async def test_a_key_others_can_read_is_refused(transport: Transport, write: Write, mode: int) -> None:
    """The sentence names the command that mends it; the file is left as it is."""
    path = write(authorized_user("https://oauth2.googleapis.com/token"))
    path.chmod(mode)
    with pytest.raises(UsageError, match=r"by other users\. Run: chmod 600"):
        GoogleCredential.from_file(path, transport)
    assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is not JSON"),
        ("not json", "is not JSON"),
        ([1], "neither a service-account key nor"),
        ({"type": "external_account"}, "neither a service-account key nor"),
        ({"installed": {"client_id": "x"}}, "names an OAuth client, not a sign-in"),
        ({"type": "authorized_user", "client_id": "c"}, "lacks client_secret, refresh_token"),
        ({"type": "service_account", "client_email": "x"}, "incomplete or damaged"),
        ({"type": "service_account", "client_email": "x", "private_key": "SECRET"}, "incomplete or damaged"),
        (authorized_user("http://token.example/token"), "not an https address"),
        (authorized_user("file:///etc/passwd"), "not an https address"),
        (authorized_user(5), "not an https address"),  # type: ignore[arg-type]
    ],
)
async def test_files_that_are_no_credentials(transport: Transport, write: Write, content: object, sentence: str) -> None:
    """Each kind of wrong file gets its own sentence and a next step, and none quotes the file."""
    with pytest.raises(UsageError, match=sentence) as caught:
        GoogleCredential.from_file(write(content), transport)
    assert str(caught.value).count(". ") >= 1
    assert "SECRET" not in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE


async def test_paths_that_are_no_files(transport: Transport, tmp_path: Path) -> None:
    """Missing, a folder, a FIFO: a sentence each, and no hanging on the FIFO."""
    with pytest.raises(UsageError, match="There is no credentials file"):
        GoogleCredential.from_file(tmp_path / "none.json", transport)
    with pytest.raises(UsageError, match=r"cannot be read|is not a file"):
        GoogleCredential.from_file(tmp_path, transport)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(UsageError, match="is not a file"):
        GoogleCredential.from_file(tmp_path / "fifo", transport)


# --- static tokens ---


async def test_a_static_token_is_used_and_cannot_be_renewed() -> None:
    """It signs; when refused, the sentence says where a new one goes."""
    token = StaticToken("ya29.x")
    assert await token.headers() == {"authorization": "Bearer ya29.x"}
    assert "ya29" not in token.identity() + repr(token)
    with pytest.raises(SignInRefused, match="DRIVEFS_ACCESS_TOKEN"):
        await token.refresh("Bearer ya29.x")


@pytest.mark.parametrize("bad", ["", "a b", "a\r\nX: 1", "tökên", "a\0"])
def test_what_is_no_token_is_refused(bad: str) -> None:
    """A value that would break out of its header never becomes one."""
    with pytest.raises(UsageError, match="DRIVEFS_ACCESS_TOKEN"):
        StaticToken(bad)
