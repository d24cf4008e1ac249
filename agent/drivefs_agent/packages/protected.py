"""Which distributions belong to the image: its torch and the like, built for its driver, and gigabytes in size.

What the image has of these is never replaced, downloaded again or removed by us, whatever asks for it. What the image lacks may
be installed into the layer like anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final

from drivefs_agent.packages.model import normalised

__all__ = ["PATTERNS", "is_protected", "protected_of"]

# The frameworks that are built for one CUDA, with their companions of the same build, and NVIDIA's libraries below them.
# Not "jax*", "torch*" or "nvidia-*": jaxtyping, torchmetrics and nvidia-ml-py are packages like any other.
PATTERNS: Final = (
    "torch", "torchvision", "torchaudio", "torchtext", "torch-xla", "triton", "pytorch-triton*",
    "jax", "jaxlib", "jax-cuda*", "jax-rocm*",
    "tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tensorflow-rocm", "tf-nightly", "tf-nightly-cpu", "tf-nightly-gpu",
    "nvidia-cu*", "nvidia-nccl*", "nvidia-nv*", "nvidia-*-cu1?",
)  # fmt: skip


def is_protected(name: str) -> bool:
    """``name``: a distribution's, in any spelling."""
    plain = normalised(name)
    return any(fnmatchcase(plain, pattern) for pattern in PATTERNS)


def protected_of(distributions: Mapping[str, str]) -> dict[str, str]:
    """Those of ``distributions`` (normalised name to version) that are protected, by name."""
    return {name: version for name, version in sorted(distributions.items()) if is_protected(name)}
