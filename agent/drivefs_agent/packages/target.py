"""What a layer is for: this Python, on this box, with what its image brings along."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from drivefs_agent import nvml
from drivefs_agent.gpu import GpuReport
from drivefs_agent.packages.model import Target
from drivefs_agent.packages.protected import protected_of
from drivefs_agent.packages.scan import distributions
from drivefs_agent.python_packages import torch_cuda

__all__ = ["ImagePython", "image_distributions", "read_target"]


class ImagePython(Protocol):
    """What is asked of an ``Interpreter``."""

    @property
    def implementation(self) -> str: ...
    @property
    def minor(self) -> str: ...
    @property
    def abi(self) -> str: ...
    @property
    def machine(self) -> str: ...
    @property
    def libc(self) -> str: ...
    @property
    def sites(self) -> tuple[str, ...]: ...


def read_target(python: ImagePython, ask_gpus: Callable[[], GpuReport] = nvml.query) -> Target:
    """``python``: the image's, not a layer's.

    CUDA's major version is that of the image's torch, which everything compiled must agree with; only where there is no torch,
    the newest that the driver can do.
    """
    folders = [Path(site) for site in python.sites]
    image = protected_of(image_distributions(folders))
    return Target(
        implementation=python.implementation,
        minor=python.minor,
        abi=python.abi,
        machine=python.machine,
        libc=python.libc,
        cuda=_major(_torchs(folders) if "torch" in image else ask_gpus().cuda_driver),
        image=image,
    )


def image_distributions(sites: Iterable[Path]) -> dict[str, str]:
    """Normalised name to version, of what is installed in any of ``sites``; of two with one name, the one that is imported."""
    found: dict[str, str] = {}
    for site in sites:
        found = distributions(site) | found
    return found


def _torchs(sites: Iterable[Path]) -> str | None:
    return next((torch_cuda(site) for site in sites if (site / "torch").is_dir()), None)


def _major(version: str | None) -> str | None:
    return version.partition(".")[0] if version else None
