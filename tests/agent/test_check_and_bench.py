"""``check gpu`` and ``bench gpu`` with frameworks of our own making: packages named torch and tensorflow in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drivefs_agent.bench import BenchError, Timing, bench_gpu
from drivefs_agent.check import check_gpu
from drivefs_agent.frameworks import Broken
from drivefs_agent.gpu import Fault, Gpu, GpuReport
from tests.agent.boxes import write

# Each plays the part of the interface that is used, and writes down on which device it was asked to work.
TORCH = """
import contextlib, os, time
__version__ = "2.13.0"
class version: cuda = {cuda!r}
class cuda:
    is_available = staticmethod(lambda: {available})
class Tensor:
    def __init__(self, shape, device): self.shape, self.device = shape, device
    def sum(self): return self
    def item(self): return 1.0
def randn(*shape, device): return Tensor(shape, device)
no_grad = contextlib.nullcontext
class nn:
    class functional:
        @staticmethod
        def conv2d(images, filters, padding):
            assert (images.shape, filters.shape, padding) == ((100, 3, 100, 100), (32, 3, 7, 7), "same")
            assert images.device == filters.device
            time.sleep(0.02 if images.device == "cpu" else 0.001)
            return images
"""
TENSORFLOW = """
import contextlib, time
__version__ = "2.20.0"
here = []
class test:
    gpu_device_name = staticmethod(lambda: {device!r})
    is_built_with_cuda = staticmethod(lambda: {built})
@contextlib.contextmanager
def device(name):
    here.append(name)
    yield
    here.pop()
class random:
    @staticmethod
    def normal(shape): return shape
class nn:
    @staticmethod
    def conv2d(images, filters, strides, padding):
        assert (images, filters, strides, padding) == ((100, 100, 100, 3), (7, 7, 3, 32), 1, "SAME")
        time.sleep(0.02 if "CPU" in here[-1] else 0.001)
        return 1.0
reduce_sum = float
"""


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error; the packages in ``folder`` come first."""
    command = [sys.executable, "-c", "from drivefs_agent.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    return finished.returncode, finished.stdout, finished.stderr


def torch(folder: Path, *, cuda: str | None = "12.8", available: bool = True) -> None:
    write(folder, "torch/__init__.py", TORCH.format(cuda=cuda, available=available))


def tensorflow(folder: Path, *, device: str = "/device:GPU:0", built: bool = True) -> None:
    write(folder, "tensorflow/__init__.py", TENSORFLOW.format(device=device, built=built))


def test_tensorflow_is_asked_first(tmp_path: Path) -> None:
    """The notebook's line, word for word, when both frameworks see the card."""
    tensorflow(tmp_path)
    torch(tmp_path)
    assert run(tmp_path, "check", "gpu") == (0, "Found GPU at: /device:GPU:0\nSeen by TensorFlow 2.20.0.\n", "")


def test_torch_is_asked_where_tensorflow_sees_nothing(tmp_path: Path) -> None:
    """A TensorFlow for the processor does not hide the card that PyTorch can use."""
    tensorflow(tmp_path, device="", built=False)
    torch(tmp_path)
    assert run(tmp_path, "check", "gpu") == (0, "Found GPU at: cuda:0\nSeen by PyTorch 2.13.0.\n", "")


def test_no_framework_sees_a_gpu(tmp_path: Path) -> None:
    """Exit code 1, the notebook's words, and for each framework why."""
    tensorflow(tmp_path, device="", built=False)
    torch(tmp_path, cuda=None, available=False)
    code, out, err = run(tmp_path, "check", "gpu")
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert lines[:3] == [
        "GPU device not found",
        "TensorFlow 2.20.0 sees no GPU: this TensorFlow is built without CUDA.",
        "PyTorch 2.13.0 sees no GPU: this PyTorch is built without CUDA.",
    ]


def test_a_framework_that_cannot_be_imported_is_told(tmp_path: Path) -> None:
    """Installed and broken is not the same as absent, and the next one is asked."""
    write(tmp_path, "tensorflow/__init__.py", "raise ImportError('libcudart.so.12: cannot open shared object file')")
    torch(tmp_path)
    assert run(tmp_path, "check", "gpu")[:2] == (0, "Found GPU at: cuda:0\nSeen by PyTorch 2.13.0.\n")
    torch(tmp_path, available=False)
    _, _, err = run(tmp_path, "check", "gpu")
    assert "TensorFlow is installed but cannot be imported: ImportError: libcudart.so.12" in err


def test_a_card_that_only_the_driver_sees_is_of_no_use_to_a_framework() -> None:
    """An installed framework that cannot use the card is a failed check, with what to install."""
    report = GpuReport((Gpu(0, name="NVIDIA H200"),), cuda_driver="13.0")
    verdict = check_gpu(lambda: [Broken("PyTorch", "OSError: x")], lambda: report)
    assert verdict.device is None
    assert verdict.text.splitlines()[-1] == "The driver shows NVIDIA H200: install a build for CUDA 13.0."
    assert check_gpu(lambda: [], lambda: report).device == "GPU 0"


def test_only_a_lost_card() -> None:
    """A card that fell off the bus is not found, and its own advice is shown."""
    report = GpuReport((Gpu(0, error=Fault("gpu_is_lost", "Reboot.")),))
    assert check_gpu(lambda: [], lambda: report).text == "GPU device not found\nReboot."


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_the_benchmark_prints_the_notebooks_line(tmp_path: Path, framework: str) -> None:
    """Ten runs on each device after one to warm up, with the notebook's shapes; the last line is the notebook's."""
    if framework == "torch":
        torch(tmp_path)
        write(tmp_path, "tensorflow/__init__.py", "raise ImportError('not here')")
    else:
        tensorflow(tmp_path)
    code, out, err = run(tmp_path, "bench", "gpu")
    assert (code, err) == (0, "")
    *_, cpu, gpu, last = out.splitlines()
    seconds = float(cpu.removeprefix("CPU: ")), float(gpu.removeprefix("GPU: ").split()[0])
    assert seconds[0] >= 0.2  # ten sleeps of 20 ms
    assert 0.01 <= seconds[1] < seconds[0]
    assert last.startswith("GPU speedup over CPU: ")
    assert last.endswith("x")
    assert int(last.removeprefix("GPU speedup over CPU: ")[:-1]) >= 1


def test_the_benchmark_without_a_gpu(tmp_path: Path) -> None:
    """A framework without a card: exit code 1, and where to look."""
    torch(tmp_path, available=False)
    code, out, err = run(tmp_path, "bench", "gpu")
    assert (code, out) == (1, "")
    assert err.startswith("GPU device not found. ")
    assert "drivefs-agent check gpu" in err


def test_the_benchmark_without_a_framework() -> None:
    """Neither framework: said so, with how to get one."""
    with pytest.raises(
        BenchError, match=r"needs TensorFlow or PyTorch, and neither is installed here. Install one: pip install torch"
    ):
        bench_gpu(lambda: [])


def test_the_speedup_is_whole_times() -> None:
    """Rounded down, as the notebook prints it."""
    assert Timing("PyTorch 2", "cuda:0", 3.99, 1.0).text.endswith("GPU speedup over CPU: 3x")
