"""One frozen inventory of this box, as JSON (schema ``drivefs.specs/1``) and as text for a terminal.

The schema only ever grows: a reader must ignore names it does not know. Sizes are bytes, ratios run from 0 to 1, null means
"not known" and, in a GPU, ``na`` says why. Limits (cgroup) stand beside the host's totals; null there means "not limited".
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from drivefs_agent import cgroup, host, nvml
from drivefs_agent.disks import Disk, read_disks

__all__ = ["SCHEMA", "Specs", "collect", "render", "to_json"]

SCHEMA: Final = "drivefs.specs/1"


@dataclass(frozen=True, slots=True)
class Specs:
    time: datetime
    system: host.System
    cpu: host.Cpu
    memory: host.Memory
    disks: tuple[Disk, ...]
    gpus: nvml.GpuReport
    limits: cgroup.Limits
    python_version: str
    python_executable: str

    @property
    def limit_cores(self) -> float | None:
        """How many cores this process can use at most, where that is fewer than the host has: by quota or by cpuset."""
        candidates = (self.limits.cpu_cores, self.limits.cpuset_threads)
        return min((cores for cores in candidates if cores is not None and cores < self.cpu.threads), default=None)


def collect(root: Path = Path("/")) -> Specs:
    """Look at everything once. Takes some 50 ms; at most a second more where a mount does not answer."""
    return Specs(
        time=datetime.now(timezone.utc),
        system=host.read_system(root),
        cpu=host.read_cpu(root),
        memory=host.read_memory(),
        disks=read_disks(host.read_mounts()),
        gpus=nvml.query(),
        limits=cgroup.read_limits(root),
        python_version=platform.python_version(),
        python_executable=sys.executable,
    )


def to_json(specs: Specs) -> dict[str, Any]:
    """The inventory as plain JSON values."""
    system, cpu, memory, gpus = specs.system, specs.cpu, specs.memory, specs.gpus
    return {
        "schema": SCHEMA,
        "time": specs.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "host": {
            "hostname": system.hostname,
            "os": system.os,
            "kernel": system.kernel,
            "uptime_seconds": system.uptime_seconds,
        },
        "cpu": {
            "model": cpu.model,
            "arch": cpu.arch,
            "sockets": cpu.sockets,
            "cores": cpu.cores,
            "threads": cpu.threads,
            "mhz": cpu.mhz,
            "load": list(cpu.load),
            "limit_cores": specs.limit_cores,
        },
        "memory": {
            "total_bytes": memory.total,
            "available_bytes": memory.available,
            "used_bytes": memory.used,
            "limit_bytes": specs.limits.memory_bytes,
        },
        "cgroup": {
            "version": specs.limits.version,
            "cpu_quota_cores": specs.limits.cpu_cores,
            "cpuset": specs.limits.cpuset,
        },
        "disks": [_disk_json(disk) for disk in specs.disks],
        "gpu_driver": {"version": gpus.driver, "cuda": gpus.cuda_driver, "na": dict(gpus.na)},
        "gpu_error": _fault_json(gpus.error),
        "gpus": [_gpu_json(gpu) for gpu in gpus.gpus],
        "python": {"version": specs.python_version, "executable": specs.python_executable},
    }


def _disk_json(disk: Disk) -> dict[str, Any]:
    return {
        "mount": disk.mountpoint,
        "source": disk.source,
        "fstype": disk.fstype,
        "total_bytes": disk.total,
        "used_bytes": disk.used,
        "available_bytes": disk.available,
        "error": disk.error,
    }


def _gpu_json(gpu: nvml.Gpu) -> dict[str, Any]:
    memory = {"total_bytes": gpu.memory_total, "used_bytes": gpu.memory_used, "reserved_bytes": gpu.memory_reserved}
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory": memory,
        "utilization": gpu.utilization,
        "memory_utilization": gpu.memory_utilization,
        "temperature_c": gpu.temperature_celsius,
        "power_w": gpu.power_watts,
        "power_limit_w": gpu.power_limit_watts,
        "na": dict(gpu.na),
        "error": _fault_json(gpu.error),
    }


def _fault_json(fault: nvml.Fault | None) -> Mapping[str, str] | None:
    return None if fault is None else {"code": fault.code, "message": fault.message}


def render(specs: Specs) -> str:
    """Some ten lines for a person: a label, then what is known, then, indented beneath it, the limit that counts."""
    return "\n".join(f"{label:<8} {_printable(text)}".rstrip() for label, text in _lines(specs))


def _lines(specs: Specs) -> Iterator[tuple[str, str]]:
    system = specs.system
    uptime = "" if system.uptime_seconds is None else f"up {timedelta(seconds=system.uptime_seconds)}"
    yield "Box", _join(system.hostname, system.os, system.kernel, uptime)
    yield "CPU", _cpu_text(specs.cpu)
    if specs.limit_cores is not None:
        yield "", f"limited to {specs.limit_cores:g} of {specs.cpu.threads} cores by its cgroup"
    yield "Memory", f"{_size(specs.memory.total)} in all, {_size(specs.memory.available)} available"
    limit = specs.limits.memory_bytes
    if limit is not None and limit < specs.memory.total:
        yield "", f"limited to {_size(limit)} by its cgroup"
    for disk in specs.disks:
        yield "Disk", _disk_text(disk)
    yield from _gpu_lines(specs.gpus)
    yield "Python", f"{specs.python_version} ({specs.python_executable})"


def _cpu_text(cpu: host.Cpu) -> str:
    counts = [_count(number, unit) for number, unit in ((cpu.sockets, "socket"), (cpu.cores, "core"), (cpu.threads, "thread"))]
    clock = "" if cpu.mhz is None else f"{cpu.mhz / 1000:.2f} GHz"
    return _join(cpu.model, cpu.arch, *counts, clock, "load " + " ".join(f"{load:.2f}" for load in cpu.load))


def _disk_text(disk: Disk) -> str:
    if disk.total is None or disk.used is None or disk.available is None:
        return _join(disk.mountpoint, disk.fstype, disk.error or "not known")
    return _join(disk.mountpoint, disk.fstype, f"{_size(disk.used)} of {_size(disk.total)} used, {_size(disk.available)} free")


def _gpu_lines(report: nvml.GpuReport) -> Iterator[tuple[str, str]]:
    if report.error:
        yield "GPU", f"none seen. {report.error.message}"
        return
    if not report.gpus:
        yield "GPU", "none seen. The driver is loaded, but it shows this process no card."
    for gpu in report.gpus:
        yield f"GPU {gpu.index}", _gpu_text(gpu)
    yield "Driver", f"NVIDIA {report.driver or 'N/A'}, for CUDA up to {report.cuda_driver or 'N/A'}"


def _gpu_text(gpu: nvml.Gpu) -> str:
    if gpu.error:
        return gpu.error.message
    memory = f"{_size(gpu.memory_used)} of {_size(gpu.memory_total)} used"
    busy = _or_na(None if gpu.utilization is None else round(gpu.utilization * 100), "% busy")
    power = f"{_or_na(gpu.power_watts, 'W')} of {_or_na(gpu.power_limit_watts, 'W')}"
    return _join(gpu.name or "N/A", memory, busy, _or_na(gpu.temperature_celsius, "°C"), power)


def _join(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _count(number: int | None, unit: str) -> str:
    return "" if number is None else f"{number} {unit}{'' if number == 1 else 's'}"


def _or_na(value: float | None, unit: str) -> str:
    return "N/A" if value is None else f"{value:.0f} {unit}"


def _size(size: int | None) -> str:
    """Binary units, as the kernel and nvidia-smi count: 23.5 GiB."""
    if size is None:
        return "N/A"
    number = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _printable(text: str) -> str:
    """Mountpoints are named by strangers: nothing in them may steer the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
