"""Processes as /proc shows them: who holds memory on a card, and which are Jupyter's kernels.

Numbers come from the driver and may be the host's; in a container such a process is simply not to be seen here.
"""

from __future__ import annotations

import mmap
import pwd
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Kernel", "Who", "describe", "read_kernels"]

_COMMAND_LENGTH: Final = 200
# Jupyter starts a kernel with a connection file: .../kernel-<uuid>.json
_CONNECTION: Final = re.compile(r"kernel-([0-9a-f-]{8,36})\.json")


class Who(NamedTuple):
    """user: a name, or the number where no name is known. command: the arguments, blank between, cut to 200 characters."""

    name: str
    user: str
    command: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """A running Jupyter kernel and its resident memory in bytes."""

    uuid: str
    used: int


def describe(pid: int, root: Path = Path("/")) -> Who | None:
    """None where there is no such process here, or it is not ours to look at."""
    directory = root / "proc" / str(pid)
    try:
        name = (directory / "comm").read_text(errors="replace").strip()
        command = _command(directory)[:_COMMAND_LENGTH]
        status = (directory / "status").read_text(errors="replace")
    except OSError:
        return None
    uid = re.search(r"^Uid:\s+(\d+)", status, re.MULTILINE)
    return Who(name, _user(int(uid[1])) if uid else "?", command)


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
            found = _CONNECTION.search(_command(directory))
            if found:
                pages = int((directory / "statm").read_text().split()[1])
                kernels[found[1]] = Kernel(found[1], pages * mmap.PAGESIZE)
        except (OSError, IndexError, ValueError):  # it ended while we looked
            continue
    return tuple(kernels[uuid] for uuid in sorted(kernels))
