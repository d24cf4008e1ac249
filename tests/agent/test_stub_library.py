"""The command with a real shared library beneath it: loading, symbols and structures as with NVIDIA's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GIB = 1 << 30


def run(folder: Path, stub: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from drivefs_agent.cli import main; main()", *arguments]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "NVML_STUB": stub}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def specs(folder: Path, stub: str) -> dict[str, Any]:
    finished = run(folder, stub, "specs", "--json")
    assert (finished.returncode, finished.stderr) == (0, "")
    return dict(json.loads(finished.stdout))


SCENARIOS = ("n=8", "n=2,lost=1", "na", "mig=2", "mismatch", "unloaded", "unknown", "unified", "n=0")


@pytest.mark.parametrize("stub", SCENARIOS)
def test_every_scenario_conforms(stub_library: Path, conform: Callable[[Any], None], stub: str) -> None:
    """Whatever the driver does, the command ends with 0 and JSON as the schema says."""
    conform(specs(stub_library, stub))


def test_eight_cards(stub_library: Path) -> None:
    """All eight, with the numbers that the library put into its structures."""
    gpus = specs(stub_library, "n=8,util=64")["gpus"]
    assert [gpu["bus_id"] for gpu in gpus] == [f"00000000:{bus:02X}:00.0" for bus in range(1, 9)]
    memory = {"total_bytes": 140 * GIB, "used_bytes": 3 * GIB, "reserved_bytes": GIB, "unified": False}
    for gpu in gpus:
        assert (gpu["memory"], gpu["utilization"], gpu["temperature_c"], gpu["power_w"]) == (memory, 0.64, 41, 123.4)
        assert (gpu["throttle"], gpu["fan"], gpu["na"]) == (["power_cap"], None, {"fan": "not_supported"})
        assert [process["used_bytes"] for process in gpu["processes"]] == [2 * GIB]


def test_one_lost_card(stub_library: Path) -> None:
    """The lost one has an error, the other its numbers."""
    well, lost = specs(stub_library, "n=2,lost=1")["gpus"]
    assert (well["error"], well["memory"]["used_bytes"]) == (None, 3 * GIB)
    assert lost["error"]["code"] == "gpu_is_lost"


def test_slices(stub_library: Path) -> None:
    """MIG's slices through the real bindings and structures."""
    (gpu,) = specs(stub_library, "mig=2")["gpus"]
    assert [(part["uuid"], part["profile"], part["gpu_instance"]) for part in gpu["mig"]] == [
        ("MIG-00000000-0", "1g.18gb", 7),
        ("MIG-00000000-1", "1g.18gb", 8),
    ]


@pytest.mark.parametrize(
    ("stub", "code"), [("mismatch", "lib_rm_version_mismatch"), ("unloaded", "driver_not_loaded"), ("unknown", "unknown")]
)
def test_a_driver_that_refuses(stub_library: Path, stub: str, code: str) -> None:
    """No cards, NVML's word, and exit code 0: what a box lacks is an answer."""
    values = specs(stub_library, stub)
    assert (values["gpus"], values["gpu_error"]["code"]) == ([], code)


def test_the_library_of_wsl_is_found(stub_library: Path, tmp_path: Path) -> None:
    """Where the loader knows no libnvidia-ml.so.1, the one that WSL mounts is brought in and serves the bindings."""
    folder = tmp_path / "usr/lib/wsl/lib"
    folder.mkdir(parents=True)
    (folder / "libnvidia-ml.so.1").symlink_to(stub_library / "libnvidia-ml.so.1")
    code = "import sys, pathlib\nfrom drivefs_agent import nvml\nprint(len(nvml.query(pathlib.Path(sys.argv[1])).gpus))"
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    finished = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**environment, "NVML_STUB": "n=3"},
    )
    assert finished.stdout == "3\n"


def test_check_finds_what_the_driver_shows(stub_library: Path) -> None:
    """Without a framework the driver's word counts: 0 with a card, 1 without, in the words that notebooks print."""
    found, missing = run(stub_library, "n=1", "check", "gpu"), run(stub_library, "unloaded", "check", "gpu")
    assert (found.returncode, found.stdout.splitlines()[0]) == (0, "Found GPU at: GPU 0")
    assert (missing.returncode, missing.stderr.splitlines()[0], missing.stdout) == (1, "GPU device not found", "")
    assert "modprobe nvidia" in missing.stderr
