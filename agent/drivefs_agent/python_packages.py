"""Which Python, and which frameworks it holds, read from their metadata: importing torch takes seconds and a CUDA context.

The versions are those of the interpreter that runs this, which is the box's own only where drivefs is installed into it; so
another interpreter can be named.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final

from drivefs_agent.procfs import read

__all__ = ["Python", "read_python", "torch_cuda"]

_FRAMEWORKS: Final = (
    "torch", "torchvision", "torchaudio", "tensorflow", "keras", "jax", "jaxlib", "flax", "numpy", "scipy", "pandas",
    "scikit-learn", "transformers", "accelerate", "datasets", "diffusers", "triton", "xformers", "flash-attn", "vllm",
    "bitsandbytes", "deepspeed", "cupy-cuda12x", "cupy-cuda13x", "onnxruntime-gpu", "opencv-python", "jupyterlab", "notebook",
    "ipykernel",
)  # fmt: skip
# torch/version.py is generated, and its form is stable: cuda: Optional[str] = '12.8'
_TORCH_CUDA: Final = re.compile(r"^cuda\s*(?::[^=]*)?=\s*['\"]([\d.]+)['\"]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Python:
    """packages: the frameworks installed and their versions.  torch_cuda: what torch was built for; None: a CPU build, or none.

    cuda_runtime: the version of the CUDA toolkit or runtime library found, and cuda_runtime_source where: a path or a package.
    """

    version: str
    executable: str
    packages: Mapping[str, str] = field(default_factory=dict)
    torch_cuda: str | None = None
    cuda_runtime: str | None = None
    cuda_runtime_source: str | None = None


def read_python(root: Path = Path("/"), search: list[str] | None = None) -> Python:
    """``search``: directories of packages to look through in place of sys.path."""
    found = _distributions(search)
    runtime = _toolkit(root) or _runtime_package(found)
    return Python(
        version=platform.python_version(),
        executable=sys.executable,
        packages={name: found[name].version for name in _FRAMEWORKS if name in found},
        torch_cuda=torch_cuda(Path(str(found["torch"].locate_file("")))) if "torch" in found else None,
        cuda_runtime=runtime[0] if runtime else None,
        cuda_runtime_source=runtime[1] if runtime else None,
    )


def _distributions(search: list[str] | None) -> dict[str, metadata.Distribution]:
    """The wanted ones alone: a full scan of an image with hundreds of packages reads every one's metadata."""
    wanted = (
        *_FRAMEWORKS,
        "nvidia-cuda-runtime",
        "nvidia-cuda-runtime-cu13",
        "nvidia-cuda-runtime-cu12",
        "nvidia-cuda-runtime-cu11",
    )
    found = {}
    for name in wanted:
        distribution = next(iter(metadata.distributions(name=name, path=sys.path if search is None else search)), None)
        if distribution is not None:
            found[name] = distribution
    return found


def torch_cuda(site: Path) -> str | None:
    """The CUDA ("12.8") that the torch in a directory of packages was built for; None: a build without, or no torch."""
    match = _TORCH_CUDA.search(read(site / "torch" / "version.py") or "")
    return match[1] if match else None


def _toolkit(root: Path) -> tuple[str, str] | None:
    """The toolkit that programs are compiled with: $CUDA_HOME, /usr/local/cuda, or wherever nvcc lies."""
    compiler = shutil.which("nvcc") if root == Path("/") else None
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda", str(Path(compiler).resolve().parents[1]) if compiler else None]
    for home in filter(None, homes):
        path = root / home.lstrip("/") / "version.json"
        try:
            version = json.loads(read(path) or "{}")["cuda"]["version"]
        except (ValueError, KeyError, TypeError):
            continue
        return str(version), f"{home}/version.json"
    return None


def _runtime_package(found: Mapping[str, metadata.Distribution]) -> tuple[str, str] | None:
    for name, distribution in found.items():
        if name.startswith("nvidia-cuda-runtime"):
            return distribution.version, name
    return None
