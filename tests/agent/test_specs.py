"""The command as users run it: its JSON contract, compared with what /proc of this machine says."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import drivefs_agent
from drivefs_agent import cgroup
from drivefs_agent.cli import main
from drivefs_agent.inventory import Specs, collect
from tests.agent.boxes import make_specs


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """What ``drivefs-agent specs --json`` prints here."""
    result = CliRunner().invoke(main, ["specs", "--json"])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.output))


def proc_value(name: str, key: str) -> str:
    for line in Path("/proc", name).read_text().splitlines():
        if line.partition(":")[0].strip() == key:
            return line.partition(":")[2].strip()
    pytest.skip(f"/proc/{name} has no {key} here")


def test_json_contract(shown: dict[str, Any], conform: Callable[[Any], None]) -> None:
    """Every name of the published schema is there, with a value it allows, and no other."""
    assert shown["schema"] == "drivefs.specs/1"
    conform(shown)


def test_the_contract_can_fail(shown: dict[str, Any], conform: Callable[[Any], None]) -> None:
    """The check above tells a wrong type, a missing name, a name too many and a ratio in percent from what is right."""
    cpu = shown["cpu"]
    without = {name: value for name, value in cpu.items() if name != "model"}
    for wrong in ({**cpu, "threads": "2"}, without, {**cpu, "color": "red"}, {**cpu, "utilization": 37}):
        with pytest.raises(AssertionError):
            conform({**shown, "cpu": wrong})


def test_json_agrees_with_proc(shown: dict[str, Any]) -> None:
    """Memory, processors and the kernel are those of /proc and uname(2) of this machine."""
    assert shown["memory"]["total_bytes"] == int(proc_value("meminfo", "MemTotal").split()[0]) * 1024
    cpuinfo = Path("/proc/cpuinfo").read_text()
    assert shown["cpu"]["threads"] == sum(line.startswith("processor") for line in cpuinfo.splitlines())
    assert shown["host"]["kernel"] == f"{os.uname().sysname} {os.uname().release}"
    assert abs(shown["host"]["uptime_seconds"] - float(Path("/proc/uptime").read_text().split()[0])) < 60


def test_cpu_model_agrees_with_proc(shown: dict[str, Any]) -> None:
    """Where /proc/cpuinfo names the processor, that is the name shown."""
    assert shown["cpu"]["model"] == proc_value("cpuinfo", "model name")


def test_root_disk_agrees_with_statvfs(shown: dict[str, Any]) -> None:
    """The disk at / has the size that statvfs(3) tells."""
    (disk,) = (disk for disk in shown["disks"] if disk["mount"] == "/")
    truth = os.statvfs("/")
    assert disk["total_bytes"] == truth.f_blocks * truth.f_frsize


def test_no_gpu_always_has_a_reason(shown: dict[str, Any]) -> None:
    """Either there are cards and a driver version, or an error that says why there are none."""
    if shown["gpu_error"] is None:
        assert shown["gpu_driver"]["version"]
    else:
        assert shown["gpus"] == []
        assert set(shown["gpu_error"]) == {"code", "message"}


def test_text_has_every_section() -> None:
    """The text for people names the box, processor, memory, disks, GPU and Python."""
    result = CliRunner().invoke(main, ["specs"])
    assert result.exit_code == 0
    labels = {line.split()[0] for line in result.output.splitlines()}
    assert {"Box", "CPU", "Memory", "Disk", "GPU", "Python"} <= labels


@pytest.fixture(scope="module")
def inventory() -> Specs:
    return collect()


def test_limits_stand_beside_the_totals(inventory: Specs) -> None:
    """A container's limits are shown in addition to the host's numbers, which stay."""
    cpu, memory = replace(inventory.cpu, threads=64), replace(inventory.memory, total=64 << 30)
    limits = cgroup.Limits("2", 8 << 30, 1.5, "0-3", 4)
    limited = replace(inventory, cpu=cpu, memory=memory, limits=limits)
    values = limited.to_json()
    assert (values["cpu"]["threads"], values["cpu"]["limit_cores"]) == (64, 1.5)
    assert (values["memory"]["total_bytes"], values["memory"]["limit_bytes"]) == (64 << 30, 8 << 30)
    text = str(limited)
    assert "limited to 1.5 of 64 cores" in text
    assert "limited to 8.0 GiB" in text


def test_the_tighter_of_quota_and_cpuset_counts(inventory: Specs) -> None:
    """Three allowed processors bind before a quota of eight cores; a cpuset of all processors is no limit."""
    cpu = replace(inventory.cpu, threads=64)
    three = replace(inventory, cpu=cpu, limits=cgroup.Limits("2", None, 8.0, "0-2", 3))
    everything = replace(inventory, cpu=cpu, limits=cgroup.Limits("2", None, None, "0-63", 64))
    assert (three.limit_cores, everything.limit_cores) == (3, None)


def test_hostile_names_cannot_steer_the_terminal(inventory: Specs) -> None:
    """Control characters in a mountpoint's name are shown as a replacement character."""
    disk = replace(inventory.disks[0], mountpoint="/media/\x1b[2Jusb\r")
    text = str(replace(inventory, disks=(disk,)))
    assert "\x1b" not in text
    assert "\r" not in text


def test_time_is_utc_to_the_second(inventory: Specs) -> None:
    """RFC 3339 with Z, so that samples of several boxes compare as text."""
    moment = replace(inventory, time=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone.utc))
    assert moment.to_json()["time"] == "2026-01-02T03:04:05Z"


def test_help_loads_nothing_heavy() -> None:
    """--help answers without NVML and all that looks at the box, so that it feels instant."""
    code = (
        "import sys, drivefs_agent.cli as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'pynvml', 'drivefs', 'drivefs_agent.inventory', 'http.client'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert run.stdout.splitlines()[-1] == "[]"
    assert "specs" in run.stdout


@pytest.mark.parametrize(("command", "begins"), [("specs", "Box "), ("idle", ""), ("url", "http://127.0.0.1:8787/?token=")])
def test_the_agent_needs_nothing_of_drivefs(tmp_path: Path, command: str, begins: str) -> None:
    """The commands work where drivefs, FUSE and the Google libraries are not even installed."""
    blocked = ("drivefs", "pyfuse3", "trio", "googleapiclient", "google.auth", "pycurl")
    code = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\nimport drivefs_agent.cli as c\nc.main([{command!r}])"
    own = {**os.environ, "DRIVEFS_AGENT_DIR": str(tmp_path / "agent")}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30, env=own)
    assert (run.returncode in (0, 1) if command == "idle" else run.returncode == 0, run.stderr) == (True, "")
    assert run.stdout.startswith(begins)


def test_nvml_has_one_door() -> None:
    """pynvml is named in nvml.py only; outside the standard library there are click, for the page starlette and uvicorn, and for
    packages what reads tags, archives and, on the oldest Python, TOML.
    """
    allowed = {*sys.stdlib_module_names, "click", "drivefs_agent"}
    server = {"access.py": {"starlette"}, "web.py": {"starlette", "uvicorn"}}
    packages = {"packaging", "zstandard", "tomli"}
    for path in Path(drivefs_agent.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        more = packages if path.parent.name == "packages" else server.get(path.name, set())
        assert {name.partition(".")[0] for name in imported} <= allowed | more, path
        named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert "pynvml" not in named or path.name == "nvml.py"


def test_specs_is_a_function_with_a_table_for_notebooks() -> None:
    """``drivefs_agent.specs()`` gives a frozen value that notebooks show as a table and terminals as text."""
    box = drivefs_agent.specs()
    assert isinstance(box, Specs)
    assert box.memory.total > 0
    assert box._repr_html_().startswith("<table")
    assert str(box).startswith("Box ")
    with pytest.raises(AttributeError):
        box.load = (0.0, 0.0, 0.0)  # type: ignore[misc]


def test_what_a_container_still_has(inventory: Specs) -> None:
    """Available is what the limit leaves, and never more than the host has left."""
    gib = 1 << 30
    box = make_specs(memory=replace(inventory.memory, total=64 * gib, available=40 * gib))
    roomy = replace(box, limits=cgroup.Limits("2", 8 * gib, memory_used_bytes=3 * gib))
    crowded = replace(roomy, memory=replace(box.memory, available=2 * gib))
    assert (box.memory_total, box.memory_available) == (64 * gib, 40 * gib)
    assert (roomy.memory_total, roomy.memory_available) == (8 * gib, 5 * gib)
    assert crowded.memory_available == 2 * gib
