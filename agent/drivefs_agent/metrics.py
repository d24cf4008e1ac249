"""The inventory as Prometheus reads it: base units, one series per thing, and no series where a value is not known.

A card is told apart by its uuid, or its index where it has none; its name and versions are labels of ``gpu_info`` alone.

Sources: https://prometheus.io/docs/instrumenting/exposition_formats/, https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from drivefs_agent.drive import DriveMount
from drivefs_agent.gpu import Gpu, GpuReport
from drivefs_agent.inventory import Specs
from drivefs_agent.verdict import judge

__all__ = ["CONTENT_TYPE", "render"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX: Final = "drivefs_agent_"
_MODES_LEFT_OUT: Final = ("guest", "guest_nice")  # counted in user and nice already


class _Metric(NamedTuple):
    name: str
    help: str
    samples: Iterable[tuple[Mapping[str, str], float | None]]


def render(specs: Specs, guard: Mapping[str, Any]) -> str:
    """The whole exposition. ``guard``: what Monitor's looks have."""
    lines: list[str] = []
    for metric in _metrics(specs, guard):
        samples = [(labels, value) for labels, value in metric.samples if value is not None]
        if samples:
            kind = "counter" if metric.name.endswith("_total") else "gauge"
            name = _PREFIX + metric.name
            lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{_labels(labels)} {float(value)!r}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def _escape(value: str) -> str:
    # Names of files are bytes; what is no text in them cannot be sent as text.
    text = value.encode("utf-8", "replace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _one(name: str, text: str, value: float | None) -> _Metric:
    return _Metric(name, text, [({}, value)])


def _metrics(specs: Specs, guard: Mapping[str, Any]) -> Iterator[_Metric]:
    yield from _box(specs)
    yield from _disks(specs)
    yield from _gpus(specs.gpus)
    yield from _drive(specs.drive, specs.drive_error)
    yield from _session(guard)


def _box(specs: Specs) -> Iterator[_Metric]:
    system, times = specs.system, specs.cpu_times
    labels = {"hostname": system.hostname, "os": system.os, "kernel": system.kernel, "cpu": specs.cpu.model}
    yield _Metric("info", "The box, as labels.", [(labels, 1)])
    yield _one("boot_time_seconds", "When the host booted, Unix time.", system.boot_time)
    yield _one("cpu_threads", "Logical processors of the host.", specs.cpu.threads)
    yield _one(
        "cpu_limit_cores", "Cores that the agent's cgroup may use at most; absent where it has no limit.", specs.limit_cores
    )
    yield _one("cpu_used_cores", "Cores in use by the agent's cgroup since the look before.", specs.used_cores)
    modes = {} if times is None else {mode: sec for mode, sec in times.modes.items() if mode not in _MODES_LEFT_OUT}
    yield _Metric(
        "cpu_seconds_total", "Seconds all processors spent in each mode.", [({"mode": mode}, sec) for mode, sec in modes.items()]
    )
    yield _one("load1", "Mean number of runnable tasks in the last minute.", specs.load[0])
    yield _one("memory_total_bytes", "Memory of the host.", specs.memory.total)
    yield _one("memory_available_bytes", "Memory of the host that can be had without swapping.", specs.memory.available)
    yield _one("memory_limit_bytes", "Beyond it the kernel kills; absent where there is no limit.", specs.memory_limit)
    yield _one("memory_limit_used_bytes", "In use of that limit, droppable caches left out.", specs.limits.memory_used_bytes)


def _disks(specs: Specs) -> Iterator[_Metric]:
    rows = [({"mountpoint": disk.mountpoint, "fstype": disk.fstype}, disk) for disk in specs.disks]
    yield _Metric("filesystem_size_bytes", "Size of the file system.", [(labels, disk.total) for labels, disk in rows])
    yield _Metric("filesystem_avail_bytes", "Free to an ordinary user.", [(labels, disk.available) for labels, disk in rows])
    yield _Metric(
        "filesystem_error",
        "1 where the file system does not tell its size.",
        [(row, int(disk.error is not None)) for row, disk in rows],
    )


def _gpus(report: GpuReport) -> Iterator[_Metric]:
    yield _one("nvml_up", "1 where NVIDIA's library answers.", int(report.error is None))
    cards = [({"uuid": gpu.key}, gpu) for gpu in report.gpus]
    yield _Metric(
        "gpu_up", "1 where the card answers, 0 where it is lost.", [(row, int(gpu.error is None)) for row, gpu in cards]
    )
    yield _Metric("gpu_info", "The card, as labels.", [(_gpu_labels(gpu, report), 1) for gpu in report.gpus])
    for name, text, values in (
        ("gpu_memory_total_bytes", "Memory of the card.", [gpu.memory_total for gpu in report.gpus]),
        ("gpu_memory_used_bytes", "Memory in use.", [gpu.memory_used for gpu in report.gpus]),
        ("gpu_utilization_ratio", "Part of the time in which the card computed.", [gpu.utilization for gpu in report.gpus]),
        ("gpu_temperature_celsius", "Temperature of the chip.", [gpu.temperature_celsius for gpu in report.gpus]),
        ("gpu_power_watts", "Power drawn.", [gpu.power_watts for gpu in report.gpus]),
        ("gpu_power_limit_watts", "Power that the card may draw.", [gpu.power_limit_watts for gpu in report.gpus]),
        ("gpu_energy_joules_total", "Energy since the driver was loaded.", [gpu.energy_joules for gpu in report.gpus]),
        ("gpu_fan_ratio", "Speed of the fastest fan.", [gpu.fan for gpu in report.gpus]),
    ):
        yield _Metric(name, text, [(row, value) for (row, _), value in zip(cards, values, strict=True)])
    clocks = [
        ({**row, "clock": kind}, mhz) for row, gpu in cards for kind, mhz in (("sm", gpu.sm_mhz), ("memory", gpu.memory_mhz))
    ]
    yield _Metric("gpu_clock_hertz", "Clock now.", [(row, None if mhz is None else mhz * 1e6) for row, mhz in clocks])
    errors = [
        ({**row, "kind": kind}, count)
        for row, gpu in cards
        for kind, count in (("ecc_corrected", gpu.ecc_corrected), ("ecc_uncorrected", gpu.ecc_uncorrected))
    ]
    yield _Metric("gpu_errors_total", "Memory errors since the driver was loaded.", errors)
    yield from _slices(report)


def _slices(report: GpuReport) -> Iterator[_Metric]:
    rows = [
        ({"uuid": gpu.key, "mig": str(part.index), "profile": part.profile or ""}, part)
        for gpu in report.gpus
        for part in gpu.mig
    ]
    yield _Metric("mig_memory_total_bytes", "Memory of the slice.", [(row, part.memory_total) for row, part in rows])
    yield _Metric("mig_memory_used_bytes", "Memory in use.", [(row, part.memory_used) for row, part in rows])
    yield _Metric(
        "mig_utilization_ratio", "Part of the time in which the slice computed.", [(row, part.utilization) for row, part in rows]
    )


def _gpu_labels(gpu: Gpu, report: GpuReport) -> dict[str, str]:
    mig = "" if gpu.mig_enabled is None else str(int(gpu.mig_enabled))
    return {
        "uuid": gpu.key,
        "index": str(gpu.index),
        "name": gpu.name or "",
        "driver": report.driver or "",
        "cuda": report.cuda_driver or "",
        "mig": mig,
    }


def _drive(mounts: Iterable[DriveMount], error: str | None) -> Iterator[_Metric]:
    mounts = tuple(mounts)
    rows = [({"mountpoint": mount.mountpoint}, mount) for mount in mounts]
    yield _one(
        "safe_to_power_off",
        "1 where everything is on Drive; 0 also where that is not known.",
        int(judge(mounts, error).safe is True),
    )
    yield _one("drive_known", "1 where the daemons could be asked at all.", int(error is None))
    yield _Metric("mount_up", "1 where the mount's daemon answers.", [(row, int(mount.error is None)) for row, mount in rows])
    yield _Metric("pending_files", "Files not yet on Drive.", [(row, mount.pending_files) for row, mount in rows])
    yield _Metric("pending_bytes", "Their bytes.", [(row, mount.pending_bytes) for row, mount in rows])
    ages = [(row, mount.oldest_pending_age_seconds) for row, mount in rows]
    yield _Metric("pending_oldest_seconds", "Since when the oldest of them waits.", ages)
    yield _Metric("cache_bytes", "Content of Drive kept on the disk.", [(row, mount.cache_bytes) for row, mount in rows])


def _session(guard: Mapping[str, Any]) -> Iterator[_Metric]:
    report = guard.get("report") or {}
    age = report.get("age_seconds")
    yield _one("guard_age_seconds", "Since the guard last told of itself; absent where none has run.", age)
    yield _one("idle_seconds", "For how long nothing has kept the box busy.", report.get("idle_seconds"))
    yield _one(
        "hold_until_timestamp_seconds", "Until when a person keeps the guard from stopping the box.", guard.get("hold_until")
    )
    yield _one("lease_end_timestamp_seconds", "When the rent of the box ends.", guard.get("lease_end"))
    notice = None if not report else int(report.get("notice") is not None)
    yield _one("preemption_notice", "1 where the cloud has announced to take the box back.", notice)
