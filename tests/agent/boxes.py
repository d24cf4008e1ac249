"""Inventories of imagined boxes, for tests of what is made out of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from drivefs_agent import cgroup, host
from drivefs_agent.gpu import GpuReport
from drivefs_agent.inventory import Specs
from drivefs_agent.place import Place
from drivefs_agent.python_packages import Python

GIB = 1 << 30


def make_specs(report: GpuReport | None = None, **changes: Any) -> Specs:
    """A small box with known numbers."""
    specs = Specs(
        time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        system=host.System("box", "Debian", "Linux 6", 60),
        place=Place(),
        cpu=host.Cpu("CPU", "x86_64", 1, 1, 2, 2600),
        load=(0.0, 0.0, 0.0),
        cpu_times=host.CpuTimes({"user": 1.0, "idle": 9.0}),
        cpu_utilization=0.25,
        used_cores=0.5,
        memory=host.Memory(4 * GIB, GIB),
        limits=cgroup.Limits(),
        disks=(),
        gpus=report or GpuReport(),
        accelerators=(),
        kernels=(),
        drive=(),
        drive_error=None,
        python=Python("3.11.7", "/usr/bin/python3"),
    )
    return replace(specs, **changes)


def write(root: Path, name: str, text: str) -> None:
    """A file below a fake root."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
