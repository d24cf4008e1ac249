"""The machine as the kernel shows it: processor, memory, mounts, operating system.

These are the host's totals, in a container too; what this process may really use is in ``cgroup``. A value that cannot be
had is None. /proc, /sys and /etc are looked for below ``root``.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drivefs_agent.procfs import read, unescape

__all__ = [
    "Cpu", "CpuTimes", "Memory", "Mount", "System", "read_cpu", "read_cpu_times", "read_load", "read_memory", "read_mounts",
    "read_system",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class System:
    """os: the distribution's own name for itself; uptime_seconds: since the host booted; boot_time: when that was, Unix time."""

    hostname: str
    os: str
    kernel: str
    uptime_seconds: int | None
    boot_time: int | None = None


@dataclass(frozen=True, slots=True)
class Cpu:
    """threads: logical processors online.  mhz: the highest clock where the kernel knows it, else the present one."""

    model: str
    arch: str
    sockets: int | None
    cores: int | None
    threads: int
    mhz: int | None


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds that all processors together have spent in each mode since boot: "user", "nice", "system", "idle", "iowait", ...

    Source: proc_stat(5)
    """

    modes: Mapping[str, float]

    @property
    def total(self) -> float:
        # A guest's time is already in user and nice.
        return sum(seconds for mode, seconds in self.modes.items() if not mode.startswith("guest"))

    @property
    def idle(self) -> float:
        return self.modes.get("idle", 0.0) + self.modes.get("iowait", 0.0)

    def busy_since(self, earlier: CpuTimes) -> float | None:
        """The ratio of time not idle since ``earlier``; None where no time has passed by the kernel's clock."""
        passed = self.total - earlier.total
        return min(max(1 - (self.idle - earlier.idle) / passed, 0.0), 1.0) if passed > 0 else None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. available: what can be had without swapping, caches included; used: total less available."""

    total: int
    available: int
    swap_total: int = 0
    swap_free: int = 0

    @property
    def used(self) -> int:
        return self.total - self.available


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the kernel's mount table."""

    mountpoint: str
    source: str
    fstype: str

    @property
    def kind(self) -> str:
        """ "fuse", "network", "overlay" (a container's layers), "memory", or "local"."""
        if self.fstype.startswith("fuse"):
            return "local" if self.fstype == "fuseblk" else "fuse"
        if self.fstype in _NETWORK:
            return "network"
        return {"overlay": "overlay", "aufs": "overlay", "tmpfs": "memory"}.get(self.fstype, "local")


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
_NOT_DISKS: Final = frozenset({
    "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs",
    "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rootfs", "rpc_pipefs", "securityfs", "selinuxfs",
    "squashfs", "sysfs", "tmpfs", "tracefs", "fuse.lxcfs", "fuse.portal", "fuse.gvfsd-fuse",
})  # fmt: skip
_NETWORK: Final = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "lustre", "gpfs", "beegfs", "afs", "glusterfs", "pvfs2", "wekafs",
})  # fmt: skip
_CPU_MODES: Final = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")


def read_system(root: Path = Path("/")) -> System:
    uptime = (read(root / "proc/uptime") or "").split()
    return System(
        hostname=socket.gethostname(),
        os=_os_name(root),
        kernel=f"{platform.system()} {read(root / 'proc/sys/kernel/osrelease') or platform.release()}",
        uptime_seconds=int(float(uptime[0])) if uptime else None,
        boot_time=_boot_time(root),
    )


def _boot_time(root: Path) -> int | None:
    """The line ``btime`` of proc_stat(5), which, unlike the uptime, is the same number at every look."""
    lines = (line.split() for line in (read(root / "proc/stat") or "").splitlines())
    return next((int(words[1]) for words in lines if words[:1] == ["btime"]), None)


def _os_name(root: Path) -> str:
    """PRETTY_NAME of os-release(5): shell assignments, in /etc or, failing that, /usr/lib."""
    for path in ("etc/os-release", "usr/lib/os-release"):
        for line in (read(root / path) or "").splitlines():
            key, _, value = line.partition("=")
            if key == "PRETTY_NAME":
                return "".join(shlex.split(value))
    return platform.system()


def read_load() -> tuple[float, float, float]:
    """Mean number of runnable tasks over 1, 5 and 15 minutes."""
    return os.getloadavg()


def read_cpu(root: Path = Path("/")) -> Cpu:
    blocks = _cpuinfo(root)
    topology = list((root / "sys/devices/system/cpu").glob("cpu[0-9]*/topology"))
    # An absent or negative package id is the kernel's "not known" (many Arm machines).
    packages = {package for path in topology if (package := read(path / "physical_package_id") or "").isdigit()}
    cores = {siblings for path in topology if (siblings := read(path / "thread_siblings_list"))}
    threads = sum("processor" in block for block in blocks)
    return Cpu(
        model=_model(blocks, root),
        arch=platform.machine(),
        sockets=len(packages) or None,
        cores=len(cores) or None,
        threads=threads or os.cpu_count() or 1,
        mhz=_clock(blocks, root),
    )


def _clock(blocks: list[dict[str, str]], root: Path) -> int | None:
    """cpufreq knows the highest clock, in kHz; virtual machines have no cpufreq but often the present clock in cpuinfo."""
    limits = (read(path) for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq"))
    highest = max((int(limit) for limit in limits if limit and limit.isdigit()), default=0) / 1000
    present = max((float(block.get("cpu MHz") or 0) for block in blocks), default=0.0)
    return round(highest or present) or None


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """The paragraphs of /proc/cpuinfo, one for each processor and, on Arm, one for the board."""
    blocks = []
    for paragraph in (read(root / "proc/cpuinfo") or "").split("\n\n"):
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
        known = _ARM_CORES.get((int(implementer, 16), int(part, 16))) or (_ask_lscpu() if root == Path("/") else None)
        return known or f"Arm core (implementer {implementer}, part {part})"
    board = read(root / "sys/firmware/devicetree/base/model")
    return merged.get("Model") or merged.get("Hardware") or board or platform.machine()


def _ask_lscpu() -> str | None:
    """util-linux keeps a longer list of Arm cores than we do. Asked only for a core unknown to us, as it costs a process."""
    try:
        run = subprocess.run(
            ["lscpu", "-J"], capture_output=True, text=True, timeout=2, check=True, env={**os.environ, "LC_ALL": "C"}
        )
        fields = json.loads(run.stdout)["lscpu"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None
    names = (str(entry["data"]) for entry in fields if entry.get("field") == "Model name:")
    return next((name for name in names if name not in ("", "-")), None)


def read_cpu_times(root: Path = Path("/")) -> CpuTimes | None:
    """None where the kernel does not show them, as some sandboxes."""
    words = (read(root / "proc/stat") or "").partition("\n")[0].split()
    if not words or words[0] != "cpu":
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return CpuTimes({mode: int(word) / ticks for mode, word in zip(_CPU_MODES, words[1:], strict=False)})


def read_memory(root: Path = Path("/")) -> Memory:
    """From /proc/meminfo, whose kB are KiB. Kernels before 3.14 do not tell what is available: free and caches, there."""
    lines = (line.partition(":") for line in (read(root / "proc/meminfo") or "").splitlines())
    sizes = {key: int(value.split()[0]) * 1024 for key, _, value in lines if value.strip()}
    if "MemTotal" not in sizes:
        page = os.sysconf("SC_PAGE_SIZE")
        return Memory(os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page)
    loose = sum(sizes.get(key, 0) for key in ("MemFree", "Buffers", "Cached"))
    available = sizes.get("MemAvailable", loose)
    return Memory(sizes["MemTotal"], available, sizes.get("SwapTotal", 0), sizes.get("SwapFree", 0))


def read_mounts(root: Path = Path("/")) -> list[Mount]:
    """What ``df`` would show, and nothing hidden beneath another mount. Asks the file systems nothing, so it cannot hang."""
    visible: dict[str, Mount] = {}
    for line in (read(root / "proc/self/mounts") or "").splitlines():
        source, mountpoint, fstype = (unescape(word) for word in line.split()[:3])
        # Later lines cover earlier ones at the same place.
        visible[mountpoint] = Mount(mountpoint, source, fstype)
    wanted = [m for m in visible.values() if m.fstype not in _NOT_DISKS or m.mountpoint == "/dev/shm"]
    return sorted(wanted, key=lambda mount: mount.mountpoint)
