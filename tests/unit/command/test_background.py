"""Starting the daemon: what the command hears of it, and what the daemon inherits."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from drivefs import background
from drivefs.background import OnReady
from drivefs.base.errors import DriveFSError, ExitCode, MountpointUnusable
from drivefs.client import ClientError

# Later Pythons warn of any fork in a process that has threads; a test process has idle ones of trio's.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def log_file(home: Path) -> Path:
    return home / "cache" / "daemon.log"


def test_a_daemon_is_detached_from_everything_of_its_command(log_file: Path) -> None:
    """Own session and not its leader, in /, umask 077, no terminal, no descriptor of the command's, no core dump."""
    report = log_file.parent / "report.json"
    inherited, other_end = os.pipe()
    os.set_inheritable(inherited, True)

    def serve(on_ready: OnReady) -> ExitCode:
        facts = {
            "pid": os.getpid(),
            "session": os.getsid(0),
            "cwd": os.getcwd(),
            "umask": os.umask(0o077),
            "open": {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)},
            "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
        }
        report.write_text(json.dumps(facts))
        print("lost")
        print("kept", file=sys.stderr)
        on_ready(0)
        return ExitCode.OK

    background.start(serve, log_file)
    os.close(inherited)
    os.close(other_end)
    facts = json.loads(report.read_text())
    assert facts["session"] not in (facts["pid"], os.getsid(0))
    assert (facts["cwd"], facts["umask"], facts["dumpable"]) == ("/", 0o077, 0)
    files = facts["open"]
    assert (files.pop("0"), files.pop("1"), files.pop("2")) == ("/dev/null", "/dev/null", str(log_file))
    assert [kind.partition(":")[0] for kind in files.values()] == ["pipe"]  # the one it reports over
    assert log_file.read_text() == "kept\n"
    assert log_file.stat().st_mode & 0o777 == 0o600
    assert log_file.parent.stat().st_mode & 0o777 == 0o700


def _is_open(name: str) -> bool:
    """The descriptor that listdir itself used is gone by now."""
    return os.path.lexists(f"/proc/self/fd/{name}")


def test_start_returns_while_the_daemon_lives_on(log_file: Path) -> None:
    """The command gets its answer at on_ready, not at the daemon's end; the daemon ends when its pipe says so."""
    hold, release = os.pipe()
    path = f"/proc/{os.getpid()}/fd/{hold}"

    def serve(on_ready: OnReady) -> ExitCode:
        with open(path, "rb") as gate:
            on_ready(0)
            gate.read()
            (log_file.parent / "ended").touch()
        return ExitCode.OK

    background.start(serve, log_file)
    assert not (log_file.parent / "ended").exists()
    os.close(release)
    os.close(hold)


def test_a_refusal_reaches_the_command(log_file: Path) -> None:
    """A DriveFSError before ready comes with its sentence, secrets blanked, and its exit code; the log has it too."""

    def serve(_: OnReady) -> ExitCode:
        raise MountpointUnusable("It is taken.\nBearer ya29.secret-part")

    with pytest.raises(ClientError) as caught:
        background.start(serve, log_file)
    assert str(caught.value) == "It is taken.\nBearer [secret]"
    assert caught.value.exit_code == ExitCode.MOUNTPOINT
    assert "It is taken." in log_file.read_text()
    assert "secret-part" not in log_file.read_text()


def test_a_defect_reaches_the_log_with_its_traceback(log_file: Path) -> None:
    """The person gets a sentence that names the log, exit code 1, and no traceback."""

    def serve(_: OnReady) -> ExitCode:
        raise ZeroDivisionError("inner detail")

    with pytest.raises(ClientError) as caught:
        background.start(serve, log_file)
    assert caught.value.exit_code == ExitCode.UNEXPECTED
    assert str(log_file) in str(caught.value)
    assert "inner detail" not in str(caught.value)
    assert "Traceback" in log_file.read_text()


@pytest.mark.parametrize("end", [lambda: os._exit(0), lambda: os.kill(os.getpid(), 9)])
def test_a_daemon_that_dies_silently_is_noticed(log_file: Path, end: Callable[[], None]) -> None:
    """The end of the pipe without a word is a failure, whatever the daemon's exit code was."""

    def serve(_: OnReady) -> ExitCode:
        end()
        return ExitCode.OK

    with pytest.raises(ClientError, match="ended before the mount was ready") as caught:
        background.start(serve, log_file)
    assert str(log_file) in str(caught.value)


def test_no_mount_appears_after_its_command_has_gone(log_file: Path) -> None:
    """Where nobody hears "ready", saying it fails, so that the daemon takes the mount down again."""
    reader, writer = os.pipe()
    os.close(reader)
    outcome: list[str] = []

    def serve(on_ready: OnReady) -> ExitCode:
        try:
            on_ready(0)
        except DriveFSError as error:
            outcome.append(str(error))
            raise
        return ExitCode.OK

    assert background._live(serve, writer, log_file) == ExitCode.UNEXPECTED
    os.close(writer)
    assert outcome == ["The command that asked for this mount has gone, so the mount ends too."]


@pytest.mark.parametrize("attack", ["symlink", "hardlink", "directory"])
def test_a_log_that_somebody_prepared_is_not_written(log_file: Path, attack: str) -> None:
    """Neither through a symlink nor into a file that has another name."""
    victim = log_file.parent.parent / "victim"
    victim.write_text("precious")
    log_file.parent.mkdir(mode=0o700)
    if attack == "symlink":
        log_file.symlink_to(victim)
    elif attack == "hardlink":
        os.link(victim, log_file)
    else:
        log_file.mkdir()
    with pytest.raises(DriveFSError) as caught:
        background.start(lambda _: ExitCode.OK, log_file)
    assert caught.value.exit_code == ExitCode.CACHE_IN_USE
    assert victim.read_text() == "precious"


def test_a_cache_directory_that_others_can_change_is_refused(log_file: Path) -> None:
    """Else they could lay symlinks where we write; one that others can merely enter is the user's choice."""
    log_file.parent.mkdir()
    log_file.parent.chmod(0o777)
    with pytest.raises(DriveFSError, match="other users can change"):
        background.start(lambda _: ExitCode.OK, log_file)
    log_file.parent.chmod(0o755)
    with pytest.raises(ClientError, match="ended before the mount was ready"):
        background.start(lambda _: ExitCode.OK, log_file)


def test_the_log_is_put_aside_once_and_nothing_is_lost(home: Path) -> None:
    """At the limit the file becomes .1 and a fresh private one begins; descriptor 2 itself follows."""
    code = (
        "import os, sys; from pathlib import Path; from drivefs.background import LogStream\n"
        "log = Path(sys.argv[1]); os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)\n"
        "stream = LogStream(log, limit=100)\n"
        "for number in range(5): stream.write(f'{number}' * 60 + '\\udc80\\n')\n"
        "os.write(2, b'from C')\n"
    )
    log = home / "daemon.log"
    root = Path(background.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, str(log)], cwd=root, check=True)
    lines = [f"{number}" * 60 + "\\udc80\n" for number in range(5)]
    assert (home / "daemon.log.1").read_text() == lines[2] + lines[3]
    assert log.read_text() == lines[4] + "from C"
    assert log.stat().st_mode & 0o777 == 0o600


def test_two_processes_that_write_one_log_lose_nothing(home: Path) -> None:
    """Where the other has put the file aside, one goes on in the fresh one, and never puts that aside over the old one."""
    code = (
        "import os, sys; from pathlib import Path; from drivefs.background import LogStream\n"
        "log = Path(sys.argv[1]); os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)\n"
        "stream = LogStream(log, limit=100); stream.write('before\\n')\n"
        "os.rename(log, f'{log}.1'); stream.write('after\\n'); log.unlink(); stream.write('anew\\n')\n"
    )
    log = home / "daemon.log"
    root = Path(background.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, str(log)], cwd=root, check=True)
    assert (home / "daemon.log.1").read_text() == "before\n"
    assert log.read_text() == "anew\n"
