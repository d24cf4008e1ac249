"""The supervisor alone, with processes that do nothing but end: which ends it mends, when it waits, when it gives up."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivefs import mountpoint, supervisor
from drivefs.base.errors import ExitCode, MountpointUnusable
from drivefs.mountpoint import MountEntry
from drivefs.record import Record
from drivefs.supervisor import End, Supervisor

# Later Pythons warn of any fork in a process that has threads; a test process has idle ones of trio's.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

Live = Callable[[Callable[[], None]], int]


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    """Of a mount at ``tmp_path``/drive; signals are as before when the test ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    (tmp_path / "drive").mkdir()
    record = Record(tmp_path / "0.sock")
    record.begin(tmp_path / "drive", tmp_path)
    yield record
    while signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, 0) is not None:
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def watch(record: Record, first: Live, again: Live) -> int:
    return Supervisor(Path(record.mountpoint), record).run(first, again, lambda: None)


def ready_then(end: Callable[[], int]) -> Live:
    """A daemon whose mount answered before it came to ``end``."""

    def live(ready: Callable[[], None]) -> int:
        ready()
        return end()

    return live


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def counting(tmp_path: Path, end: Callable[[], int]) -> Live:
    """Leaves a file for each start."""

    def live(ready: Callable[[], None]) -> int:
        ready()
        (tmp_path / f"start-{time.monotonic_ns()}").touch()
        return end()

    return live


def starts(tmp_path: Path) -> int:
    return len(list(tmp_path.glob("start-*")))


@pytest.mark.parametrize(
    ("status", "crashed"),
    [
        (signal.SIGKILL, True),
        (signal.SIGSEGV, True),
        (signal.SIGABRT, True),
        (signal.SIGTERM, False),
        (signal.SIGINT, False),
        *((code << 8, code in (1, 5, 9)) for code in ExitCode),
    ],
)
def test_what_is_a_crash(status: int, crashed: bool) -> None:
    """A signal that no one sends to end a program in order, a defect, no network, a full disk; nothing that was meant."""
    assert End(int(status), ready=True).crashed is crashed


@pytest.mark.parametrize("code", [ExitCode.OK, ExitCode.NOT_ON_DRIVE, ExitCode.CACHE_IN_USE])
def test_an_end_on_purpose_is_the_end(tmp_path: Path, record: Record, code: ExitCode) -> None:
    """Nothing is started again, and the exit code is the daemon's."""
    assert watch(record, ready_then(lambda: int(code)), counting(tmp_path, lambda: 0)) == code
    assert starts(tmp_path) == 0


def test_a_first_start_that_fails_is_not_repeated(tmp_path: Path, record: Record) -> None:
    """Whoever asked for the mount has been told that it failed."""
    assert watch(record, lambda _: die(), counting(tmp_path, lambda: 0)) == ExitCode.UNEXPECTED
    assert watch(record, lambda _: 1, counting(tmp_path, lambda: 0)) == ExitCode.UNEXPECTED
    assert starts(tmp_path) == 0


def test_the_first_crash_is_mended_at_once(tmp_path: Path, record: Record) -> None:
    """And the next end, on purpose, is the end."""
    begin = time.monotonic()
    assert watch(record, ready_then(die), counting(tmp_path, lambda: int(ExitCode.NOT_ON_DRIVE))) == ExitCode.NOT_ON_DRIVE
    assert starts(tmp_path) == 1
    assert time.monotonic() - begin < 5


def test_more_crashes_are_mended_later_and_later_until_it_gives_up(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No pause, 1 s, 2 s, 4 s, then the end; the log and the record say why."""
    pauses: list[float] = []
    monkeypatch.setattr(Supervisor, "_sleep", lambda _, seconds: pauses.append(seconds))
    with caplog.at_level(logging.ERROR):
        assert watch(record, ready_then(die), counting(tmp_path, die)) == ExitCode.UNEXPECTED
    monkeypatch.undo()
    assert pauses == [0, 1, 2, 4]
    assert starts(tmp_path) == 4
    assert "the 5th time within a minute" in str(record.read()["gave_up"])
    assert "the 5th time within a minute" in caplog.text


def test_old_crashes_are_forgiven(tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """One crash in more than a minute is always the first."""
    monkeypatch.setattr(supervisor, "_PATIENCE", 0.0)

    def die_six_times() -> int:
        return die() if starts(tmp_path) < 6 else 0

    assert watch(record, ready_then(die), counting(tmp_path, die_six_times)) == 0
    assert starts(tmp_path) == 6


def test_an_unmount_while_the_daemon_is_dead_is_the_end(tmp_path: Path, record: Record) -> None:
    """``drivefs unmount`` says so in the record."""

    def stop_and_die() -> int:
        record.add(stop=True)
        return die()

    watch(record, ready_then(stop_and_die), counting(tmp_path, lambda: 0))
    assert starts(tmp_path) == 0
    assert record.last_session()["gave_up"] is None


def test_a_place_that_somebody_else_has_taken_is_left(tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """A living mount there is not ours to remove: it gives up, and says what it found."""

    def refuse(_: MountEntry) -> None:
        raise MountpointUnusable("Somebody has mounted here.")

    monkeypatch.setattr(mountpoint, "mount_at", lambda _: MountEntry("/m", "ext4", "/dev/sda"))
    monkeypatch.setattr(mountpoint, "detach_if_dead", refuse)
    watch(record, ready_then(die), counting(tmp_path, lambda: 0))
    assert starts(tmp_path) == 0
    assert record.read()["gave_up"] == "Somebody has mounted here."


def test_what_was_written_into_the_bare_directory_is_told(
    tmp_path: Path, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the directory could not be closed, the new mount hides it: the log says so."""
    (tmp_path / "drive" / "checkpoint").touch()
    watch(record, ready_then(die), counting(tmp_path, lambda: 0))
    assert "the mount hides 1 entries" in caplog.text
    assert starts(tmp_path) == 1


_ASKED_THEN_KILLED = """
import os, signal, sys
from pathlib import Path
from drivefs.record import Record
from drivefs.supervisor import Supervisor

place, runtime, starts = map(Path, sys.argv[1:])
record = Record(runtime / "0.sock")
record.begin(place, runtime)

def live(ready):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    with open(starts, "a") as file:
        file.write("started\\n")
    ready()
    print("ready", flush=True)
    signal.sigwait([signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGKILL)

sys.exit(Supervisor(place, record).run(live, live, lambda: None))
"""


@pytest.mark.parametrize(("number", "count"), [(signal.SIGTERM, 1), (signal.SIGKILL, 2)])
def test_who_was_asked_to_end_and_is_killed_does_not_come_back(tmp_path: Path, number: signal.Signals, count: int) -> None:
    """SIGTERM to the supervisor, and while its daemon ends SIGKILL to that one: the end. SIGKILL alone: another start."""
    (tmp_path / "drive").mkdir()
    starts = tmp_path / "starts"
    command = [sys.executable, "-c", _ASKED_THEN_KILLED, *map(str, (tmp_path / "drive", tmp_path, starts))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if number == signal.SIGKILL:
            (daemon,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(daemon), number)
            assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == ExitCode.UNEXPECTED
    assert starts.read_text().splitlines() == ["started"] * count


def test_a_daemon_outlives_its_supervisor(tmp_path: Path) -> None:
    """Telling a supervisor that has gone that the mount answers is no error."""
    reader, writer = os.pipe()
    os.close(reader)
    supervisor._tell(writer)
    os.close(writer)
