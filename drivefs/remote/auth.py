"""Who we are to Drive: a bearer token, and where the next one comes from.

The only importer of google.auth, which does the signing and the grants in a worker thread and speaks HTTP through our transport.
No secret of a credential appears in its repr, in a log line or in an error's text.
Source: https://developers.google.com/identity/protocols/oauth2
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import stat
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import google.auth.exceptions
import google.auth.transport
import trio
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account

from drivefs.base.errors import RemoteError, RemoteUnreachable, SignInRefused, UsageError
from drivefs.remote.http import Response, Transport

__all__ = ["SCOPE", "Credential", "GoogleCredential", "StaticToken"]

SCOPE: Final = "https://www.googleapis.com/auth/drive"
_GOOGLE_TOKEN_URI: Final = "https://oauth2.googleapis.com/token"
_TOKEN_TIMEOUT: Final = 30.0  # seconds
_LEAST_LIFE: Final = timedelta(seconds=30)
_MAX_KEY_FILE: Final = 64 * 1024


class Credential(Protocol):
    """What ``drive`` needs of a sign-in."""

    async def headers(self) -> dict[str, str]:
        """The fields that sign a request, lower-case names; fetches a token first where none is valid."""
        ...

    async def refresh(self, stale: str) -> None:
        """The server refused ``stale`` (an ``authorization`` value): get another. Many callers, one exchange.

        Raises SignInRefused where there is none to be had, RemoteUnreachable where the token server cannot be reached.
        """
        ...

    def identity(self) -> str:
        """A stable name of the account without any secret in it, to keep the caches of accounts apart."""
        ...


class StaticToken:
    """One access token that somebody else obtained and looks after."""

    def __init__(self, token: str) -> None:
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise UsageError(
                "The access token is empty or holds characters no token has. Set DRIVEFS_ACCESS_TOKEN to the bare token."
            )
        self._authorization = f"Bearer {token}"

    async def headers(self) -> dict[str, str]:
        return {"authorization": self._authorization}

    async def refresh(self, stale: str) -> None:
        raise SignInRefused(
            "Drive does not accept the access token: it has expired or was revoked. Put a new one into DRIVEFS_ACCESS_TOKEN.",
            status=401,
            reason="authError",
        )

    def identity(self) -> str:
        """One name for all static tokens: they change every hour, so the server's address tells accounts apart, not they."""
        return "token"


class _Answer(google.auth.transport.Response):
    """Our Response in google.auth's words."""

    def __init__(self, response: Response) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def data(self) -> bytes:
        return self._response.body


class _Requester(google.auth.transport.Request):
    """Carries google.auth's requests from its worker thread to our transport on the loop."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_options: Any,
    ) -> _Answer:
        data = body.encode() if isinstance(body, str) else body

        async def send() -> Response:
            return await self._transport.request(method, url, headers or {}, data, timeout=timeout or _TOKEN_TIMEOUT)

        try:
            return _Answer(trio.from_thread.run(send))
        except RemoteError as error:
            raise google.auth.exceptions.TransportError(error) from error  # type: ignore[no-untyped-call]


def _read_private(path: Path) -> bytes:
    """A key file's content. Whoever can read it can act as the user, so one that others can read is refused."""
    try:
        # O_NONBLOCK: a FIFO in the file's place must not hang us.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise UsageError(f"There is no credentials file {str(path)!r}. Check the path given to --credentials.") from None
    except OSError as error:
        raise UsageError(
            f"The credentials file {str(path)!r} cannot be read: {error.strerror}. Check its owner and mode."
        ) from None
    try:
        _check_private(path, os.fstat(descriptor))
        return os.read(descriptor, _MAX_KEY_FILE)
    finally:
        os.close(descriptor)


def _check_private(path: Path, status: os.stat_result) -> None:
    name = repr(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{name} is not a file. Give --credentials a service-account key or authorized-user file.")
    if status.st_mode & 0o077:
        raise UsageError(
            f"The credentials file {name} can be read or changed by other users. Run: chmod 600 {shlex.quote(str(path))}"
        )
    if status.st_uid not in (0, os.geteuid()):
        raise UsageError(f"The credentials file {name} belongs to another user. Make a copy of your own and use that.")
    if status.st_size > _MAX_KEY_FILE:
        raise UsageError(f"{name} is too large for a credentials file. Download the key again.")


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        info = json.loads(data)
    except ValueError:
        raise UsageError(f"The credentials file {str(path)!r} is not JSON. Download the key again.") from None
    kind = info.get("type") if isinstance(info, dict) else None
    if kind in ("service_account", "authorized_user"):
        assert isinstance(info, dict)
        return info
    if isinstance(info, dict) and ("installed" in info or "web" in info):
        raise UsageError(
            f"{str(path)!r} names an OAuth client, not a sign-in. Give a service-account key, or the file that"
            " `gcloud auth application-default login` writes."
        )
    raise UsageError(
        f"{str(path)!r} is neither a service-account key nor an authorized-user file (its type is {kind!r})."
        " Create a key in the Google Cloud console, or run `gcloud auth application-default login`."
    )


def _token_uri(path: Path, info: Mapping[str, Any]) -> str:
    """The file's token address; the secret goes there, so it must be https unless it stays on this machine."""
    uri = info.get("token_uri", _GOOGLE_TOKEN_URI)
    parts = urlsplit(uri) if isinstance(uri, str) else None
    local = parts is not None and parts.hostname in ("127.0.0.1", "::1", "localhost")
    if parts is None or not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise UsageError(f"The token_uri in {str(path)!r} is not an https address. Download the key again.")
    assert isinstance(uri, str)
    return uri


def _service_account(path: Path, info: dict[str, Any]) -> tuple[Any, str]:
    try:
        made = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
            {**info, "token_uri": _token_uri(path, info)}, scopes=[SCOPE]
        )
    except (ValueError, KeyError, TypeError, google.auth.exceptions.GoogleAuthError):
        # The library's text may quote the key.
        raise UsageError(f"The service-account key {str(path)!r} is incomplete or damaged. Download the key again.") from None
    return made, str(info["client_email"])


def _authorized_user(path: Path, info: dict[str, Any]) -> tuple[Any, str]:
    missing = [name for name in ("client_id", "client_secret", "refresh_token") if not isinstance(info.get(name), str)]
    if missing:
        raise UsageError(
            f"The authorized-user file {str(path)!r} lacks {', '.join(missing)}. Sign in again to have it written anew."
        )
    # Not from_authorized_user_info: it replaces the file's token_uri by Google's. No scopes are sent: a refresh grant keeps those
    # of the sign-in.
    made = user_credentials.Credentials(  # type: ignore[no-untyped-call]
        None,
        refresh_token=info["refresh_token"],
        token_uri=_token_uri(path, info),
        client_id=info["client_id"],
        client_secret=info["client_secret"],
        quota_project_id=info.get("quota_project_id"),
    )
    digest = hashlib.sha256(f"{info['client_id']}\0{info['refresh_token']}".encode()).hexdigest()
    account = info.get("account")
    return made, account if isinstance(account, str) and account else f"user-{digest[:16]}"


class GoogleCredential:
    """A service-account key or an authorized-user file, exchanged for access tokens as needed."""

    def __init__(self, credentials: Any, identity: str, transport: Transport) -> None:
        """Use ``from_file``."""
        self._credentials = credentials
        self._identity = identity
        self._requester = _Requester(transport)
        self._lock = trio.Lock()  # one exchange at a time; whoever waited finds the new token

    @classmethod
    def from_file(cls, path: Path, transport: Transport) -> GoogleCredential:
        """Read a key file (a small, blocking read). Raises UsageError with the next step; contacts nobody."""
        info = _parse(path, _read_private(path))
        make: Callable[[Path, dict[str, Any]], tuple[Any, str]] = (
            _service_account if info["type"] == "service_account" else _authorized_user
        )
        return cls(*make(path, info), transport)

    def identity(self) -> str:
        return self._identity

    async def headers(self) -> dict[str, str]:
        if not self._fresh():
            async with self._lock:
                if not self._fresh():
                    await self._exchange()
        return self._signed()

    def _fresh(self) -> bool:
        """Half a minute of life left. google.auth would ask for four, and so exchange a short-lived token for every call."""
        expiry: datetime | None = self._credentials.expiry  # naive, in UTC
        now = datetime.now(timezone.utc).replace(tzinfo=None)
        return self._credentials.token is not None and (expiry is None or now + _LEAST_LIFE < expiry)

    async def refresh(self, stale: str) -> None:
        async with self._lock:
            if self._signed().get("authorization") == stale:
                await self._exchange()

    def _signed(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        self._credentials.apply(headers)
        return headers

    async def _exchange(self) -> None:
        try:
            await trio.to_thread.run_sync(self._credentials.refresh, self._requester)
        except google.auth.exceptions.TransportError as error:
            cause = error.__cause__
            raise cause if isinstance(cause, RemoteError) else RemoteUnreachable(_NO_TOKEN_SERVER) from error
        except google.auth.exceptions.RefreshError as error:
            if error.retryable:
                raise RemoteUnreachable(_NO_TOKEN_SERVER) from error
            raise SignInRefused(
                f"Google refuses the sign-in of {self._identity!r} ({_refusal(error)})."
                " Download the key or sign in again, and check the clock.",
                status=401,
                reason=_refusal(error),
            ) from None


_NO_TOKEN_SERVER: Final = "The token server has trouble of its own. Try again in a moment."


def _refusal(error: google.auth.exceptions.RefreshError) -> str:
    """The OAuth error word (RFC 6749, 5.2), and nothing else of an answer that might quote what we sent."""
    answer = error.args[1] if len(error.args) > 1 else None
    word = answer.get("error") if isinstance(answer, dict) else None
    return word if isinstance(word, str) and word.replace("_", "").isalnum() and len(word) < 64 else "invalidAnswer"
