"""Repeating, pacing, signing: how a call fares on its way. Time is virtual, the transport is played."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing

from drivefs.base.errors import BadRequest, RateLimited, RemoteError, RemoteUnreachable, ServerFault, SignInRefused
from drivefs.base.stats import Stats
from drivefs.remote.auth import Credential, StaticToken
from drivefs.remote.caller import Call, Caller, Origins, Persistence
from drivefs.remote.http import Response, Transport
from drivefs.remote.quota import COST_DOWNLOAD, COST_EDIT, COST_GET, COST_LIST, Lane, Pacer

GOOGLE = "https://www.googleapis.com"
Step = Response | RemoteError


def response(status: int, reason: str = "", headers: Mapping[str, str] | None = None) -> Response:
    body = b'{"error": {"code": 1, "errors": [{"reason": "%s"}]}}' % reason.encode() if status >= 400 else b"{}"
    return Response(status, headers or {}, body, 0.1)


class Played(Transport):
    """Answers from a list; the last is repeated for ever."""

    def __init__(self, *steps: Step) -> None:
        super().__init__()
        self.steps = list(steps)
        self.sent: list[tuple[str, str, dict[str, str]]] = []
        self.timeouts: list[float | None] = []

    async def request(self, method: str, url: str, headers: Mapping[str, str], *_args: Any, **options: Any) -> Response:
        await trio.lowlevel.checkpoint()
        self.sent.append((method, url, dict(headers)))
        self.timeouts.append(options["timeout"])
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, RemoteError):
            raise step
        return step


class Renewing:
    """A credential whose n-th token is ``t<n>``."""

    def __init__(self) -> None:
        self.number = 1
        self.refreshed: list[str] = []

    async def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer t{self.number}"}

    async def refresh(self, stale: str) -> None:
        self.refreshed.append(stale)
        self.number += 1

    def identity(self) -> str:
        return "renewing"

    def belongs_to(self, account: str) -> None:
        """Nothing ever takes its place."""


def make(transport: Transport, credential: Credential | None = None, root: str = GOOGLE) -> Caller:
    pacer = Pacer(trio.current_time)
    return Caller(transport, credential or StaticToken("t"), root, Stats(), pacer, stall=60.0, rng=random.Random(1))


CALL = Call("files.get", "GET", f"{GOOGLE}/drive/v3/files/x", cost=COST_GET)


async def status_of(caller: Caller, call: Call = CALL, persistence: Persistence | None = None) -> int:
    return await caller.call(call, persistence or Persistence(1000.0), lambda answer: answer.status)


async def test_a_passing_fault_is_ridden_out(autojump_clock: trio.testing.MockClock) -> None:
    """Two faults and a broken connection cost about two seconds and three counted retries, and are then forgotten."""
    transport = Played(response(503), RemoteUnreachable("x", may_have_applied=True), response(500), response(200))
    caller = make(transport)
    started = trio.current_time()
    assert await status_of(caller) == 200
    assert 0.25 + 0.5 + 1.0 <= trio.current_time() - started <= 0.25 + 0.5 + 1.0 + 0.75 + 0.1
    assert caller.stats.api_retries == 3
    assert caller.stats.api_requests == {"files.get": 4}


async def test_retry_after_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """The server's own wish is honoured to the second, although our own back-off would have been shorter."""
    transport = Played(response(429, "rateLimitExceeded", {"retry-after": "77"}), response(200))
    started = trio.current_time()
    assert await status_of(make(transport)) == 200
    assert 77.0 <= trio.current_time() - started < 78.0


async def test_patience_ends(autojump_clock: trio.testing.MockClock) -> None:
    """With twenty seconds of patience the error of the last try is raised within twenty seconds."""
    started = trio.current_time()
    with pytest.raises(ServerFault):
        await status_of(make(Played(response(503))), persistence=Persistence(20.0))
    assert 10.0 < trio.current_time() - started <= 20.0


async def test_a_wish_beyond_our_patience_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """Told to come back in an hour, a call that someone waits for fails at once."""
    started = trio.current_time()
    with pytest.raises(RateLimited):
        await status_of(make(Played(response(429, "", {"retry-after": "3600"}))), persistence=Persistence(20.0))
    assert trio.current_time() - started < 1.0


async def test_attempts_end(autojump_clock: trio.testing.MockClock) -> None:
    """Four attempts are four requests, however long patience would last."""
    transport = Played(response(503))
    with pytest.raises(ServerFault):
        await status_of(make(transport), persistence=Persistence(1e6, attempts=4))
    assert len(transport.sent) == 4


async def test_a_refusal_is_final(autojump_clock: trio.testing.MockClock) -> None:
    """A 400 is sent once."""
    transport = Played(response(400, "invalid"))
    with pytest.raises(BadRequest):
        await status_of(make(transport))
    assert len(transport.sent) == 1


async def test_a_try_has_no_more_time_than_patience_left(autojump_clock: trio.testing.MockClock) -> None:
    """Each try has half of the patience at most, and no more than is left of it; content has no timeout."""
    transport = Played(response(503), response(503), response(503), response(503), response(503), response(503), response(200))
    await status_of(make(transport), persistence=Persistence(20.0))
    *early, last = (timeout or 0.0 for timeout in transport.timeouts)
    assert early == [10.0] * 6
    assert last < 5.0
    content = Played(response(200))
    await status_of(make(content), Call("x", "PUT", f"{GOOGLE}/upload/x", timeout=None))
    assert content.timeouts == [None]


async def test_progress_renews_patience(autojump_clock: trio.testing.MockClock) -> None:
    """A download that moves on between failures is never given up; when it stops moving it is."""
    caller = make(Played(response(200)))
    at = 0

    async def attempt() -> None:
        nonlocal at
        await trio.sleep(15.0)
        at = min(at + 1, 30)
        raise RemoteUnreachable("broken again")

    started = trio.current_time()
    with pytest.raises(RemoteUnreachable):
        await caller.persist("x", attempt, Persistence(20.0), progress=lambda: at, lane=Lane.BULK)
    assert at == 30
    assert 30 * 15.0 < trio.current_time() - started < 30 * 15.0 + 60.0


async def test_a_parse_that_fails_is_a_try_that_failed(autojump_clock: trio.testing.MockClock) -> None:
    """A 200 with a captive portal's page is asked again, as any fault is."""
    answers = iter([ServerFault("not json"), None])

    def parse(_answer: Response) -> str:
        problem = next(answers)
        if problem is not None:
            raise problem
        return "parsed"

    assert await make(Played(response(200))).call(CALL, Persistence(20.0), parse) == "parsed"


async def test_a_refused_token_is_renewed_once(autojump_clock: trio.testing.MockClock) -> None:
    """After a 401 the sign-in is renewed and the call sent again with the new token, at once."""
    transport, credential = Played(response(401, "authError"), response(200)), Renewing()
    started = trio.current_time()
    assert await status_of(make(transport, credential)) == 200
    assert credential.refreshed == ["Bearer t1"]
    assert [headers["authorization"] for _, _, headers in transport.sent] == ["Bearer t1", "Bearer t2"]
    assert trio.current_time() == started


async def test_a_second_refusal_is_final(autojump_clock: trio.testing.MockClock) -> None:
    """A server that refuses the new token, too, is believed: two requests, one renewal, SignInRefused."""
    transport, credential = Played(response(401, "authError")), Renewing()
    with pytest.raises(SignInRefused, match="Sign in again"):
        await status_of(make(transport, credential))
    assert (len(transport.sent), len(credential.refreshed)) == (2, 1)


async def test_throttling_slows_everyone_down(autojump_clock: trio.testing.MockClock) -> None:
    """One throttled call makes the calls of its lane, of any task, keep a slower pace."""
    transport = Played(response(403, "userRateLimitExceeded"), response(200))
    caller = make(transport)
    download = Call("files.download", "GET", f"{GOOGLE}/x", cost=COST_DOWNLOAD, lane=Lane.BULK)
    await status_of(caller, download)
    started = trio.current_time()
    for _ in range(50):
        await status_of(caller, download)
    unthrottled = make(Played(response(200)))
    slow, started = trio.current_time() - started, trio.current_time()
    for _ in range(50):
        await status_of(unthrottled, download)
    assert trio.current_time() == started
    assert slow > 2.0


LIST = Call("files.list", "GET", f"{GOOGLE}/list", cost=COST_LIST)


class Storm(Transport):
    """Every call takes 0.3 s; those of uploads are refused with 403 while ``raging``."""

    def __init__(self, *, raging: bool) -> None:
        super().__init__()
        self.raging = raging

    async def request(self, method: str, url: str, *_args: Any, **_options: Any) -> Response:
        await trio.sleep(0.3)
        return response(403, "rateLimitExceeded") if self.raging and "upload" in url else response(200)


async def latencies(transport: Storm, uploads: int) -> list[float]:
    """Seconds that each of 120 metadata calls took over a minute, with ``uploads`` uploads that are never given up."""
    caller = make(transport)

    async def upload() -> None:
        call = Call("uploads.open", "POST", f"{GOOGLE}/upload", cost=COST_EDIT, lane=Lane.UPLOAD)
        while True:
            with contextlib.suppress(RateLimited):
                await status_of(caller, call, Persistence(120.0, attempts=4))

    seconds = []
    async with trio.open_nursery() as nursery:
        for _ in range(uploads):
            nursery.start_soon(upload)
        for number in range(120):
            started = trio.current_time()
            await status_of(caller, LIST if number % 2 else CALL)
            seconds.append(trio.current_time() - started)
            await trio.sleep(0.2)
        nursery.cancel_scope.cancel()
    return seconds


async def test_a_storm_of_refused_uploads_leaves_metadata_as_fast_as_it_was(autojump_clock: trio.testing.MockClock) -> None:
    """Fifty uploads, all answered 403 for a minute: gets and lists take less than twice what they take in peace."""
    peace = await latencies(Storm(raging=False), 0)
    storm = await latencies(Storm(raging=True), 50)
    assert sum(storm) < 2 * sum(peace)
    assert max(storm) < 2 * max(peace)


async def test_retry_after_closes_the_lane_it_was_said_to(autojump_clock: trio.testing.MockClock) -> None:
    """Told to wait ten seconds, no other upload begins before they are over, and a listing does not wait at all."""
    caller = make(Played(response(429, "rateLimitExceeded", {"retry-after": "10"}), response(200)))
    upload = Call("uploads.open", "POST", f"{GOOGLE}/upload", cost=COST_EDIT, lane=Lane.UPLOAD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(status_of, caller, upload)
        await trio.sleep(1.0)
        started = trio.current_time()
        await status_of(caller)
        assert trio.current_time() == started
        await status_of(caller, upload)
        assert trio.current_time() >= 10.0


async def test_waiting_is_measured_by_the_server_s_clock(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Retry-After that is a date means the same however wrong this machine's clock is."""
    for jump in (-2 * 86400.0, 2 * 86400.0):
        monkeypatch.setattr(time, "time", lambda jump=jump: 1_700_000_000.0 + jump)
        wish = {"date": "Tue, 14 Nov 2023 22:13:20 GMT", "retry-after": "Tue, 14 Nov 2023 22:13:27 GMT"}
        started = trio.current_time()
        assert await status_of(make(Played(response(429, "rateLimitExceeded", wish), response(200)))) == 200
        assert 7.0 <= trio.current_time() - started < 8.0


async def test_metadata_passes_waiting_bulk(autojump_clock: trio.testing.MockClock) -> None:
    """While five hundred downloads wait for units, a listing's call goes out without waiting."""
    caller = make(Played(response(200)))
    download = Call("files.download", "GET", f"{GOOGLE}/x", cost=COST_DOWNLOAD, lane=Lane.BULK)
    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(status_of, caller, download)
        await trio.testing.wait_all_tasks_blocked()
        assert caller.stats.api_requests["files.download"] < 500
        started = trio.current_time()
        assert await status_of(caller) == 200
        assert trio.current_time() == started
        nursery.cancel_scope.cancel()


# --- origins ---


@pytest.mark.parametrize(
    "url",
    [
        "https://www.googleapis.com/upload/drive/v3/files?upload_id=x",
        "https://www.googleapis.com:443/x",
        "https://doc-0k-content.googleusercontent.com/x",
        "https://storage.googleapis.com/x",
    ],
)
def test_google_trusts_its_own_hosts(url: str) -> None:
    """With Google's API, Google's https hosts may see the token."""
    Origins(GOOGLE).check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://www.googleapis.com/x",
        "https://www.googleapis.com.evil.example/x",
        "https://evilgoogleapis.com/x",
        "https://www.googleapis.com@evil.example/x",
        "https://user@www.googleapis.com/x",
        "https://storage.googleapis.com:8443/x",
        "https://evil.example/googleapis.com",
        "https://[::1/x",
        "https://www.googleapis.com:99999/x",
        "https://www.googleapis.com/\r\nX: 1",
        "//evil.example/x",
        "",
    ],
)
def test_nobody_else_sees_the_token(url: str) -> None:
    """Look-alikes, other schemes and ports, and addresses that readers disagree about are refused."""
    with pytest.raises(RemoteError):
        Origins(GOOGLE).check(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8081/x", "https://127.0.0.1:8080/x", "http://localhost:8080/x", GOOGLE])
def test_another_server_trusts_itself_only(url: str) -> None:
    """With a server of one's own, scheme, host and port must all be its own; Google's hosts are strangers there."""
    Origins("http://127.0.0.1:8080").check("http://127.0.0.1:8080/upload/x")
    with pytest.raises(RemoteError, match="must not see the sign-in"):
        Origins("http://127.0.0.1:8080").check(url)


async def test_redirects_of_reads_are_followed_within_the_origin() -> None:
    """A GET sent elsewhere on the same server arrives there, signed."""
    transport = Played(response(302, headers={"location": "/other?x=1"}), response(200))
    assert await status_of(make(transport)) == 200
    assert transport.sent[1][1] == f"{GOOGLE}/other?x=1"
    assert "authorization" in transport.sent[1][2]


async def test_a_redirect_to_a_stranger_is_not_followed() -> None:
    """Nothing at all is sent to another origin, and that is the end of it."""
    transport = Played(response(302, headers={"location": "https://evil.example/x"}), response(200))
    with pytest.raises(RemoteError, match=r"evil\.example.*must not see"):
        await status_of(make(transport))
    assert len(transport.sent) == 1


async def test_redirects_end() -> None:
    """A loop of redirects is an error after a few hops."""
    transport = Played(response(307, headers={"location": "/again"}))
    with pytest.raises(RemoteError, match="redirected more than"):
        await status_of(make(transport))
    assert len(transport.sent) == 4


async def test_writes_are_not_redirected(autojump_clock: trio.testing.MockClock) -> None:
    """A redirected PATCH is trouble on the way, not an instruction."""
    transport = Played(response(302, headers={"location": "/other"}))
    with pytest.raises(ServerFault):
        await status_of(make(transport), Call("files.update", "PATCH", f"{GOOGLE}/x"), Persistence(5.0))
    assert {url for _, url, _ in transport.sent} == {f"{GOOGLE}/x"}
