"""What a layer is for, read from folders made up for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from drivefs_agent.gpu import GpuReport
from drivefs_agent.packages.model import Target
from drivefs_agent.packages.target import read_target
from tests.agent.boxes import write


@dataclass(frozen=True)
class Python:
    sites: tuple[str, ...]
    implementation: str = "cp"
    minor: str = "3.13"
    abi: str = "t"
    machine: str = "aarch64"
    libc: str = "glibc-2.39"


def add(site: Path, name: str, version: str) -> None:
    write(site, f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def no_driver() -> GpuReport:
    return GpuReport()


def never() -> GpuReport:
    raise AssertionError("the driver was asked, though torch says what it is for")


@pytest.mark.parametrize(("said", "expected"), [("'12.8'", "12"), ("'13.0'", "13"), ("None", None)])
def test_the_images_torch_says_which_cuda(tmp_path: Path, said: str, expected: str | None) -> None:
    """It is what all that is compiled must agree with, whatever newer the driver could do; also where it is none."""
    add(tmp_path, "torch", "2.13.0+cu128")
    add(tmp_path, "numpy", "2.4.6")
    add(tmp_path, "nvidia_cublas_cu12", "12.8.4.1")
    write(tmp_path, "torch/version.py", f"__version__ = '2.13.0'\ncuda: Optional[str] = {said}\nhip: Optional[str] = None\n")
    target = read_target(Python((str(tmp_path),)), ask_gpus=never)
    image = {"torch": "2.13.0+cu128", "nvidia-cublas-cu12": "12.8.4.1"}
    assert target == Target("cp", "3.13", "t", "aarch64", "glibc-2.39", expected, image)
    assert target.line == "cp313t-aarch64"


def test_without_torch_the_driver_says_which_cuda(tmp_path: Path) -> None:
    """The newest that it can do; and nothing on a box without one."""
    assert read_target(Python((str(tmp_path),)), ask_gpus=lambda: GpuReport(cuda_driver="12.4")).cuda == "12"
    assert read_target(Python((str(tmp_path),)), ask_gpus=no_driver).cuda is None


def test_what_is_imported_first_counts(tmp_path: Path) -> None:
    """Where an image has torch twice; a directory that is not there holds nothing."""
    first, second = tmp_path / "first", tmp_path / "second"
    add(first, "torch", "2.7.0")
    add(second, "torch", "2.5.0")
    add(second, "triton", "3.1")
    write(first, "torch/version.py", "cuda: Optional[str] = '13.0'\n")
    write(second, "torch/version.py", "cuda: Optional[str] = '12.4'\n")
    target = read_target(Python((str(tmp_path / "absent"), str(first), str(second))), never)
    assert (target.image, target.cuda) == ({"torch": "2.7.0", "triton": "3.1"}, "13")
