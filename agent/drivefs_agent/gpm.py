"""How busy a card, or a slice of it, is by GPM, the counters that Hopper and later have; NVML's own number is N/A with MIG.

GPM compares two samples. The first look therefore answers with the reason "needs_two_samples", and every later one with the
mean since the look before it.

Source: https://docs.nvidia.com/deploy/nvml-api/group__GPM.html
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivefs_agent.nvml import Nvml

__all__ = ["Gpm"]


class Gpm:
    """The samples of one card, one for the whole and one for each GPU instance, kept from look to look."""

    def __init__(self, nvml: Nvml, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self._supported: bool | None = None
        self._previous: dict[int | None, Any] = {}

    def close(self) -> None:
        """Free the samples."""
        for sample in self._previous.values():
            self._free(sample)
        self._previous.clear()

    def utilization(self, na: dict[str, str], instance: int | None = None) -> float | None:
        """The ratio of time in which anything ran since the last look; None, leaving or bettering na["utilization"], if unknown.

        ``instance``: a GPU instance's id, for a slice.
        """
        if not self._is_supported():
            return None
        sample = self._take(na, instance)
        if sample is None:
            return None
        previous, self._previous[instance] = self._previous.get(instance), sample
        if previous is None:
            na["utilization"] = "needs_two_samples"
            return None
        try:
            return self._nvml.attempt(na, "utilization", lambda: self._compare(na, previous, sample), about="GPM ")
        finally:
            self._free(previous)

    def _is_supported(self) -> bool:
        if self._supported is None:
            lib = self._nvml.lib
            support = self._nvml.attempt({}, "gpm", lambda: lib.nvmlGpmQueryDeviceSupport(self._handle))
            self._supported = support is not None and bool(support.isSupportedDevice)
        return self._supported

    def _take(self, na: dict[str, str], instance: int | None) -> Any:
        lib, attempt = self._nvml.lib, self._nvml.attempt
        sample = attempt(na, "utilization", lambda: lib.nvmlGpmSampleAlloc(), about="GPM room for ")
        if sample is None:
            return None

        def take() -> Any:
            if instance is None:
                return lib.nvmlGpmSampleGet(self._handle, sample)
            return lib.nvmlGpmMigSampleGet(self._handle, ctypes.c_uint(instance), sample)

        taken = attempt(na, "utilization", take, about="GPM of slice " if instance is not None else "GPM of card ")
        if taken is None:
            self._free(sample)
        return taken

    def _compare(self, na: dict[str, str], previous: Any, sample: Any) -> float:
        lib = self._nvml.lib
        request = lib.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = lib.NVML_GPM_METRICS_GET_VERSION, 1
        request.sample1, request.sample2 = previous, sample
        request.metrics[0].metricId = lib.NVML_GPM_METRIC_GRAPHICS_UTIL
        lib.nvmlGpmMetricsGet(request)
        if request.metrics[0].nvmlReturn:
            raise lib.NVMLError(request.metrics[0].nvmlReturn)
        na.pop("utilization", None)
        return min(max(float(request.metrics[0].value) / 100, 0.0), 1.0)

    def _free(self, sample: Any) -> None:
        self._nvml.attempt({}, "gpm_free", lambda: self._nvml.lib.nvmlGpmSampleFree(sample))
