"""Who we are to Drive: a bearer token, and where the next one comes from.

The only importer of google.auth, which does the signing and the grants in a worker thread and speaks HTTP through our transport.
No secret of a credential appears in its repr, in a log line or in an error's text.
Source: https://developers.google.com/identity/protocols/oauth2
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Protocol

import google.auth.exceptions
import google.auth.transport
import trio

from drivefs.base.config import GOOGLE_API_ROOT
from drivefs.base.errors import RemoteError, RemoteUnreachable, SignInRefused, UsageError
from drivefs.remote import keyfile
from drivefs.remote.http import Response, Transport
from drivefs.remote.keyfile import SCOPE

__all__ = ["SCOPE", "Credential", "GoogleCredential", "StaticToken"]

log = logging.getLogger(__name__)

_TOKEN_TIMEOUT: Final = 10.0  # seconds
_LEAST_LIFE: Final = 30.0
# Seconds for which a refusal of the sign-in is believed without asking again, or looking at the file again.
_REFUSED_FOR: Final = 3.0


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

    def belongs_to(self, account: str) -> None:
        """Drive has said whose it is (a permission id): a sign-in that takes its place must be of the same account."""
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

    def belongs_to(self, account: str) -> None:
        """Nothing ever takes its place."""


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


class GoogleCredential:
    """A service-account key or an authorized-user file, exchanged for access tokens as needed.

    Where the sign-in is refused, the file is looked at again: one that was replaced, by signing in anew, is taken if it is of the
    same account, so that the mount goes on without a restart. Lifetimes are measured by the monotonic clock.
    """

    def __init__(self, path: Path, transport: Transport, api_root: str) -> None:
        """Use ``from_file``."""
        self._path = path
        self._seen = keyfile.signature(path)
        self._credentials, self._identity = keyfile.load(path)
        self._transport = transport
        self._requester = _Requester(transport)
        self._about = f"{api_root}/drive/v3/about?fields=user(permissionId)"
        self._account: str | None = None
        self._good_until = 0.0  # trio's time
        # Why the file that lies there now is not the one in use.
        self._flaw = ""
        self._refusal: SignInRefused | None = None
        self._ask_again = 0.0
        self._lock = trio.Lock()  # one exchange at a time; whoever waited finds the new token

    @classmethod
    def from_file(cls, path: Path, transport: Transport, api_root: str = GOOGLE_API_ROOT) -> GoogleCredential:
        """Read a key file (a small, blocking read). Raises UsageError with the next step; contacts nobody."""
        return cls(path, transport, api_root)

    def identity(self) -> str:
        return self._identity

    def belongs_to(self, account: str) -> None:
        self._account = account

    async def headers(self) -> dict[str, str]:
        if not self._fresh():
            async with self._lock:
                if not self._fresh():
                    await self._exchange()
        return self._signed()

    def _fresh(self) -> bool:
        """Half a minute of life left. google.auth would ask for four, and so exchange a short-lived token for every call."""
        return self._credentials.token is not None and trio.current_time() + _LEAST_LIFE < self._good_until

    async def refresh(self, stale: str) -> None:
        async with self._lock:
            if self._credentials.token is None or self._signed().get("authorization") == stale:
                await self._exchange()

    def _signed(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        self._credentials.apply(headers)
        return headers

    async def _exchange(self) -> None:
        """Get a token, by the file that has taken the place of the known one where there is a good one."""
        if self._refusal is not None and trio.current_time() < self._ask_again:
            raise self._refusal
        try:
            if not await self._take_replacement():
                await self._obtain()
        except SignInRefused as error:
            text = (
                f"{error} The credentials that were put in their place are no good either: {self._flaw}" if self._flaw else error
            )
            self._refusal = SignInRefused(str(text), status=401, reason=error.reason)
            self._ask_again = trio.current_time() + _REFUSED_FOR
            self._good_until = 0.0
            raise self._refusal from None
        self._refusal = None

    async def _take_replacement(self) -> bool:
        """Whether another file lies there and its sign-in is good; one that is not is looked at once."""
        seen = await trio.to_thread.run_sync(keyfile.signature, self._path)
        if seen in (self._seen, ()):
            return False
        former = self._credentials
        try:
            self._credentials, _ = await trio.to_thread.run_sync(keyfile.load, self._path)
            await self._obtain()
            await self._check_account()
        except (UsageError, SignInRefused) as error:
            self._credentials, self._seen, self._flaw = former, seen, str(error)
            log.warning("the new credentials file is not used: %s", error)
            return False
        except BaseException:
            self._credentials = former
            raise
        self._seen, self._flaw = seen, ""
        log.info("signed in anew: the credentials file was replaced")
        return True

    async def _check_account(self) -> None:
        """What is cached and unsent is one account's: SignInRefused where the new sign-in is another's."""
        if self._account is None:
            return
        answer = await self._transport.request("GET", self._about, self._signed(), timeout=_TOKEN_TIMEOUT)
        try:
            account = json.loads(answer.body)["user"]["permissionId"]
        except (ValueError, KeyError, TypeError):
            raise RemoteUnreachable(f"Drive did not say whose the new sign-in is (HTTP {answer.status}).") from None
        if account != self._account:
            raise SignInRefused(
                "They are of another account. Sign in with the account whose Drive is mounted, or mount the other one elsewhere."
            )

    async def _obtain(self) -> None:
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
        self._good_until = trio.current_time() + _life(self._credentials.expiry)


def _life(expiry: datetime | None) -> float:
    """Seconds from now, right after the exchange, to ``expiry`` (naive, in UTC): both by the same clock, however wrong it is."""
    if expiry is None:
        return math.inf
    return (expiry - datetime.now(timezone.utc).replace(tzinfo=None)).total_seconds()


_NO_TOKEN_SERVER: Final = "The token server has trouble of its own. Try again in a moment."


def _refusal(error: google.auth.exceptions.RefreshError) -> str:
    """The OAuth error word (RFC 6749, 5.2), and nothing else of an answer that might quote what we sent."""
    answer = error.args[1] if len(error.args) > 1 else None
    word = answer.get("error") if isinstance(answer, dict) else None
    return word if isinstance(word, str) and word.replace("_", "").isalnum() and len(word) < 64 else "invalidAnswer"
