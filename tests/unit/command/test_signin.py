"""Signing in beside the mount: which calls pass, what they hear meanwhile, and when it is tried again."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from drivefs.base.errors import CacheUnusable, RemoteError, RemoteUnreachable, SignInRefused
from drivefs.base.stats import Stats
from drivefs.jobs.account import AccountInfo
from drivefs.remote.auth import StaticToken
from drivefs.signin import Gate, SignIn
from tests.support.world import run_inline


class Account:
    """Answers with the given errors, one a try, then with success."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.times: list[float] = []

    async def sign_in(self, patience: float) -> None:
        self.times.append(trio.current_time())
        await trio.sleep(0.1)
        if self.errors:
            raise self.errors.pop(0)


def parts(*errors: Exception) -> tuple[Gate, SignIn, Account, Stats]:
    gate, account, stats = Gate(StaticToken("tok")), Account(*errors), Stats()
    return gate, SignIn(cast(AccountInfo, account), gate, stats, "http://server"), account, stats


async def test_calls_wait_for_a_sign_in_that_is_under_way(autojump_clock: MockClock) -> None:
    """One that takes a moment is not noticed by who calls meanwhile."""
    gate, sign_in, _, stats = parts()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sign_in.serve)
        assert await gate.headers() == {"authorization": "Bearer tok"}
        await sign_in.verdict(0.3)
    assert gate.reason is None
    assert not stats.last_errors


async def test_no_call_passes_before_drive_has_said_who_we_are(autojump_clock: MockClock) -> None:
    """It fails as if Drive could not be reached, with the reason, after a second; once signed in, it passes."""
    gate, sign_in, account, stats = parts(RemoteUnreachable("no route"), RemoteError("odd"))
    with pytest.raises(RemoteUnreachable, match="has not answered yet"):
        await gate.headers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sign_in.serve)
        await sign_in.verdict(0.3)  # not reached is no refusal
        begin = trio.current_time()
        with pytest.raises(RemoteUnreachable, match="no route"):
            await gate.headers()
        assert trio.current_time() - begin == pytest.approx(1.0)
        assert [error.what for error in stats.last_errors] == ["no route"]
    assert account.times == pytest.approx([account.times[0] + n * 5.1 for n in range(3)])
    await gate.headers()


async def test_a_refusal_is_heard_by_who_mounts_and_by_who_calls(autojump_clock: MockClock) -> None:
    """And it is tried again a minute later: the account may have been given its rights back."""
    gate, sign_in, account, _ = parts(SignInRefused("revoked", status=401))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sign_in.serve)
        with pytest.raises(SignInRefused, match="revoked"):
            await sign_in.verdict(0.3)
        with pytest.raises(SignInRefused, match="revoked"):
            await gate.headers()
    assert account.times[1] - account.times[0] == pytest.approx(60.1)
    assert gate.reason is None


async def test_another_credentials_file_is_tried_soon(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a refusal: within seconds of its being put in the place of the refused one, not a minute later."""
    monkeypatch.setattr(trio.to_thread, "run_sync", run_inline)
    file = tmp_path / "credentials.json"
    file.write_text("revoked")
    gate, account = Gate(StaticToken("tok")), Account(SignInRefused("revoked", status=401))
    sign_in = SignIn(cast(AccountInfo, account), gate, Stats(), "http://server", file)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sign_in.serve)
        await trio.sleep(20)
        assert len(account.times) == 1
        file.write_text("granted anew")
    assert 20 <= account.times[1] - account.times[0] <= 25
    assert gate.reason is None


async def test_the_cache_of_another_account_ends_the_mount(autojump_clock: MockClock) -> None:
    """The gate never opens."""
    gate, sign_in, _, _ = parts(CacheUnusable("it is somebody else's"))
    with pytest.raises(CacheUnusable):
        await sign_in.serve()
    with pytest.raises(RemoteUnreachable):
        await gate.headers()


async def test_the_first_time_drive_must_answer(autojump_clock: MockClock) -> None:
    """Without it there is nothing to show: the sentence says what to look at. With it the gate is open."""
    _, sign_in, _, _ = parts(RemoteUnreachable("no route."))
    with pytest.raises(RemoteUnreachable, match=r"no route\. Nothing is known of this Drive yet.*http://server"):
        await sign_in.first()
    gate, sign_in, account, _ = parts()
    await sign_in.first()
    await gate.headers()
    await sign_in.serve()  # nothing left to do
    assert len(account.times) == 1
