"""How any call reaches Drive: signed, paced, counted, repeated where that is safe, and only to the origins it is meant for.

Knows HTTP, not Drive's methods. Invariants: the bearer token travels to the configured origins and nowhere else; a 401 renews the
sign-in once per attempt; whatever fails comes out as a RemoteError.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar
from urllib.parse import urljoin, urlsplit

import trio

from drivefs.base.config import GOOGLE_API_ROOT
from drivefs.base.errors import RateLimited, RemoteError, RemoteUnreachable, ServerFault
from drivefs.base.stats import Stats
from drivefs.remote.auth import Credential
from drivefs.remote.http import Response, Transport
from drivefs.remote.quota import COST_OTHER, Lane, Pacer
from drivefs.remote.retry import MAX_ATTEMPTS, classify, decide
from drivefs.remote.transfer import OnHead, Sink

__all__ = ["TROUBLE", "Call", "Caller", "Origins", "Persistence"]

log = logging.getLogger(__name__)

T = TypeVar("T")
_MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# Told of each try that failed and will be repeated, in the task that makes the call and those it began.
TROUBLE: Final[ContextVar[Callable[[RemoteError], None] | None]] = ContextVar("TROUBLE", default=None)


@dataclass(frozen=True, slots=True)
class Call:
    """One request to be made. name: as counted in Stats.api_requests. accept: statuses besides 2xx that are answers, not errors.

    cost, lane: for the Pacer.  timeout: seconds for the whole exchange, None for content, which is bounded by stalling only.
    stall: seconds without a byte either way after which the connection counts as dead, None for the Caller's.
    """

    name: str
    method: str
    url: str = field(repr=False)  # may be an upload session's, which is a secret
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview | None = field(default=None, repr=False)
    cost: int = COST_OTHER
    lane: Lane = Lane.INTERACTIVE
    accept: frozenset[int] = frozenset()
    timeout: float | None = 60.0
    stall: float | None = None
    json_errors: bool = True
    sink: Sink | None = None
    go: threading.Event | None = None
    on_head: OnHead | None = None


@dataclass(frozen=True, slots=True)
class Persistence:
    """How long to keep trying. patience: seconds since the start or the last progress.  attempts: tries without progress."""

    patience: float
    attempts: int = MAX_ATTEMPTS


class Origins:
    """Where the token may go: the API root's origin, and with Google's API also Google's https hosts that serve content."""

    _GOOGLE = (".googleapis.com", ".googleusercontent.com")

    def __init__(self, api_root: str) -> None:
        self._root = self._origin(api_root)
        self._google = self._root == self._origin(GOOGLE_API_ROOT)

    @staticmethod
    def _origin(url: str) -> tuple[str, str, int | None]:
        parts = urlsplit(url)
        scheme = parts.scheme.lower()
        return scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(scheme)

    def check(self, url: str) -> None:
        """Raise RemoteError unless ``url`` may see the token."""
        if not (url.isascii() and url.isprintable()):
            raise RemoteError("The server gave an address with characters that no address has. Check --api-root.")
        try:
            scheme, host, port = origin = self._origin(url)
        except ValueError:
            raise RemoteError("The server gave an address that cannot be read. Check --api-root.") from None
        if urlsplit(url).username is None and (
            origin == self._root or (self._google and scheme == "https" and port == 443 and host.endswith(self._GOOGLE))
        ):
            return
        raise RemoteError(
            f"The server pointed to {host!r}, which must not see the sign-in; nothing was sent there. Check --api-root."
        )


class Caller:
    """Makes calls for one account. Shared by all its tasks."""

    def __init__(
        self,
        transport: Transport,
        credential: Credential,
        api_root: str,
        stats: Stats,
        pacer: Pacer,
        *,
        stall: float,
        rng: random.Random,
    ) -> None:
        self.origins = Origins(api_root)
        self.stats = stats
        self._transport = transport
        self._credential = credential
        self._pacer = pacer
        self._stall = stall
        self._rng = rng
        self._turns = {lane: trio.Lock() for lane in Lane}  # whoever waits for units waits in order of arrival

    def belongs_to(self, account: str) -> None:
        """Drive has said whose sign-in it is."""
        self._credential.belongs_to(account)

    async def call(self, call: Call, persistence: Persistence, parse: Callable[[Response], T]) -> T:
        """Make ``call``, again where allowed, and return what ``parse`` makes of the answer; where it raises, the try has failed.

        No try outlives the patience that is left, nor the first half of it, so that one silent connection is not the end of a
        call; unless it carries content.
        """
        deadline = trio.current_time() + persistence.patience

        async def attempt() -> T:
            left = max(1.0, min(deadline - trio.current_time(), persistence.patience / 2))
            timeout = None if call.timeout is None else min(call.timeout, left)
            return parse(await self.once(replace(call, timeout=timeout)))

        return await self.persist(call.name, attempt, persistence, lane=call.lane)

    async def persist(
        self,
        name: str,
        attempt: Callable[[], Awaitable[T]],
        persistence: Persistence,
        progress: Callable[[], int] | None = None,
        *,
        lane: Lane,
    ) -> T:
        """Repeat ``attempt`` as ``retry.decide`` says. progress: a number that grows; growth renews patience and attempts.

        lane: what slows down where Drive throttles.

        ``attempt`` must be harmless when repeated after taking effect unseen. All of Drive's are: creates carry their id, so that
        the second answers IdInUse; opening an upload makes nothing; ``upload`` asks what arrived before it sends a chunk again.
        """
        failures, reached = 0, progress() if progress else 0
        deadline = trio.current_time() + persistence.patience
        while True:
            try:
                return await attempt()
            except RemoteError as error:
                now = progress() if progress else 0
                if now > reached:
                    failures, reached, deadline = 0, now, trio.current_time() + persistence.patience
                if isinstance(error, RateLimited):
                    self._pacer.slow_down(lane, error.retry_after)
                delay = decide(error, failures, True, self._rng)
                failures += 1
                if delay is None or failures >= persistence.attempts or trio.current_time() + delay > deadline:
                    raise
                log.info("%s: trying again in %.1f s: %s", name, delay, error)
                if told := TROUBLE.get():
                    told(error)
            self.stats.api_retries += 1
            await trio.sleep(delay)

    async def once(self, call: Call) -> Response:
        """One try of ``call``, with one renewal of the sign-in, redirects of a GET followed. Raises what the answer means."""
        for _hop in range(_MAX_REDIRECTS + 1):
            response = await self._signed(call)
            if 200 <= response.status < 300 or response.status in call.accept:
                return response
            location = response.headers.get("location")
            if call.method != "GET" or response.status not in _REDIRECTS or location is None:
                raise self.error(call, response)
            call = replace(call, url=urljoin(call.url, location))
        raise RemoteError(f"{call.name} was redirected more than {_MAX_REDIRECTS} times. Check --api-root.")

    async def _signed(self, call: Call) -> Response:
        self.origins.check(call.url)
        signed = await self._credential.headers()
        response = await self._send(call, signed)
        if response.status != 401:
            return response
        await self._credential.refresh(signed["authorization"])
        return await self._send(call, await self._credential.headers())

    async def _send(self, call: Call, signed: Mapping[str, str]) -> Response:
        await self._wait_for_units(call)
        self.stats.count_request(call.name)
        response = await self._transport.request(
            call.method,
            call.url,
            {**call.headers, **signed},
            call.body,
            sink=call.sink,
            go=call.go,
            on_head=call.on_head,
            decode=call.sink is None,
            timeout=call.timeout,
            stall=self._stall if call.stall is None else call.stall,
        )
        log.debug("%s: HTTP %d in %.3f s", call.name, response.status, response.elapsed)
        return response

    async def _wait_for_units(self, call: Call) -> None:
        turn = self._turns[call.lane]
        if not turn.locked() and self._pacer.take(call.lane, call.cost) == 0.0:
            return
        async with turn:
            while True:
                delay = self._pacer.take(call.lane, call.cost)
                if delay == 0.0:
                    return
                await trio.sleep(delay)

    @staticmethod
    def error(call: Call, response: Response) -> RemoteError:
        now = _stated_time(response)
        return classify(call.name, response.status, response.headers, response.body, now, json_errors=call.json_errors)


def _stated_time(response: Response) -> float:
    """Seconds since the epoch as the server's own clock has it, for ours may be days away from it; ours where it says nothing."""
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return time.time()


def not_json(name: str) -> ServerFault:
    """A success whose body is not what the API promises, as networks that want a sign-in in the browser give."""
    return ServerFault(
        f"{name}: the answer is not one of Drive's. Check for a proxy or a network that wants a sign-in in the browser.",
        may_have_applied=True,
    )


def broken(name: str, why: str) -> RemoteUnreachable:
    return RemoteUnreachable(f"{name}: {why}. Repeat the operation.")
