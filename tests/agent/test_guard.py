"""The guard: it stops an idle box once everything is on Drive, and in no other case, and flushes whenever the box may go."""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefs_agent import cli
from drivefs_agent.activity import Finding
from drivefs_agent.drive import DriveMount
from drivefs_agent.flush import Left, flush_all, report
from drivefs_agent.guard import Guard, Plan, run_command
from drivefs_agent.inventory import Specs
from drivefs_agent.notice import Notice
from drivefs_agent.state import State
from tests.agent.boxes import make_specs
from tests.agent.running import AGENT, daemon, environment_of
from tests.support.mounts import eventually

UNSENT = Left("/d", (("/d/model.pt", 5, "Drive is full"),))
MINUTE = 12  # ticks


class Activity:
    """Says what the test wants; ``specs`` are the looks it was shown."""

    def __init__(self) -> None:
        self.idle: bool | None = True
        self.specs: list[Specs] = []

    def findings(self, specs: Specs) -> list[Finding]:
        self.specs.append(specs)
        drive = all(mount.pending_files == 0 for mount in specs.drive) and specs.drive_error is None
        return [Finding("gpu", self.idle, "as told"), Finding("drive", drive, "as told")]


class Notices:
    def __init__(self) -> None:
        self.notice: Notice | None = None
        self.error: str | None = None

    def poll(self) -> Notice | None:
        return self.notice


class Mute(State):
    """Keeps no report: thousands of them cost time."""

    def put_report(self, report: Mapping[str, Any]) -> None:
        """Not wanted."""


class Scene:
    """A guard on clocks of the test's own, and the list of what it did: ("flush", seconds) and ("stop", command)."""

    def __init__(self, folder: Path, kind: type[State] = State, **plan: Any) -> None:
        self.done: list[tuple[str, Any]] = []
        self.clock, self.now = 0.0, 1_800_000_000.0
        self.left: list[Left] = []
        self.stops = True
        self.drive: tuple[tuple[DriveMount, ...], str | None] = ((), None)
        self.flush_takes = 0.0
        self.breaks = False
        self.seen: list[tuple[float, bool]] = []  # when the box was looked at, and whether it was idle
        self.stopped: list[tuple[float, list[Left]]] = []
        self.activity, self.notices, self.state = Activity(), Notices(), kind(folder / "agent")
        self.guard = Guard(
            Plan(**{"idle": 600.0, "warn": 300.0, "flush": 120.0, "stop_command": "off", **plan}),
            self.state,
            self.activity,  # type: ignore[arg-type]
            self.look,
            lambda seconds: False,
            self.notices,  # type: ignore[arg-type]
            flush=self.flush,
            stop=self.stop,
            drive=lambda: self.drive,
            clock=lambda: self.clock,
            now=lambda: self.now,
        )

    def look(self) -> Specs:
        self.seen.append((self.clock, self.activity.idle is True and not self.breaks))
        if self.breaks:
            raise RuntimeError("strange box")
        return make_specs(drive=self.drive[0], drive_error=self.drive[1])

    def flush(self, timeout: float) -> list[Left]:
        self.done.append(("flush", timeout))
        self.clock += self.flush_takes
        return self.left

    def stop(self, command: str) -> bool:
        self.done.append(("stop", command))
        self.stopped.append((self.clock, self.left))
        return self.stops

    def ticks(self, count: int) -> None:
        """Five seconds each."""
        for _ in range(count):
            self.guard._tick()
            self.clock += 5
            self.now += 5


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_an_idle_box_is_stopped_after_a_flush(scene: Scene) -> None:
    """Ten minutes idle, five more announced, then flush and stop, in this order; the page is told when."""
    scene.ticks(10 * MINUTE)
    assert scene.done == []
    scene.ticks(2)
    told = scene.state.report()
    assert told is not None
    assert 290 <= told["stop_at"] - scene.now <= 300
    scene.ticks(5 * MINUTE - 4)
    assert scene.done == []
    scene.ticks(6)
    assert scene.done == [("flush", 120.0), ("stop", "off")]


def test_without_a_plan_to_stop_it_never_does(tmp_path: Path) -> None:
    """Idle for half an hour, and nothing happens."""
    scene = Scene(tmp_path, idle=None, stop_command=None)
    scene.ticks(30 * MINUTE)
    assert scene.done == []


@pytest.mark.parametrize("idle", [False, None])
def test_one_busy_or_failing_probe_begins_it_anew(scene: Scene, idle: bool | None) -> None:
    """At whatever time before the stop; and the announcement is taken back."""
    scene.ticks(14 * MINUTE)
    scene.activity.idle = idle
    scene.ticks(3)
    told = scene.state.report()
    assert told is not None
    assert (told["stop_at"], told["idle_seconds"]) == (None, None)
    scene.activity.idle = True
    scene.ticks(14 * MINUTE)
    assert scene.done == []
    scene.ticks(2 * MINUTE)
    assert scene.done[-1] == ("stop", "off")


def test_nothing_is_stopped_while_something_is_unsent(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """A flush that leaves a file: no stop, the file is named, and it is tried again only minutes later; once sent, it stops."""
    scene.left = [UNSENT]
    scene.ticks(16 * MINUTE)
    assert scene.done == [("flush", 120.0)]
    assert "/d/model.pt  5 B: Drive is full" in caplog.text
    assert "not stopping: not everything is on Drive" in caplog.text
    scene.ticks(4 * MINUTE)
    assert len(scene.done) <= 2
    scene.left = []
    scene.ticks(6 * MINUTE)
    assert scene.done[-1] == ("stop", "off")


def test_what_happens_during_the_flush_counts(scene: Scene) -> None:
    """Somebody comes back, or writes a file, while the flush runs: the last look, with the mounts asked anew, sees it."""
    scene.flush_takes = 60.0
    flush = scene.flush

    def somebody_writes(timeout: float) -> list[Left]:
        scene.drive = ((DriveMount("/d", pending_files=1, pending_bytes=9),), None)
        return flush(timeout)

    scene.guard._flush_all = somebody_writes
    scene.ticks(16 * MINUTE)
    assert scene.done == [("flush", 120.0)]
    assert scene.activity.specs[-1].drive[0].pending_files == 1


@pytest.mark.parametrize("drive", [((DriveMount("/d", error="stuck"),), None), ((), "no answer")])
def test_a_mount_that_does_not_tell_keeps_the_box(scene: Scene, drive: Any) -> None:
    """Not known is not "nothing", for as long as it lasts."""
    scene.drive = drive
    scene.ticks(60 * MINUTE)
    assert scene.done == []


def test_a_look_that_breaks_keeps_the_box(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """An error nobody thought of is in the log with its traceback, shown on the page, and counts as busy."""
    scene.breaks = True
    scene.ticks(20 * MINUTE)
    assert scene.done == []
    assert "RuntimeError: strange box" in caplog.text
    told = scene.state.report()
    assert told is not None
    assert told["findings"][0]["idle"] is None


def test_a_look_that_breaks_at_the_last_moment_keeps_the_box(scene: Scene) -> None:
    """Between the flush and the stop."""
    flush = scene.flush

    def breaking(timeout: float) -> list[Left]:
        scene.breaks = True
        return flush(timeout)

    scene.guard._flush_all = breaking
    scene.ticks(16 * MINUTE)
    assert scene.done == [("flush", 120.0)]


def test_a_stop_that_fails_is_tried_again_later(scene: Scene) -> None:
    """After five minutes, with a flush before it each time."""
    scene.stops = False
    scene.ticks(18 * MINUTE)
    assert scene.done == [("flush", 120.0), ("stop", "off")]
    scene.ticks(4 * MINUTE)
    assert scene.done == [("flush", 120.0), ("stop", "off")] * 2


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([True, True, False, None]), st.booleans(), st.booleans(), st.integers(1, 240)), max_size=20
    )
)
def test_no_course_of_events_stops_a_box_that_is_used_or_has_unsent_files(
    events: list[tuple[bool | None, bool, bool, int]],
) -> None:
    """Whatever comes in whatever order: before each stop every look of fifteen minutes said idle, and the flush left nothing."""
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), Mute)
        for idle, unsent, breaks, ticks in events:
            scene.activity.idle, scene.left, scene.breaks = idle, [UNSENT] if unsent else [], breaks and idle is None
            for _ in range(ticks):
                scene.ticks(1)
        for when, left in scene.stopped:
            assert left == []
            lately = [well for at, well in scene.seen if when - 900 <= at <= when]
            assert all(lately)
            assert len(lately) >= 900 / 15


# -- notices, leases, the end --------------------------------------------------------------------------------------------


def test_a_notice_is_answered_with_flushes_until_the_end(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """At once, again at every tick as programs write their last, never beyond the announced time; it is not stopped by us."""
    scene.activity.idle = False
    scene.ticks(3)
    scene.notices.notice = Notice("AWS will terminate this machine", at=scene.now + 100)
    scene.ticks(3)
    assert scene.done == [("flush", 97.0), ("flush", 92.0), ("flush", 87.0)]
    assert caplog.text.count("AWS will terminate this machine: sending") == 1
    told = scene.state.report()
    assert told is not None
    assert told["notice"]["text"] == "AWS will terminate this machine"
    scene.notices.notice = Notice("no time told")
    scene.ticks(1)
    assert scene.done[-1] == ("flush", 120.0)


def test_a_server_that_falls_silent_has_not_taken_its_notice_back(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Silence is warned of once, and the notice stands."""
    scene.notices.notice = Notice("going")
    scene.ticks(1)
    scene.notices.notice, scene.notices.error = None, "no answer from the metadata server"
    scene.ticks(2)
    assert len(scene.done) == 3
    assert caplog.text.count("no answer from the metadata server") == 1
    scene.notices.error = None
    scene.ticks(1)
    assert len(scene.done) == 3


def test_a_lease(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Warned of at 30, 10 and 5 minutes, flushed at 10 and 5; a box whose lease is over is left alone."""
    scene.activity.idle = False
    scene.state.tell(lease_end=scene.now + 40 * 60)
    scene.ticks(9 * MINUTE)
    assert caplog.text == ""
    scene.ticks(36 * MINUTE)
    assert [line.split("in ")[1] for line in caplog.text.splitlines() if "the lease ends" in line] == [
        "30 min",
        "10 min",
        "5 min",
    ]
    assert scene.done == [("flush", 120.0)] * 2


def test_a_damaged_session_keeps_no_flush_from_coming_and_is_complained_of_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """The guard goes on; the hold that cannot be read keeps the box (test_activity), and the log is not filled with it."""
    scene.state.tell(lease_end=scene.now + 60)
    (scene.state.folder / "session.json").write_text("{")
    scene.notices.notice = Notice("going")
    scene.ticks(9)
    assert len(scene.done) == 9
    assert caplog.text.count("is damaged") == 1


def test_asked_to_end_it_flushes_and_tells_what_is_left(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """The files, with why; and they are what run() returns."""
    scene.left = [UNSENT, Left("/e", error="the daemon is stuck")]
    scene.guard._wait = lambda seconds: True
    with caplog.at_level(logging.INFO):
        assert scene.guard.run() == scene.left
    assert "/d: 1 files (5 B) are not on Drive:" in caplog.text
    assert "/e: not known what is left: the daemon is stuck" in caplog.text


def test_names_in_the_report_cannot_steer_a_terminal() -> None:
    """Control characters of a file's name are replaced, and a long list is cut with its number."""
    lines = list(report([Left("/d", tuple((f"/d/\x1b[2J{n}\n", 1, "r\x07") for n in range(30)))]))
    assert all(line.isprintable() for line in lines)
    assert (len(lines), lines[-1]) == (22, "  and 10 more")


def test_the_stop_command(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Words as a shell's, but no shell; a failing one says why."""
    assert run_command(f"touch '{tmp_path}/a b'")
    assert (tmp_path / "a b").exists()
    assert not run_command("sh -c 'echo no power >&2; exit 3'")
    assert "exit status 3: no power" in caplog.text
    assert not run_command("/no/such/program")
    assert "No such file or directory" in caplog.text


# -- the commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ag-"))  # short: sockets have short paths
    try:
        yield path
    finally:
        shutil.rmtree(path)


def test_flush_reaches_every_mount_and_tells_of_those_it_cannot(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two mounts are flushed, one of which keeps a file; a crashed one's record is told as not known."""
    monkeypatch.setenv("DRIVEFS_RUNTIME_DIR", str(home / "run"))
    kept = {"path": "/b/x", "size": 3, "age_s": 1, "reason": "no room on Drive"}
    with daemon(home / "run", "/a", {}) as first, daemon(home / "run", "/b", {}, [kept]) as second:
        (home / "run" / "0123.json").write_text('{"mountpoint": "/c", "cache_dir": "/cache"}')
        left = flush_all(5)
    assert (first, second) == (["status", "flush"], ["status", "flush"])
    assert left[0] == Left("/b", (("/b/x", 3, "no room on Drive"),))
    assert (left[1].mountpoint, "in the cache '/cache' alone" in str(left[1].error)) == ("/c", True)


@pytest.mark.slow
@pytest.mark.parametrize("unsent", [[], [{"path": "/d/x", "size": 3, "age_s": 1, "reason": "waiting"}]])
def test_sigterm_flushes(home: Path, unsent: list[dict[str, Any]]) -> None:
    """The real command: asked to end it has the daemon flush, and its exit code tells whether all is on Drive."""
    status = {"pending_files": len(unsent), "pending_bytes": 3}
    with daemon(home / "run", "/d", status, unsent) as asked:
        guard = subprocess.Popen(
            [*AGENT, "guard", "--cloud", "none"], stderr=subprocess.PIPE, text=True, env=environment_of(home)
        )
        state = State(home / "agent")
        eventually(state.report, 30)
        guard.send_signal(signal.SIGTERM)
        _, said = guard.communicate(timeout=30)
        assert "flush" in asked
    assert guard.returncode == (3 if unsent else 0), said
    assert ("/d/x  3 B: waiting" in said) == bool(unsent)


@pytest.mark.slow
def test_the_real_command_stops_an_idle_box(home: Path) -> None:
    """With every doubtful probe of this machine left out it flushes, then runs the command."""
    out = ("gpu", "cpu", "jupyter", "terminals", "network")
    without = [word for probe in out for word in ("--without", probe)]
    marker = home / "stopped"
    with daemon(home / "run", "/d", {"pending_files": 0, "pending_bytes": 0}) as asked:
        command = ["guard", "--cloud", "none", "--idle", "0s", "--warn", "0s", "--stop-command", f"touch {marker}", *without]
        guard = subprocess.Popen([*AGENT, *command], stderr=subprocess.PIPE, text=True, env=environment_of(home))
        eventually(marker.exists, 30)
        guard.send_signal(signal.SIGTERM)
        _, said = guard.communicate(timeout=30)
        assert asked.index("flush") > 0
    assert (guard.returncode, f"everything is on Drive; stopping: touch {marker}" in said) == (0, True)


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*AGENT, *arguments], capture_output=True, text=True, check=False, timeout=60, env=environment_of(home))


@pytest.mark.slow
def test_idle_explains_itself(home: Path) -> None:
    """Exit code 1 and the reason where the box is held; all probes, and that no guard runs."""
    assert run(home, "hold", "3h").stdout == "held for another 3 h\n"
    short = run(home, "idle", "--without", "cpu")
    assert (short.returncode, "hold: held for another " in short.stdout) == (1, True)
    lines = run(home, "idle", "--explain").stdout.splitlines()
    assert [line.split()[0] for line in lines[:7]] == ["gpu", "cpu", "jupyter", "terminals", "network", "drive", "hold"]
    assert lines[7] == "No guard is running, so nothing will stop this box."


def test_hold_and_lease(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is set, shown and forgotten without touching the other; a damaged file is mended by forgetting."""
    monkeypatch.setenv("DRIVEFS_AGENT_DIR", str(home / "agent"))

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli.main, list(arguments))
        return done.exit_code, done.output

    assert call("hold") == (0, "not held\n")
    assert call("lease", "1d") == (0, "the lease ends in 1 d\n")
    assert call("hold", "90m") == (0, "held for another 1 h 30 min\n")
    assert call("hold", "--release") == (0, "not held\n")
    session = State(home / "agent").session()
    assert (session.hold_until, abs((session.lease_end or 0) - time.time() - 86400) < 60) == (None, True)
    assert "is no span of time. Write it as 45s, 30m, 3h, 1h30m or 2d" in call("hold", "soon")[1]
    assert call("hold", "3h", "--release")[0] == 2
    (home / "agent" / "session.json").write_text("[]")
    code, said = call("hold", "3h")
    assert (code, "is damaged" in said) == (1, True)
    assert call("lease", "--release") == (0, "no lease is known\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--idle", "30m"], "belong together"),
        (["--stop-command", "off"], "belong together"),
        (["--idle", "30m", "--stop-command", "'off"], "quotes do not match"),
        (["--cloud", "aws", "--metadata-url", "ftp://x"], "is no metadata server's address"),
        (["--without", "all"], "is not one of"),
    ],
)
def test_a_plan_that_cannot_be_meant(home: Path, arguments: list[str], words: str) -> None:
    """Told at once, with exit code 2, and not when the box is to be stopped."""
    done = run(home, "guard", *arguments)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr
