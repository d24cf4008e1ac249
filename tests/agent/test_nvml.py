"""The GPU report against the real pynvml bindings, with a driver library of our own making beneath them.

pynvml calls ``nvmlLib.NAME(arguments)`` and reads results from the objects it passed by reference; so a plain Python object
in place of the loaded library is enough to play any driver, and a method it lacks is a symbol the driver lacks.
"""

from __future__ import annotations

import ctypes
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import pynvml
import pytest

from drivefs_agent import cgroup, host, nvml, specs

SUCCESS = 0
GIB = 1 << 30


@dataclass
class FakeDriver:
    """A driver library: ``cards`` of one kind; per function name, or (name, index), the error it answers with."""

    cards: int = 2
    errors: dict[str | tuple[str, int], int] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    shutdowns: int = 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name in self.absent or not name.startswith("nvml"):
            raise AttributeError(name)
        answer: Callable[..., None] | None = getattr(type(self), f"answer_{name}", None)
        if answer is None:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            index = self._index_of(arguments[0]) if name.startswith("nvmlDevice") and arguments else -1
            error = self.errors.get(name) or self.errors.get((name, index))
            if error is None:
                answer(self, *arguments)
            return SUCCESS if error is None else error

        return call

    @staticmethod
    def _index_of(argument: Any) -> int:
        """The card meant: by index, or by a handle, which here points at address index + 1."""
        if isinstance(argument, ctypes.c_uint):
            return argument.value
        if isinstance(argument, ctypes._Pointer):
            return ctypes.cast(argument, ctypes.c_void_p).value - 1  # type: ignore[operator]
        return -1

    def answer_nvmlInitWithFlags(self, flags: int) -> None:  # noqa: N802
        assert flags == 0

    def answer_nvmlShutdown(self) -> None:  # noqa: N802
        self.shutdowns += 1

    def answer_nvmlSystemGetDriverVersion(self, buffer: Any, length: Any) -> None:  # noqa: N802
        buffer.value = b"580.95.05"

    def answer_nvmlSystemGetCudaDriverVersion_v2(self, out: Any) -> None:  # noqa: N802
        out._obj.value = 12040

    def answer_nvmlDeviceGetCount_v2(self, out: Any) -> None:  # noqa: N802
        out._obj.value = self.cards

    def answer_nvmlDeviceGetHandleByIndex_v2(self, index: Any, out: Any) -> None:  # noqa: N802
        ctypes.cast(out, ctypes.POINTER(ctypes.c_void_p))[0] = index.value + 1

    def answer_nvmlDeviceGetName(self, handle: Any, buffer: Any, length: Any) -> None:  # noqa: N802
        buffer.value = b"NVIDIA H200"

    def answer_nvmlDeviceGetUUID(self, handle: Any, buffer: Any, length: Any) -> None:  # noqa: N802
        buffer.value = b"GPU-%d" % self._index_of(handle)

    def answer_nvmlDeviceGetMemoryInfo_v2(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.total, out._obj.reserved, out._obj.used, out._obj.free = 140 * GIB, GIB, 3 * GIB, 136 * GIB

    def answer_nvmlDeviceGetMemoryInfo(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.total, out._obj.used, out._obj.free = 140 * GIB, 4 * GIB, 136 * GIB

    def answer_nvmlDeviceGetUtilizationRates(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.gpu, out._obj.memory = 37, 12

    def answer_nvmlDeviceGetTemperature(self, handle: Any, sensor: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 41

    def answer_nvmlDeviceGetPowerUsage(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 123_400

    def answer_nvmlDeviceGetEnforcedPowerLimit(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 700_000


def query_with(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> nvml.GpuReport:
    monkeypatch.setattr(pynvml, "nvmlLib", driver)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return nvml.query()


def as_json(report: nvml.GpuReport) -> dict[str, Any]:
    return specs.to_json(make_specs(report))


def make_specs(report: nvml.GpuReport) -> specs.Specs:
    return specs.Specs(
        time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        system=host.System("box", "Debian", "Linux 6", 60),
        cpu=host.Cpu("CPU", "x86_64", 1, 1, 2, None, (0.0, 0.0, 0.0)),
        memory=host.Memory(4 * GIB, GIB),
        disks=(),
        gpus=report,
        limits=cgroup.Limits(),
        python_version="3.11",
        python_executable="/usr/bin/python3",
    )


def test_two_gpus_report_every_field_in_base_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Percent becomes a ratio, milliwatts become watts, 12040 becomes CUDA 12.4; and NVML is ended afterwards."""
    driver = FakeDriver()
    report = query_with(monkeypatch, driver)
    first = nvml.Gpu(
        index=0,
        uuid="GPU-0",
        name="NVIDIA H200",
        memory_total=140 * GIB,
        memory_used=3 * GIB,
        memory_reserved=GIB,
        utilization=0.37,
        memory_utilization=0.12,
        temperature_celsius=41,
        power_watts=123.4,
        power_limit_watts=700.0,
    )
    assert (report.driver, report.cuda_driver, report.error, report.na) == ("580.95.05", "12.4", None, {})
    assert report.gpus[0] == first
    assert [gpu.uuid for gpu in report.gpus] == ["GPU-0", "GPU-1"]
    assert driver.shutdowns == 1


def test_text_and_json_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What NVML told reaches both the terminal and the JSON reader."""
    report = query_with(monkeypatch, FakeDriver(cards=1))
    assert as_json(report)["gpus"][0]["memory"] == {
        "total_bytes": 140 * GIB,
        "used_bytes": 3 * GIB,
        "reserved_bytes": GIB,
    }
    text = specs.render(make_specs(report))
    assert "GPU 0    NVIDIA H200 · 3.0 GiB of 140.0 GiB used · 37 % busy · 41 °C · 123 W of 700 W" in text
    assert "Driver   NVIDIA 580.95.05, for CUDA up to 12.4" in text


@pytest.mark.parametrize("where", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetTemperature"])
def test_one_lost_gpu_does_not_silence_the_other(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """A card that fell off the bus carries an error, whichever call notices; the other card is complete."""
    driver = FakeDriver(errors={(where, 0): pynvml.NVML_ERROR_GPU_IS_LOST})
    report = query_with(monkeypatch, driver)
    lost, well = report.gpus
    assert lost.error is not None
    assert lost.error.code == "gpu_is_lost"
    assert (lost.index, lost.memory_used) == (0, None)
    assert (well.error, well.na, well.temperature_celsius) == (None, {}, 41)
    assert "fallen off the bus" in specs.render(make_specs(report))


def test_a_field_the_card_lacks_is_null_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not supported is null and a reason, never 0; every other field stays."""
    missing = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates")
    report = query_with(monkeypatch, FakeDriver(1, dict.fromkeys(missing, pynvml.NVML_ERROR_NOT_SUPPORTED)))
    gpu = as_json(report)["gpus"][0]
    assert (gpu["power_w"], gpu["utilization"], gpu["memory_utilization"]) == (None, None, None)
    assert gpu["na"] == {"power_w": "not_supported", "utilization": "not_supported"}
    assert (gpu["temperature_c"], gpu["error"]) == (41, None)
    assert "N/A · 41 °C · N/A of 700 W" in specs.render(make_specs(report))


def test_an_old_driver_without_newer_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver lacks version 2 of the memory call, version 1 answers, and what it cannot tell is None."""
    absent = frozenset({"nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetEnforcedPowerLimit"})
    gpu = query_with(monkeypatch, FakeDriver(1, absent=absent)).gpus[0]
    assert (gpu.memory_total, gpu.memory_used, gpu.memory_reserved) == (140 * GIB, 4 * GIB, None)
    assert gpu.na == {"power_limit_w": "function_not_found"}


@pytest.mark.parametrize(
    ("error", "code", "advice"),
    [
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "lib_rm_version_mismatch", "Reboot"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "driver_not_loaded", "modprobe nvidia"),
        (pynvml.NVML_ERROR_UNKNOWN, "unknown", "Restart the container"),
        (pynvml.NVML_ERROR_TIMEOUT, "timeout", "nvidia-smi"),
    ],
)
def test_a_driver_that_will_not_start(monkeypatch: pytest.MonkeyPatch, error: int, code: str, advice: str) -> None:
    """NVML refusing to begin is an empty report with NVML's word and what to do next."""
    report = query_with(monkeypatch, FakeDriver(errors={"nvmlInitWithFlags": error}))
    assert report.gpus == ()
    assert report.error is not None
    assert report.error.code == code
    assert advice in report.error.message


def test_the_number_of_cards_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure after the start is reported the same way, and NVML is still ended."""
    driver = FakeDriver(errors={"nvmlDeviceGetCount_v2": pynvml.NVML_ERROR_NO_PERMISSION})
    report = query_with(monkeypatch, driver)
    assert report.error is not None
    assert (report.error.code, driver.shutdowns) == ("no_permission", 1)


def test_no_driver_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A box without libnvidia-ml.so.1 has ``gpus: []`` and a reason; the loader itself is asked, for a name it lacks."""
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})

    def no_such_library(name: str) -> None:
        assert name == "libnvidia-ml.so.1"
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "CDLL", no_such_library)
    values = as_json(nvml.query())
    assert values["gpus"] == []
    assert values["gpu_error"]["code"] == "library_not_found"
    assert values["gpu_driver"] == {"version": None, "cuda": None, "na": {}}


def test_bindings_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nvidia-ml-py the report says what to install."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    error = nvml.query().error
    assert error is not None
    assert (error.code, "pip install nvidia-ml-py" in error.message) == ("nvidia_ml_py_missing", True)


def test_an_impostor_named_pynvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unmaintained ``pynvml`` distribution hides nvidia-ml-py under the same import name; it is recognised, not used."""
    monkeypatch.setitem(sys.modules, "pynvml", types.ModuleType("pynvml"))
    error = nvml.query().error
    assert error is not None
    assert (error.code, "pip uninstall pynvml" in error.message) == ("wrong_pynvml", True)
