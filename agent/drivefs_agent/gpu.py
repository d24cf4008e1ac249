"""What is known of the GPUs, as frozen values; ``nvml`` fills them, everything that shows them reads them.

A value that cannot be had is None, never 0, and ``na`` maps the name of each None field to the reason in NVML's own word
(``not_supported``). A card that is lost carries an ``error`` while the others still report; no driver at all is an empty
report with an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Fault", "Gpu", "GpuProcess", "GpuReport", "MigSlice"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a whole card, or all of NVML, says nothing. code: NVML's word; message: a sentence, and what to do next."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process with memory on a card. kind: "compute" or "graphics".

    pid: as the driver counts, which in a container is the host's number; name, user and command are then None.
    """

    pid: int
    kind: str
    used_bytes: int | None = None
    name: str | None = None
    user: str | None = None
    command: str | None = None


@dataclass(frozen=True, slots=True)
class MigSlice:
    """A part of a card that works as a card of its own. profile: "1g.18gb", as nvidia-smi writes it.

    utilization: from GPM, on Hopper and later; NVML has none for slices. index counts within the card.
    """

    index: int
    uuid: str | None = None
    name: str | None = None
    profile: str | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None
    memory_total: int | None = None
    memory_used: int | None = None
    utilization: float | None = None
    na: Mapping[str, str] = field(default_factory=dict)
    error: Fault | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card. Memory in bytes, ratios from 0 to 1, power in watts, energy in joules since the driver was loaded, clocks in MHz.

    utilization: over NVML's last sample (1/6 s to 1 s), or over the time since our last look where ``utilization_source`` is
    "gpm".  memory_used leaves out what the driver reserves for itself where the driver tells the two apart; else it includes
    it and memory_reserved is None.  unified: card and processor share the host's memory, and memory_* is the host's.
    fan: the fastest fan's ratio of full speed.  ecc_*: errors since the driver was loaded; remapped_rows: over the card's life.
    throttle: why the clocks are below their best right now, beyond being idle; empty is "not at all".
    pcie_*: the link as it is now, which an idle card narrows.
    """

    index: int
    uuid: str | None = None
    name: str | None = None
    architecture: str | None = None
    compute_capability: str | None = None
    bus_id: str | None = None
    memory_total: int | None = None
    memory_used: int | None = None
    memory_reserved: int | None = None
    unified: bool = False
    utilization: float | None = None
    utilization_source: str | None = None
    memory_utilization: float | None = None
    temperature_celsius: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    energy_joules: float | None = None
    fan: float | None = None
    sm_mhz: int | None = None
    sm_max_mhz: int | None = None
    memory_mhz: int | None = None
    performance_state: int | None = None
    throttle: tuple[str, ...] | None = None
    ecc_enabled: bool | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    remapped_rows: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    mig_enabled: bool | None = None
    mig: tuple[MigSlice, ...] = ()
    processes: tuple[GpuProcess, ...] | None = None
    na: Mapping[str, str] = field(default_factory=dict)
    error: Fault | None = None

    @property
    def key(self) -> str:
        """What tells the card from others over time: its uuid, or its index where it does not tell one."""
        return self.uuid or str(self.index)

    @property
    def memory_ratio(self) -> float | None:
        """How full the memory is, 0 to 1."""
        return self.memory_used / self.memory_total if self.memory_used is not None and self.memory_total else None


@dataclass(frozen=True, slots=True)
class GpuReport:
    """All cards in NVML's order. driver: its version; cuda_driver: the newest CUDA that the driver serves, as "13.0"."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda_driver: str | None = None
    na: Mapping[str, str] = field(default_factory=dict)
    error: Fault | None = None
