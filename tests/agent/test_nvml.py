"""The GPU report against the real pynvml bindings, with a driver library of our own making beneath them."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pynvml
import pytest

from drivefs_agent import nvml
from drivefs_agent.as_json import to_json
from drivefs_agent.gpu import Fault, Gpu, GpuProcess, GpuReport
from drivefs_agent.text import render
from tests.agent.boxes import make_specs, write
from tests.agent.fake_driver import GIB, FakeDriver, install


def query_with(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, root: Path = Path("/")) -> GpuReport:
    install(monkeypatch, driver)
    return nvml.query(root)


def as_json(report: GpuReport) -> dict[str, Any]:
    return to_json(make_specs(report))


def test_two_gpus_report_every_field_in_base_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Percent becomes a ratio, milliwatts become watts, 12040 becomes CUDA 12.4; and NVML is ended afterwards."""
    driver = FakeDriver()
    report = query_with(monkeypatch, driver)
    first = Gpu(
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
        architecture="Hopper",
        compute_capability="9.0",
        bus_id="00000000:01:00.0",
        utilization_source="nvml",
        energy_joules=5000.5,
        fan=0.45,
        sm_mhz=1755,
        sm_max_mhz=1980,
        memory_mhz=3201,
        performance_state=0,
        throttle=(),
        ecc_enabled=True,
        ecc_corrected=7,
        ecc_uncorrected=1,
        remapped_rows=3,
        remap_pending=True,
        remap_failed=False,
        pcie_generation=5,
        pcie_width=16,
        mig_enabled=False,
        processes=(),
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
        "unified": False,
    }
    text = render(make_specs(report))
    assert "GPU 0    NVIDIA H200 · 3.0 GiB of 140.0 GiB used · 37 % busy · 41 °C · 123 W of 700 W" in text
    assert "1 uncorrected memory error · memory rows wait to be remapped: reset the card" in text
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
    assert "fallen off the bus" in render(make_specs(report))


def test_a_field_the_card_lacks_is_null_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not supported is null and a reason, never 0; every other field stays."""
    missing = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates")
    report = query_with(monkeypatch, FakeDriver(1, dict.fromkeys(missing, pynvml.NVML_ERROR_NOT_SUPPORTED)))
    gpu = as_json(report)["gpus"][0]
    assert (gpu["power_w"], gpu["utilization"], gpu["memory_utilization"]) == (None, None, None)
    assert gpu["na"] == dict.fromkeys(("power_w", "utilization", "memory_utilization"), "not_supported")
    assert (gpu["temperature_c"], gpu["error"]) == (41, None)
    assert "N/A busy · 41 °C · N/A of 700 W" in render(make_specs(report))


def test_an_old_driver_without_newer_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver lacks version 2 of the memory call, version 1 answers, and what it cannot tell is None."""
    absent = frozenset({"nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetEnforcedPowerLimit"})
    gpu = query_with(monkeypatch, FakeDriver(1, absent=absent)).gpus[0]
    assert (gpu.memory_total, gpu.memory_used, gpu.memory_reserved) == (140 * GIB, 4 * GIB, None)
    assert gpu.na == {"power_limit_w": "function_not_found", "memory.reserved": "function_not_found"}


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
    assert (values["gpu_driver"]["version"], values["gpu_driver"]["cuda"], values["gpu_driver"]["na"]) == (None, None, {})


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


def test_every_null_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a card answers nothing but "not supported", all fields are null, and each has that reason under its own name."""
    answers = [name.removeprefix("answer_") for name in dir(FakeDriver) if name.startswith("answer_nvmlDevice")]
    kept = ("nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2")
    errors = dict.fromkeys((name for name in answers if name not in kept), pynvml.NVML_ERROR_NOT_SUPPORTED)
    gpu = as_json(query_with(monkeypatch, FakeDriver(1, errors)))["gpus"][0]
    fields = set(gpu) - {"index", "memory", "mig", "na", "error", "utilization_source"}
    assert {name: gpu[name] for name in fields} == dict.fromkeys(fields)
    assert gpu["na"] == dict.fromkeys([*fields, "memory"], "not_supported")
    assert gpu["error"] is None


def test_throttling_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits for heat and power are told in words; being idle is no throttling."""
    report = query_with(monkeypatch, FakeDriver(1, throttle=0x1 | 0x4 | 0x40))
    assert report.gpus[0].throttle == ("power_cap", "thermal_hardware")
    assert "slowed by power cap, thermal hardware" in render(make_specs(report))


def test_a_card_without_fans(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that the server cools has no fan speed, which is null with a reason and not 0."""
    driver = FakeDriver(1, dict.fromkeys(("nvmlDeviceGetNumFans", "nvmlDeviceGetFanSpeed"), pynvml.NVML_ERROR_NOT_SUPPORTED))
    gpu = query_with(monkeypatch, driver).gpus[0]
    assert (gpu.fan, gpu.na) == (None, {"fan": "not_supported"})


def test_mig_slices_are_nested_in_their_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slice has its uuid, profile, instance and memory; empty places are left out; busy is N/A without GPM."""
    report = query_with(monkeypatch, FakeDriver(1, slices=3))
    gpu = report.gpus[0]
    assert (gpu.mig_enabled, gpu.utilization, gpu.na["utilization"]) == (True, None, "not_supported")
    assert [part.uuid for part in gpu.mig] == ["MIG-0", "MIG-1", "MIG-2"]
    assert [part.gpu_instance for part in gpu.mig] == [7, 8, 9]
    assert {(part.profile, part.memory_total, part.memory_used) for part in gpu.mig} == {("1g.18gb", 18 * GIB, 2 * GIB)}
    assert "MIG 2 · 1g.18gb · 2.0 GiB of 18.0 GiB used · N/A busy" in render(make_specs(report))


def test_a_slice_that_does_not_name_its_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older drivers name only the card; the profile is then made of the slice's shares."""
    report = query_with(monkeypatch, FakeDriver(1, slices=1, slice_name=b"NVIDIA H200"))
    assert report.gpus[0].mig[0].profile == "1c.2g.33gb"


def test_gpm_tells_how_busy_mig_is_from_the_second_look_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Hopper a card with MIG and its slices are measured by GPM; the samples that NVML lends are all given back."""
    driver = install(monkeypatch, FakeDriver(1, slices=2, gpm=True))
    with nvml.Nvml() as looks:
        first = looks.report().gpus[0]
        assert (first.utilization, first.na["utilization"]) == (None, "needs_two_samples")
        assert first.mig[0].na["utilization"] == "needs_two_samples"
        second = looks.report().gpus[0]
        assert (second.utilization, second.utilization_source) == (0.625, "gpm")
        assert [part.utilization for part in second.mig] == [0.625, 0.625]
        assert "utilization" not in {**second.na, **second.mig[0].na}
        assert len(driver.samples) == 3
    assert driver.samples == set()


def test_integrated_gpus_share_the_hosts_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A GB10 tells no memory of its own: the host's is shown and marked as shared."""
    write(tmp_path, "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 400 kB\n")
    silent = dict.fromkeys(("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"), pynvml.NVML_ERROR_NOT_SUPPORTED)
    gpu = query_with(monkeypatch, FakeDriver(1, dict(silent), name=b"NVIDIA GB10"), tmp_path).gpus[0]
    assert (gpu.memory_total, gpu.memory_used, gpu.unified) == (1000 * 1024, 600 * 1024, True)


def test_a_card_that_is_silent_about_its_memory_is_not_taken_for_integrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """An H200 that refuses to tell its memory has N/A, and not the host's memory."""
    silent = dict.fromkeys(("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"), pynvml.NVML_ERROR_NOT_SUPPORTED)
    gpu = query_with(monkeypatch, FakeDriver(1, dict(silent))).gpus[0]
    assert (gpu.memory_total, gpu.unified, gpu.na["memory"]) == (None, False, "not_supported")


def test_processes_with_their_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of ours is named; one of the host's, unseen from this container, keeps its number and memory only."""
    host_pid = 4_194_999  # above pid_max, so no process here
    driver = FakeDriver(1, processes=((host_pid, 2 * GIB), (os.getpid(), None)))
    report = query_with(monkeypatch, driver)
    own, foreign = report.gpus[0].processes or ()
    assert (own.pid, own.used_bytes, own.kind) == (os.getpid(), None, "compute")
    assert own.name == Path("/proc/self/comm").read_text().strip()
    assert own.user
    assert foreign == GpuProcess(host_pid, "compute", 2 * GIB)
    assert f"pid {host_pid} · not of this container · 2.0 GiB" in render(make_specs(report))


def test_a_symbol_the_driver_lacks_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking again and again does not ask an old driver again and again for what it does not have."""
    driver = install(monkeypatch, FakeDriver(2, absent=frozenset({"nvmlDeviceGetEnforcedPowerLimit"})))
    with nvml.Nvml() as looks:
        for _ in range(3):
            assert looks.report().gpus[1].na == {"power_limit_w": "function_not_found"}
    assert driver.asked.count("nvmlDeviceGetEnforcedPowerLimit") == 1
    assert (driver.starts, driver.shutdowns) == (1, 1)


def test_a_driver_that_fails_is_tried_again_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A live view asks a missing driver again after 1, 2, 4, ... seconds, and sees the cards once it is loaded."""
    driver = install(monkeypatch, FakeDriver(errors={"nvmlInitWithFlags": pynvml.NVML_ERROR_DRIVER_NOT_LOADED}))
    now = 0.0
    attempts: list[float] = []
    initialise = nvml.Nvml._initialise

    def counted(self: nvml.Nvml) -> Fault | None:
        attempts.append(now)
        return initialise(self)

    monkeypatch.setattr(nvml.Nvml, "_initialise", counted)
    with nvml.Nvml(clock=lambda: now) as looks:
        for _ in range(20):
            assert looks.report().error is not None
            now += 1
        assert attempts == [0, 1, 3, 7, 15]
        driver.errors.clear()
        now = 31
        assert len(looks.report().gpus) == 2


def test_a_moments_unknown_error_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML's "unknown" at the start is asked again twice before it is believed."""
    driver = install(monkeypatch, FakeDriver(1))
    answers = [pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_UNKNOWN]
    monkeypatch.setattr(FakeDriver, "answer_nvmlInitWithFlags", lambda self, flags: answers.pop() if answers else None)
    report = nvml.query()
    assert (report.error, len(report.gpus), driver.shutdowns) == (None, 1, 1)


def test_a_lost_card_that_comes_back_is_seen_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One conversation: the card is well, lost, and well again, under a new handle."""
    driver = install(monkeypatch, FakeDriver(1))
    with nvml.Nvml() as looks:
        assert looks.report().gpus[0].error is None
        driver.errors["nvmlDeviceGetPowerUsage"] = pynvml.NVML_ERROR_GPU_IS_LOST
        lost = looks.report().gpus[0].error
        assert lost is not None
        assert lost.code == "gpu_is_lost"
        driver.errors.clear()
        assert looks.report().gpus[0].power_watts == 123.4
    assert driver.asked.count("nvmlDeviceGetHandleByIndex_v2") == 1  # bindings look a symbol up once
