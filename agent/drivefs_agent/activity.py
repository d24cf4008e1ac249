"""Whether anything keeps the box busy. Every probe answers yes, no, or that it cannot tell, and says why in words.

The box is idle only where every probe says so. One that cannot tell counts as busy: a box that stays on costs money, one that
is stopped wrongly costs work. So each threshold errs to that side, and a probe that does not suit a box can be left out by name.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

from drivefs_agent import jupyter, text
from drivefs_agent.accelerators import Accelerator
from drivefs_agent.gpu import Gpu, GpuReport, MigSlice
from drivefs_agent.inventory import Specs
from drivefs_agent.procfs import read
from drivefs_agent.state import State, StateError
from drivefs_agent.verdict import judge

__all__ = ["PROBES", "Activity", "Finding", "Thresholds"]

PROBES: Final = ("gpu", "cpu", "jupyter", "terminals", "network", "drive", "hold")
_LOOKS: Final = 4  # NVML's load is of the last fraction of a second: one look says little
# What NVML says where there is no NVIDIA card to ask; anything else may be a card that does not answer.
_NO_CARD: Final = ("library_not_found", "driver_not_loaded")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Above these the box is busy. gpu: ratio; cpu: cores in use by everything together; network: bytes a second, both ways.

    cpu is no share of the machine, because one process that computes keeps one core busy however many there are.
    terminals: seconds since the last key was struck.
    """

    gpu: float = 0.05
    cpu: float = 0.5
    network: float = 100_000
    terminals: float = 300


@dataclass(frozen=True, slots=True)
class Finding:
    """idle: None where the probe cannot tell, which counts as busy."""

    probe: str
    idle: bool | None
    text: str


class Activity:
    """Judges looks, each together with those before it; the first alone cannot tell everything."""

    def __init__(
        self,
        state: State,
        thresholds: Thresholds = Thresholds(),
        without: Iterable[str] = (),
        *,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._state, self._limits, self._root, self._clock, self._now = state, thresholds, root, clock, now
        self._without = frozenset(without)
        self._gpu: dict[str, deque[float]] = {}
        self._cores: deque[float] = deque(maxlen=_LOOKS)
        self._traffic: tuple[float, int] | None = None

    def findings(self, specs: Specs) -> list[Finding]:
        """Of every probe that is not left out, in the order of PROBES."""
        answers: dict[str, Callable[[], tuple[bool | None, str]]] = {
            "gpu": lambda: self._gpus(specs),
            "cpu": lambda: self._processor(specs),
            "jupyter": lambda: self._jupyter(specs),
            "terminals": self._terminals,
            "network": self._network,
            "drive": lambda: _drive(specs),
            "hold": self._hold,
        }
        return [Finding(probe, *answers[probe]()) for probe in PROBES if probe not in self._without]

    # -- GPUs ------------------------------------------------------------------------------------------------------

    def _gpus(self, specs: Specs) -> tuple[bool | None, str]:
        found = [*_missing(specs.gpus, specs.accelerators), *(self._card(gpu) for gpu in specs.gpus.gpus)]
        found += [self._accelerator(one) for one in specs.accelerators if not one.kind.startswith("nvidia")]
        return _together(found) if found else (True, "there is none")

    def _card(self, gpu: Gpu) -> tuple[bool | None, str]:
        name = f"GPU {gpu.index}"
        if gpu.error is not None:
            return None, f"{name} does not answer: {gpu.error.message}"
        if gpu.mig:
            return _together(self._load(f"{gpu.key}/{part.index}", f"{name}, slice {part.index}", part, gpu) for part in gpu.mig)
        return self._load(gpu.key, name, gpu, gpu)

    def _load(self, key: str, name: str, part: Gpu | MigSlice, gpu: Gpu) -> tuple[bool | None, str]:
        if part.utilization is not None:
            return self._measured(key, name, part.utilization)
        if gpu.processes is not None and not gpu.processes:
            return True, f"{name} has no process"
        return None, f"{name} does not tell its load, and it may have processes"

    def _accelerator(self, one: Accelerator) -> tuple[bool | None, str]:
        if one.utilization is None:
            return None, f"{one.name} ({one.device}) does not tell its load"
        return self._measured(one.device, one.name, one.utilization)

    def _measured(self, key: str, name: str, ratio: float) -> tuple[bool, str]:
        looks = self._gpu.setdefault(key, deque(maxlen=_LOOKS))
        looks.append(ratio)
        mean = fmean(looks)
        return mean < self._limits.gpu, f"{name} is {mean * 100:.0f} % busy"

    # -- processor, terminals, network -----------------------------------------------------------------------------

    def _processor(self, specs: Specs) -> tuple[bool | None, str]:
        """In a container only what it uses itself counts: the host's other tenants are not ours to wait for."""
        if specs.place.container or specs.limit_cores is not None:
            used = specs.used_cores
        else:
            used = None if specs.cpu_utilization is None else specs.cpu_utilization * specs.cpu.threads
        if used is None:
            return None, "it is not known how many cores are in use"
        self._cores.append(used)
        mean = fmean(self._cores)
        return mean < self._limits.cpu, f"{mean:.2f} cores in use"

    def _terminals(self) -> tuple[bool | None, str]:
        """Keys struck in ssh, tmux, screen and Jupyter's terminals: the kernel notes when each terminal was last read from."""
        folder = self._root / "dev/pts"
        try:
            names = [name for name in os.listdir(folder) if name.isdigit()]
        except FileNotFoundError:
            names = []
        except OSError as error:
            return None, f"the terminals cannot be looked at: {error.strerror}"
        ages = [age for name in names if (age := self._age(folder / name)) is not None]
        if not ages:
            return True, "no terminal is open"
        return min(ages) >= self._limits.terminals, f"last key struck {text.duration(min(ages))} ago"

    def _age(self, terminal: Path) -> float | None:
        try:
            return max(0.0, self._now() - os.stat(terminal).st_atime)
        except OSError:  # closed just now
            return None

    def _network(self) -> tuple[bool | None, str]:
        lines = (read(self._root / "proc/net/dev") or "").splitlines()[2:]
        rows = {name.strip(): words.split() for name, _, words in (line.partition(":") for line in lines)}
        if not rows:
            return None, "the network's counters cannot be read"
        # Received and sent bytes are the first and ninth column: proc_pid_net(5).
        total = sum(int(words[0]) + int(words[8]) for name, words in rows.items() if name != "lo")
        earlier, self._traffic = self._traffic, (self._clock(), total)
        if earlier is None or self._traffic[0] <= earlier[0]:
            return None, "it takes two looks to know"
        rate = max(0, total - earlier[1]) / (self._traffic[0] - earlier[0])
        return rate < self._limits.network, f"{text.size(rate)} a second"

    # -- what is asked of others -----------------------------------------------------------------------------------

    def _jupyter(self, specs: Specs) -> tuple[bool | None, str]:
        if not specs.kernels:
            return True, "no kernel runs"
        told = jupyter.states(specs.kernels, self._root)
        known = [(kernel.uuid, told.get(kernel.uuid)) for kernel in specs.kernels]
        busy = [f"kernel {uuid[:8]} is {state}" for uuid, state in known if state not in (None, "idle")]
        if busy:
            return False, "; ".join(busy)
        silent = [f"nobody tells what kernel {uuid[:8]} does" for uuid, state in known if state is None]
        return (None, "; ".join(silent)) if silent else (True, f"all {len(known)} kernels are idle")

    def _hold(self) -> tuple[bool | None, str]:
        try:
            until = self._state.session().hold_until
        except StateError as error:
            return None, str(error)
        if until is None or until <= self._now():
            return True, "nobody holds the box"
        return False, f"held for another {text.duration(until - self._now())}"


def _drive(specs: Specs) -> tuple[bool | None, str]:
    verdict = judge(specs.drive, specs.drive_error)
    return verdict.safe, verdict.why


def _missing(report: GpuReport, accelerators: Iterable[Accelerator]) -> list[tuple[bool | None, str]]:
    """An NVIDIA card that the machine has and nobody answers for."""
    if report.error is None:
        return []
    cards = [one for one in accelerators if one.kind.startswith("nvidia")]
    if not cards and report.error.code in _NO_CARD:
        return []
    return [(None, f"no NVIDIA card can be asked: {report.error.message}")]


def _together(found: Iterable[tuple[bool | None, str]]) -> tuple[bool | None, str]:
    """The worst of several: busy before not known, and not known before idle."""
    rows = list(found)
    for idle in (False, None):
        worst = [why for verdict, why in rows if verdict is idle]
        if worst:
            return idle, "; ".join(worst)
    return True, "; ".join(why for _, why in rows)
