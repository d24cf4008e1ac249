"""Is the box idle? Every probe on imagined boxes: what keeps it, and that whatever is not known keeps it too."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivefs_agent import cgroup
from drivefs_agent.accelerators import Accelerator
from drivefs_agent.activity import PROBES, Activity, Finding
from drivefs_agent.drive import DriveMount
from drivefs_agent.gpu import Fault, Gpu, GpuProcess, GpuReport, MigSlice
from drivefs_agent.inventory import Specs
from drivefs_agent.place import Place
from drivefs_agent.procs import Kernel, read_kernels
from drivefs_agent.state import State
from tests.agent.boxes import make_specs, write

NET = (
    "Inter-|   Receive\n face |bytes\n"
    "    lo: 999999999 0 0 0 0 0 0 0 999999999 0 0 0 0 0 0 0\n"
    "  eth0: {} 0 0 0 0 0 0 0 {} 0 0 0 0 0 0 0\n"
)
NO_DRIVER = GpuReport(error=Fault("library_not_found", "no library"))
GPU = Gpu(0, "GPU-0", "H200", utilization=0.0)


class Box:
    """A fake root, two clocks, and an Activity on them."""

    def __init__(self, root: Path, *without: str) -> None:
        self.root, self.clock, self.now = root, 1000.0, 1_800_000_000.0
        self.state = State(root / "agent")
        write(root, "proc/net/dev", NET.format(0, 0))
        (root / "dev/pts").mkdir(parents=True)
        self.activity = Activity(self.state, without=without, root=root, clock=lambda: self.clock, now=lambda: self.now)

    def look(self, specs: Specs, seconds: float = 15.0) -> dict[str, Finding]:
        self.clock += seconds
        self.now += seconds
        found = self.activity.findings(specs)
        assert all(finding.text and "\n" not in finding.text for finding in found)
        return {finding.probe: finding for finding in found}


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def idle_specs(**changes: Any) -> Specs:
    return make_specs(changes.pop("report", GpuReport((GPU,))), **{"cpu_utilization": 0.01, "used_cores": 0.02, **changes})


def test_an_idle_box(box: Box) -> None:
    """Every probe says idle from the second look on; the first cannot know the network."""
    first = box.look(idle_specs())
    assert (tuple(first), first["network"].idle) == (PROBES, None)
    assert [finding.idle for finding in box.look(idle_specs()).values()] == [True] * len(PROBES)


@pytest.mark.parametrize(
    ("report", "accelerators", "idle"),
    [
        (GpuReport((GPU, Gpu(1, "GPU-1", utilization=0.9))), (), False),
        (GpuReport((GPU, Gpu(1, error=Fault("gpu_is_lost", "lost")))), (), None),
        (GpuReport((Gpu(0, "GPU-0", processes=()),)), (), True),
        (GpuReport((Gpu(0, "GPU-0", processes=(GpuProcess(1, "compute"),)),)), (), None),
        (GpuReport((Gpu(0, "GPU-0", processes=None),)), (), None),
        (GpuReport((Gpu(0, "G", processes=(), mig=(MigSlice(0, utilization=0.5), MigSlice(1, utilization=0.0))),)), (), False),
        (GpuReport((Gpu(0, "G", processes=(), mig=(MigSlice(0), MigSlice(1))),)), (), True),
        (GpuReport((Gpu(0, "G", processes=(GpuProcess(1, "compute"),), mig=(MigSlice(0),)),)), (), None),
        (NO_DRIVER, (), True),
        (NO_DRIVER, (Accelerator("nvidia_gpu", "H200", "0000:01:00.0"),), None),
        (GpuReport(error=Fault("unknown", "withdrawn")), (), None),
        (GpuReport(error=Fault("nvidia_ml_py_missing", "missing")), (), None),
        (NO_DRIVER, (Accelerator("tpu", "TPU v4", "/dev/accel0"),), None),
        (NO_DRIVER, (Accelerator("amd_gpu", "MI300X", "0", utilization=0.0),), True),
        (NO_DRIVER, (Accelerator("amd_gpu", "MI300X", "0", utilization=0.4),), False),
        (GpuReport(), (), True),
    ],
)
def test_gpus(box: Box, report: GpuReport, accelerators: tuple[Accelerator, ...], idle: bool | None) -> None:
    """The busiest decides; a card that does not tell its load is idle only where it tells that nobody uses it."""
    assert box.look(idle_specs(report=report, accelerators=accelerators))["gpu"].idle is idle


def test_one_look_at_a_gpu_says_little(box: Box) -> None:
    """The mean of four looks counts: a pause between two steps is not idleness, and a single flicker not work for ever."""
    busy = GpuReport((Gpu(0, "GPU-0", utilization=0.6),))
    for report, idle in ((busy, False), (None, False), (None, False), (None, False), (None, True)):
        specs = idle_specs() if report is None else idle_specs(report=report)
        assert box.look(specs)["gpu"].idle is idle


@pytest.mark.parametrize(
    ("changes", "idle"),
    [
        ({"cpu_utilization": 0.5}, False),  # one of two threads
        ({"cpu_utilization": None}, None),
        ({"cpu_utilization": 1.0, "place": Place(container="docker")}, True),  # the host's other tenants
        ({"place": Place(container="docker"), "used_cores": 0.9}, False),
        ({"place": Place(container="docker"), "used_cores": None}, None),
        ({"limits": cgroup.Limits("2", cpu_cores=0.75), "used_cores": 0.7}, False),
    ],
)
def test_processor(box: Box, changes: dict[str, Any], idle: bool | None) -> None:
    """One computing process is work, however many cores there are; in a container its own group is looked at."""
    assert box.look(idle_specs(**changes))["cpu"].idle is idle


def test_terminals(box: Box) -> None:
    """The terminal typed at last decides; no terminal is nobody; what is not a terminal is passed over."""
    pts = box.root / "dev/pts"
    (pts / "ptmx").touch()
    assert box.look(idle_specs())["terminals"].idle is True
    for number, age in ((0, 7200), (1, 100)):
        (pts / str(number)).touch()
        os.utime(pts / str(number), (box.now - age, box.now))  # written to just now: output is not input
    found = box.look(idle_specs(), 0)["terminals"]
    assert (found.idle, found.text) == (False, "last key struck 1 min 40 s ago")
    assert box.look(idle_specs(), 300)["terminals"].idle is True


def test_network(box: Box) -> None:
    """Both directions of all interfaces but the loopback, by the time between two looks."""
    box.look(idle_specs())
    write(box.root, "proc/net/dev", NET.format(1_000_000, 400_000))
    assert box.look(idle_specs(), 15)["network"].idle is True
    write(box.root, "proc/net/dev", NET.format(2_000_000, 1_000_000))
    assert box.look(idle_specs(), 15)["network"].idle is False
    write(box.root, "proc/net/dev", "")
    assert box.look(idle_specs(), 15)["network"].idle is None


@pytest.mark.parametrize(
    ("drive", "error", "idle"),
    [
        ((DriveMount("/d", pending_files=0),), None, True),
        ((DriveMount("/d", pending_files=1, pending_bytes=1),), None, False),
        ((DriveMount("/d", pending_files=0), DriveMount("/e", error="stuck")), None, None),
        ((DriveMount("/d"),), None, None),
        ((), "no answer", None),
    ],
)
def test_drive(box: Box, drive: tuple[DriveMount, ...], error: str | None, idle: bool | None) -> None:
    """Unsent files keep the box, and so does a mount that does not tell."""
    assert box.look(idle_specs(drive=drive, drive_error=error))["drive"].idle is idle


def test_hold(box: Box) -> None:
    """A person's word counts until its time is over; one that cannot be read is not known."""
    box.state.tell(hold_until=box.now + 100)
    assert box.look(idle_specs(), 50)["hold"].text == "held for another 50 s"
    assert box.look(idle_specs(), 51)["hold"].idle is True
    (box.state.folder / "session.json").write_text("{torn")
    assert box.look(idle_specs())["hold"].idle is None


def test_what_is_left_out_is_not_asked(tmp_path: Path) -> None:
    """--without: the probe neither keeps the box nor is it shown."""
    box = Box(tmp_path, "gpu", "network")
    found = box.look(idle_specs(report=GpuReport(error=Fault("unknown", "x"))))
    assert set(found) == set(PROBES) - {"gpu", "network"}
    assert all(finding.idle for finding in found.values())


# -- Jupyter -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def jupyter() -> Iterator[tuple[str, list[Any]]]:
    """A server's address, and what it answers: [status, kernels]."""
    answer: list[Any] = [200, []]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/lab/api/kernels" and self.headers["Authorization"] == "token s3cret"
            self.send_response(answer[0] if known else 403)
            self.end_headers()
            self.wfile.write(json.dumps(answer[1]).encode())

        def log_message(self, *arguments: Any) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/lab/", answer
        finally:
            server.shutdown()
            thread.join()


def test_jupyter(box: Box, jupyter: tuple[str, list[Any]]) -> None:
    """A kernel is idle only where its server says so: found by the kernel's command line, asked with its own token."""
    url, answer = jupyter
    write(box.root, "proc/7/cmdline", "python\0-m\0ipykernel_launcher\0-f\0/home/a b/runtime/kernel-9a8b7c6d-0001.json\0")
    write(box.root, "proc/7/statm", "100 10 1 1 0 1 0\n")
    kernels = read_kernels(box.root)
    assert kernels[0].directory == "/home/a b/runtime/"
    specs = idle_specs(kernels=kernels)
    assert box.look(idle_specs())["jupyter"].idle is True
    assert box.look(specs)["jupyter"].text == "nobody tells what kernel 9a8b7c6d does"
    server = json.dumps({"url": url, "token": "s3cret", "pid": 42})
    write(box.root, "home/a b/runtime/jpserver-42.json", server)
    assert box.look(specs)["jupyter"].idle is None, "the server's process is gone"
    write(box.root, "proc/42/stat", "")
    assert box.look(specs)["jupyter"].idle is None, "the server does not know the kernel"
    for state, idle in (("idle", True), ("busy", False), ("starting", False)):
        answer[1] = [{"id": "9a8b7c6d-0001", "execution_state": state}]
        assert box.look(specs)["jupyter"].idle is idle, state
    answer[0] = 500
    assert box.look(specs)["jupyter"].idle is None
    assert box.look(idle_specs(kernels=(Kernel("ffff0000", 1),)))["jupyter"].idle is None
