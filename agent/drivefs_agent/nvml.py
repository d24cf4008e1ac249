"""The only door to NVML, NVIDIA's management library: what the GPUs say of themselves, right now.

Nothing here raises because of a GPU: see ``gpu`` for how what is missing is said. Values come from NVML itself and not from
parsing nvidia-smi, whose text changes with the driver.

Source: https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import ctypes
import importlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from drivefs_agent.gpu import Fault, Gpu, GpuReport

__all__ = ["CardGone", "Nvml", "query", "text_of"]

T = TypeVar("T")

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
_ABSENT: Final = "function_not_found"
# Where drivers put the library outside the loader's path: WSL, and Kubernetes nodes of Google's.
_ELSEWHERE: Final = ("usr/lib/wsl/lib/libnvidia-ml.so.1", "usr/local/nvidia/lib64/libnvidia-ml.so.1")
# "unknown" is now and then only a moment's: two more looks, this many seconds apart, before it is believed.
_UNKNOWN_PAUSES: Final = (0.05, 0.2)
# After a failed start, a live view tries again no sooner than so many seconds later, twice as many after each failure.
_FIRST_RETRY: Final = 1.0
_LAST_RETRY: Final = 60.0


class CardGone(Exception):
    """Raised within the GPU modules only: the card's fault, in place of its remaining fields."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def query(root: Path = Path("/")) -> GpuReport:
    """Ask NVML once, and end it again. Takes some milliseconds a card. ``root``: where /proc and /sys are looked for."""
    with Nvml(root) as nvml:
        return nvml.report()


def _fault(code: str, otherwise: str = "") -> Fault:
    return Fault(code, _ADVICE.get(code) or f"NVML says: {otherwise}. `nvidia-smi` may tell more.")


def text_of(value: str | bytes) -> str:
    """Strings come as bytes from some versions of the bindings."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class Nvml:
    """One conversation with the library, kept open from one report to the next. Not for several threads at a time.

    Starting NVML costs most of a look, and GPM needs two looks, so whoever samples keeps one of these. A start that failed is
    tried again, ever more seldom, as drivers are loaded and GPUs are given back while we run. Symbols that the driver lacks
    are remembered.
    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self.root = root
        self._clock = clock
        self.lib: Any = None
        self._open = False
        self._codes: dict[int, str] = {}
        self._absent: set[tuple[str, int]] = set()
        self._cards: dict[int, Any] = {}
        self._failure: Fault | None = None
        self._retry_at = 0.0
        self._retry_after = _FIRST_RETRY

    def __enter__(self) -> Nvml:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End NVML. A later report starts it anew."""
        if self._open:
            for card in self._cards.values():
                card.close()
            self.attempt({}, "shutdown", self.lib.nvmlShutdown)
        self._cards.clear()
        self._open = False

    def report(self) -> GpuReport:
        """What all cards say now, or why they say nothing."""
        if not self._open and self._clock() >= self._retry_at:
            self._failure = self._start()
        if self._failure is not None:
            return GpuReport(error=self._failure)
        try:
            return self._report()
        except CardGone as gone:
            return self._failed(gone.fault)
        except self.lib.NVMLError as error:  # not even the number of cards is known
            return self._failed(self.fault_of(error))

    def _failed(self, fault: Fault) -> GpuReport:
        self.close()
        self._failure = fault
        self._wait_longer()
        return GpuReport(error=fault)

    def _start(self) -> Fault | None:
        fault = self._load() or self._initialise()
        self._open = fault is None
        if fault is None:
            self._retry_after = _FIRST_RETRY
        else:
            self._wait_longer()
        return fault

    def _wait_longer(self) -> None:
        self._retry_at = self._clock() + self._retry_after
        self._retry_after = min(2 * self._retry_after, _LAST_RETRY)

    def _load(self) -> Fault | None:
        try:
            # By name, because the package has no types and may be absent or replaced by an impostor.
            self.lib = importlib.import_module("pynvml")
        except ImportError:
            return _fault("nvidia_ml_py_missing")
        if not hasattr(self.lib, "_nvmlGetFunctionPointer"):
            return _fault("wrong_pynvml")
        names = (name for name in dir(self.lib) if name.startswith("NVML_ERROR_"))
        self._codes = {getattr(self.lib, name): name.removeprefix("NVML_ERROR_").lower() for name in names}
        return None

    def _initialise(self) -> Fault | None:
        fault = self._init_once()
        if fault is not None and fault.code == "library_not_found" and self._load_from_elsewhere():
            fault = self._init_once()
        for pause in _UNKNOWN_PAUSES:
            if fault is None or fault.code != "unknown":
                break
            time.sleep(pause)
            fault = self._init_once()
        return fault

    def _init_once(self) -> Fault | None:
        try:
            self.lib.nvmlInit()
        except self.lib.NVMLError as error:
            return self.fault_of(error)
        return None

    def _load_from_elsewhere(self) -> bool:
        """Bring the library into this process from where the loader does not look; its SONAME then satisfies the bindings."""
        for name in _ELSEWHERE:
            path = self.root / name
            if path.exists():
                try:
                    ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
                except OSError:  # for another architecture, say: as good as absent
                    continue
                return True
        return False

    def _report(self) -> GpuReport:
        lib, na = self.lib, dict[str, str]()
        driver = self.attempt(na, "driver", lambda: text_of(lib.nvmlSystemGetDriverVersion()))
        cuda = self.attempt(
            na,
            "cuda_driver",
            lambda: lib.nvmlSystemGetCudaDriverVersion_v2(),
            lambda: lib.nvmlSystemGetCudaDriverVersion(),
        )
        gpus = tuple(self._gpu(index) for index in range(lib.nvmlDeviceGetCount()))
        # 12040 stands for 12.4: cuDriverGetVersion().
        version = None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
        return GpuReport(gpus, driver, version, na)

    def _gpu(self, index: int) -> Gpu:
        from drivefs_agent.nvml_card import Card  # here, because it imports this module

        try:
            if index not in self._cards:
                self._cards[index] = Card(self, index, self.lib.nvmlDeviceGetHandleByIndex(index))
            gpu: Gpu = self._cards[index].read()
        except CardGone as gone:
            fault = gone.fault
        except self.lib.NVMLError as error:
            fault = self.fault_of(error)
        else:
            return gpu
        if card := self._cards.pop(index, None):  # a card that comes back has a new handle
            card.close()
        return Gpu(index, error=fault)

    def attempt(self, na: dict[str, str], name: str, *calls: Callable[[], T], about: str = "") -> T | None:
        """The first answer of ``calls``; or None, with the last reason in ``na[name]``. Raises CardGone where it is.

        ``calls`` are the same question, newest form first: each next one is for drivers, or bindings, that lack the one before.
        ``about``: whatever tells these calls from others of the same ``name``, as what is absent is remembered by it.
        """
        reasons = []
        for position, call in enumerate(calls):
            reason = _ABSENT
            if (about + name, position) not in self._absent:
                try:
                    return call()
                except self.lib.NVMLError as error:
                    reason = self.code_of(error)
                    if reason in _CARD_IS_GONE:
                        raise CardGone(self.fault_of(error)) from error
                except AttributeError:  # bindings older than the call
                    pass
            if reason == _ABSENT:
                self._absent.add((about + name, position))
            reasons.append(reason)
        # Of a form that exists and one that does not, the one that exists knows.
        na[name] = next((reason for reason in reasons if reason != _ABSENT), _ABSENT)
        return None

    def code_of(self, error: Any) -> str:
        """NVML's word for the error, in lower case: "not_supported"."""
        return self._codes.get(error.value, f"error_{error.value}")

    def fault_of(self, error: Any) -> Fault:
        """The error with advice."""
        return _fault(self.code_of(error), str(error))
