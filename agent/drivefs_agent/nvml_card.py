"""One NVIDIA card through NVML: every field asked for by itself, so that one the card lacks costs nothing but itself."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from drivefs_agent import procs
from drivefs_agent.gpm import Gpm
from drivefs_agent.gpu import Gpu, GpuProcess, MigSlice
from drivefs_agent.host import read_memory
from drivefs_agent.nvml import CardGone, text_of

if TYPE_CHECKING:
    from drivefs_agent.nvml import Nvml

__all__ = ["Card"]

# nvmlClocksEventReasons; being idle, and clocks that the user or a display chose, are no throttling.
_THROTTLES: Final = {
    0x04: "power_cap",
    0x08: "hardware_slowdown",
    0x10: "sync_boost",
    0x20: "thermal_software",
    0x40: "thermal_hardware",
    0x80: "power_brake",
}
# nvmlDeviceArchitecture_t. A newer one is shown by its number.
_ARCHITECTURES: Final = {
    2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada", 9: "Hopper", 10: "Blackwell",
}  # fmt: skip
# Parts that are processor and GPU in one and share the host's memory. A card is never one of them by its memory's silence alone.
_INTEGRATED: Final = re.compile(r"\b(GB10|Orin|Thor|Xavier|Tegra|nvgpu)\b", re.IGNORECASE)


class Card:
    """A card's handle and what of it never changes. Lives as long as the conversation with NVML it was opened in."""

    def __init__(self, nvml: Nvml, index: int, handle: Any) -> None:
        self._nvml = nvml
        self._lib = nvml.lib
        self._index = index
        self._handle = handle
        self._gpm = Gpm(nvml, handle)
        self._fixed_na: dict[str, str] = {}
        self._fixed: dict[str, Any] = self._read_fixed()

    def close(self) -> None:
        """Give back what NVML lent."""
        self._gpm.close()

    def read(self) -> Gpu:
        """All fields, now. Raises CardGone where the card is."""
        na = dict(self._fixed_na)
        slices, mig_enabled = self._mig(na)
        values = {
            **self._fixed,
            **self._memory(na),
            **self._load(na, mig_enabled),
            **self._power(na),
            **self._clocks(na),
            **self._health(na),
            **self._link(na),
        }
        processes = self._processes(na)
        return Gpu(index=self._index, mig_enabled=mig_enabled, mig=slices, processes=processes, na=na, **values)

    def _ask(self, na: dict[str, str], name: str, *calls: Callable[[Any], Any]) -> Any:
        """``calls`` take the card's handle; see Nvml.attempt."""
        return self._nvml.attempt(na, name, *(lambda call=call: call(self._handle) for call in calls))

    def _read_fixed(self) -> dict[str, Any]:
        lib, na = self._lib, self._fixed_na
        capability = self._ask(na, "compute_capability", lambda h: lib.nvmlDeviceGetCudaComputeCapability(h))
        architecture = self._ask(na, "architecture", lambda h: lib.nvmlDeviceGetArchitecture(h))
        return {
            "uuid": self._ask(na, "uuid", lambda h: text_of(lib.nvmlDeviceGetUUID(h))),
            "name": self._ask(na, "name", lambda h: text_of(lib.nvmlDeviceGetName(h))),
            "bus_id": self._ask(na, "bus_id", lambda h: text_of(lib.nvmlDeviceGetPciInfo(h).busId)),
            "compute_capability": None if capability is None else "{}.{}".format(*capability),
            "architecture": None if architecture is None else _ARCHITECTURES.get(architecture, f"architecture {architecture}"),
            "sm_max_mhz": self._ask(na, "sm_max_mhz", lambda h: lib.nvmlDeviceGetMaxClockInfo(h, lib.NVML_CLOCK_SM)),
        }

    def _memory(self, na: dict[str, str]) -> dict[str, Any]:
        lib = self._lib
        memory = self._ask(
            na,
            "memory",
            lambda h: lib.nvmlDeviceGetMemoryInfo(h, version=lib.nvmlMemory_v2),
            lambda h: lib.nvmlDeviceGetMemoryInfo(h),
        )
        if memory is not None:
            reserved = getattr(memory, "reserved", None)
            if reserved is None:
                na["memory.reserved"] = "function_not_found"
            return {"memory_total": int(memory.total), "memory_used": int(memory.used), "memory_reserved": reserved}
        if na["memory"] == "not_supported" and self._is_integrated():
            host = read_memory(self._nvml.root)
            na["memory.reserved"] = na.pop("memory")
            return {"memory_total": host.total, "memory_used": host.used, "unified": True}
        return {}

    def _is_integrated(self) -> bool:
        return _INTEGRATED.search(self._fixed["name"] or "") is not None or _is_tegra(self._nvml.root)

    def _load(self, na: dict[str, str], mig_enabled: bool | None) -> dict[str, Any]:
        """How busy. With MIG on, NVML's own numbers are of no part of the card, so GPM is asked where the card has it."""
        rates = self._ask(na, "utilization", lambda h: self._lib.nvmlDeviceGetUtilizationRates(h))
        if rates is not None and not mig_enabled:
            return {
                "utilization": rates.gpu / 100,
                "memory_utilization": rates.memory / 100,
                "utilization_source": "nvml",
            }
        na["memory_utilization"] = na.setdefault("utilization", "not_supported")
        busy = self._gpm.utilization(na)
        return {} if busy is None else {"utilization": busy, "utilization_source": "gpm"}

    def _power(self, na: dict[str, str]) -> dict[str, Any]:
        lib = self._lib
        power = self._ask(na, "power_w", lambda h: lib.nvmlDeviceGetPowerUsage(h))
        limit = self._ask(na, "power_limit_w", lambda h: lib.nvmlDeviceGetEnforcedPowerLimit(h))
        energy = self._ask(na, "energy_j", lambda h: lib.nvmlDeviceGetTotalEnergyConsumption(h))
        fan = self._ask(na, "fan", lambda h: self._fastest_fan(h), lambda h: lib.nvmlDeviceGetFanSpeed(h))
        return {
            "power_watts": None if power is None else power / 1000,
            "power_limit_watts": None if limit is None else limit / 1000,
            "energy_joules": None if energy is None else energy / 1000,
            "fan": None if fan is None else fan / 100,
            "temperature_celsius": self._ask(
                na,
                "temperature_c",
                lambda h: lib.nvmlDeviceGetTemperatureV(h, lib.NVML_TEMPERATURE_GPU),
                lambda h: lib.nvmlDeviceGetTemperature(h, lib.NVML_TEMPERATURE_GPU),
            ),
        }

    def _fastest_fan(self, handle: Any) -> int:
        lib = self._lib
        fans = range(lib.nvmlDeviceGetNumFans(handle))
        if not fans:  # a card that is cooled by the server's fans, and whose driver counts them
            raise lib.NVMLError(lib.NVML_ERROR_NOT_SUPPORTED)
        return max(int(lib.nvmlDeviceGetFanSpeed_v2(handle, fan)) for fan in fans)

    def _clocks(self, na: dict[str, str]) -> dict[str, Any]:
        lib = self._lib
        reasons = self._ask(
            na,
            "throttle",
            lambda h: lib.nvmlDeviceGetCurrentClocksEventReasons(h),
            lambda h: lib.nvmlDeviceGetCurrentClocksThrottleReasons(h),
        )
        state = self._ask(na, "performance_state", lambda h: lib.nvmlDeviceGetPerformanceState(h))
        if state == lib.NVML_PSTATE_UNKNOWN:
            na["performance_state"], state = "unknown", None
        return {
            "sm_mhz": self._ask(na, "sm_mhz", lambda h: lib.nvmlDeviceGetClockInfo(h, lib.NVML_CLOCK_SM)),
            "memory_mhz": self._ask(na, "memory_mhz", lambda h: lib.nvmlDeviceGetClockInfo(h, lib.NVML_CLOCK_MEM)),
            "performance_state": state,
            "throttle": None if reasons is None else tuple(name for bit, name in _THROTTLES.items() if reasons & bit),
        }

    def _health(self, na: dict[str, str]) -> dict[str, Any]:
        lib = self._lib
        mode = self._ask(na, "ecc_enabled", lambda h: lib.nvmlDeviceGetEccMode(h))
        rows = self._ask(na, "remapped_rows", lambda h: lib.nvmlDeviceGetRemappedRows(h))
        if rows is None:
            na["remap_pending"] = na["remap_failed"] = na["remapped_rows"]
        return {
            "ecc_enabled": None if mode is None else bool(mode[0]),
            "ecc_corrected": self._ecc_errors(na, "ecc_corrected", lib.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            "ecc_uncorrected": self._ecc_errors(na, "ecc_uncorrected", lib.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            "remapped_rows": None if rows is None else rows[0] + rows[1],
            "remap_pending": None if rows is None else bool(rows[2]),
            "remap_failed": None if rows is None else bool(rows[3]),
        }

    def _ecc_errors(self, na: dict[str, str], name: str, kind: int) -> Any:
        lib = self._lib
        return self._ask(na, name, lambda h: lib.nvmlDeviceGetTotalEccErrors(h, kind, lib.NVML_VOLATILE_ECC))

    def _link(self, na: dict[str, str]) -> dict[str, Any]:
        lib = self._lib
        return {
            "pcie_generation": self._ask(na, "pcie_generation", lambda h: lib.nvmlDeviceGetCurrPcieLinkGeneration(h)),
            "pcie_width": self._ask(na, "pcie_width", lambda h: lib.nvmlDeviceGetCurrPcieLinkWidth(h)),
        }

    def _processes(self, na: dict[str, str]) -> tuple[GpuProcess, ...] | None:
        lib = self._lib
        compute = self._ask(
            na,
            "processes",
            lambda h: lib.nvmlDeviceGetComputeRunningProcesses_v3(h),
            lambda h: lib.nvmlDeviceGetComputeRunningProcesses_v2(h),
        )
        if compute is None:
            return None
        graphics = self._ask(
            {},
            "graphics_processes",
            lambda h: lib.nvmlDeviceGetGraphicsRunningProcesses_v3(h),
            lambda h: lib.nvmlDeviceGetGraphicsRunningProcesses_v2(h),
        )
        found = {process.pid: self._process(process, "graphics") for process in graphics or ()}
        found.update((process.pid, self._process(process, "compute")) for process in compute)
        return tuple(found[pid] for pid in sorted(found))

    def _process(self, process: Any, kind: str) -> GpuProcess:
        who = procs.describe(process.pid, self._nvml.root)
        return GpuProcess(process.pid, kind, process.usedGpuMemory, *(who or ()))

    def _mig(self, na: dict[str, str]) -> tuple[tuple[MigSlice, ...], bool | None]:
        mode = self._ask(na, "mig_enabled", lambda h: self._lib.nvmlDeviceGetMigMode(h))
        if mode is None:
            return (), None
        if mode[0] != self._lib.NVML_DEVICE_MIG_ENABLE:
            return (), False
        count = self._ask(na, "mig", lambda h: self._lib.nvmlDeviceGetMaxMigDeviceCount(h)) or 0
        slices = (self._slice(index) for index in range(count))
        return tuple(found for found in slices if found is not None), True

    def _slice(self, index: int) -> MigSlice | None:
        """None where the place is empty: NVML counts the places a card could have, not the slices made."""
        lib = self._lib
        try:
            handle = lib.nvmlDeviceGetMigDeviceHandleByIndex(self._handle, index)
            return self._read_slice(index, handle)
        except CardGone as gone:
            return MigSlice(index, error=gone.fault)
        except lib.NVMLError as error:
            if self._nvml.code_of(error) in ("not_found", "invalid_argument"):
                return None
            return MigSlice(index, error=self._nvml.fault_of(error))

    def _read_slice(self, index: int, handle: Any) -> MigSlice:
        lib, na = self._lib, dict[str, str]()
        attempt = functools.partial(self._nvml.attempt, about="slice's ")
        name = attempt(na, "name", lambda: text_of(lib.nvmlDeviceGetName(handle)))
        instance = attempt(na, "gpu_instance", lambda: int(lib.nvmlDeviceGetGpuInstanceId(handle)))
        memory = attempt(na, "memory", lambda: lib.nvmlDeviceGetMemoryInfo(handle))
        na["utilization"] = "not_supported"
        busy = None if instance is None else self._gpm.utilization(na, instance)
        profile = re.search(r"\b\d+(?:c\.\d+)?g\.\d+gb\S*", name or "")
        return MigSlice(
            index=index,
            uuid=attempt(na, "uuid", lambda: text_of(lib.nvmlDeviceGetUUID(handle))),
            name=name,
            profile=profile[0] if profile else self._profile(na, handle),
            gpu_instance=instance,
            compute_instance=attempt(na, "compute_instance", lambda: int(lib.nvmlDeviceGetComputeInstanceId(handle))),
            memory_total=None if memory is None else int(memory.total),
            memory_used=None if memory is None else int(memory.used),
            utilization=busy,
            na=na,
        )

    def _profile(self, na: dict[str, str], handle: Any) -> str | None:
        """Older drivers do not put the profile into a slice's name; it is its shares of the card and of its memory."""
        parts = self._nvml.attempt(na, "profile", lambda: self._lib.nvmlDeviceGetAttributes(handle))
        if parts is None:
            return None
        whole, computing = parts.gpuInstanceSliceCount, parts.computeInstanceSliceCount
        shares = f"{whole}g" if whole == computing else f"{computing}c.{whole}g"
        return f"{shares}.{-(-parts.memorySizeMB // 1024)}gb"


def _is_tegra(root: Path) -> bool:
    try:
        return b"nvidia,tegra" in (root / "sys/firmware/devicetree/base/compatible").read_bytes()
    except OSError:
        return False
