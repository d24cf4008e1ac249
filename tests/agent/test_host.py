"""The host's side: recorded /proc and /sys shapes, and this machine's own mounts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drivefs_agent import host
from tests.agent.boxes import write

X86 = """\
processor\t: {index}
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9554 64-Core Processor
cpu MHz\t\t: 3100.000
physical id\t: {package}
"""
GRACE = "processor\t: {index}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {part}\nCPU revision\t: 0\n"


def add_topology(root: Path, index: int, package: str, siblings: str) -> None:
    write(root, f"sys/devices/system/cpu/cpu{index}/topology/physical_package_id", f"{package}\n")
    write(root, f"sys/devices/system/cpu/cpu{index}/topology/thread_siblings_list", f"{siblings}\n")


def test_two_sockets_with_hyperthreading(tmp_path: Path) -> None:
    """Eight threads that share four cores on two sockets are counted as such."""
    write(tmp_path, "proc/cpuinfo", "\n".join(X86.format(index=i, package=i // 4) for i in range(8)))
    for index in range(8):
        add_topology(tmp_path, index, str(index // 4), f"{index // 2 * 2}-{index // 2 * 2 + 1}")
    cpu = host.read_cpu(tmp_path)
    assert (cpu.model, cpu.sockets, cpu.cores, cpu.threads) == ("AMD EPYC 9554 64-Core Processor", 2, 4, 8)


def test_the_clock_is_the_highest_where_the_kernel_knows_it(tmp_path: Path) -> None:
    """cpufreq's limit, in kHz, comes before the present clock; without both the clock is not known."""
    write(tmp_path, "proc/cpuinfo", X86.format(index=0, package=0))
    assert host.read_cpu(tmp_path).mhz == 3100
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "3750000\n")
    assert host.read_cpu(tmp_path).mhz == 3750
    write(tmp_path, "proc/cpuinfo", GRACE.format(index=0, part="0xd4f"))
    (tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").unlink()
    assert host.read_cpu(tmp_path).mhz is None


def test_processor_load_is_the_difference_of_two_looks(tmp_path: Path) -> None:
    """Waiting for a disk is idle, a guest's time is counted once, and no time passed is not known rather than 0."""
    write(tmp_path, "proc/stat", "cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3\n")
    earlier = host.read_cpu_times(tmp_path)
    write(tmp_path, "proc/stat", "cpu  130 0 100 750 120 0 0 0 70 0\ncpu0 1 2 3\n")
    later = host.read_cpu_times(tmp_path)
    assert earlier is not None
    assert later is not None
    assert later.busy_since(earlier) == pytest.approx(0.3)
    assert later.busy_since(later) is None
    assert host.read_cpu_times(tmp_path / "nowhere") is None


def test_memory_of_a_kernel_without_memavailable(tmp_path: Path) -> None:
    """Old kernels do not tell what is available; free memory and caches are the next best."""
    write(tmp_path, "proc/meminfo", "MemTotal: 100 kB\nMemFree: 10 kB\nBuffers: 5 kB\nCached: 20 kB\nHugePages_Total: 0\n")
    assert host.read_memory(tmp_path) == host.Memory(100 * 1024, 35 * 1024)
    write(tmp_path, "proc/meminfo", "MemTotal: 100 kB\nMemAvailable: 60 kB\nSwapTotal: 8 kB\nSwapFree: 7 kB\n")
    assert host.read_memory(tmp_path) == host.Memory(100 * 1024, 60 * 1024, 8 * 1024, 7 * 1024)


def test_mounts_of_a_container(tmp_path: Path) -> None:
    """Pseudo file systems and what lies hidden are left out; blanks are unescaped; every kind is told."""
    table = (
        "overlay / overlay rw 0 0\nproc /proc proc rw 0 0\n/dev/sda1 /mnt/my\\040disk xfs rw 0 0\nshm /dev/shm tmpfs rw 0 0\n"
        "old /data ext4 rw 0 0\nsrv:/x /data nfs4 rw 0 0\ndrive /content/drive fuse.drive rw 0 0\n"
    )
    write(tmp_path, "proc/self/mounts", table)
    kinds = {mount.mountpoint: mount.kind for mount in host.read_mounts(tmp_path)}
    shown = {"/": "overlay", "/content/drive": "fuse", "/data": "network", "/dev/shm": "memory", "/mnt/my disk": "local"}
    assert kinds == shown


@pytest.mark.parametrize(("part", "model"), [("0xd4f", "Arm Neoverse-V2"), ("0xfff", "Arm core (implementer 0x41, part 0xfff)")])
def test_arm_has_no_model_name(tmp_path: Path, part: str, model: str) -> None:
    """Grace and Graviton kernels give numbers only; known ones are named, unknown ones shown. Package -1 is not known."""
    write(tmp_path, "proc/cpuinfo", "\n".join(GRACE.format(index=i, part=part) for i in range(2)))
    add_topology(tmp_path, 0, "-1", "0")
    add_topology(tmp_path, 1, "-1", "1")
    cpu = host.read_cpu(tmp_path)
    assert (cpu.model, cpu.sockets, cpu.cores, cpu.threads) == (model, None, 2, 2)


@pytest.mark.parametrize(("answer", "name"), [("Neoverse-V9", "Neoverse-V9"), ("-", None), (None, None)])
def test_lscpu_knows_more_cores_than_we(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None, name: str | None
) -> None:
    """util-linux is asked for a core that we cannot name; that it is absent, or does not know either, is no error."""
    if answer is not None:
        fields = '{"lscpu": [{"field": "Architecture:", "data": "aarch64"}, {"field": "Model name:", "data": "%s"}]}'
        write(tmp_path, "lscpu", f"#!/bin/sh\necho '{fields % answer}'\n")
        (tmp_path / "lscpu").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host._ask_lscpu() == name


def test_a_board_that_names_itself(tmp_path: Path) -> None:
    """Without core numbers, the board's own line is the best name there is."""
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\n\nHardware\t: Tegra\nModel\t\t: NVIDIA Jetson\n")
    assert host.read_cpu(tmp_path).model == "NVIDIA Jetson"


def test_nothing_readable_still_answers(tmp_path: Path) -> None:
    """An empty /proc and /sys lead to the architecture's name and unknowns, not to an error."""
    cpu = host.read_cpu(tmp_path)
    assert (cpu.model, cpu.sockets, cpu.cores) == (os.uname().machine, None, None)
    assert cpu.threads >= 1


def test_os_release_is_shell_quoted(tmp_path: Path) -> None:
    """os-release(5) holds shell assignments; quotes are not part of the name."""
    write(tmp_path, "etc/os-release", 'ID=x\nPRETTY_NAME="Ubuntu 22.04 \\"Jammy\\""\n')
    write(tmp_path, "proc/uptime", "61.90 100.00\n")
    system = host.read_system(tmp_path)
    assert (system.os, system.uptime_seconds) == ('Ubuntu 22.04 "Jammy"', 61)


def test_mounts_of_this_machine() -> None:
    """The root directory's file system is among the mounts, pseudo file systems are not."""
    mounts = host.read_mounts()
    assert "/" in [mount.mountpoint for mount in mounts]
    assert not {"proc", "sysfs", "cgroup2", "devpts"} & {mount.fstype for mount in mounts}
