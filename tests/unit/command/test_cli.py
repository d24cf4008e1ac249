"""The command as people run it: a process of its own, real sockets, a real background daemon with canned answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from drivefs import __version__, cli, client, mountpoint
from drivefs.client import Client
from drivefs.mountpoint import MountEntry

from .conftest import ROOT, Drivefs

ACCOUNT = {"DRIVEFS_API_ROOT": "http://127.0.0.1:9", "DRIVEFS_ACCESS_TOKEN": "tok-secret"}


def seen(home: Path) -> dict[str, Any]:
    (path,) = (home / "data" / "cache").glob("drive-*/seen.json")
    told: dict[str, Any] = json.loads(path.read_text())
    return told


def test_help_needs_nothing_heavy() -> None:
    """``drivefs --help`` loads neither the event loop, FUSE, Google's library, a database, a web server nor our own parts."""
    code = (
        "import sys; from drivefs.cli import main; sys.argv = ['drivefs', '--help']\n"
        "try: main()\n"
        "finally: print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    heavy = {"trio", "pyfuse3", "googleapiclient", "google.auth", "sqlite3", "starlette", "uvicorn", "pycurl", "asyncio", "lark"}
    assert not loaded & heavy
    # click's error handling looks for ours, which are needed for nothing but their types.
    assert {name for name in loaded if name.startswith("drivefs")} <= {
        "drivefs",
        "drivefs.cli",
        "drivefs.client",
        "drivefs.base",
        "drivefs.base.errors",
    }
    assert "unmount" in done.stdout


def test_from_mount_to_unmount(home: Path, drivefs: Drivefs) -> None:
    """mount returns with its one line while the daemon lives on; status, flush and unmount reach it; then it is gone."""
    mounted = drivefs("mount", "d", "--poll-interval", "1", "--upload-delay", "0", "--read-only", **ACCOUNT)
    assert (mounted.returncode, mounted.stdout, mounted.stderr) == (0, "Mounted at d\n", "")
    told = seen(home)
    assert (told["token"], told["api_root"], told["mountpoint"]) == ("tok-secret", "http://127.0.0.1:9", str(home / "d"))
    assert (told["read_only"], told["poll_interval"], told["upload_delay"]) == (True, 1.0, 0.0)
    assert "DRIVEFS_ACCESS_TOKEN" not in told["environment"]
    pid = Client(home / "d").status()["pid"]
    assert b"tok-secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()

    status = drivefs("status")
    assert status.stdout.splitlines()[0] == "safe to power off: yes (everything is on Drive)"
    assert json.loads(drivefs("status", "d/MyDrive", "--json").stdout)["pid"] == pid
    assert drivefs("flush").returncode == 0
    assert drivefs("flush", "d/MyDrive/x", "d").returncode == 0

    unmounted = drivefs("unmount", str(home / "d"))
    assert (unmounted.returncode, unmounted.stdout, unmounted.stderr) == (0, "", "")
    assert not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    assert client.running() == []


def test_what_the_last_session_left_is_mentioned(home: Path, drivefs: Drivefs) -> None:
    """The daemon says with its ready how much it found unsent; the command passes it on."""
    mounted = drivefs("mount", "left", **ACCOUNT)
    assert (mounted.returncode, mounted.stdout) == (0, "Mounted at left\n")
    assert mounted.stderr == "drivefs: 3 changes of the last session still to be sent; sending now. See: drivefs status\n"


def test_the_flags_reach_the_daemon(home: Path, drivefs: Drivefs) -> None:
    """Sizes in powers of 1024, durations in seconds, and what fsync waits for."""
    sizes = ("--cache-size", "20G", "--min-free", "1.5M")
    times = ("--open-file-snapshot", "0", "--io-timeout", "7", "--drain-timeout", "0")
    assert drivefs("mount", "d", "--fsync", "remote", *sizes, *times, **ACCOUNT).returncode == 0
    told = seen(home)
    assert (told["cache_size"], told["min_free"], told["fsync_remote"]) == (20 << 30, 3 << 19, True)
    assert (told["open_file_snapshot"], told["io_timeout"], told["drain_timeout"]) == (0, 7, 0)


@pytest.mark.parametrize("flag", [(), ("--no-supervise",)])
def test_a_mount_is_supervised_unless_it_is_not_to_be(home: Path, drivefs: Drivefs, flag: tuple[str, ...]) -> None:
    """The daemon's parent is its supervisor, which knows the token but has it neither in its arguments nor its environment."""
    drivefs("mount", "d", *flag, **ACCOUNT)
    state = Client(home / "d").status()
    assert state["supervised"] is (None if flag else True)
    (parent,) = [line for line in Path(f"/proc/{state['pid']}/status").read_text().splitlines() if line.startswith("PPid:")]
    pid = int(parent.split()[1])
    if not flag:
        assert b"mount\0d" in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"tok-secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert drivefs("unmount", "d").returncode == 0
    assert flag or not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text()


def test_what_is_not_on_drive_is_listed(home: Path, drivefs: Drivefs) -> None:
    """flush and unmount give exit code 3 and name each file, harmlessly; unmount says that the mount stays; it does."""
    drivefs("mount", "unsent", **ACCOUNT)
    line = r"  'evil\x1b[31m\u202ename'  1.5 KiB, changed 1 min 15 s ago: Drive is full"
    flushed = drivefs("flush", "--timeout", "1")
    assert (flushed.returncode, flushed.stdout) == (3, "")
    assert flushed.stderr.splitlines()[0] == line
    unmounted = drivefs("unmount", "unsent", "--timeout", "1")
    assert unmounted.returncode == 3
    assert unmounted.stderr.splitlines()[0] == line
    assert "'unsent' stays mounted, nothing is lost" in unmounted.stderr
    asked = drivefs("status")
    assert asked.returncode == 3
    state = asked.stdout
    assert state.splitlines()[0] == "safe to power off: no (1 file, 1.5 KiB, oldest 1 min 15 s)"
    assert "\x1b" not in state


def test_a_refused_start_leaves_nothing_behind(home: Path, drivefs: Drivefs) -> None:
    """The daemon's sentence and exit code come through, secrets blanked, and the directory made for the mount is removed."""
    done = drivefs("mount", "refused", **ACCOUNT)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "drivefs: Drive refused '[secret]'. Sign in again.\n"
    assert not (home / "refused").exists()
    (home / "refused").mkdir()
    assert drivefs("mount", "refused", **ACCOUNT).returncode == 4
    assert (home / "refused").exists()


def test_a_second_daemon_for_one_place_is_refused(home: Path, drivefs: Drivefs) -> None:
    """Where a daemon answers at the control socket, no other one starts for the same mountpoint."""
    drivefs("mount", "d", **ACCOUNT)
    second = drivefs("mount", "./d/", **ACCOUNT)
    assert second.returncode == 7
    assert "Another drivefs daemon serves this mountpoint" in second.stderr
    assert (home / "d").exists()


def test_several_mounts(home: Path, drivefs: Drivefs) -> None:
    """Without a name, status shows all of them, and flush includes all; JSON needs a name, since it is one object."""
    drivefs("mount", "one", **ACCOUNT)
    drivefs("mount", "two-unsent", "--cache-dir", "other", **ACCOUNT)
    text = drivefs("status").stdout
    assert text.count("safe to power off") == 2
    refused = drivefs("status", "--json")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "There are several mounts" in refused.stderr
    assert json.loads(drivefs("status", "two-unsent", "--json").stdout)["pending_files"] == 1
    assert drivefs("flush").returncode == 3
    assert drivefs("flush", "one/x").returncode == 0


def test_the_foreground_mount_tells_the_service_manager(home: Path, drivefs: Drivefs) -> None:
    """--foreground prints the same line, sends READY=1, logs to standard error, and ends with the mount."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(home / "notify"))
        manager.settimeout(20)
        command = [sys.executable, "-m", "drivefs", "mount", "d", "--foreground", "-v"]
        environment = {**os.environ, **ACCOUNT, "NOTIFY_SOCKET": str(home / "notify")}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert manager.recv(100) == b"READY=1"
            assert process.stdout is not None
            assert process.stdout.readline() == "Mounted at d\n"
            assert Client(home / "d").status()["pid"] == process.pid
            assert Client(home / "d").unmount(timeout=5) == []
            assert process.wait(timeout=5) == 0


def test_the_embedded_drive_is_announced_when_nobody_asked_for_it(home: Path, drivefs: Drivefs) -> None:
    """With nothing configured one line on standard error says so; with --embedded it is silent. Both reach the same server."""
    default = drivefs("mount", "d")
    assert (default.returncode, default.stdout) == (0, "Mounted at d\n")
    assert "No account is configured, so the embedded Drive on this machine is mounted" in default.stderr
    assert drivefs("unmount", "d").returncode == 0
    asked = drivefs("mount", "d", "--embedded")
    assert (asked.returncode, asked.stderr) == (0, "")
    told = json.loads((home / "data" / "cache" / "embedded" / "seen.json").read_text())
    assert told["api_root"] == json.loads((home / "data" / "embedded" / "server.json").read_text())["url"]


def test_a_name_that_is_no_text_is_printed_as_it_was_typed(home: Path, drivefs: Drivefs) -> None:
    """Linux paths are bytes: the line on standard output carries the same bytes."""
    name = os.fsdecode(b"d\xff")
    command = [sys.executable, "-m", "drivefs", "mount", name]
    done = subprocess.run(command, env={**os.environ, **ACCOUNT}, capture_output=True, timeout=30, check=True)
    assert done.stdout == b"Mounted at d\xff\n"
    assert drivefs("unmount", name).returncode == 0


def test_the_emulator_gets_its_own_arguments(home: Path, drivefs: Drivefs) -> None:
    """Everything behind ``drivefs emulator`` is passed on, --help and unknown options included."""
    helped = drivefs("emulator", "--help")
    assert helped.returncode == 0
    assert "--idle-exit" in helped.stdout
    assert drivefs("emulator", "--no-such-option").returncode == 2


@pytest.fixture
def runner(home: Path) -> CliRunner:
    return CliRunner()


def test_version(runner: CliRunner) -> None:
    """One line that a script can cut."""
    assert runner.invoke(cli.cli, ["version"]).output == f"drivefs {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["mount", "a b"], 7, "drivefs: Mountpoint must not contain a space.\n"),
        (["mount", "d", "--api-root", "http://x"], 2, "needs an access token"),
        (["mount", "d", "--embedded", "--credentials", "k"], 2, "--embedded and --credentials name different Drives"),
        (["mount", "d", "--poll-interval", "0"], 2, "--poll-interval must be more than 0"),
        (["mount", "d", "--poll-interval", "nan"], 2, "is not a duration"),
        (["mount", "d", "--upload-delay", "-1"], 2, "is not a duration"),
        (["mount", "d", "--upload-delay", "soon"], 2, "is not a number of seconds"),
        (["mount", "d", "--cache-size", "1G2", "--embedded"], 2, "'1G2' is not a size, such as 500M or 20G"),
        (["mount", "d", "--cache-size", "1M", "--embedded"], 2, "--cache-size must be at least 16M"),
        (["mount", "d", "--cache-size", "-20G", "--embedded"], 2, "is not a size"),
        (["mount", "d", "--min-free", "inf", "--embedded"], 2, "is not a size"),
        (["mount", "d", "--fsync", "never", "--embedded"], 2, "'never' is not one of 'local', 'remote'"),
        (["mount", "d", "--open-file-snapshot", "-1"], 2, "is not a duration"),
        (["mount", "d", "--io-timeout", "0", "--embedded"], 2, "--io-timeout must be more than 0 seconds"),
        (["mount", "d", "--drain-timeout", "inf", "--embedded"], 2, "is not a duration"),
        (["mount"], 2, "Missing argument 'MOUNTPOINT'"),
        (["mount", "no/such/d", "--embedded"], 7, "drivefs: Mountpoint must be in a directory that exists\n"),
        (["mount", "/proc", "--embedded"], 7, "'/proc' is already a mountpoint (of type proc)"),
        (["unmount", "d"], 10, "drivefs: 'd' is not mounted by drivefs."),
        (["unmount", "d", "--release"], 10, "drivefs: 'd' is not mounted by drivefs."),
        (["unmount", "/proc"], 10, "drivefs: '/proc' is not mounted by drivefs."),
        (["flush"], 10, "Nothing is mounted by drivefs. Mount first: drivefs mount MOUNTPOINT"),
        (["flush", "x"], 10, "'x' is not in a mount of drivefs"),
        (["status"], 10, "Nothing is mounted by drivefs"),
        (["status", "x"], 10, "'x' is not in a mount of drivefs"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_what_goes_wrong_is_a_sentence_and_an_exit_code(
    runner: CliRunner, home: Path, arguments: list[str], code: int, sentence: str
) -> None:
    """Standard output stays empty, no traceback appears, and nothing is made."""
    result = runner.invoke(cli.cli, arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert list(home.iterdir()) == []


def test_missing_fuse_is_exit_code_6(runner: CliRunner, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started or made."""
    monkeypatch.setenv("PATH", str(home))
    result = runner.invoke(cli.cli, ["mount", "d", "--embedded"])
    assert result.exit_code == 6
    assert "fusermount3 is missing" in result.stderr
    assert list(home.iterdir()) == []


def test_a_living_mount_is_left_alone_with_colab_s_words(runner: CliRunner, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounting again where our daemon answers is no error, and says how to remount."""
    monkeypatch.setattr(mountpoint, "mount_at", lambda path: MountEntry(str(path), "fuse.drive", "drive"))
    monkeypatch.setattr(Client, "status", lambda self: {"mountpoint": self.mountpoint})
    result = runner.invoke(cli.cli, ["mount", "d", "--embedded"])
    assert result.exit_code == 0
    assert result.stdout == "Drive already mounted at d; to attempt to forcibly remount, call drivefs unmount d first.\n"


def test_a_defect_of_ours_shows_its_traceback(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it can be reported: the traceback is logged, the sentence asks for the report, exit code 1."""

    def broken(_: object) -> None:
        raise ZeroDivisionError("inner detail")

    monkeypatch.setattr(mountpoint, "require_no_space", broken)
    result = runner.invoke(cli.cli, ["mount", "d"])
    assert result.exit_code == 1
    assert "An error of drivefs itself (ZeroDivisionError)" in result.stderr
