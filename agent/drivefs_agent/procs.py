"""Processes as /proc shows them: who holds memory on a card, and which are Jupyter's kernels.

Numbers come from the driver and are the host's. In a container such a process is not to be seen, and the same number may be
another process's here, which must not be taken for it.
"""

from __future__ import annotations

import mmap
import os
import pwd
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Kernel", "Who", "describe", "read_kernels"]

_COMMAND_LENGTH: Final = 200
# PROC_PID_INIT_INO of include/linux/proc_ns.h: the namespace in which the driver counts.
_HOSTS_NAMESPACE: Final = "pid:[4026531836]"
# What a process that works on a card has open: on servers, on WSL, on Tegra.
_GPU_NODES: Final = ("/dev/nvidia", "/dev/dxg", "/dev/nvhost", "/dev/nvmap")
# Jupyter starts a kernel with a connection file: .../kernel-<uuid>.json
_CONNECTION: Final = re.compile(r"(?:^|\0)([^\0]*?)kernel-([0-9a-f-]{8,36})\.json(?:\0|$)")


class Who(NamedTuple):
    """user: a name, or the number where no name is known. command: the arguments, blank between, cut to 200 characters."""

    name: str
    user: str
    command: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """A running Jupyter kernel and its resident memory in bytes. directory: where its connection file lies."""

    uuid: str
    used: int
    directory: str = field(default="", compare=False)


def describe(pid: int, root: Path = Path("/")) -> Who | None:
    """Who has ``pid`` on a card. None where there is no such process here, or it is not ours to look at."""
    directory = root / "proc" / str(pid)
    try:
        if not _counts_as_the_driver(root) and not _has_a_gpu_open(directory):
            return None
        name = (directory / "comm").read_text(errors="replace").strip()
        command = _command(directory)[:_COMMAND_LENGTH]
        status = (directory / "status").read_text(errors="replace")
    except OSError:
        return None
    uid = re.search(r"^Uid:\s+(\d+)", status, re.MULTILINE)
    return Who(name, _user(int(uid[1])) if uid else "?", command)


def _counts_as_the_driver(root: Path) -> bool:
    try:
        return os.readlink(root / "proc/self/ns/pid") == _HOSTS_NAMESPACE
    except OSError:  # a kernel without namespaces
        return True


def _has_a_gpu_open(directory: Path) -> bool:
    return any(os.readlink(directory / "fd" / name).startswith(_GPU_NODES) for name in os.listdir(directory / "fd"))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _command(directory: Path) -> str:
    return (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()


def read_kernels(root: Path = Path("/")) -> tuple[Kernel, ...]:
    """All Jupyter kernels to be seen, sorted by uuid."""
    kernels = {}
    for directory in (root / "proc").glob("[0-9]*"):
        try:
            found = _CONNECTION.search((directory / "cmdline").read_bytes().decode("utf-8", "surrogateescape"))
            if found:
                pages = int((directory / "statm").read_text().split()[1])
                # --f=PATH is another way to say -f PATH.
                kernels[found[2]] = Kernel(found[2], pages * mmap.PAGESIZE, found[1].rpartition("=")[2])
        except (OSError, IndexError, ValueError):  # it ended while we looked
            continue
    return tuple(kernels[uuid] for uuid in sorted(kernels))
