"""What Prometheus gets, read back with its own parser."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pynvml
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from drivefs_agent import cgroup, metrics
from drivefs_agent.disks import Disk
from drivefs_agent.drive import DriveMount
from drivefs_agent.gpu import Fault, Gpu, GpuReport, MigSlice
from drivefs_agent.inventory import Specs, collect
from drivefs_agent.nvml import query
from tests.agent.boxes import GIB, make_specs
from tests.agent.fake_driver import FakeDriver, install
from tests.agent.running import serving

HOSTILE = 'a\\b"c\nd{e}\x1b\u202e'
NOTHING: dict[str, Any] = {"hold_until": None, "lease_end": None, "report": None, "error": None}


def families(specs: Specs, **guard: Any) -> dict[str, Metric]:
    """By name, without the prefix that all must have."""
    parsed = list(text_string_to_metric_families(metrics.render(specs, {**NOTHING, **guard})))
    assert all(family.name.startswith("drivefs_agent_") for family in parsed)
    return {family.name.removeprefix("drivefs_agent_"): family for family in parsed}


def value(family: Metric, **labels: str) -> float:
    (found,) = (sample.value for sample in family.samples if labels.items() <= sample.labels.items())
    return float(found)


def test_eight_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each card once a metric, under its uuid, in base units: hertz, watts, joules, bytes, ratios."""
    install(monkeypatch, FakeDriver(cards=8))
    found = families(make_specs(query()))
    for name, wanted in (
        ("gpu_memory_total_bytes", 140 * GIB),
        ("gpu_memory_used_bytes", 3 * GIB),
        ("gpu_utilization_ratio", 0.37),
        ("gpu_temperature_celsius", 41),
        ("gpu_power_watts", 123.4),
        ("gpu_energy_joules", 5000.5),
        ("gpu_fan_ratio", 0.45),
    ):
        assert [(sample.labels, sample.value) for sample in found[name].samples] == [
            ({"uuid": f"GPU-{n}"}, wanted) for n in range(8)
        ]
    assert value(found["gpu_clock_hertz"], uuid="GPU-3", clock="sm") == 1.755e9
    assert value(found["gpu_errors"], uuid="GPU-3", kind="ecc_uncorrected") == 1
    info = {"uuid": "GPU-7", "index": "7", "name": "NVIDIA H200", "driver": "580.95.05", "cuda": "12.4", "mig": "0"}
    assert found["gpu_info"].samples[7].labels == info
    assert value(found["nvml_up"]) == 1


def test_a_lost_card_does_not_fail_the_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told as down, and no number is made up for it; the other keeps its own."""
    install(monkeypatch, FakeDriver(errors={("nvmlDeviceGetMemoryInfo_v2", 1): pynvml.NVML_ERROR_GPU_IS_LOST}))
    found = families(make_specs(query()))
    assert [sample.value for sample in found["gpu_up"].samples] == [1, 0]
    assert [sample.labels["uuid"] for sample in found["gpu_memory_used_bytes"].samples] == ["GPU-0"]


def test_what_is_not_known_has_no_series() -> None:
    """N/A is absent and never 0; no driver is one 0; no limit is no limit."""
    silent = Gpu(0, "GPU-0", "T4", memory_total=GIB, na={"utilization": "not_supported"})
    found = families(make_specs(GpuReport((silent,)), cpu_times=None, used_cores=None))
    for name in (
        "gpu_utilization_ratio",
        "gpu_power_watts",
        "gpu_clock_hertz",
        "cpu_seconds",
        "cpu_limit_cores",
        "memory_limit_bytes",
    ):
        assert name not in found
    assert not {"guard_age_seconds", "idle_seconds", "preemption_notice", "pending_bytes", "hold_until_timestamp_seconds"} & set(
        found
    )
    assert value(families(make_specs(GpuReport(error=Fault("driver_not_loaded", "x"))))["nvml_up"]) == 0


def test_slices_and_limits() -> None:
    """A slice is told apart within its card; a container's limits stand beside the host's totals."""
    part = MigSlice(1, "MIG-1", profile="1g.18gb", memory_total=18 * GIB, memory_used=GIB, utilization=0.5)
    specs = make_specs(GpuReport((Gpu(0, "GPU-0", mig_enabled=True, mig=(part,)),)), limits=cgroup.Limits("2", GIB, 1.5))
    found = families(specs)
    assert value(found["mig_memory_used_bytes"], uuid="GPU-0", mig="1", profile="1g.18gb") == GIB
    assert value(found["mig_utilization_ratio"], mig="1") == 0.5
    assert (value(found["memory_limit_bytes"]), value(found["memory_total_bytes"])) == (GIB, 4 * GIB)
    assert (value(found["cpu_limit_cores"]), value(found["cpu_threads"])) == (1.5, 2)


def test_names_of_strangers_are_only_labels() -> None:
    """A mountpoint with quotes, line breaks and braces comes back as it is, and makes no series of its own."""
    disk = Disk(HOSTILE, "x", "ext4", "local", 100, 60, 40)
    found = families(make_specs(disks=(disk,), drive=(DriveMount(HOSTILE, pending_files=2, pending_bytes=7),)))
    assert value(found["filesystem_size_bytes"], mountpoint=HOSTILE, fstype="ext4") == 100
    assert value(found["pending_bytes"], mountpoint=HOSTILE) == 7
    surrogate = make_specs(drive=(DriveMount("/\udcff", pending_files=0, pending_bytes=0),))
    assert value(families(surrogate)["pending_bytes"], mountpoint="/?") == 0


@pytest.mark.parametrize(
    ("mounts", "error", "safe"),
    [
        ((), None, 1),
        ((DriveMount("/d", pending_files=0, pending_bytes=0),), None, 1),
        ((DriveMount("/d", pending_files=1, pending_bytes=5),), None, 0),
        ((DriveMount("/d", pending_files=0, pending_bytes=0), DriveMount("/e", error="stuck")), None, 0),
        ((), "no answer", 0),
    ],
)
def test_an_alert_on_unsafe_also_fires_where_it_is_not_known(
    mounts: tuple[DriveMount, ...], error: str | None, safe: int
) -> None:
    """safe_to_power_off is 1 only where every mount says that everything is on Drive."""
    assert value(families(make_specs(drive=mounts, drive_error=error))["safe_to_power_off"]) == safe


def test_the_session() -> None:
    """What the guard and the person have told, as Unix times and seconds."""
    report = {"age_seconds": 3.0, "idle_seconds": 60.0, "notice": {"text": "x"}}
    found = families(make_specs(), hold_until=1000.0, lease_end=2000.0, report=report)
    assert (value(found["hold_until_timestamp_seconds"]), value(found["lease_end_timestamp_seconds"])) == (1000, 2000)
    assert (value(found["idle_seconds"]), value(found["preemption_notice"]), value(found["guard_age_seconds"])) == (60, 1, 3)


def test_every_number_is_named_by_its_unit() -> None:
    """Every series but counts and flags ends in its unit, every counter in _total, and each has a help text."""
    text = metrics.render(
        collect(interval=0.05), {**NOTHING, "report": {"age_seconds": 1.0, "idle_seconds": 1.0, "notice": None}}
    )
    helps, kinds = re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE), re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    assert helps == [name for name, _ in kinds]
    for name, kind in kinds:
        assert (kind == "counter") == name.endswith("_total"), name
        assert re.search(
            r"_(bytes|seconds|seconds_total|cores|ratio|threads|info|load1|up|known|error|notice|files|off)$", name
        ), name


@pytest.mark.slow
def test_page_data_metrics_and_the_kernel_agree() -> None:
    """/metrics, /api/specs and Colab's report of a running agent say of this machine what /proc and statvfs say."""
    home = Path(tempfile.mkdtemp(prefix="ag-"))
    try:
        with serving(home) as served:
            response, text = served.ask("/metrics")
            specs = json.loads(served.ask("/api/specs")[1])
            prefix, colabs = served.ask("/api/colab/resources")[1].split("\n", 1)
    finally:
        shutil.rmtree(home)
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {family.name.removeprefix("drivefs_agent_"): family for family in text_string_to_metric_families(text)}
    meminfo = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines()}
    assert value(found["memory_total_bytes"]) == specs["memory"]["total_bytes"] == meminfo["MemTotal"]
    assert abs(value(found["memory_available_bytes"]) - meminfo["MemAvailable"]) < 0.2 * meminfo["MemTotal"]
    assert value(found["cpu_threads"]) == specs["cpu"]["threads"] == Path("/proc/cpuinfo").read_text().count("processor\t")
    stat = Path("/proc/stat").read_text()
    boot = re.search(r"^btime (\d+)", stat, re.MULTILINE)
    assert boot is not None
    assert value(found["boot_time_seconds"]) == int(boot[1])
    busy = value(found["cpu_seconds"], mode="user")
    assert 0 <= int(stat.split()[1]) / os.sysconf("SC_CLK_TCK") - busy < 60 * os.cpu_count()  # type: ignore[operator]
    root = os.statvfs("/")
    size = root.f_blocks * root.f_frsize
    assert value(found["filesystem_size_bytes"], mountpoint="/") == size
    assert (prefix, json.loads(colabs)["disks"][0]["filesystem"]["totalBytes"]) == (")]}'", size)
    assert json.loads(colabs)["memory"]["totalBytes"] == min(meminfo["MemTotal"], specs["memory"]["limit_bytes"] or 1 << 62)
    assert abs(time.time() - value(found["boot_time_seconds"]) - specs["host"]["uptime_seconds"]) < 60
