"""Signing in while the mount already answers, and the gate that no call passes before.

A Drive that is known from an earlier session is mounted at once. Until Drive has said whose account this is, its calls fail as
if Drive could not be reached, which everything above can live with: were they made, another account's answers would be taken
for news of this one, and a file that it does not know for one that was deleted.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import trio

from drivefs.base.errors import RemoteError, RemoteUnreachable, ServerFault, SignInRefused
from drivefs.base.stats import Stats
from drivefs.jobs.account import AccountInfo
from drivefs.remote.auth import Credential
from drivefs.remote.keyfile import signature

__all__ = ["Gate", "SignIn"]

log = logging.getLogger(__name__)

_WAIT: Final = 1.0  # seconds that a call waits at the gate; who can wait longer calls again
_FIRST_PATIENCE: Final = 10.0  # without an answer there is nothing to show
_PATIENCE: Final = 3.0
_PAUSE: Final = 5.0
_PAUSE_AFTER_REFUSAL: Final = 60.0
# Seconds between looks whether a refused credentials file was replaced: longer than a credential repeats a refusal unasked.
_LOOK: Final = 4.0


class Gate:
    """A credential that is handed out once we know whose it is."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential
        self._open = trio.Event()
        # Why it is closed, in words for people; None once it is open.
        self.reason: str | None = "Drive has not answered yet."
        self._refusal: SignInRefused | None = None

    @property
    def refused(self) -> bool:
        return self._refusal is not None

    def open(self) -> None:
        self.reason = self._refusal = None
        self._open.set()

    def stays_closed(self, error: RemoteError) -> None:
        self.reason = str(error)
        self._refusal = error if isinstance(error, SignInRefused) else None

    async def headers(self) -> dict[str, str]:
        await self._passed()
        return await self._credential.headers()

    async def refresh(self, stale: str) -> None:
        await self._credential.refresh(stale)

    def identity(self) -> str:
        return self._credential.identity()

    def belongs_to(self, account: str) -> None:
        self._credential.belongs_to(account)

    async def _passed(self) -> None:
        if self._open.is_set():
            return
        with trio.move_on_after(_WAIT):
            await self._open.wait()
            return
        self.require_no_refusal()
        raise RemoteUnreachable(self.reason or "")

    def require_no_refusal(self) -> None:
        """SignInRefused where Drive has said no."""
        if self._refusal is not None:
            raise SignInRefused(str(self._refusal), status=self._refusal.status, reason=self._refusal.reason)


class SignIn:
    """Asks Drive who we are until it says so, then opens the gate."""

    def __init__(self, account: AccountInfo, gate: Gate, stats: Stats, api_root: str, credentials: Path | None = None) -> None:
        self._account = account
        self._gate = gate
        self._stats = stats
        self._api_root = api_root
        self._credentials = credentials
        self._tried = trio.Event()

    async def first(self) -> None:
        """Nothing is known of this Drive yet: it must answer now. Raises what it says, and how to go on."""
        try:
            await self._account.sign_in(_FIRST_PATIENCE)
        except (RemoteUnreachable, ServerFault) as error:
            raise type(error)(
                f"{error} Nothing is known of this Drive yet, so there is nothing to mount. See that "
                f"{self._api_root} can be reached, then mount again.",
                status=error.status,
            ) from error
        self._gate.open()
        self._tried.set()

    async def serve(self) -> None:
        """The Drive is known: try until it works. CacheUnusable where the account is another one, which ends the mount."""
        while self._gate.reason is not None:
            tried = await self._file()
            try:
                await self._account.sign_in(_PATIENCE)
            except RemoteError as error:
                self._failed(error)
            else:
                self._gate.open()
                log.info("signed in")
            self._tried.set()
            if self._gate.refused:
                await self._pause_after_refusal(tried)
            elif self._gate.reason is not None:
                await trio.sleep(_PAUSE)

    async def _pause_after_refusal(self, tried: tuple[int, ...]) -> None:
        """Drive refuses again what it refused; another credentials file is tried soon."""
        with trio.move_on_after(_PAUSE_AFTER_REFUSAL):
            while True:
                await trio.sleep(_LOOK)
                if await self._file() != tried:
                    return

    async def _file(self) -> tuple[int, ...]:
        """Changes with the credentials file; empty where there is none."""
        return () if self._credentials is None else await trio.to_thread.run_sync(signature, self._credentials)

    async def verdict(self, patience: float) -> None:
        """Wait a moment for the first answer, so that whoever mounts hears a refusal. Raises SignInRefused."""
        with trio.move_on_after(patience):
            await self._tried.wait()
        self._gate.require_no_refusal()

    def _failed(self, error: RemoteError) -> None:
        if not self._tried.is_set():
            log.info("Drive cannot be asked who we are, going on with what is known: %s", error)
        self._gate.stays_closed(error)
        self._stats.record_error(str(error), "sign-in")
