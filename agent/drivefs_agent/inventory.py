"""One frozen inventory of this box, and the sampler that makes them.

A single look costs some 20 ms and waits a tenth of a second, because processor load and GPM are differences between two looks.
Whoever looks again and again keeps a ``Sampler``: it holds NVML open, and asks seldom for what changes seldom.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from drivefs_agent import cgroup, host, procs
from drivefs_agent.accelerators import Accelerator, read_accelerators
from drivefs_agent.disks import Disk, DiskReader
from drivefs_agent.drive import DriveMount, DriveReader
from drivefs_agent.gpu import GpuReport
from drivefs_agent.metadata import Instance
from drivefs_agent.nvml import Nvml
from drivefs_agent.place import Place, read_place
from drivefs_agent.python_packages import Python, read_python

__all__ = ["Sampler", "Specs", "collect"]

T = TypeVar("T")

_INTERVAL: Final = 0.1  # between the two looks of a single inventory
_SLOW: Final = 15.0  # seconds for which disks and other accelerators are taken as unchanged
_DRIVE: Final = 2.0  # the same for what waits to be sent to Drive


@dataclass(frozen=True, slots=True)
class Specs:
    """The box at ``time``. Host's totals and this process's ``limits`` stand side by side; the properties join the two.

    cpu_utilization: of all the host's processors, 0 to 1, since the look before; None on the first look.
    used_cores: processor seconds a second that this process's cgroup used meanwhile.
    drive_error: why it is not known what the drivefs mounts hold back, or None.
    instance: what the cloud's metadata server told, where it was asked.
    """

    time: datetime
    system: host.System
    place: Place
    cpu: host.Cpu
    load: tuple[float, float, float]
    cpu_times: host.CpuTimes | None
    cpu_utilization: float | None
    used_cores: float | None
    memory: host.Memory
    limits: cgroup.Limits
    disks: tuple[Disk, ...]
    gpus: GpuReport
    accelerators: tuple[Accelerator, ...]
    kernels: tuple[procs.Kernel, ...]
    drive: tuple[DriveMount, ...]
    drive_error: str | None
    python: Python
    instance: Instance | None = None

    @property
    def limit_cores(self) -> float | None:
        """How many cores this process can use at most, where that is fewer than the host has: by quota or by cpuset."""
        candidates = (self.limits.cpu_cores, self.limits.cpuset_threads)
        return min((cores for cores in candidates if cores is not None and cores < self.cpu.threads), default=None)

    @property
    def memory_limit(self) -> int | None:
        """Bytes beyond which the kernel kills, where that is less than the host has."""
        limit = self.limits.memory_bytes
        return limit if limit is not None and limit < self.memory.total else None

    @property
    def memory_total(self) -> int:
        """Bytes that this process can have at most: the limit, else the host's memory."""
        return self.memory.total if self.memory_limit is None else self.memory_limit

    @property
    def memory_available(self) -> int:
        """Bytes that this process can still have: what its limit leaves, and never more than the host has left."""
        if self.memory_limit is None:
            return self.memory.available
        left = self.memory_limit - (self.limits.memory_used_bytes or 0)
        return max(min(left, self.memory.available), 0)

    @property
    def cpu_ratio(self) -> float | None:
        """How busy the processors are that this process can have, 0 to 1: of its limit where it has one, else of the host's."""
        if self.limit_cores is None:
            return self.cpu_utilization
        return None if self.used_cores is None else min(self.used_cores / self.limit_cores, 1.0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, schema ``drivefs.specs/1``."""
        from drivefs_agent.as_json import to_json

        return to_json(self)

    def __str__(self) -> str:
        from drivefs_agent.text import render

        return render(self)

    def _repr_html_(self) -> str:
        """What notebooks show."""
        from drivefs_agent.html import render

        return render(self)


class _Kept(Generic[T]):
    """A value that is read again when it is older than ``seconds``."""

    def __init__(self, read: Callable[[], T], seconds: float, clock: Callable[[], float]) -> None:
        self._read, self._seconds, self._clock = read, seconds, clock
        self._value: T | None = None
        self._due = float("-inf")

    def get(self) -> T:
        if self._value is None or self._clock() >= self._due:
            self._value = self._read()
            self._due = self._clock() + self._seconds
        return self._value


class Sampler:
    """Makes inventories, one at a ``sample()``. A context manager; not for several threads at a time.

    ``root``: where /proc, /sys and /etc are looked for.
    """

    def __init__(self, root: Path = Path("/"), *, clock: Callable[[], float] = time.monotonic) -> None:
        forever = float("inf")
        self._root = root
        self._clock = clock
        self._nvml = Nvml(root, clock)
        self._place = _Kept(lambda: read_place(root), forever, clock)
        self._cpu = _Kept(lambda: host.read_cpu(root), forever, clock)
        self._python = _Kept(lambda: read_python(root), forever, clock)
        disks = DiskReader()
        self._disks = _Kept(lambda: disks.read(host.read_mounts(root)), _SLOW, clock)
        self._kernels = _Kept(lambda: procs.read_kernels(root), _SLOW, clock)
        drive = DriveReader()
        self._drive = _Kept(lambda: drive.read(host.read_mounts(root)), _DRIVE, clock)
        self._accelerators = {
            seen: _Kept(functools.partial(read_accelerators, root, nvidia=not seen), _SLOW, clock) for seen in (True, False)
        }
        self._times: host.CpuTimes | None = None
        self._group_seconds: tuple[float, float] | None = None

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End NVML."""
        self._nvml.close()

    def sample(self) -> Specs:
        """Look now. A second at most where mounts or daemons do not answer, and only every few seconds."""
        limits = cgroup.read_limits(self._root)
        gpus = self._nvml.report()
        times, busy = self._processor()
        drive, drive_error = self._drive.get()
        return Specs(
            time=datetime.now(timezone.utc),
            system=host.read_system(self._root),
            place=self._place.get(),
            cpu=self._cpu.get(),
            load=host.read_load(),
            cpu_times=times,
            cpu_utilization=busy,
            used_cores=self._cores(limits),
            memory=host.read_memory(self._root),
            limits=limits,
            disks=self._disks.get(),
            gpus=gpus,
            accelerators=self._accelerators[bool(gpus.gpus)].get(),
            kernels=self._kernels.get(),
            drive=drive,
            drive_error=drive_error,
            python=self._python.get(),
        )

    def _processor(self) -> tuple[host.CpuTimes | None, float | None]:
        earlier, self._times = self._times, host.read_cpu_times(self._root)
        if earlier is None or self._times is None:
            return self._times, None
        return self._times, self._times.busy_since(earlier)

    def _cores(self, limits: cgroup.Limits) -> float | None:
        now, earlier = self._clock(), self._group_seconds
        self._group_seconds = None if limits.cpu_seconds is None else (now, limits.cpu_seconds)
        if earlier is None or limits.cpu_seconds is None or now <= earlier[0]:
            return None
        return max(limits.cpu_seconds - earlier[1], 0.0) / (now - earlier[0])


def collect(root: Path = Path("/"), *, interval: float = _INTERVAL) -> Specs:
    """Look twice, ``interval`` seconds apart, and give what the second look saw; 0: look once, and do not know loads."""
    with Sampler(root) as sampler:
        first = sampler.sample()
        if not interval:
            return first
        time.sleep(interval)
        return sampler.sample()
