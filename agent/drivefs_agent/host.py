"""The machine as the kernel shows it: processor, memory, mounts, operating system. The only door to psutil.

These are the host's totals, in a container too; what this process may really use is in ``cgroup``. A value that cannot be
had is None. Where a fake root can be given, /proc, /sys and /etc are looked for below it.
"""

from __future__ import annotations

import os
import platform
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

__all__ = ["Cpu", "Memory", "Mount", "System", "read_cpu", "read_memory", "read_mounts", "read_system"]


@dataclass(frozen=True, slots=True)
class System:
    """os: the distribution's own name for itself; uptime_seconds: since the host booted."""

    hostname: str
    os: str
    kernel: str
    uptime_seconds: int | None


@dataclass(frozen=True, slots=True)
class Cpu:
    """threads: logical processors online.  mhz: the highest clock where the kernel knows it, else the present one.

    load: mean number of runnable tasks over 1, 5 and 15 minutes.
    """

    model: str
    arch: str
    sockets: int | None
    cores: int | None
    threads: int
    mhz: int | None
    load: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. available: what can be had without swapping, caches included; used: total less available."""

    total: int
    available: int

    @property
    def used(self) -> int:
        return self.total - self.available


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the kernel's mount table."""

    mountpoint: str
    source: str
    fstype: str


# Arm kernels name the core by number only: arch/arm64/include/asm/cputype.h in the Linux source.
_ARM_CORES: Final[Mapping[tuple[int, int], str]] = {
    (0x41, 0xD08): "Arm Cortex-A72",
    (0x41, 0xD0B): "Arm Cortex-A76",
    (0x41, 0xD0C): "Arm Neoverse-N1",
    (0x41, 0xD40): "Arm Neoverse-V1",
    (0x41, 0xD42): "Arm Cortex-A78AE",
    (0x41, 0xD49): "Arm Neoverse-N2",
    (0x41, 0xD4F): "Arm Neoverse-V2",
    (0x41, 0xD84): "Arm Neoverse-V3",
    (0x41, 0xD85): "Arm Cortex-X925",
    (0x4E, 0x004): "NVIDIA Carmel",
    (0xC0, 0xAC3): "Ampere-1",
}
# File systems that hold no files of the user's, or only in memory. /dev/shm is kept: data loaders run out of it.
# fmt: off
_NOT_DISKS: Final = frozenset({
    "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs",
    "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs", "securityfs", "selinuxfs",
    "squashfs", "sysfs", "tmpfs", "tracefs", "fuse.lxcfs", "fuse.portal", "fuse.gvfsd-fuse",
})
# fmt: on
def read_system(root: Path = Path("/")) -> System:
    uptime = _text(root / "proc/uptime").split()
    return System(
        hostname=socket.gethostname(),
        os=_os_name(root),
        kernel=f"{platform.system()} {platform.release()}",
        uptime_seconds=int(float(uptime[0])) if uptime else None,
    )


def _os_name(root: Path) -> str:
    """PRETTY_NAME of os-release(5): shell assignments, in /etc or, failing that, /usr/lib."""
    for path in ("etc/os-release", "usr/lib/os-release"):
        for line in _text(root / path).splitlines():
            key, _, value = line.partition("=")
            if key == "PRETTY_NAME":
                return "".join(shlex.split(value))
    return platform.system()


def read_cpu(root: Path = Path("/")) -> Cpu:
    blocks = _cpuinfo(root)
    topology = list((root / "sys/devices/system/cpu").glob("cpu[0-9]*/topology"))
    # An absent or negative package id is the kernel's "not known" (many Arm machines).
    packages = {package for path in topology if (package := _text(path / "physical_package_id")).isdigit()}
    cores = {siblings for path in topology if (siblings := _text(path / "thread_siblings_list"))}
    threads = sum("processor" in block for block in blocks)
    return Cpu(
        model=_model(blocks, root),
        arch=platform.machine(),
        sockets=len(packages) or None,
        cores=len(cores) or None,
        threads=threads or os.cpu_count() or 1,
        mhz=_clock(),
        load=os.getloadavg(),
    )


def _clock() -> int | None:
    try:
        clock = psutil.cpu_freq()
    except (NotImplementedError, OSError):  # neither cpufreq nor /proc/cpuinfo tells
        return None
    return round(clock.max or clock.current) or None if clock else None


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """The paragraphs of /proc/cpuinfo, one for each processor and, on Arm, one for the board."""
    blocks = []
    for paragraph in _text(root / "proc/cpuinfo").split("\n\n"):
        pairs = (line.partition(":") for line in paragraph.splitlines())
        blocks.append({key.strip(): value.strip() for key, _, value in pairs})
    return blocks


def _model(blocks: list[dict[str, str]], root: Path) -> str:
    """The processor's name: ``model name`` on x86, ``cpu`` on POWER; on Arm the core's numbers, then the board's name."""
    merged: dict[str, str] = {}
    for block in reversed(blocks):  # the first processor's word wins
        merged.update(block)
    if name := merged.get("model name") or merged.get("cpu"):
        return name
    implementer, part = merged.get("CPU implementer"), merged.get("CPU part")
    if implementer and part:
        known = _ARM_CORES.get((int(implementer, 16), int(part, 16)))
        return known or f"Arm core (implementer {implementer}, part {part})"
    board = _text(root / "sys/firmware/devicetree/base/model").rstrip("\0")
    return merged.get("Model") or merged.get("Hardware") or board or platform.machine()


def read_memory() -> Memory:
    memory = psutil.virtual_memory()
    return Memory(total=memory.total, available=memory.available)


def read_mounts() -> list[Mount]:
    """What ``df`` would show, and nothing hidden beneath another mount. Asks the file systems nothing, so it cannot hang."""
    visible: dict[str, Mount] = {}
    for partition in psutil.disk_partitions(all=True):
        # Later lines cover earlier ones at the same place.
        visible[partition.mountpoint] = Mount(partition.mountpoint, partition.device, partition.fstype)
    wanted = [m for m in visible.values() if m.fstype not in _NOT_DISKS or m.mountpoint == "/dev/shm"]
    return sorted(wanted, key=lambda mount: mount.mountpoint)


def _text(path: Path) -> str:
    """The file's text without outer blanks; empty where it is absent or unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
