"""TensorFlow and PyTorch as far as a check and a benchmark need them: is there a GPU, and a convolution on a given device.

Neither is required; a framework that is installed and cannot be imported (a CUDA library is missing, say) is told apart from
one that is absent.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

__all__ = ["Broken", "Framework", "TensorFlow", "Torch", "installed"]

# The image and filter of Colab's own notebook about GPUs: a batch of 100 images of 100 x 100 in 3 colours, 32 filters of 7 x 7.
BATCH, SIDE, COLOURS, FILTERS, KERNEL = 100, 100, 3, 32, 7


class Framework(Protocol):
    """One imported framework."""

    version: str

    @property
    def name(self) -> str: ...

    @property
    def cpu(self) -> str:
        """The processor, as a device."""

    def gpu(self) -> str | None:
        """The first GPU as the framework writes it ("/device:GPU:0", "cuda:0"), or None."""

    def why_not(self) -> str:
        """Why ``gpu`` is None, as far as the framework tells; empty where it does not."""

    def convolution(self, device: str) -> Callable[[], float]:
        """A function that convolves random images on ``device`` once, waits until that is done, and gives the sum."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A framework that is installed and cannot be imported."""

    name: str
    reason: str


class TensorFlow:
    name: Final = "TensorFlow"
    cpu: Final = "/device:CPU:0"

    def __init__(self, module: Any) -> None:
        self._tf = module
        self.version = str(module.__version__)

    def gpu(self) -> str | None:
        return str(self._tf.test.gpu_device_name()) or None

    def why_not(self) -> str:
        return "" if self._tf.test.is_built_with_cuda() else "this TensorFlow is built without CUDA"

    def convolution(self, device: str) -> Callable[[], float]:
        tf = self._tf
        with tf.device(device):
            images = tf.random.normal((BATCH, SIDE, SIDE, COLOURS))
            filters = tf.random.normal((KERNEL, KERNEL, COLOURS, FILTERS))

        def once() -> float:
            with tf.device(device):
                # To a number of Python's: TensorFlow answers before the device has finished.
                return float(tf.reduce_sum(tf.nn.conv2d(images, filters, strides=1, padding="SAME")))

        return once


class Torch:
    name: Final = "PyTorch"
    cpu: Final = "cpu"

    def __init__(self, module: Any) -> None:
        self._torch = module
        self.version = str(module.__version__)

    def gpu(self) -> str | None:
        return "cuda:0" if self._torch.cuda.is_available() else None

    def why_not(self) -> str:
        return "" if self._torch.version.cuda else "this PyTorch is built without CUDA"

    def convolution(self, device: str) -> Callable[[], float]:
        torch = self._torch
        images = torch.randn(BATCH, COLOURS, SIDE, SIDE, device=device)
        filters = torch.randn(FILTERS, COLOURS, KERNEL, KERNEL, device=device)

        def once() -> float:
            with torch.no_grad():
                # item() waits for the device: kernels are only queued until then.
                return float(torch.nn.functional.conv2d(images, filters, padding="same").sum().item())

        return once


def installed() -> Iterator[Framework | Broken]:
    """TensorFlow first, then PyTorch, each imported only when asked for: an import takes seconds."""
    kinds: tuple[tuple[str, type[TensorFlow | Torch]], ...] = (("tensorflow", TensorFlow), ("torch", Torch))
    for module, kind in kinds:
        if importlib.util.find_spec(module) is None:
            continue
        # TensorFlow tells its whole start on standard error otherwise.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            imported = kind(importlib.import_module(module))
        except (ImportError, OSError, AttributeError) as error:
            yield Broken(kind.name, f"{type(error).__name__}: {error}")
        else:
            yield imported
