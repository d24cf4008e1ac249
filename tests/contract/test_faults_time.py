"""Time as data: spreads, lines of bytes, quotas. Distributions and windows are proved on a clock of their own."""

from __future__ import annotations

import concurrent.futures
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from drivefs.emulator.faults.naming import Call, call_of
from drivefs.emulator.faults.profile import DriveProfile, spread_for
from drivefs.emulator.faults.quota import MODELS, Quota, Window, units
from drivefs.emulator.faults.timing import Bandwidth, Shaper, Spread, Timer

if TYPE_CHECKING:
    from tests.contract.conftest import Drive, Server

CONTENT = random.Random(9).randbytes(300_000)


class Clock:
    """Stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _call(verb: str, target: str, **headers: str) -> Call:
    path, _, query = target.partition("?")
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return call_of({"method": verb, "path": path, "query_string": query.encode(), "headers": sent})


def _quantiles(draws: list[float]) -> tuple[float, float]:
    return statistics.median(draws), statistics.quantiles(draws, n=10)[8]


# --- latency ---


def test_spreads() -> None:
    """A log-normal spread has the median and the 90th percentile it is given; a uniform one its bounds; a fixed one no width."""
    rng = random.Random(1)
    median, p90 = _quantiles([Spread.lognormal(0.33, 0.5).draw(rng) for _ in range(20_000)])
    assert median == pytest.approx(0.33, rel=0.02)
    assert p90 == pytest.approx(0.5, rel=0.03)
    uniform = [Spread("uniform", 2.0, 4.0).draw(rng) for _ in range(20_000)]
    assert 2.0 <= min(uniform) < 2.01 < 3.99 < max(uniform) <= 4.0
    assert {Spread.fixed(3.0).draw(rng) for _ in range(10)} == {3.0}


@pytest.mark.parametrize(
    ("verb", "target", "headers", "median", "p90"),
    [
        ("GET", "/drive/v3/files/x", {}, 0.28, 0.35),
        ("GET", "/drive/v3/files", {}, 0.33, 0.5),
        ("GET", "/drive/v3/changes", {}, 0.33, 0.5),
        ("GET", "/drive/v3/files/x?alt=media", {}, 0.57, 0.75),
        ("GET", "/drive/v3/files/x?alt=media", {"range": "bytes=0-9"}, 1.2, 2.3),
        ("POST", "/drive/v3/files", {}, 0.9, 1.2),
        ("PATCH", "/drive/v3/files/x", {}, 0.9, 1.2),
        ("POST", "/upload/drive/v3/files?uploadType=multipart", {}, 2.4, 3.0),
        ("POST", "/upload/drive/v3/files?uploadType=resumable", {}, 0.7, 1.0),
        ("PUT", "/upload/drive/v3/files?uploadType=resumable&upload_id=u", {}, 0.42, 0.6),
    ],
)
def test_the_profile_of_drive(verb: str, target: str, headers: dict[str, str], median: float, p90: float) -> None:
    """Each operation takes what it was measured to take; a connection's first request takes 50 ms more."""
    call, profile = _call(verb, target, **headers), DriveProfile(3, Timer())
    assert (spread_for(call).low, spread_for(call).high) == (median, p90)
    measured = _quantiles([profile.latency(call, False) for _ in range(4000)])
    assert measured[0] == pytest.approx(median, rel=0.06)
    assert measured[1] == pytest.approx(p90, rel=0.08)
    again = DriveProfile(3, Timer())
    assert again.latency(call, True) == pytest.approx(DriveProfile(3, Timer()).latency(call, False) + 0.05)


def test_the_profile_on_the_wire(start: Callable[..., Server]) -> None:
    """``--latency drive``: a get takes about 0.28 s where it takes next to nothing without."""
    drive = start("--latency", "drive").drive
    taken = []
    for _ in range(5):
        started = time.monotonic()
        assert drive.call("GET", "files/root").status == 200
        taken.append(time.monotonic() - started)
    assert 0.2 < statistics.median(taken) < 5.0
    assert drive.send("GET", "/_emulator/faults", token=None).json()["latency"] == "drive"


def test_a_delay_passes_before_and_after_the_work(drive: Drive) -> None:
    """The work is done half-way: others see it before its author gets the answer."""
    drive.strike(method="files.create", latency=1.0)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        started = time.monotonic()
        answer = pool.submit(drive.create, "x")
        time.sleep(0.25)
        assert drive.tree() == []
        while not drive.tree():
            time.sleep(0.01)
        assert time.monotonic() - started >= 0.5
        assert not answer.done()
        assert answer.result()["name"] == "x"
        assert time.monotonic() - started >= 1.0


# --- bandwidth ---


def test_lines_of_bytes() -> None:
    """Each connection has a line of its own, all together share another; idle time is not saved up."""
    clock = Clock()
    shaper = Shaper(Bandwidth(down=100.0, total_down=150.0), clock)
    one, two = Clock(), Clock()  # stand for connections
    mine, all_together = shaper.down(one)
    assert [mine.reserve(100), mine.reserve(50)] == [1.0, 1.5]
    assert shaper.down(two)[0].reserve(100) == 1.0
    assert [all_together.reserve(150), shaper.down(two)[1].reserve(150)] == [1.0, 2.0]
    clock.now += 60.0
    assert mine.reserve(100) == 1.0
    assert shaper.up(one) == []


def test_bandwidth_of_one_and_of_all_connections(drive: Drive) -> None:
    """300 kB at 1 MB/s take 0.3 s on each of two connections at once; with 1 MB/s for both together, 0.6 s."""
    item = drive.upload("x", CONTENT)["id"]

    def both() -> float:
        started = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            assert list(pool.map(drive.download, [item, item])) == [CONTENT, CONTENT]
        return time.monotonic() - started

    drive.strike(method="files.get_media", bandwidth={"down": 1e6})
    alone = both()
    drive.calm()
    drive.strike(method="files.get_media", bandwidth={"total_down": 1e6})
    together = both()
    assert alone >= 0.29
    assert together >= 0.58


def test_bandwidth_of_uploads(drive: Drive) -> None:
    """300 kB at 0.6 MB/s take half a second to arrive."""
    drive.strike(method="files.create", bandwidth={"up": 600_000})
    started = time.monotonic()
    drive.upload("x", CONTENT)
    assert time.monotonic() - started > 0.48


# --- quotas ---


def test_a_window() -> None:
    """What was spent counts for the whole span, wherever a minute begins."""
    clock = Clock()
    window = Window(100, 60.0, clock)
    window.spend(60)
    clock.now += 59.0
    assert (window.used, window.has_room(40), window.has_room(41)) == (60, True, False)
    window.spend(40)
    clock.now += 1.5
    assert window.used == 40
    clock.now += 60.0
    assert window.used == 0


@pytest.mark.parametrize(
    ("verb", "target", "cost"),
    [
        ("GET", "/drive/v3/files/x", 5),
        ("GET", "/drive/v3/files", 100),
        ("GET", "/drive/v3/files/x?alt=media", 200),
        ("POST", "/drive/v3/files", 50),
        ("PATCH", "/upload/drive/v3/files/x?uploadType=media", 50),
        ("PUT", "/upload/drive/v3/files?upload_id=u", 5),
        ("GET", "/drive/v3/files/generateIds", 5),
        ("GET", "/drive/v3/about", 5),
    ],
)
def test_cost_units(verb: str, target: str, cost: int) -> None:
    """What calls cost since 2026."""
    assert units(_call(verb, target)) == cost


def test_allowances_of_a_minute() -> None:
    """A user has 3,250 lists or 65,000 gets a minute; the project as much as three users and a bit; then all again."""
    clock = Clock()
    quota = Quota(MODELS["units-2026"], 1e12, clock)
    listing, get = _call("GET", "/drive/v3/files"), _call("GET", "/drive/v3/files/x")
    for user in "abc":
        assert all(quota.charge(listing, user) is None for _ in range(3250))
        assert quota.charge(get, user) is not None
    assert all(quota.charge(get, "d") is None for _ in range(5000))
    refusal = quota.charge(get, "d")
    assert refusal is not None
    assert refusal.status == 429
    clock.now += 61.0
    assert quota.charge(listing, "a") is None


def test_the_newer_refusal_on_the_wire(start: Callable[..., Server]) -> None:
    """``--quota``: the call beyond the allowance meets RATE_LIMIT_EXCEEDED with its details; downloads cost most."""
    drive = start("--quota", "units-2026", "--quota-scale", "0.001").drive  # 325 units a minute
    item = drive.upload("x", b"1")["id"]  # 50
    assert drive.download(item) == b"1"  # 200
    assert [drive.call("GET", "files/root").status for _ in range(16)] == [200] * 15 + [403]
    error = drive.call("GET", "files").json()["error"]
    assert (error["status"], error["errors"][0]["reason"], error["errors"][0]["domain"]) == (
        "PERMISSION_DENIED",
        "rateLimitExceeded",
        "usageLimits",
    )
    (detail,) = error["details"]
    assert (detail["reason"], detail["metadata"]["quota_limit_value"]) == ("RATE_LIMIT_EXCEEDED", "325")
    quota = drive.send("GET", "/_emulator/faults", token=None).json()["quota"]
    assert (quota["users"], quota["project"]) == ({"me": 325}, 325)
    drive.send("POST", "/_emulator/reset", token=None)
    assert drive.call("GET", "files").status == 200


def test_the_older_model(start: Callable[..., Server]) -> None:
    """``queries-12000``: every call costs the same."""
    drive = start("--quota", "queries-12000", "--quota-scale", "0.00025").drive  # 3 a minute
    statuses = [drive.call("GET", path).status for path in ("files", "files/root", "about?fields=user", "files")]
    assert statuses == [200, 200, 200, 403]


def test_the_bytes_of_a_day(start: Callable[..., Server]) -> None:
    """Beyond 750 GB a day, scaled: 403 userRateLimitExceeded, told from throttling by its message only. Copies count."""
    drive = start("--upload-limit", "1000").drive
    item = drive.upload("x", b"x" * 400)["id"]
    assert drive.call("POST", f"files/{item}/copy", {"name": "y"}).status == 200
    headers = {"Content-Type": "a/b"}
    answer = drive.send("POST", "/upload/drive/v3/files?uploadType=media", body=b"1" * 400, headers=headers)
    assert (answer.status, answer.reason) == (403, "userRateLimitExceeded")
    assert answer.json()["error"]["message"] == "User rate limit exceeded."
    assert drive.create("metadata only")["size"] == "0"
    assert len(drive.tree()) == 3


def test_the_bytes_of_a_day_in_a_session(start: Callable[..., Server]) -> None:
    """Chunks count as they arrive, and a chunk beyond the limit is refused."""
    drive = start("--upload-limit", str(300 << 10)).drive
    session = drive.send("POST", "/upload/drive/v3/files?uploadType=resumable", body=json.dumps({})).headers["location"]
    first = drive.send("PUT", session, body=b"1" * (256 << 10), headers={"Content-Range": f"bytes 0-{(256 << 10) - 1}/*"})
    assert first.status == 308
    rest = {"Content-Range": f"bytes {256 << 10}-{(512 << 10) - 1}/*"}
    assert drive.send("PUT", session, body=b"1" * (256 << 10), headers=rest).reason == "userRateLimitExceeded"


def test_each_user_has_an_allowance(start: Callable[..., Server]) -> None:
    """What one account spends does not count for another, but for the project."""
    drive = start("--quota", "units-2026", "--quota-scale", "0.001").drive
    body = json.dumps({"email": "other@example.com"})
    token = drive.send("POST", "/_emulator/users", body=body, token=None).json()["token"]
    assert [drive.send("GET", "/drive/v3/files").status for _ in range(4)] == [200, 200, 200, 403]
    assert [drive.send("GET", "/drive/v3/files", token=token).status for _ in range(4)] == [200, 200, 200, 403]
    quota = drive.send("GET", "/_emulator/faults", token=None).json()["quota"]
    assert (sorted(quota["users"].values()), quota["project"]) == ([300, 300], 600)
