"""``check gpu``: can programs here use a GPU? Asked of TensorFlow, else of PyTorch, else, where neither is installed, of NVML."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from drivefs_agent.frameworks import Broken, Framework, installed
from drivefs_agent.gpu import GpuReport
from drivefs_agent.nvml import query

__all__ = ["NOT_FOUND", "Verdict", "check_gpu"]

NOT_FOUND: Final = "GPU device not found"


@dataclass(frozen=True, slots=True)
class Verdict:
    """device: as whoever found it writes it, or None.  details: whole sentences, what was asked and what to do next."""

    device: str | None
    details: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """First line as in Colab's notebooks, then the details."""
        first = NOT_FOUND if self.device is None else f"Found GPU at: {self.device}"
        return "\n".join((first, *self.details))


def check_gpu(
    frameworks: Callable[[], Iterable[Framework | Broken]] = installed, report: Callable[[], GpuReport] = query
) -> Verdict:
    """The first framework that sees a GPU settles it. A card that only the driver sees is of no use to an installed framework."""
    silent: list[str] = []
    for framework in frameworks():
        if isinstance(framework, Broken):
            silent.append(f"{framework.name} is installed but cannot be imported: {framework.reason}.")
        elif device := framework.gpu():
            return Verdict(device, (f"Seen by {framework.name} {framework.version}.",))
        else:
            why = framework.why_not()
            silent.append(f"{framework.name} {framework.version} sees no GPU{': ' + why if why else ''}.")
    return _by_driver(report(), silent)


def _by_driver(report: GpuReport, silent: list[str]) -> Verdict:
    well = [gpu for gpu in report.gpus if gpu.error is None]
    if not well:
        fault = next((gpu.error for gpu in report.gpus if gpu.error), report.error)
        advice = fault.message if fault else "The NVIDIA driver is loaded, but it shows this process no card."
        return Verdict(None, (*silent, advice))
    name = well[0].name or "an NVIDIA card"
    if silent:
        return Verdict(
            None, (*silent, f"The driver shows {name}: install a build for CUDA {report.cuda_driver or ''}".rstrip() + ".")
        )
    return Verdict(f"GPU {well[0].index}", (f"{name}, seen by the driver. Neither TensorFlow nor PyTorch is installed.",))
