"""The limits that a container, a systemd slice or a batch system has set on this process, beside which the host's totals mislead.

Both generations are read, also where they are mixed: for each of memory, cpu and cpuset the hierarchy that controls it. A
limit holds for all that is below it, so the tightest among a group and its ancestors is the one that counts.

Sources: https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/, proc(5), cgroups(7)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar

from drivefs_agent.procfs import read, unescape

__all__ = ["Limits", "read_limits"]

N = TypeVar("N", int, float)

# What version 1 shows for "no limit" is the largest multiple of the page size below 2**63, so it varies with the page size.
_V1_UNLIMITED: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Limits:
    """None: not limited. version: "1", "2", "hybrid" (both mounted), or None where there are no cgroups.

    memory_bytes: beyond it the kernel kills.  cpu_cores: processor time a second, in cores (1.5).  cpuset: the processors
    allowed, in the kernel's list form ("0-3,8"), also where it is all of them; cpuset_threads: how many those are.

    memory_used_bytes and cpu_seconds: what the group with that limit uses and has used, caches that the kernel can drop left
    out; for cpu_seconds it is this process's own group where there is no quota. None where the kernel does not count it.
    """

    version: str | None = None
    memory_bytes: int | None = None
    cpu_cores: float | None = None
    cpuset: str | None = None
    cpuset_threads: int | None = None
    memory_used_bytes: int | None = None
    cpu_seconds: float | None = None


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
    memory, memory_group = groups.tightest("memory", _memory_v1, _memory_v2)
    cores, cpu_group = groups.tightest("cpu", _cpu_v1, _cpu_v2)
    return Limits(
        version="hybrid" if len(versions) > 1 else str(versions.pop()),
        memory_bytes=memory,
        cpu_cores=cores,
        cpuset=cpuset,
        cpuset_threads=None if cpuset is None else count_cpus(cpuset),
        memory_used_bytes=None if memory_group is None else _memory_used(memory_group),
        cpu_seconds=_cpu_seconds(cpu_group) if cpu_group else groups.first("cpuacct", _cpu_seconds),
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

    def tightest(
        self, controller: str, v1: Callable[[Path], N | None], v2: Callable[[Path], N | None]
    ) -> tuple[N | None, Path | None]:
        """The smallest limit and the group that sets it; of equal ones, the nearest."""
        best: tuple[N | None, Path | None] = (None, None)
        for version, directory in self._directories(controller):
            limit = (v1 if version == 1 else v2)(directory)
            if limit is not None and (best[0] is None or limit < best[0]):
                best = limit, directory
        return best

    def first(self, controller: str, value: Callable[[Path], N | None]) -> N | None:
        """The nearest group that tells."""
        found = (value(directory) for _, directory in self._directories(controller))
        return next((number for number in found if number is not None), None)

    def nearest(self, controller: str, v1: tuple[str, ...], v2: tuple[str, ...]) -> str | None:
        """The first non-empty file: cpusets are inherited, and an empty one means "as the parent has it"."""
        for version, directory in self._directories(controller):
            for name in v1 if version == 1 else v2:
                if text := read(directory / name):
                    return text
        return None


def _hierarchies(root: Path) -> Iterator[_Hierarchy]:
    """The cgroup mounts of /proc/self/mountinfo: ``36 31 0:35 /top /mount/point opts - cgroup source superopts``."""
    for line in (read(root / "proc/self/mountinfo") or "").splitlines():
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(), tail.split()
        if len(fields) < 5 or not kind or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        controllers = frozenset(kind[-1].split(",")) if version == 1 else frozenset[str]()
        yield _Hierarchy(version, PurePosixPath(unescape(fields[4])), PurePosixPath(unescape(fields[3])), controllers)


def _own_paths(root: Path) -> dict[str, PurePosixPath]:
    """/proc/self/cgroup as a map from controller to path; "" is version 2. A line: ``4:cpu,cpuacct:/path``."""
    paths: dict[str, PurePosixPath] = {}
    for line in (read(root / "proc/self/cgroup") or "").splitlines():
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
    limit = _number(read(directory / "memory.limit_in_bytes"))
    return None if limit is None or limit >= _V1_UNLIMITED else limit


def _memory_v2(directory: Path) -> int | None:
    return _number(read(directory / "memory.max"))


def _cpu_v1(directory: Path) -> float | None:
    quota, period = (_number(read(directory / name)) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return None if quota is None or not period or quota < 0 else quota / period


def _cpu_v2(directory: Path) -> float | None:
    """cpu.max is ``QUOTA PERIOD``, where QUOTA may be ``max``."""
    quota, _, period = (read(directory / "cpu.max") or "max").partition(" ")
    number, divisor = _number(quota), _number(period)
    return None if number is None or not divisor else number / divisor


def _memory_used(directory: Path) -> int | None:
    """In use, less the file cache that nobody has touched lately and that the kernel drops before it kills."""
    used = _number(read(directory / "memory.current") or read(directory / "memory.usage_in_bytes"))
    stat = dict(line.partition(" ")[::2] for line in (read(directory / "memory.stat") or "").splitlines())
    # Version 1 counts the group alone in the plain name, and with its descendants, as the limit does, in "total_".
    cache = _number(stat.get("total_inactive_file") or stat.get("inactive_file"))
    return None if used is None else max(used - (cache or 0), 0)


def _cpu_seconds(directory: Path) -> float | None:
    """Processor time: cpu.stat tells microseconds (version 2), cpuacct.usage nanoseconds (version 1)."""
    stat = dict(line.partition(" ")[::2] for line in (read(directory / "cpu.stat") or "").splitlines())
    microseconds, nanoseconds = _number(stat.get("usage_usec")), _number(read(directory / "cpuacct.usage"))
    if microseconds is not None:
        return microseconds / 1e6
    return None if nanoseconds is None else nanoseconds / 1e9


def _number(text: str | None) -> int | None:
    """None for "max" and for a file that is not there."""
    return int(text) if text is not None and text.lstrip("-").isdigit() else None
