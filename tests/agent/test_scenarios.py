"""Whole boxes: a fake /proc, /sys and driver each, and the JSON that comes out, kept in golden/ and held to the schema.

UPDATE_GOLDEN=1 writes the files anew; read the difference before you keep it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pynvml
import pytest

from drivefs_agent import inventory, place
from drivefs_agent.colab import resources
from tests.agent.boxes import GIB, write
from tests.agent.fake_driver import FakeDriver, install

Errors = dict[str | tuple[str, int], int]
GOLDEN = Path(__file__).parent / "golden"
V2 = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
XEON = "processor\t: {}\nmodel name\t: Intel(R) Xeon(R) Platinum 8481C\ncpu MHz\t\t: 2700.0\nflags\t\t: fpu {}\n\n"
GRACE = "processor\t: {}\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n\n"
MEMINFO = "MemTotal: {} kB\nMemAvailable: {} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"


def cpuinfo(form: str, threads: int, flags: str = "") -> str:
    return "".join(form.format(index, flags) for index in range(threads))


def memory(gib: int, available: int) -> str:
    return MEMINFO.format(gib << 20, available << 20)


def pci(address: str, vendor: int, device: int, kind: int) -> dict[str, str]:
    values = {"vendor": vendor, "device": device, "class": kind}
    return {f"sys/bus/pci/devices/{address}/{name}": f"{value:#06x}\n" for name, value in values.items()}


def refused(names: Iterable[str | tuple[str, int]]) -> Errors:
    """All of ``names`` answer "not supported"."""
    return dict.fromkeys(names, pynvml.NVML_ERROR_NOT_SUPPORTED)


@dataclass(frozen=True)
class Box:
    driver: FakeDriver
    files: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)


NO_LIBRARY: Errors = {"nvmlInitWithFlags": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND}
BOXES: dict[str, Callable[[], Box]] = {
    # No GPU, nothing limited, nothing virtual.
    "bare": lambda: Box(
        FakeDriver(errors=dict(NO_LIBRARY)),
        {"proc/cpuinfo": cpuinfo(XEON, 4, "vmx"), "proc/meminfo": memory(16, 12), "proc/uptime": "100.5 1"},
    ),
    # Eight H200 in a rented Docker container that may use an eighth of the box; the limit on cores comes from the slice above.
    "eight_gpus_in_docker": lambda: Box(
        FakeDriver(8, processes=((4_194_999, 2 * GIB),), throttle=0x4),
        {
            "proc/cpuinfo": cpuinfo(XEON, 64, "hypervisor"),
            "proc/meminfo": memory(1024, 900),
            "proc/uptime": "86400.0 1",
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/pod.slice/docker-1234.scope\n",
            "sys/fs/cgroup/pod.slice/cpu.max": "800000 100000",
            "sys/fs/cgroup/pod.slice/docker-1234.scope/memory.max": str(128 * GIB),
            "sys/fs/cgroup/pod.slice/docker-1234.scope/memory.current": str(40 * GIB),
            "sys/fs/cgroup/pod.slice/docker-1234.scope/cpuset.cpus.effective": "0-63",
            ".dockerenv": "",
        },
        {"RUNPOD_POD_ID": "abc"},
    ),
    # Graviton-like Arm machine of Amazon's, one of two cards lost.
    "one_lost_on_arm": lambda: Box(
        FakeDriver(2, errors={("nvmlDeviceGetTemperature", 1): pynvml.NVML_ERROR_GPU_IS_LOST}),
        {
            "proc/cpuinfo": cpuinfo(GRACE, 8),
            "proc/meminfo": memory(64, 60),
            "proc/uptime": "5.0 1",
            "sys/class/dmi/id/sys_vendor": "Amazon EC2",
            "sys/class/dmi/id/product_name": "g5g.metal",
        },
    ),
    # MIG on Hopper: slices with memory; GPM tells how busy.
    "mig": lambda: Box(
        FakeDriver(1, slices=2, gpm=True),
        {"proc/cpuinfo": cpuinfo(XEON, 2), "proc/meminfo": memory(64, 60), "proc/uptime": "5.0 1"},
    ),
    # GB10: shared memory, no fan, no power limit, no MIG, no ECC.
    "unified_memory": lambda: Box(
        FakeDriver(
            1,
            name=b"NVIDIA GB10",
            errors=refused(
                (
                    "nvmlDeviceGetMemoryInfo_v2",
                    "nvmlDeviceGetMemoryInfo",
                    "nvmlDeviceGetNumFans",
                    "nvmlDeviceGetEccMode",
                    "nvmlDeviceGetEnforcedPowerLimit",
                    "nvmlDeviceGetMigMode",
                    "nvmlDeviceGetTotalEccErrors",
                    "nvmlDeviceGetRemappedRows",
                )
            ),
        ),
        {
            "proc/cpuinfo": cpuinfo(GRACE, 20),
            "proc/meminfo": memory(120, 100),
            "proc/uptime": "5.0 1",
            "sys/class/dmi/id/sys_vendor": "NVIDIA",
            "sys/class/dmi/id/product_name": "NVIDIA_DGX_Spark",
        },
    ),
    # WSL: hardly anything but name and memory is told.
    "wsl": lambda: Box(
        FakeDriver(
            1,
            errors=refused(
                ("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetComputeRunningProcesses_v3")
            ),
            absent=frozenset({"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetTotalEnergyConsumption"}),
        ),
        {
            "proc/cpuinfo": cpuinfo(XEON, 2, "hypervisor"),
            "proc/meminfo": memory(16, 12),
            "proc/uptime": "5.0 1",
            "proc/sys/kernel/osrelease": "5.15.167.4-microsoft-standard-WSL2",
        },
    ),
    # After a driver update without a reboot: the module still tells the card's name.
    "driver_mismatch": lambda: Box(
        FakeDriver(errors={"nvmlInitWithFlags": pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH}),
        {
            "proc/cpuinfo": cpuinfo(XEON, 2, "hypervisor"),
            "proc/meminfo": memory(16, 12),
            "proc/uptime": "5.0 1",
            "sys/class/dmi/id/sys_vendor": "QEMU",
            "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA A100-SXM4-80GB\nIRQ: 1\n",
            **pci("0000:01:00.0", 0x10DE, 0x20B2, 0x030200),
        },
    ),
    # A TPU machine of Google's; its network card has the TPU's vendor and is none.
    "tpu": lambda: Box(
        FakeDriver(errors=dict(NO_LIBRARY)),
        {
            "proc/cpuinfo": cpuinfo(XEON, 2, "hypervisor"),
            "proc/meminfo": memory(188, 180),
            "proc/uptime": "5.0 1",
            "sys/class/dmi/id/product_name": "Google Compute Engine",
            **pci("0000:00:04.0", 0x1AE0, 0x0063, 0x120000),
            **pci("0000:00:05.0", 0x1AE0, 0x0042, 0x020000),
        },
    ),
    # An MI300X; the mainboard's little display chip has AMD's vendor too and no memory of its own to tell.
    "amd": lambda: Box(
        FakeDriver(errors=dict(NO_LIBRARY)),
        {
            "proc/cpuinfo": cpuinfo(XEON, 2),
            "proc/meminfo": memory(188, 180),
            "proc/uptime": "5.0 1",
            **pci("0000:05:00.0", 0x1002, 0x74A1, 0x120000),
            "sys/bus/pci/devices/0000:05:00.0/mem_info_vram_total": str(192 * GIB),
            "sys/bus/pci/devices/0000:05:00.0/mem_info_vram_used": str(3 * GIB),
            "sys/bus/pci/devices/0000:05:00.0/gpu_busy_percent": "42",
            "sys/bus/pci/devices/0000:05:00.0/hwmon/hwmon3/temp1_input": "51500",
            **pci("0000:06:00.0", 0x1002, 0x1638, 0x030000),
        },
    ),
}


@pytest.fixture(params=sorted(BOXES))
def box(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[str, inventory.Specs]:
    """The scenario's name and its inventory."""
    described = BOXES[request.param]()
    for name, text in described.files.items():
        write(tmp_path, name, text)
    for variable in (*(name for name, _ in (*place.CLOUD_VARIABLES, *place.CONTAINER_VARIABLES)), "container"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in described.environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("platform.machine", lambda: "aarch64" if "CPU part" in described.files["proc/cpuinfo"] else "x86_64")
    install(monkeypatch, described.driver)
    return request.param, inventory.collect(tmp_path, interval=0.001)


def settled(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is of this machine and this moment."""
    kept = {name: value for name, value in values.items() if name not in ("time", "python", "drive")}
    kept["host"] = {name: value for name, value in values["host"].items() if name not in ("hostname", "os", "kernel")}
    kept["gpu_driver"] = {name: value for name, value in values["gpu_driver"].items() if not name.startswith("cuda_runtime")}
    kept["cpu"] = {name: value for name, value in values["cpu"].items() if name != "load"}
    return kept


def test_golden_json(box: tuple[str, inventory.Specs], conform: Callable[[Any], None]) -> None:
    """Each box's JSON is as it was looked over and kept, and as the schema says."""
    name, specs = box
    values = specs.to_json()
    conform(values)
    text = json.dumps(settled(values), indent=1, sort_keys=True) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_every_view_of_every_box(box: tuple[str, inventory.Specs]) -> None:
    """Text, table and Colab's report are made of every box without failing, and hold every card."""
    _, specs = box
    text, table, report = str(specs), specs._repr_html_(), resources(specs)
    well = [gpu for gpu in specs.gpus.gpus if gpu.error is None]
    assert len(report["gpus"]) == len(well)
    for gpu in specs.gpus.gpus:
        assert f"GPU {gpu.index} " in text
        assert f">GPU {gpu.index}<" in table
    for accelerator in specs.accelerators:
        assert accelerator.name in text
