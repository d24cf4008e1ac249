"""Accelerators that NVML does not report: TPUs, AMD cards, Intel's Gaudi, and NVIDIA cards whose driver does not answer.

They are detected and, where the kernel tells, measured; nothing is loaded or run for it. All of it is sysfs and /proc.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drivefs_agent.procfs import read

__all__ = ["Accelerator", "read_accelerators"]


@dataclass(frozen=True, slots=True)
class Accelerator:
    """kind: "tpu", "amd_gpu", "nvidia_gpu" or "gaudi". device: its PCI address, or its node in /dev.

    Bytes, a ratio from 0 to 1, degrees Celsius, watts; None where the kernel does not tell.
    """

    kind: str
    name: str
    device: str
    memory_total: int | None = None
    memory_used: int | None = None
    utilization: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None


_GOOGLE, _AMD, _NVIDIA, _HABANA = 0x1AE0, 0x1002, 0x10DE, 0x1DA3
# Google's network card and disks have the same vendor, so a TPU is told by its device number.
_TPUS: Final = {
    0x0027: "TPU v2 or v3",
    0x005E: "TPU v4",
    0x0062: "TPU v5p",
    0x0063: "TPU v5e",
    0x006F: "TPU v6e",
    0x0076: "TPU v7",
}
# PCI classes: a display controller and its kinds (VGA, 3D), and a processing accelerator. Source: pci.ids
_DISPLAY, _PROCESSING = 0x03, 0x12


def read_accelerators(root: Path = Path("/"), *, nvidia: bool = True) -> tuple[Accelerator, ...]:
    """All there are. ``nvidia=False``: leave NVIDIA's out, because NVML has told of them."""
    found = list(_on_pci(root, nvidia))
    if not any(accelerator.kind in ("tpu", "gaudi") for accelerator in found):
        found += _tpu_nodes(root)
    if nvidia and not any(accelerator.kind == "nvidia_gpu" for accelerator in found):
        found += _from_driver(root)
    return tuple(found)


def _on_pci(root: Path, nvidia: bool) -> Iterator[Accelerator]:
    for path in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor, device, kind = (_hex(path / name) for name in ("vendor", "device", "class"))
        display = kind >> 16 in (_DISPLAY, _PROCESSING)
        if vendor == _GOOGLE and device in _TPUS:
            yield Accelerator("tpu", _TPUS[device], path.name)
        elif vendor == _AMD and display and (path / "mem_info_vram_total").exists():
            yield _amd(path)
        elif vendor == _NVIDIA and display and nvidia:
            yield Accelerator("nvidia_gpu", _nvidia_name(root, path.name) or f"NVIDIA device {device:04x}", path.name)
        elif vendor == _HABANA and display:
            yield Accelerator("gaudi", f"Intel Gaudi (device {device:04x})", path.name)


def _tpu_nodes(root: Path) -> Iterator[Accelerator]:
    """A container may see the TPU's device nodes and not its PCI bus."""
    for path in sorted((root / "dev").glob("accel[0-9]*")):
        yield Accelerator("tpu", "TPU", f"/dev/{path.name}")


def _from_driver(root: Path) -> Iterator[Accelerator]:
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*")):
        yield Accelerator("nvidia_gpu", _nvidia_name(root, path.name) or "NVIDIA GPU", path.name)


def _nvidia_name(root: Path, address: str) -> str | None:
    """The kernel module tells a card's name even while its library refuses to speak to it."""
    text = read(root / "proc/driver/nvidia/gpus" / address / "information") or ""
    model = re.search(r"^Model:\s*(.+)$", text, re.MULTILINE)
    return model[1].strip() if model else None


def _amd(path: Path) -> Accelerator:
    """Source: https://docs.kernel.org/gpu/amdgpu/driver-misc.html and thermal.html"""
    busy = _number(path / "gpu_busy_percent")
    temperature = _first(path, "hwmon/hwmon*/temp1_input")
    power = _first(path, "hwmon/hwmon*/power1_average", "hwmon/hwmon*/power1_input")
    return Accelerator(
        kind="amd_gpu",
        name=read(path / "product_name") or f"AMD device {_hex(path / 'device'):04x}",
        device=path.name,
        memory_total=_number(path / "mem_info_vram_total"),
        memory_used=_number(path / "mem_info_vram_used"),
        utilization=None if busy is None else busy / 100,
        temperature_celsius=None if temperature is None else temperature / 1000,
        power_watts=None if power is None else power / 1e6,
    )


def _first(directory: Path, *patterns: str) -> int | None:
    numbers = (_number(path) for pattern in patterns for path in sorted(directory.glob(pattern)))
    return next((number for number in numbers if number is not None), None)


def _number(path: Path) -> int | None:
    text = read(path) or ""
    return int(text) if text.isdigit() else None


def _hex(path: Path) -> int:
    """0 where the file is absent or odd."""
    text = read(path) or ""
    return int(text, 16) if re.fullmatch(r"0x[0-9a-fA-F]+", text) else 0
