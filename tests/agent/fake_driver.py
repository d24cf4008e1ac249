"""An NVIDIA driver library made of Python, beneath the real pynvml bindings.

pynvml calls ``nvmlLib.NAME(arguments)`` and reads results from the objects it passed by reference; so a plain Python object
in place of the loaded library is enough to play any driver, and a method it lacks is a symbol the driver lacks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pynvml
import pytest

SUCCESS = 0
GIB = 1 << 30
MIG_NAME = b"NVIDIA H200 MIG 1g.18gb"
_MIG_BASE = 1000  # a slice's handle: 1000 * (card + 1) + place + 1


@dataclass
class FakeDriver:
    """``cards`` of one kind; per function name, or (name, index), the error it answers with.

    ``slices``: with MIG on, how many of the seven places are taken.  gpm: busy percentages that GPM tells, look by look.
    ``processes``: (pid, bytes) on every card; None for bytes is the driver's "not available".
    """

    cards: int = 2
    errors: dict[str | tuple[str, int], int] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    name: bytes = b"NVIDIA H200"
    slices: int | None = None
    slice_name: bytes = MIG_NAME
    gpm: bool = False
    gpm_busy: float = 62.5
    throttle: int = 0x1
    processes: tuple[tuple[int, int | None], ...] = ()
    starts: int = 0
    shutdowns: int = 0
    samples: set[int] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    _next_sample: int = 1

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        self.asked.append(name)
        answer: Callable[..., int | None] | None = getattr(type(self), f"answer_{name}", None)
        if name in self.absent or answer is None:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            index = self._index_of(arguments[0]) if name.startswith("nvmlDevice") and arguments else -1
            error = self.errors.get(name) or self.errors.get((name, index))
            return (answer(self, *arguments) or SUCCESS) if error is None else error

        return call

    @staticmethod
    def _index_of(argument: Any) -> int:
        """The card meant: by index, or by a handle, which here points at address index + 1."""
        if isinstance(argument, ctypes.c_uint):
            return argument.value
        address = ctypes.cast(argument, ctypes.c_void_p).value if isinstance(argument, ctypes._Pointer) else None
        return -1 if address is None else address - 1

    def _is_slice(self, handle: Any) -> bool:
        return self._index_of(handle) >= _MIG_BASE

    def answer_nvmlInitWithFlags(self, flags: int) -> None:  # noqa: N802
        assert flags == 0
        self.starts += 1

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
        buffer.value = self.slice_name if self._is_slice(handle) else self.name

    def answer_nvmlDeviceGetUUID(self, handle: Any, buffer: Any, length: Any) -> None:  # noqa: N802
        index = self._index_of(handle)
        buffer.value = b"MIG-%d" % (index % _MIG_BASE) if self._is_slice(handle) else b"GPU-%d" % index

    def answer_nvmlDeviceGetPciInfo_v3(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.busId = b"00000000:%02X:00.0" % (self._index_of(handle) + 1)

    def answer_nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> None:  # noqa: N802
        major._obj.value, minor._obj.value = 9, 0

    def answer_nvmlDeviceGetArchitecture(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 9

    def answer_nvmlDeviceGetMemoryInfo_v2(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.total, out._obj.reserved, out._obj.used, out._obj.free = 140 * GIB, GIB, 3 * GIB, 136 * GIB

    def answer_nvmlDeviceGetMemoryInfo(self, handle: Any, out: Any) -> None:  # noqa: N802
        if self._is_slice(handle):
            out._obj.total, out._obj.used, out._obj.free = 18 * GIB, 2 * GIB, 16 * GIB
        else:
            out._obj.total, out._obj.used, out._obj.free = 140 * GIB, 4 * GIB, 136 * GIB

    def answer_nvmlDeviceGetUtilizationRates(self, handle: Any, out: Any) -> int | None:  # noqa: N802
        if self.slices is not None:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        out._obj.gpu, out._obj.memory = 37, 12
        return None

    def answer_nvmlDeviceGetTemperature(self, handle: Any, sensor: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 41

    def answer_nvmlDeviceGetPowerUsage(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 123_400

    def answer_nvmlDeviceGetEnforcedPowerLimit(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 700_000

    def answer_nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 5_000_500

    def answer_nvmlDeviceGetNumFans(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 2

    def answer_nvmlDeviceGetFanSpeed_v2(self, handle: Any, fan: int, out: Any) -> None:  # noqa: N802
        out._obj.value = (30, 45)[fan]

    def answer_nvmlDeviceGetClockInfo(self, handle: Any, kind: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = {pynvml.NVML_CLOCK_SM: 1755, pynvml.NVML_CLOCK_MEM: 3201}[kind.value]

    def answer_nvmlDeviceGetMaxClockInfo(self, handle: Any, kind: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 1980

    def answer_nvmlDeviceGetPerformanceState(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 0

    def answer_nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = self.throttle

    def answer_nvmlDeviceGetEccMode(self, handle: Any, current: Any, pending: Any) -> None:  # noqa: N802
        current._obj.value = pending._obj.value = 1

    def answer_nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: Any, counter: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = {0: 7, 1: 1}[kind.value]

    def answer_nvmlDeviceGetRemappedRows(self, handle: Any, *outs: Any) -> None:  # noqa: N802
        for out, value in zip(outs, (2, 1, 1, 0), strict=True):
            out._obj.value = value

    def answer_nvmlDeviceGetCurrPcieLinkGeneration(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 5

    def answer_nvmlDeviceGetCurrPcieLinkWidth(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 16

    def answer_nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Any, count: Any, into: Any) -> int | None:  # noqa: N802
        count._obj.value = len(self.processes)
        if into is None:
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE) if self.processes else None
        for place, (pid, used) in enumerate(self.processes):
            into[place].pid = pid
            into[place].usedGpuMemory = pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value if used is None else used
        return None

    def answer_nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle: Any, count: Any, into: Any) -> None:  # noqa: N802
        count._obj.value = 0

    def answer_nvmlDeviceGetMigMode(self, handle: Any, current: Any, pending: Any) -> None:  # noqa: N802
        current._obj.value = pending._obj.value = int(self.slices is not None)

    def answer_nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 7

    def answer_nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, place: Any, out: Any) -> int | None:  # noqa: N802
        if place.value >= (self.slices or 0):
            return int(pynvml.NVML_ERROR_NOT_FOUND)
        address = _MIG_BASE * (self._index_of(handle) + 1) + place.value + 1
        ctypes.cast(out, ctypes.POINTER(ctypes.c_void_p))[0] = address
        return None

    def answer_nvmlDeviceGetGpuInstanceId(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 7 + self._index_of(handle) % _MIG_BASE

    def answer_nvmlDeviceGetComputeInstanceId(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.value = 0

    def answer_nvmlDeviceGetAttributes_v2(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.gpuInstanceSliceCount, out._obj.computeInstanceSliceCount = 2, 1
        out._obj.memorySizeMB = 33280

    def answer_nvmlGpmQueryDeviceSupport(self, handle: Any, out: Any) -> None:  # noqa: N802
        out._obj.isSupportedDevice = int(self.gpm)

    def answer_nvmlGpmSampleAlloc(self, out: Any) -> None:  # noqa: N802
        ctypes.cast(out, ctypes.POINTER(ctypes.c_void_p))[0] = self._next_sample
        self.samples.add(self._next_sample)
        self._next_sample += 1

    def answer_nvmlGpmSampleGet(self, handle: Any, sample: Any) -> None:  # noqa: N802
        assert self._index_of(sample) + 1 in self.samples

    def answer_nvmlGpmMigSampleGet(self, handle: Any, instance: Any, sample: Any) -> None:  # noqa: N802
        assert self._index_of(sample) + 1 in self.samples
        assert instance.value >= 7

    def answer_nvmlGpmSampleFree(self, sample: Any) -> None:  # noqa: N802
        self.samples.remove(self._index_of(sample) + 1)

    def answer_nvmlGpmMetricsGet(self, out: Any) -> None:  # noqa: N802
        request = out._obj
        assert (request.version, request.numMetrics, request.metrics[0].metricId) == (1, 1, 1)
        assert {self._index_of(request.sample1) + 1, self._index_of(request.sample2) + 1} <= self.samples
        request.metrics[0].value, request.metrics[0].nvmlReturn = self.gpm_busy, SUCCESS


def install(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> FakeDriver:
    """Put ``driver`` where pynvml keeps the library it has loaded."""
    monkeypatch.setattr(pynvml, "nvmlLib", driver)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return driver
