"""The limits that a container, a systemd slice or a batch system has set on this process, beside which the host's totals mislead.

Both generations are read, also where they are mixed: for each of memory, cpu and cpuset the hierarchy that controls it. A
limit holds for all that is below it, so the tightest among a group and its ancestors is the one that counts.

Sources: https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/, proc(5), cgroups(7)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar

__all__ = ["Limits", "read_limits"]

N = TypeVar("N", int, float)

# What version 1 shows for "no limit" is the largest multiple of the page size below 2**63, so it varies with the page size.
_V1_UNLIMITED: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Limits:
    """None: not limited. version: "1", "2", "hybrid" (both mounted), or None where there are no cgroups.

    memory_bytes: beyond it the kernel kills.  cpu_cores: processor time a second, in cores (1.5).  cpuset: the processors
    allowed, in the kernel's list form ("0-3,8"), also where it is all of them; cpuset_threads: how many those are.
    """

    version: str | None = None
    memory_bytes: int | None = None
    cpu_cores: float | None = None
    cpuset: str | None = None
    cpuset_threads: int | None = None


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    """A mounted cgroup tree: where it is, which of its groups the mount shows as its top, what it controls (v1)."""

    version: int
    mount: PurePosixPath
    top: PurePosixPath
    controllers: frozenset[str]


def read_limits(root: Path = Path("/")) -> Limits:
    """The limits of this process. ``root``: where /proc and /sys are looked for."""
    hierarchies = list(_hierarchies(root))
    if not hierarchies:
        return Limits()
    versions = {hierarchy.version for hierarchy in hierarchies}
    groups = _Groups(root, hierarchies)
    cpuset = groups.nearest("cpuset", ("cpuset.effective_cpus", "cpuset.cpus"), ("cpuset.cpus.effective",))
    return Limits(
        version="hybrid" if len(versions) > 1 else str(versions.pop()),
        memory_bytes=groups.tightest("memory", _memory_v1, _memory_v2),
        cpu_cores=groups.tightest("cpu", _cpu_v1, _cpu_v2),
        cpuset=cpuset,
        cpuset_threads=None if cpuset is None else count_cpus(cpuset),
    )


def count_cpus(cpu_list: str) -> int:
    """How many processors the kernel's list form names: 5 for "0-3,8"."""
    spans = (part.partition("-") for part in cpu_list.split(",") if part)
    return sum(int(last or first) - int(first) + 1 for first, _, last in spans)


class _Groups:
    """The directories of this process's group and its ancestors, nearest first, for each controller."""

    def __init__(self, root: Path, hierarchies: list[_Hierarchy]) -> None:
        self._root = root
        self._hierarchies = hierarchies
        self._paths = _own_paths(root)

    def _directories(self, controller: str) -> Iterator[tuple[int, Path]]:
        for hierarchy in self._hierarchies:
            key = "" if hierarchy.version == 2 else controller
            if hierarchy.version == 1 and controller not in hierarchy.controllers:
                continue
            below = _below(self._paths.get(key, PurePosixPath("/")), hierarchy.top)
            for directory in (below, *below.parents):
                yield hierarchy.version, self._root / hierarchy.mount.relative_to("/") / directory

    def tightest(self, controller: str, v1: Callable[[Path], N | None], v2: Callable[[Path], N | None]) -> N | None:
        limits = [(v1 if version == 1 else v2)(directory) for version, directory in self._directories(controller)]
        return min((limit for limit in limits if limit is not None), default=None)

    def nearest(self, controller: str, v1: tuple[str, ...], v2: tuple[str, ...]) -> str | None:
        """The first non-empty file: cpusets are inherited, and an empty one means "as the parent has it"."""
        for version, directory in self._directories(controller):
            for name in v1 if version == 1 else v2:
                if text := _read(directory / name):
                    return text
        return None


def _hierarchies(root: Path) -> Iterator[_Hierarchy]:
    """The cgroup mounts of /proc/self/mountinfo: ``36 31 0:35 /top /mount/point opts - cgroup source superopts``."""
    for line in (_read(root / "proc/self/mountinfo") or "").splitlines():
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(), tail.split()
        if len(fields) < 5 or not kind or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        controllers = frozenset(kind[-1].split(",")) if version == 1 else frozenset[str]()
        yield _Hierarchy(version, PurePosixPath(_unescape(fields[4])), PurePosixPath(_unescape(fields[3])), controllers)


def _own_paths(root: Path) -> dict[str, PurePosixPath]:
    """/proc/self/cgroup as a map from controller to path; "" is version 2. A line: ``4:cpu,cpuacct:/path``."""
    paths: dict[str, PurePosixPath] = {}
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = PurePosixPath(path)
    return paths


def _below(path: PurePosixPath, top: PurePosixPath) -> PurePosixPath:
    """``path`` as seen from the mount, whose top is the group ``top``; relative.

    A container without its own cgroup namespace reads the host's path but has only its own group mounted. Where the path is
    not below what is mounted ("/../other" after a move), the mount's own top is the nearest group we can see.
    """
    try:
        below = path.relative_to(top)
    except ValueError:
        return PurePosixPath()
    return PurePosixPath() if ".." in below.parts else below


def _memory_v1(directory: Path) -> int | None:
    limit = _number(_read(directory / "memory.limit_in_bytes"))
    return None if limit is None or limit >= _V1_UNLIMITED else limit


def _memory_v2(directory: Path) -> int | None:
    return _number(_read(directory / "memory.max"))


def _cpu_v1(directory: Path) -> float | None:
    quota, period = (_number(_read(directory / name)) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return None if quota is None or not period or quota < 0 else quota / period


def _cpu_v2(directory: Path) -> float | None:
    """cpu.max is ``QUOTA PERIOD``, where QUOTA may be ``max``."""
    quota, _, period = (_read(directory / "cpu.max") or "max").partition(" ")
    number, divisor = _number(quota), _number(period)
    return None if number is None or not divisor else number / divisor


def _number(text: str | None) -> int | None:
    """None for "max" and for a file that is not there."""
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def _read(path: Path) -> str | None:
    """The file's text, or None: a controller that is not enabled for a group has no file there."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:
        return None


def _unescape(text: str) -> str:
    """Undo the octal escapes of blanks and backslashes in mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
