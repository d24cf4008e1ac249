"""Waiting with a bound: what is progress, what ends a wait, and who is next. Time is virtual."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from drivefs.base.errors import Interrupted, RateLimited, RemoteError, RemoteUnreachable, ServerFault, TimedOut
from drivefs.base.ranges import Range
from drivefs.interrupts import _is_to_end, process_is_to_end, thread_is_to_end, watch
from drivefs.jobs import patience
from drivefs.jobs.flights import Flights
from drivefs.jobs.patience import Waits, waiting
from drivefs.jobs.turns import Turns
from drivefs.remote.caller import TROUBLE
from tests.support.fake_drive import FakeDrive
from tests.support.world import World


@dataclass(eq=False)
class Asked:
    """A program's call."""

    waits: Waits
    name: str = "read"
    to_end: bool = False
    timeout: float = field(init=False)

    def __post_init__(self) -> None:
        self.timeout = self.waits.timeout

    def subject(self) -> str:
        return "MyDrive/a"

    def asked_to_end(self) -> bool:
        return self.to_end


@contextmanager
def served(waits: Waits) -> Iterator[Asked]:
    operation = Asked(waits)
    token = patience.begin(operation)
    try:
        yield operation
    finally:
        patience.end(token)


@asynccontextmanager
async def flying() -> AsyncIterator[Flights[str]]:
    flights: Flights[str] = Flights()
    async with trio.open_nursery() as nursery:
        await nursery.start(flights.serve)
        yield flights
        nursery.cancel_scope.cancel()


async def test_waiting_ends_after_so_long_without_progress(autojump_clock: MockClock) -> None:
    """Three steps fifteen seconds apart, then silence: given up twenty seconds after the last, as ETIMEDOUT; the work goes on."""
    finished = trio.Event()

    async def work(moved: Callable[[], None]) -> None:
        for _ in range(3):
            await trio.sleep(15)
            moved()
        await trio.sleep(100)
        finished.set()

    async with flying() as flights:
        with served(Waits(20.0)), pytest.raises(TimedOut, match="a folder's listing") as caught:
            await flights.join("f", "a folder's listing", work)
        assert caught.value.errno == errno.ETIMEDOUT
        assert trio.current_time() == pytest.approx(65.0)
        await finished.wait()
        assert trio.current_time() == pytest.approx(145.0)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (ServerFault("Drive has trouble", status=503), errno.EIO),
        (RateLimited("slower", status=429), errno.EIO),
        (RemoteUnreachable("nobody there"), errno.ETIMEDOUT),
    ],
)
async def test_what_drive_said_is_the_reason(autojump_clock: MockClock, error: RemoteError, number: int) -> None:
    """Calls that are being repeated tell why; who gives up waiting for them says the same, with its errno."""

    async def work(_moved: Callable[[], None]) -> None:
        told = TROUBLE.get()
        assert told is not None
        told(error)
        await trio.sleep(100)

    async with flying() as flights:
        with served(Waits(20.0)), pytest.raises(TimedOut, match=str(error)) as caught:
            await flights.join("f", "something", work)
        assert caught.value.errno == number


async def test_who_serves_nobody_waits_as_long_as_it_takes(autojump_clock: MockClock) -> None:
    """An upload that needs a file's missing bytes has no program that would get an error."""

    async def work(_moved: Callable[[], None]) -> None:
        await trio.sleep(1000)

    async with flying() as flights:
        await flights.join("f", "something", work)
    assert trio.current_time() == 1000


async def test_work_begun_for_one_outlives_its_wait(autojump_clock: MockClock) -> None:
    """The task that does the work does not inherit the bound of who began it, and serves who comes later."""
    bound: list[bool] = []

    async def work(_moved: Callable[[], None]) -> None:
        with waiting("within the work"):
            await trio.sleep(30)
        bound.append(True)

    async with flying() as flights:
        with served(Waits(20.0)), pytest.raises(TimedOut):
            await flights.join("f", "something", work)
        with served(Waits(20.0)):
            await flights.join("f", "something", work)
    assert bound == [True]
    assert trio.current_time() == 30


async def test_one_who_is_to_end_is_let_go(autojump_clock: MockClock) -> None:
    """Within a second of the signal the wait ends with EINTR; one whose program goes on waits on."""
    waits = Waits(20.0)

    async def other() -> None:
        with served(waits), pytest.raises(TimedOut), waiting("bytes"):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, waits)
        async with trio.open_nursery() as others:
            others.start_soon(other)
            with served(waits) as operation, pytest.raises(Interrupted) as caught:
                nursery.start_soon(_after, 5.0, lambda: setattr(operation, "to_end", True))
                with waiting("bytes"):
                    await trio.sleep_forever()
            assert caught.value.errno == errno.EINTR
            assert 5.0 <= trio.current_time() < 6.0
        assert trio.current_time() == pytest.approx(20.0)
        nursery.cancel_scope.cancel()


async def _after(seconds: float, action: Callable[[], None]) -> None:
    await trio.sleep(seconds)
    action()


async def test_only_what_waits_long_is_told_of(autojump_clock: MockClock) -> None:
    """status lists who has waited for more than a second, and nobody who has gone."""
    waits = Waits(20.0)

    async def wait() -> None:
        with served(waits), waiting("bytes of the file"):
            await trio.sleep(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(0.5)
        assert waits.described() == []
        await trio.sleep(2.5)
        assert waits.described() == [{"operation": "read", "path": "MyDrive/a", "seconds": 3.0, "what": "bytes of the file"}]
    assert waits.described() == []


@pytest.mark.parametrize("days", [-2, 2])
async def test_a_clock_that_jumps_ends_no_wait(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """Time-outs are measured by a clock that nobody sets."""
    with served(Waits(20.0)), pytest.raises(TimedOut), waiting("bytes"):
        await trio.sleep(1)
        monkeypatch.setattr(time, "time", lambda real=time.time: real() + days * 86400.0)
        await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(20.0)


async def test_a_listing_that_hangs_holds_up_nobody_else(world: World, fake: FakeDrive, autojump_clock: MockClock) -> None:
    """One folder's listing never ends; the other's is there at once, and who waits for the first gives up in time."""
    for name in ("dead", "alive"):
        fake.put_file("file", b"1", fake.put_folder(name).id)
    await world.changes.poll()
    dead, alive = await world.node("dead"), await world.node("alive")
    fake.hold("list_children")
    async with trio.open_nursery() as nursery:

        async def hang() -> None:
            with served(Waits(20.0)), pytest.raises(TimedOut):
                await world.names.children(dead.inode)

        nursery.start_soon(hang)
        await trio.sleep(1)
        begin = trio.current_time()
        assert [node.shown_name for node in await world.names.children(alive.inode)] == ["file"]
        assert trio.current_time() - begin < 1
    assert trio.current_time() == pytest.approx(20.0, abs=0.5)


async def test_bytes_are_progress_for_the_reader_who_waits_for_them(
    world: World, fake: FakeDrive, autojump_clock: MockClock
) -> None:
    """A read that gets nothing gives up after the time it has, and the download goes on for who comes later."""
    fake.put_file("a", b"0123456789")
    await world.changes.poll()
    content = world.cache.open((await world.node("a")).inode)
    gate = fake.hold("download")
    with served(Waits(20.0)), pytest.raises(TimedOut, match="bytes of the file"):
        await world.prefetch.ensure(content, Range(0, 10))
    assert trio.current_time() == pytest.approx(20.0, abs=0.5)
    gate.open.set()
    with served(Waits(20.0)):
        await world.prefetch.ensure(content, Range(0, 10))
    assert fake.calls["download"] == 1
    world.cache.close(content)


# -- turns -------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Transfer:
    """A turn that takes ``seconds``; silent: not a byte comes meanwhile."""

    name: str
    seconds: float = 10.0
    urgent: bool = False
    silent: bool = False
    moved_at: float = 0.0
    began: float | None = None

    async def run(self, turns: Turns) -> None:
        async with turns.take(self):
            self.began = trio.current_time()
            for _ in range(int(self.seconds * 10)):
                await trio.sleep(0.1)
                if not self.silent:
                    self.moved_at = trio.current_time()


async def test_what_somebody_waits_for_comes_first(autojump_clock: MockClock) -> None:
    """Two at a time in order of arrival, but urgent ones before the others, also when they become urgent in the queue."""
    turns = Turns(2)
    transfers = [Transfer(str(number)) for number in range(6)]
    late = Transfer("late", urgent=True)
    async with trio.open_nursery() as nursery:
        for transfer in transfers:
            nursery.start_soon(transfer.run, turns)
            await wait_all_tasks_blocked()
        nursery.start_soon(late.run, turns)
        await trio.sleep(1)
        transfers[5].urgent = True
        turns.reconsider()
    order = sorted([*transfers, late], key=lambda transfer: transfer.began or 0.0)
    assert {transfer.name for transfer in order[:2]} == {"0", "1"}
    assert {transfer.name for transfer in order[2:4]} == {"5", "late"}


async def test_hung_transfers_keep_nobody_from_beginning(autojump_clock: MockClock) -> None:
    """All places are taken by silent transfers: within some seconds others run beside them, but no more than as many again."""
    turns = Turns(4)
    hung = [Transfer("hung", 100.0, silent=True) for _ in range(4)]
    others = [Transfer("other", 2.0, urgent=True) for _ in range(8)]
    async with trio.open_nursery() as nursery:
        for transfer in hung:
            nursery.start_soon(transfer.run, turns)
        await trio.sleep(0.5)
        for transfer in others:
            nursery.start_soon(transfer.run, turns)
        await trio.sleep(30)
        began = sorted(transfer.began or 1e9 for transfer in others)
        assert began[3] < 7.0
        assert began[4] > began[3] + 1.5
        assert began[7] < 12.0


# -- signals -----------------------------------------------------------------------------------------------------------


BLOCKING = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
signal.signal(signal.SIGHUP, signal.SIG_IGN)
print('ready', flush=True)
sys.stdin.read()
"""


def test_only_a_signal_that_will_be_delivered_counts() -> None:
    """Blocked or ignored, or with nothing pending, or gone: nobody is to end."""
    with subprocess.Popen([sys.executable, "-c", BLOCKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for number in (signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "ShdPnd:\t0000000000004000" in status, "SIGTERM is not pending"
        assert not thread_is_to_end(process.pid)
        assert not process_is_to_end(process.pid)
        process.kill()
    assert not thread_is_to_end(process.pid)
    assert not process_is_to_end(process.pid)
    assert not thread_is_to_end(0)
    assert not process_is_to_end(0)


def test_a_pending_signal_is_seen(tmp_path: Path) -> None:
    """Of the thread or of its process, unless it is one that programs use for other things than their end."""
    for pending, shared, expected in (
        (1 << 8, 0, True),  # SIGKILL, which is what any deadly signal becomes
        (0, 1 << 1, True),  # SIGINT, which the program handles
        (0, 1 << 13, False),  # SIGALRM
    ):
        path = tmp_path / "status"
        path.write_text(f"Name:\ta\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{0:016x}\nSigIgn:\t{0:016x}\n")
        assert _is_to_end(str(path)) == expected
