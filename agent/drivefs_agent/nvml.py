"""The only door to NVML, NVIDIA's management library: what the GPUs say of themselves, right now.

Nothing here raises because of a GPU. A value that cannot be had is None, and ``na`` says why in NVML's own word
(``not_supported``); a card that is lost carries an error while the others still report; no library at all is an empty
report with an error. Values come from NVML itself and not from parsing nvidia-smi, whose text changes with the driver.

Source: https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, TypeVar

__all__ = ["Fault", "Gpu", "GpuReport", "query"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a whole card, or all of NVML, says nothing. code: NVML's word; message: a sentence, and what to do next."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card. Memory in bytes, utilisations as ratios 0 to 1 over NVML's last sample (1/6 s to 1 s), power in watts.

    memory_used leaves out what the driver reserves for itself where the driver tells the two apart; else it includes it
    and memory_reserved is None. ``na`` maps the name of each None field to the reason.
    """

    index: int
    uuid: str | None = None
    name: str | None = None
    memory_total: int | None = None
    memory_used: int | None = None
    memory_reserved: int | None = None
    utilization: float | None = None
    memory_utilization: float | None = None
    temperature_celsius: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    na: Mapping[str, str] = field(default_factory=dict)
    error: Fault | None = None


@dataclass(frozen=True, slots=True)
class GpuReport:
    """All cards in NVML's order. driver: its version; cuda_driver: the newest CUDA that the driver serves, as "13.0"."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda_driver: str | None = None
    na: Mapping[str, str] = field(default_factory=dict)
    error: Fault | None = None


_ADVICE: Final[Mapping[str, str]] = {
    "library_not_found": "There is no NVIDIA driver library (libnvidia-ml.so.1) here. "
    "If this box has an NVIDIA GPU, install its driver; in a container, start it with GPU access (docker run --gpus all).",
    "driver_not_loaded": "The NVIDIA kernel module is not loaded. Load it with `modprobe nvidia`, or reboot.",
    "lib_rm_version_mismatch": "The NVIDIA library and the loaded kernel module have different versions, as after a driver "
    "update. Reboot, or reload the nvidia kernel modules.",
    "no_permission": "This user may not open the NVIDIA devices. Look at the permissions of /dev/nvidia*.",
    # A container keeps its device nodes but loses the cgroup's permission when the host's systemd rewrites it.
    "unknown": "NVML answers with an unknown error. In a container this usually means that the host withdrew the GPU, as "
    "`systemctl daemon-reload` on the host can do. Restart the container.",
    "gpu_is_lost": "The GPU has fallen off the bus. Look for Xid lines in `dmesg`; usually only a reboot brings it back.",
    "reset_required": "The GPU must be reset before it can be used again: `nvidia-smi --gpu-reset`, or reboot.",
    "nvidia_ml_py_missing": "The Python package nvidia-ml-py is not installed. Install it: pip install nvidia-ml-py.",
    "wrong_pynvml": "Another package named pynvml hides nvidia-ml-py. Mend it: "
    "pip uninstall pynvml; pip install --force-reinstall nvidia-ml-py.",
}
# A card that answers so has nothing more to say: asking for the other fields would only repeat it.
_CARD_IS_GONE: Final = frozenset({"gpu_is_lost", "reset_required", "unknown"})


class _CardGone(Exception):
    """Raised within this module only: the card's fault, in place of its remaining fields."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def query() -> GpuReport:
    """Ask NVML once. Takes some milliseconds a card; starts and ends NVML itself, so it may be called at any time."""
    try:
        # By name, because the package has no types and may be absent or replaced by an impostor.
        module = importlib.import_module("pynvml")
    except ImportError:
        return GpuReport(error=_fault("nvidia_ml_py_missing"))
    if not hasattr(module, "_nvmlGetFunctionPointer"):
        return GpuReport(error=_fault("wrong_pynvml"))
    return _Nvml(module).report()


def _fault(code: str, otherwise: str = "") -> Fault:
    return Fault(code, _ADVICE.get(code) or f"NVML says: {otherwise}. `nvidia-smi` may tell more.")


class _Nvml:
    """One conversation with the library. Every call goes through ``attempt``, which knows the errors."""

    def __init__(self, module: ModuleType) -> None:
        self._nvml: Any = module
        names = (name for name in dir(module) if name.startswith("NVML_ERROR_"))
        self._codes = {getattr(module, name): name.removeprefix("NVML_ERROR_").lower() for name in names}

    def report(self) -> GpuReport:
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            return GpuReport(error=self._fault_of(error))
        try:
            return self._report()
        except _CardGone as gone:
            return GpuReport(error=gone.fault)
        except nvml.NVMLError as error:  # not even the number of cards is known
            return GpuReport(error=self._fault_of(error))
        finally:
            self.attempt({}, "shutdown", nvml.nvmlShutdown)

    def _report(self) -> GpuReport:
        nvml, na = self._nvml, dict[str, str]()
        driver = self.attempt(na, "driver", lambda: _text(nvml.nvmlSystemGetDriverVersion()))
        cuda = self.attempt(na, "cuda_driver", nvml.nvmlSystemGetCudaDriverVersion_v2, nvml.nvmlSystemGetCudaDriverVersion)
        gpus = tuple(self._gpu(index) for index in range(nvml.nvmlDeviceGetCount()))
        # 12040 stands for 12.4: cuDriverGetVersion().
        version = None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
        return GpuReport(gpus, driver, version, na)

    def _gpu(self, index: int) -> Gpu:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            return self._read(index, handle)
        except _CardGone as gone:
            return Gpu(index, error=gone.fault)
        except self._nvml.NVMLError as error:
            return Gpu(index, error=self._fault_of(error))

    def _read(self, index: int, handle: Any) -> Gpu:
        nvml, na = self._nvml, dict[str, str]()
        # Newer calls first: each alternative is for drivers, or bindings, that lack the one before it.
        memory = self.attempt(
            na,
            "memory",
            lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2),
            lambda: nvml.nvmlDeviceGetMemoryInfo(handle),
        )
        temperature = self.attempt(
            na,
            "temperature_c",
            lambda: nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU),
            lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        )
        rates = self.attempt(na, "utilization", lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        power = self.attempt(na, "power_w", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        limit = self.attempt(na, "power_limit_w", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        return Gpu(
            index=index,
            uuid=self.attempt(na, "uuid", lambda: _text(nvml.nvmlDeviceGetUUID(handle))),
            name=self.attempt(na, "name", lambda: _text(nvml.nvmlDeviceGetName(handle))),
            memory_total=None if memory is None else int(memory.total),
            memory_used=None if memory is None else int(memory.used),
            memory_reserved=getattr(memory, "reserved", None),
            utilization=None if rates is None else rates.gpu / 100,
            memory_utilization=None if rates is None else rates.memory / 100,
            temperature_celsius=temperature,
            power_watts=None if power is None else power / 1000,
            power_limit_watts=None if limit is None else limit / 1000,
            na=na,
        )

    def attempt(self, na: dict[str, str], name: str, *calls: Callable[[], T]) -> T | None:
        """The first answer of ``calls``; or None, with the last reason in ``na[name]``. Raises _CardGone where it is."""
        reason = ""
        for call in calls:
            try:
                return call()
            except self._nvml.NVMLError as error:
                reason = self._code(error)
                if reason in _CARD_IS_GONE:
                    raise _CardGone(self._fault_of(error)) from error
            except AttributeError:  # bindings older than the call
                reason = "function_not_found"
        na[name] = reason
        return None

    def _code(self, error: Any) -> str:
        return self._codes.get(error.value, f"error_{error.value}")

    def _fault_of(self, error: Any) -> Fault:
        return _fault(self._code(error), str(error))


def _text(value: str | bytes) -> str:
    """Strings come as bytes from some versions of the bindings."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
