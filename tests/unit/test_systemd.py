"""The unit file: accepted by systemd's own checker, and true to what the daemon does."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drivefs.base.config import Config
from drivefs.base.errors import ExitCode

UNITS = Path(__file__).parents[2] / "systemd"
UNIT = UNITS / "drivefs@.service"
PROGRAM = "/usr/local/bin/drivefs"
# systemd.exec(5): each of these runs the service in a mount namespace of its own, which would hide the mount from everybody.
MOUNT_NAMESPACE = re.compile(
    r"(Protect(System|Home|KernelTunables|KernelModules|KernelLogs|ControlGroups|Proc)|Private(Tmp|Devices|Mounts|Users)"
    r"|(ReadOnly|ReadWrite|Inaccessible|Exec|NoExec|Bind|BindReadOnly)Paths|TemporaryFileSystem|Root(Directory|Image)"
    r"|MountFlags|DynamicUser|NoNewPrivileges)=",
)


def read_unit(path: Path = UNIT) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names are case-sensitive
    unit.read(path)
    return unit


@pytest.mark.parametrize("instance", ["content-drive", r"home-me-my\x2ddrive"])
def test_systemd_accepts_the_unit(tmp_path: Path, instance: str) -> None:
    """``systemd-analyze verify`` has nothing to say about an instance; only the program's place is adapted to this machine."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    text = UNIT.read_text()
    assert text.count(f"ExecStart={PROGRAM} ") == 1
    (tmp_path / UNIT.name).write_text(text.replace(f"ExecStart={PROGRAM}", f"ExecStart={sys.executable}"))
    command = [analyze, "verify", "--man=no", f"./drivefs@{instance}.service"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (run.returncode, run.stderr, run.stdout) == (0, "", "")


def test_a_misspelt_setting_would_be_noticed(tmp_path: Path) -> None:
    """The check above can fail: the checker complains about a name it does not know."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    text = UNIT.read_text().replace("KillMode=", "KilMode=").replace(f"ExecStart={PROGRAM}", f"ExecStart={sys.executable}")
    (tmp_path / UNIT.name).write_text(text)
    command = [analyze, "verify", "--man=no", "./drivefs@content-drive.service"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert "KilMode" in run.stderr


def test_stopping_leaves_time_to_drain() -> None:
    """systemd waits longer for the daemon than the daemon waits for its uploads."""
    drain = Config(mountpoint=Path("/m"), cache_dir=Path("/c"), runtime_dir=Path("/r")).drain_timeout
    assert int(read_unit()["Service"]["TimeoutStopSec"]) >= drain + 15


def test_what_a_restart_cannot_mend_is_not_restarted() -> None:
    """Exactly the exit codes that only a person can mend, or that somebody meant, end the service."""
    codes = {int(word) for word in read_unit()["Service"]["RestartPreventExitStatus"].split()}
    assert codes == {
        ExitCode.USAGE,
        ExitCode.NOT_ON_DRIVE,
        ExitCode.SIGN_IN_REFUSED,
        ExitCode.NO_FUSE,
        ExitCode.MOUNTPOINT,
        ExitCode.CACHE_IN_USE,
    }


def test_a_crash_is_mended_within_5_seconds() -> None:
    """systemd starts the daemon again after a second; starting takes less than one."""
    service = read_unit()["Service"]
    assert (service["Restart"], service["RestartSec"]) == ("on-failure", "1")
    assert read_unit()["Unit"]["StartLimitIntervalSec"] == "0"


def test_no_mount_namespace() -> None:
    """None of the settings that would hide the mount from the rest of the machine is used."""
    settings = "\n".join(line for line in UNIT.read_text().splitlines() if not line.startswith("#"))
    assert MOUNT_NAMESPACE.search(settings) is None
    assert MOUNT_NAMESPACE.search("ProtectSystem=strict")


@pytest.mark.parametrize("setting", ["ExecStartPre", "ExecStopPost"])
def test_only_a_dead_mount_is_detached(tmp_path: Path, setting: str) -> None:
    """The clean-up before a start and after a stop calls fusermount3 on a mountpoint that does not answer, and on no other."""
    command = read_unit()["Service"][setting]
    script = re.fullmatch(r"-/bin/sh -c '(.*)' sh %f", command)
    assert script is not None
    (tmp_path / "fusermount3").write_text('#!/bin/sh\necho "$@" >> "$(dirname "$0")/called"\n')
    (tmp_path / "fusermount3").chmod(0o755)
    for place in (tmp_path, tmp_path / "dead mount"):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        subprocess.run(["/bin/sh", "-c", script[1].replace("$$", "$"), "sh", str(place)], env=environment, check=True, timeout=10)
    assert (tmp_path / "called").read_text() == f"-uz -- {tmp_path / 'dead mount'}\n"


# -- the agent's units ---------------------------------------------------------------------------------------------------


PACKAGES = ("drivefs-agent-restore.service", "drivefs-agent-packages.service")
AGENTS = ("drivefs-agent.service", "drivefs-agent-guard.service", *PACKAGES)


@pytest.mark.parametrize("name", AGENTS)
def test_systemd_accepts_the_agents_units(tmp_path: Path, name: str) -> None:
    """Nothing to say about either; only the program's place is adapted to this machine."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    text = (UNITS / name).read_text()
    assert len(re.findall("^ExecStart=-?/usr/local/bin/drivefs-agent ", text, re.MULTILINE)) == 1
    (tmp_path / name).write_text(text.replace("/usr/local/bin/drivefs-agent", sys.executable))
    command = [analyze, "verify", "--man=no", f"./{name}"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (run.returncode, run.stderr, run.stdout) == (0, "", "")


@pytest.mark.parametrize("name", AGENTS)
def test_the_agents_units_start_commands_that_exist(name: str) -> None:
    """The command of the unit is one of the agent's, and takes the options that the unit's example gives."""
    from click.testing import CliRunner

    from drivefs_agent.cli import main

    words = [word for word in read_unit(UNITS / name)["Service"]["ExecStart"].split()[1:] if not word.startswith("$")]
    (example,) = re.findall(r"^#   DRIVEFS_\w+_OPTIONS=(.*)$", (UNITS / name).read_text(), re.MULTILINE)
    shown = CliRunner().invoke(main, [*words, *example.split(), "--help"])
    command = " ".join(word for word in words if not word.startswith("-"))
    assert (shown.exit_code, shown.output.startswith(f"Usage: main {command}")) == (0, True)


def test_packages_come_back_before_jupyter_and_never_keep_the_box_from_coming_up() -> None:
    """The restore is over before Jupyter starts; its failure counts for nothing; saving ends before the network does."""
    restore, saver = (read_unit(UNITS / name) for name in PACKAGES)
    assert "jupyter.service" in restore["Unit"]["Before"].split()
    assert (restore["Service"]["Type"], restore["Service"]["ExecStart"][0]) == ("oneshot", "-")
    assert "network-online.target" in saver["Unit"]["After"].split()


def test_the_page_is_sandboxed_and_closed_to_the_network() -> None:
    """Who breaks into it can write its own folder alone and speak to this machine alone; systemd scores it 3 of 10 at most."""
    service = read_unit(UNITS / "drivefs-agent.service")["Service"]
    assert (service["ProtectSystem"], service["NoNewPrivileges"], service["IPAddressDeny"]) == ("strict", "yes", "any")
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    command = [analyze, "security", "--offline=true", "--no-pager", str(UNITS / "drivefs-agent.service")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    score = re.search(r"exposure level for drivefs-agent.service: ([\d.]+)", run.stdout)
    assert score is not None, run.stdout + run.stderr
    assert float(score[1]) <= 3


def test_the_guard_is_given_the_time_it_takes() -> None:
    """systemd waits longer than the guard's flush, and does not start anew what ended with files unsent on purpose."""
    from drivefs_agent.guard import Plan

    service = read_unit(UNITS / "drivefs-agent-guard.service")["Service"]
    assert int(service["TimeoutStopSec"]) >= Plan().flush + 15
    assert {int(word) for word in service["RestartPreventExitStatus"].split()} == {ExitCode.USAGE, ExitCode.NOT_ON_DRIVE}
