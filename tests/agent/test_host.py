"""The host's side: recorded /proc and /sys shapes, and this machine's own mounts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drivefs_agent import host

X86 = """\
processor\t: {index}
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9554 64-Core Processor
cpu MHz\t\t: 3100.000
physical id\t: {package}
"""
GRACE = "processor\t: {index}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {part}\nCPU revision\t: 0\n"


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


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


@pytest.mark.parametrize(("part", "model"), [("0xd4f", "Arm Neoverse-V2"), ("0xfff", "Arm core (implementer 0x41, part 0xfff)")])
def test_arm_has_no_model_name(tmp_path: Path, part: str, model: str) -> None:
    """Grace and Graviton kernels give numbers only; known ones are named, unknown ones shown. Package -1 is not known."""
    write(tmp_path, "proc/cpuinfo", "\n".join(GRACE.format(index=i, part=part) for i in range(2)))
    add_topology(tmp_path, 0, "-1", "0")
    add_topology(tmp_path, 1, "-1", "1")
    cpu = host.read_cpu(tmp_path)
    assert (cpu.model, cpu.sockets, cpu.cores, cpu.threads) == (model, None, 2, 2)


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
