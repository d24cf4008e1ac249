"""The inventory for people: some ten lines for a terminal, and the pieces of text that the other views share."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from drivefs_agent.accelerators import Accelerator
from drivefs_agent.disks import Disk
from drivefs_agent.drive import DriveMount
from drivefs_agent.gpu import Gpu, GpuProcess, GpuReport, MigSlice
from drivefs_agent.inventory import Specs

__all__ = ["duration", "lines", "printable", "render", "size"]

_ACCELERATORS = {"tpu": "TPU", "amd_gpu": "AMD GPU", "nvidia_gpu": "NVIDIA", "gaudi": "Gaudi"}


def render(specs: Specs) -> str:
    """A label, then what is known, then, indented beneath it, the limit that counts."""
    return "\n".join(f"{label:<8} {text}".rstrip() for label, text in lines(specs))


def lines(specs: Specs) -> Iterator[tuple[str, str]]:
    """(label, text), fit for a terminal; the label is empty where the line belongs to the one above."""
    for label, text in _lines(specs):
        yield label, printable(text)


def _lines(specs: Specs) -> Iterator[tuple[str, str]]:
    yield from _box_lines(specs)
    yield "CPU", _cpu_text(specs)
    if specs.limit_cores is not None:
        used = "" if specs.used_cores is None else f", {specs.used_cores:.2f} in use"
        yield "", f"limited to {specs.limit_cores:g} of {specs.cpu.threads} cores by its cgroup{used}"
    yield "Memory", f"{size(specs.memory.total)} in all, {size(specs.memory.available)} available"
    if specs.memory_limit is not None:
        used = "" if specs.limits.memory_used_bytes is None else f", {size(specs.limits.memory_used_bytes)} in use"
        yield "", f"limited to {size(specs.memory_limit)} by its cgroup{used}"
    for disk in specs.disks:
        yield "Disk", _disk_text(disk)
    if specs.drive_error:
        yield "Drive", f"not known: {specs.drive_error}"
    for mount in specs.drive:
        yield "Drive", _drive_text(mount)
    yield from _gpu_lines(specs)
    for each in specs.accelerators:
        yield _ACCELERATORS[each.kind], _accelerator_text(each)
    yield "Python", f"{specs.python.version} ({specs.python.executable})"
    if specs.python.packages:
        yield "", " · ".join(f"{name} {version}" for name, version in specs.python.packages.items())


def _box_lines(specs: Specs) -> Iterator[tuple[str, str]]:
    system, place, told = specs.system, specs.place, specs.instance
    uptime = "" if system.uptime_seconds is None else f"up {timedelta(seconds=system.uptime_seconds)}"
    yield "Box", _join(system.hostname, system.os, system.kernel, uptime)
    inside = [f"{word} {value}" for word, value in (("on", place.virtualization), ("in", place.container)) if value]
    where = _join(place.product or "", " ".join(inside), f"cloud {place.cloud}" if place.cloud else "")
    if where:
        yield "", where
    if told is not None:
        risk = {True: "may be taken back", False: "stays", None: ""}[told.preemptible]
        yield "", _join(told.cloud, told.type or "", told.zone or "", told.id or "", risk)


def _cpu_text(specs: Specs) -> str:
    cpu = specs.cpu
    counts = [_count(number, unit) for number, unit in ((cpu.sockets, "socket"), (cpu.cores, "core"), (cpu.threads, "thread"))]
    clock = "" if cpu.mhz is None else f"{cpu.mhz / 1000:.2f} GHz"
    busy = _busy(specs.cpu_utilization)
    return _join(cpu.model, cpu.arch, *counts, clock, busy, "load " + " ".join(f"{load:.2f}" for load in specs.load))


def _disk_text(disk: Disk) -> str:
    kind = "" if disk.kind == "local" or disk.kind == disk.fstype else disk.kind
    name = f"{disk.fstype} ({kind})" if kind else disk.fstype
    if disk.total is None or disk.used is None or disk.available is None:
        return _join(disk.mountpoint, name, disk.error or "not known")
    return _join(disk.mountpoint, name, f"{size(disk.used)} of {size(disk.total)} used, {size(disk.available)} free")


def _drive_text(mount: DriveMount) -> str:
    if mount.error:
        return _join(mount.mountpoint, f"not known: {mount.error}")
    if mount.pending_files:
        waiting = f"{_count(mount.pending_files, 'file')} ({size(mount.pending_bytes)}) not yet on Drive"
    else:
        waiting = "everything is on Drive"
    cache = f"cache {size(mount.cache_bytes)}" + ("" if mount.cache_limit is None else f" of {size(mount.cache_limit)}")
    return _join(mount.mountpoint, mount.account or "", waiting, cache)


def _gpu_lines(specs: Specs) -> Iterator[tuple[str, str]]:
    report = specs.gpus
    if report.error:
        yield "GPU", f"none seen. {report.error.message}"
        return
    if not report.gpus:
        yield "GPU", "none seen. The driver is loaded, but it shows this process no card."
    for gpu in report.gpus:
        yield f"GPU {gpu.index}", gpu_text(gpu)
        for part in gpu.mig:
            yield "", slice_text(part)
        for process in gpu.processes or ():
            yield "", process_text(process)
    yield "Driver", _driver_text(specs, report)


def _driver_text(specs: Specs, report: GpuReport) -> str:
    runtime, built = specs.python.cuda_runtime, specs.python.torch_cuda
    return _join(
        f"NVIDIA {report.driver or 'N/A'}, for CUDA up to {report.cuda_driver or 'N/A'}",
        f"CUDA runtime {runtime}" if runtime else "",
        f"torch built for CUDA {built}" if built else "",
    )


def gpu_text(gpu: Gpu) -> str:
    """One line for one card."""
    if gpu.error:
        return gpu.error.message
    memory = f"{size(gpu.memory_used)} of {size(gpu.memory_total)} used" + (" (the host's memory)" if gpu.unified else "")
    power = f"{_or_na(gpu.power_watts, 'W')} of {_or_na(gpu.power_limit_watts, 'W')}"
    return _join(gpu.name or "N/A", memory, _busy(gpu.utilization), _or_na(gpu.temperature_celsius, "°C"), power, *_troubles(gpu))


def _troubles(gpu: Gpu) -> Iterator[str]:
    if gpu.throttle:
        yield "slowed by " + ", ".join(gpu.throttle).replace("_", " ")
    if gpu.ecc_uncorrected:
        yield _count(gpu.ecc_uncorrected, "uncorrected memory error")
    if gpu.remap_failed:
        yield "a memory row could not be remapped: have the card replaced"
    elif gpu.remap_pending:
        yield "memory rows wait to be remapped: reset the card"


def slice_text(part: MigSlice) -> str:
    """One line for one MIG slice."""
    if part.error:
        return f"MIG {part.index} · {part.error.message}"
    memory = f"{size(part.memory_used)} of {size(part.memory_total)} used"
    return _join(f"MIG {part.index}", part.profile or part.name or "N/A", memory, _busy(part.utilization))


def process_text(process: GpuProcess) -> str:
    """One line for one process on a card."""
    who = _join(process.name, process.user or "") if process.name else "not of this container"
    return _join(f"pid {process.pid}", who, size(process.used_bytes))


def _accelerator_text(each: Accelerator) -> str:
    memory = "" if each.memory_total is None else f"{size(each.memory_used)} of {size(each.memory_total)} used"
    busy = "" if each.utilization is None else _busy(each.utilization)
    heat = "" if each.temperature_celsius is None else f"{each.temperature_celsius:.0f} °C"
    power = "" if each.power_watts is None else f"{each.power_watts:.0f} W"
    return _join(each.name, each.device, memory, busy, heat, power)


def _join(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _count(number: int | None, unit: str) -> str:
    return "" if number is None else f"{number} {unit}{'' if number == 1 else 's'}"


def _busy(ratio: float | None) -> str:
    return "N/A busy" if ratio is None else f"{ratio * 100:.0f} % busy"


def _or_na(value: float | None, unit: str) -> str:
    return "N/A" if value is None else f"{value:.0f} {unit}"


def size(number: float | None) -> str:
    """Bytes in binary units, as the kernel and nvidia-smi count: 23.5 GiB."""
    if number is None:
        return "N/A"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def duration(seconds: float) -> str:
    """The two largest units: 1 h 5 min."""
    whole = max(0, round(seconds))
    for unit, name, smaller, smaller_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole} s"


def printable(text: str) -> str:
    """Mountpoints and programs are named by strangers: nothing in them may steer the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
