"""What a layer is for: this Python, on this box, with what its image brings along."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

from drivefs_agent import nvml
from drivefs_agent.gpu import GpuReport
from drivefs_agent.packages.model import Target, normalised
from drivefs_agent.packages.protected import protected_of
from drivefs_agent.procfs import read
from drivefs_agent.python_packages import torch_cuda

__all__ = ["ImagePython", "image_distributions", "read_target"]

# Source: PyPA specifications, "Recording installed projects"; setuptools, "The Internal Structure of Python Eggs".
# What begins with "~" is left of an installation that broke off.
_INSTALLED: Final = re.compile(r"(?P<name>[A-Za-z0-9][^-]*)(?:-(?P<version>[^-]+)(?:-py[\d.]+)?)?\.(?:dist|egg)-info")
_VERSION: Final = re.compile(r"^Version:\s*(\S+)", re.MULTILINE)


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
    def purelib(self) -> str: ...


def read_target(
    python: ImagePython, sites: Iterable[Path] | None = None, ask_gpus: Callable[[], GpuReport] = nvml.query
) -> Target:
    """``python``: the image's, not a layer's.  sites: where the image's packages lie, the first to be imported first.

    CUDA's major version is that of the image's torch, which everything compiled must agree with; only where there is no torch,
    the newest that the driver can do.
    """
    folders = [Path(python.purelib)] if sites is None else list(sites)
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
    """Normalised name to version, as the names of their folders tell: reading the metadata of hundreds would take long."""
    found: dict[str, str] = {}
    for site in sites:
        for path in sorted(site.glob("*-info")):
            match = _INSTALLED.fullmatch(path.name)
            if match is not None:
                found.setdefault(normalised(match["name"]), match["version"] or _written(path))
    return found


def _written(path: Path) -> str:
    """Of a folder that does not name its version, as those in a source tree."""
    match = _VERSION.search(read(path / "PKG-INFO") or read(path / "METADATA") or "")
    return match[1] if match else ""


def _torchs(sites: Iterable[Path]) -> str | None:
    return next((torch_cuda(site) for site in sites if (site / "torch").is_dir()), None)


def _major(version: str | None) -> str | None:
    return version.partition(".")[0] if version else None
