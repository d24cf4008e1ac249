"""Versions read from packages' metadata, without importing them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from drivefs_agent.python_packages import read_python
from tests.agent.boxes import write


def add(site: Path, name: str, version: str) -> None:
    write(site, f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_frameworks_are_found_without_being_imported(tmp_path: Path) -> None:
    """torch's version and what it was built for are known, and its code was not run."""
    add(tmp_path, "torch", "2.13.0+cu128")
    write(tmp_path, "torch/__init__.py", "raise SystemExit('imported')")
    write(tmp_path, "torch/version.py", "__version__ = '2.13.0+cu128'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n")
    add(tmp_path, "numpy", "2.4.6")
    add(tmp_path, "left_pad", "1.0")
    python = read_python(tmp_path, [str(tmp_path)])
    assert python.packages == {"torch": "2.13.0+cu128", "numpy": "2.4.6"}
    assert (python.torch_cuda, python.executable) == ("12.8", sys.executable)
    assert "torch" not in sys.modules


def test_a_build_without_cuda(tmp_path: Path) -> None:
    """``cuda = None`` is a build for the processor."""
    add(tmp_path, "torch", "2.13.0+cpu")
    write(tmp_path, "torch/version.py", "cuda: Optional[str] = None\n")
    assert read_python(tmp_path, [str(tmp_path)]).torch_cuda is None


def test_the_toolkit_comes_before_the_runtime_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are compiled with the toolkit where there is one; else the library that came by pip is the runtime."""
    monkeypatch.delenv("CUDA_HOME", raising=False)
    add(tmp_path, "nvidia_cuda_runtime_cu12", "12.8.90")
    python = read_python(tmp_path, [str(tmp_path)])
    assert (python.cuda_runtime, python.cuda_runtime_source) == ("12.8.90", "nvidia-cuda-runtime-cu12")
    write(tmp_path, "usr/local/cuda/version.json", '{"cuda": {"name": "CUDA SDK", "version": "13.0.1"}}')
    python = read_python(tmp_path, [str(tmp_path)])
    assert (python.cuda_runtime, python.cuda_runtime_source) == ("13.0.1", "/usr/local/cuda/version.json")
