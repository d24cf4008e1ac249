"""``bench gpu``: how much faster the GPU convolves images than the processor does, as in Colab's notebook about GPUs.

The notebook's program is for TensorFlow 1, which no current Python runs; this does the same work in TensorFlow 2 or PyTorch:
32 filters of 7 x 7 over 100 random images of 100 x 100 in 3 colours, ten times after one run to warm up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from drivefs_agent.check import NOT_FOUND
from drivefs_agent.frameworks import Broken, Framework, installed

__all__ = ["BenchError", "Timing", "bench_gpu"]

_RUNS: Final = 10


class BenchError(Exception):
    """The benchmark cannot be run here. Text: what is wrong, then what to do next."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds for all runs together."""

    framework: str
    device: str
    cpu_seconds: float
    gpu_seconds: float

    @property
    def speedup(self) -> int:
        """Whole times, rounded down as the notebook does."""
        return int(self.cpu_seconds / self.gpu_seconds)

    @property
    def text(self) -> str:
        return "\n".join((
            f"{_RUNS} convolutions of 100 images by {self.framework}, in seconds:",
            f"CPU: {self.cpu_seconds:.4f}",
            f"GPU: {self.gpu_seconds:.4f} ({self.device})",
            f"GPU speedup over CPU: {self.speedup}x",
        ))  # fmt: skip


def bench_gpu(
    frameworks: Callable[[], Iterable[Framework | Broken]] = installed, clock: Callable[[], float] = time.perf_counter
) -> Timing:
    """Time the first framework that sees a GPU. BenchError where there is none, or no framework. Takes some ten seconds."""
    silent: list[str] = []
    for framework in _usable(frameworks(), silent):
        device = framework.gpu()
        if device is None:
            silent.append(f"{framework.name} {framework.version} sees no GPU.")
            continue
        cpu = _seconds(framework.convolution(framework.cpu), clock)
        gpu = _seconds(framework.convolution(device), clock)
        return Timing(f"{framework.name} {framework.version}", device, cpu, gpu)
    if silent:
        raise BenchError(f"{NOT_FOUND}. {' '.join(silent)} To see why, run: drivefs-agent check gpu")
    raise BenchError("The benchmark needs TensorFlow or PyTorch, and neither is installed here. Install one: pip install torch")


def _usable(found: Iterable[Framework | Broken], silent: list[str]) -> Iterator[Framework]:
    for framework in found:
        if isinstance(framework, Broken):
            silent.append(f"{framework.name} cannot be imported: {framework.reason}.")
        else:
            yield framework


def _seconds(once: Callable[[], float], clock: Callable[[], float]) -> float:
    once()  # the first run loads libraries and chooses an algorithm
    begun = clock()
    for _ in range(_RUNS):
        once()
    return clock() - begun
