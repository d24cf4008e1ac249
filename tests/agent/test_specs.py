"""The command as users run it: its JSON contract, compared with what /proc of this machine says."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import drivefs_agent
from drivefs_agent import cgroup, specs
from drivefs_agent.cli import main

NULLABLE_NUMBER = (int, float, type(None))
TEXT_OR_NULL = (str, type(None))
# Every name of schema drivefs.specs/1 and the types its value may have. Names are only ever added.
CONTRACT: dict[str, Any] = {
    "schema": str,
    "time": str,
    "host": {"hostname": str, "os": str, "kernel": str, "uptime_seconds": (int, type(None))},
    "cpu": {
        "model": str,
        "arch": str,
        "sockets": (int, type(None)),
        "cores": (int, type(None)),
        "threads": int,
        "mhz": (int, type(None)),
        "load": list,
        "limit_cores": NULLABLE_NUMBER,
    },
    "memory": {"total_bytes": int, "available_bytes": int, "used_bytes": int, "limit_bytes": (int, type(None))},
    "cgroup": {"version": TEXT_OR_NULL, "cpu_quota_cores": NULLABLE_NUMBER, "cpuset": TEXT_OR_NULL},
    "disks": [
        {
            "mount": str,
            "source": str,
            "fstype": str,
            "total_bytes": (int, type(None)),
            "used_bytes": (int, type(None)),
            "available_bytes": (int, type(None)),
            "error": TEXT_OR_NULL,
        }
    ],
    "gpu_driver": {"version": TEXT_OR_NULL, "cuda": TEXT_OR_NULL, "na": dict},
    "gpu_error": (dict, type(None)),
    "gpus": [
        {
            "index": int,
            "uuid": TEXT_OR_NULL,
            "name": TEXT_OR_NULL,
            "memory": {
                "total_bytes": (int, type(None)),
                "used_bytes": (int, type(None)),
                "reserved_bytes": (int, type(None)),
            },
            "utilization": NULLABLE_NUMBER,
            "memory_utilization": NULLABLE_NUMBER,
            "temperature_c": NULLABLE_NUMBER,
            "power_w": NULLABLE_NUMBER,
            "power_limit_w": NULLABLE_NUMBER,
            "na": dict,
            "error": (dict, type(None)),
        }
    ],
    "python": {"version": str, "executable": str},
}


def assert_contract(value: Any, contract: Any, where: str = "$") -> None:
    if isinstance(contract, dict):
        assert set(value) == set(contract), where
        for name, inner in contract.items():
            assert_contract(value[name], inner, f"{where}.{name}")
    elif isinstance(contract, list):
        for index, item in enumerate(value):
            assert_contract(item, contract[0], f"{where}[{index}]")
    else:
        assert isinstance(value, contract), f"{where}: {value!r}"


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


def test_json_contract(shown: dict[str, Any]) -> None:
    """Every name of the schema is there, with a type it promises, and no other."""
    assert shown["schema"] == "drivefs.specs/1"
    assert_contract(shown, CONTRACT)


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


@pytest.fixture
def inventory() -> specs.Specs:
    return specs.collect()


def test_limits_stand_beside_the_totals(inventory: specs.Specs) -> None:
    """A container's limits are shown in addition to the host's numbers, which stay."""
    cpu, memory = replace(inventory.cpu, threads=64), replace(inventory.memory, total=64 << 30)
    limits = cgroup.Limits("2", 8 << 30, 1.5, "0-3", 4)
    limited = replace(inventory, cpu=cpu, memory=memory, limits=limits)
    values = specs.to_json(limited)
    assert (values["cpu"]["threads"], values["cpu"]["limit_cores"]) == (64, 1.5)
    assert (values["memory"]["total_bytes"], values["memory"]["limit_bytes"]) == (64 << 30, 8 << 30)
    text = specs.render(limited)
    assert "limited to 1.5 of 64 cores" in text
    assert "limited to 8.0 GiB" in text


def test_the_tighter_of_quota_and_cpuset_counts(inventory: specs.Specs) -> None:
    """Three allowed processors bind before a quota of eight cores; a cpuset of all processors is no limit."""
    cpu = replace(inventory.cpu, threads=64)
    three = replace(inventory, cpu=cpu, limits=cgroup.Limits("2", None, 8.0, "0-2", 3))
    everything = replace(inventory, cpu=cpu, limits=cgroup.Limits("2", None, None, "0-63", 64))
    assert (three.limit_cores, everything.limit_cores) == (3, None)


def test_hostile_names_cannot_steer_the_terminal(inventory: specs.Specs) -> None:
    """Control characters in a mountpoint's name are shown as a replacement character."""
    disk = replace(inventory.disks[0], mountpoint="/media/\x1b[2Jusb\r")
    text = specs.render(replace(inventory, disks=(disk,)))
    assert "\x1b" not in text
    assert "\r" not in text


def test_time_is_utc_to_the_second(inventory: specs.Specs) -> None:
    """RFC 3339 with Z, so that samples of several boxes compare as text."""
    moment = replace(inventory, time=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone.utc))
    assert specs.to_json(moment)["time"] == "2026-01-02T03:04:05Z"


def test_help_loads_nothing_heavy() -> None:
    """--help answers without psutil and NVML, so that it feels instant."""
    code = (
        "import sys, drivefs_agent.cli as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'psutil', 'pynvml', 'drivefs'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert run.stdout.splitlines()[-1] == "[]"
    assert "specs" in run.stdout


def test_specs_need_nothing_of_drivefs() -> None:
    """The command works where drivefs, FUSE and the Google libraries are not even installed."""
    blocked = ("drivefs", "pyfuse3", "trio", "googleapiclient", "google.auth", "pycurl")
    code = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\nimport drivefs_agent.cli as c\nc.main(['specs'])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("Box ")


def test_nvml_and_psutil_have_one_door_each() -> None:
    """pynvml is named in nvml.py only, psutil imported in host.py only."""
    for path in Path(drivefs_agent.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert "psutil" not in imported or path.name == "host.py"
        assert "pynvml" not in imported | named or path.name == "nvml.py"
