"""The inventory as JSON, schema ``drivefs.specs/1`` (docs/specs.schema.json).

The schema only ever grows: a reader must ignore names it does not know. Sizes are bytes, ratios run from 0 to 1. null is "not
known" where the same object's ``na`` has a reason under that name, and otherwise "there is none": no limit, no container, no
error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from drivefs_agent.accelerators import Accelerator
from drivefs_agent.disks import Disk
from drivefs_agent.drive import DriveMount
from drivefs_agent.gpu import Fault, Gpu, GpuProcess, MigSlice
from drivefs_agent.inventory import Specs

__all__ = ["SCHEMA", "to_json"]

SCHEMA: Final = "drivefs.specs/1"
_NOT_REPORTED: Final = "not_reported"
_TWO_LOOKS: Final = "needs_two_samples"


def to_json(specs: Specs) -> dict[str, Any]:
    """The inventory as plain JSON values."""
    gpus = specs.gpus
    return {
        "schema": SCHEMA,
        "time": specs.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "host": _host(specs),
        "cpu": _cpu(specs),
        "memory": _memory(specs),
        "cgroup": _cgroup(specs),
        "disks": [_disk(disk) for disk in specs.disks],
        "drive": {"mounts": [_drive(mount) for mount in specs.drive], "error": specs.drive_error},
        "gpu_driver": {
            "version": gpus.driver,
            "cuda": gpus.cuda_driver,
            "cuda_runtime": specs.python.cuda_runtime,
            "cuda_runtime_source": specs.python.cuda_runtime_source,
            "na": dict(gpus.na),
        },
        "gpu_error": _fault(gpus.error),
        "gpus": [_gpu(gpu) for gpu in gpus.gpus],
        "accelerators": [_accelerator(each) for each in specs.accelerators],
        "python": {
            "version": specs.python.version,
            "executable": specs.python.executable,
            "packages": dict(specs.python.packages),
            "torch_cuda": specs.python.torch_cuda,
            "kernels": [{"uuid": kernel.uuid, "used_bytes": kernel.used} for kernel in specs.kernels],
        },
    }


def _host(specs: Specs) -> dict[str, Any]:
    system, place = specs.system, specs.place
    values = {
        "hostname": system.hostname,
        "os": system.os,
        "kernel": system.kernel,
        "uptime_seconds": system.uptime_seconds,
        "virtualization": place.virtualization,
        "container": place.container,
        "cloud": place.cloud,
        "product": place.product,
        "evidence": dict(place.evidence or {}),
        "instance": None if specs.instance is None else asdict(specs.instance),
    }
    return {**values, "na": _missing(values, {"uptime_seconds": _NOT_REPORTED})}


def _cpu(specs: Specs) -> dict[str, Any]:
    cpu = specs.cpu
    values = {
        "model": cpu.model,
        "arch": cpu.arch,
        "sockets": cpu.sockets,
        "cores": cpu.cores,
        "threads": cpu.threads,
        "mhz": cpu.mhz,
        "load": list(specs.load),
        "utilization": specs.cpu_utilization,
        "limit_cores": specs.limit_cores,
    }
    busy = _NOT_REPORTED if specs.cpu_times is None else _TWO_LOOKS
    reasons = {"sockets": _NOT_REPORTED, "cores": _NOT_REPORTED, "mhz": _NOT_REPORTED, "utilization": busy}
    return {**values, "na": _missing(values, reasons)}


def _memory(specs: Specs) -> dict[str, Any]:
    memory = specs.memory
    return {
        "total_bytes": memory.total,
        "available_bytes": memory.available,
        "used_bytes": memory.used,
        "swap_total_bytes": memory.swap_total,
        "swap_free_bytes": memory.swap_free,
        "limit_bytes": specs.limits.memory_bytes,
    }


def _cgroup(specs: Specs) -> dict[str, Any]:
    limits = specs.limits
    values = {
        "version": limits.version,
        "cpu_quota_cores": limits.cpu_cores,
        "cpuset": limits.cpuset,
        "used_cores": specs.used_cores,
        "memory_used_bytes": limits.memory_used_bytes,
    }
    reasons = {"used_cores": _NOT_REPORTED if limits.cpu_seconds is None else _TWO_LOOKS}
    if limits.memory_bytes is not None:
        reasons["memory_used_bytes"] = _NOT_REPORTED
    return {**values, "na": _missing(values, reasons)}


def _missing(values: Mapping[str, Any], reasons: Mapping[str, str]) -> dict[str, str]:
    return {name: reason for name, reason in reasons.items() if values[name] is None}


def _disk(disk: Disk) -> dict[str, Any]:
    return {
        "mount": disk.mountpoint,
        "source": disk.source,
        "fstype": disk.fstype,
        "kind": disk.kind,
        "total_bytes": disk.total,
        "used_bytes": disk.used,
        "available_bytes": disk.available,
        "error": disk.error,
    }


def _drive(mount: DriveMount) -> dict[str, Any]:
    return {
        "mount": mount.mountpoint,
        "account": mount.account,
        "pending_files": mount.pending_files,
        "pending_bytes": mount.pending_bytes,
        "oldest_pending_age_seconds": mount.oldest_pending_age_seconds,
        "cache_bytes": mount.cache_bytes,
        "cache_limit_bytes": mount.cache_limit,
        "error": mount.error,
    }


def _gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "architecture": gpu.architecture,
        "compute_capability": gpu.compute_capability,
        "bus_id": gpu.bus_id,
        "memory": {
            "total_bytes": gpu.memory_total,
            "used_bytes": gpu.memory_used,
            "reserved_bytes": gpu.memory_reserved,
            "unified": gpu.unified,
        },
        "utilization": gpu.utilization,
        "utilization_source": gpu.utilization_source,
        "memory_utilization": gpu.memory_utilization,
        "temperature_c": gpu.temperature_celsius,
        "power_w": gpu.power_watts,
        "power_limit_w": gpu.power_limit_watts,
        "energy_j": gpu.energy_joules,
        "fan": gpu.fan,
        "sm_mhz": gpu.sm_mhz,
        "sm_max_mhz": gpu.sm_max_mhz,
        "memory_mhz": gpu.memory_mhz,
        "performance_state": gpu.performance_state,
        "throttle": None if gpu.throttle is None else list(gpu.throttle),
        "ecc_enabled": gpu.ecc_enabled,
        "ecc_corrected": gpu.ecc_corrected,
        "ecc_uncorrected": gpu.ecc_uncorrected,
        "remapped_rows": gpu.remapped_rows,
        "remap_pending": gpu.remap_pending,
        "remap_failed": gpu.remap_failed,
        "pcie_generation": gpu.pcie_generation,
        "pcie_width": gpu.pcie_width,
        "mig_enabled": gpu.mig_enabled,
        "mig": [_slice(each) for each in gpu.mig],
        "processes": None if gpu.processes is None else [_process(each) for each in gpu.processes],
        "na": dict(gpu.na),
        "error": _fault(gpu.error),
    }


def _slice(part: MigSlice) -> dict[str, Any]:
    return {
        "index": part.index,
        "uuid": part.uuid,
        "name": part.name,
        "profile": part.profile,
        "gpu_instance": part.gpu_instance,
        "compute_instance": part.compute_instance,
        "memory": {"total_bytes": part.memory_total, "used_bytes": part.memory_used},
        "utilization": part.utilization,
        "na": dict(part.na),
        "error": _fault(part.error),
    }


def _process(process: GpuProcess) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "kind": process.kind,
        "used_bytes": process.used_bytes,
        "name": process.name,
        "user": process.user,
        "command": process.command,
    }


def _accelerator(each: Accelerator) -> dict[str, Any]:
    values = {
        "kind": each.kind,
        "name": each.name,
        "device": each.device,
        "memory_total_bytes": each.memory_total,
        "memory_used_bytes": each.memory_used,
        "utilization": each.utilization,
        "temperature_c": each.temperature_celsius,
        "power_w": each.power_watts,
    }
    return {**values, "na": {name: _NOT_REPORTED for name, value in values.items() if value is None}}


def _fault(fault: Fault | None) -> dict[str, str] | None:
    return None if fault is None else {"code": fault.code, "message": fault.message}
