"""What is made of an inventory: Colab's report, the notebook's table, the curves and the live view."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from drivefs_agent import cgroup, history, html, watch
from drivefs_agent.colab import resources
from drivefs_agent.disks import Disk, DiskReader
from drivefs_agent.drive import DriveMount, DriveReader
from drivefs_agent.gpu import Fault, Gpu, GpuReport
from drivefs_agent.inventory import Sampler
from drivefs_agent.metadata import Instance
from drivefs_agent.procs import Kernel
from tests.agent.boxes import GIB, make_specs

T4 = Gpu(0, "GPU-0", "Tesla T4", memory_total=16 * GIB, memory_used=4 * GIB, utilization=0.5, memory_utilization=0.25)
SILENT = Gpu(1, "GPU-1", "Tesla T4", memory_total=16 * GIB, memory_used=0, na={"utilization": "not_supported"})
LOST = Gpu(2, error=Fault("gpu_is_lost", "The GPU has fallen off the bus."))
ROOT = Disk("/", "overlay", "overlay", "overlay", 100, 60, 40)
SHM = Disk("/dev/shm", "shm", "tmpfs", "memory", 50, 0, 50)
DATA = Disk("/data", "/dev/sdb", "ext4", "local", 200, 20, 180)
QUOTA = Disk("/content/drive", "drive", "fuse.drive", "fuse", 15, 5, 10)
HUNG = Disk("/hung", "srv", "nfs4", "network", error="no answer within 1 s")


def test_colabs_keys_exactly() -> None:
    """The whole report, key by key, as the notebook front end reads it; a container's limit counts as its memory."""
    specs = make_specs(
        GpuReport((T4,)),
        disks=(DATA, SHM, HUNG, QUOTA, ROOT),
        limits=cgroup.Limits("2", 2 * GIB, memory_used_bytes=3 * GIB // 2),
        kernels=(Kernel("9a8b7c6d", 1234),),
    )
    assert resources(specs) == {
        "memory": {"totalBytes": 2 * GIB, "freeBytes": GIB // 2, "kernels": [{"uuid": "9a8b7c6d", "usedBytes": 1234}]},
        "disks": [
            {"filesystem": {"label": "kernel", "totalBytes": 100, "usedBytes": 60}},
            {"filesystem": {"label": "/data", "totalBytes": 200, "usedBytes": 20}},
        ],
        "gpus": [
            {
                "name": "Tesla T4",
                "memoryUsedBytes": 4 * GIB,
                "memoryTotalBytes": 16 * GIB,
                "gpuUtilization": 0.5,
                "memoryUtilization": 0.25,
                "everUsed": True,
            }
        ],
    }


def test_one_silent_card_does_not_hide_the_others_from_colabs_report() -> None:
    """A card without a load keeps its other numbers, a lost one is left out, and the well one stays."""
    report = resources(make_specs(GpuReport((T4, SILENT, LOST))))
    assert [(gpu["memoryTotalBytes"], gpu["gpuUtilization"], gpu["everUsed"]) for gpu in report["gpus"]] == [
        (16 * GIB, 0.5, True),
        (16 * GIB, None, False),
    ]
    assert "kernels" not in report["memory"]


class Checker(HTMLParser):
    """Collects texts and meters, and fails where tags do not close as they opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.meters: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        values = dict(attrs)
        if values.get("role") == "meter":
            self.meters[str(values["aria-label"])] = str(values["aria-valuenow"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_table_for_notebooks() -> None:
    """Well formed, a gauge for every known ratio, and hostile names as text."""
    evil = Disk("/media/<script>alert(1)</script>", "/dev/sdc", "ext4", "local", 100, 95, 5)
    specs = make_specs(GpuReport((T4, SILENT, LOST)), disks=(evil, HUNG))
    rendered = html.render(specs)
    checker = Checker()
    checker.feed(rendered)
    checker.close()
    assert checker.open == []
    assert checker.meters == {"CPU": "25", "Memory": "75", "Disk": "95", "GPU 0": "25", "GPU 1": "0"}
    assert "<script>" not in rendered
    assert any("<script>alert(1)</script>" in text for text in checker.texts)


def test_text_of_what_waits_for_drive() -> None:
    """Pending files are told with their size; not known is told as not known."""
    mount = DriveMount("/content/drive", "me@example.com", 2, 3 * GIB, 9.0, 5 * GIB, 10 * GIB)
    text = str(make_specs(drive=(mount, DriveMount("/d", pending_files=0, cache_bytes=0))))
    assert "/content/drive · me@example.com · 2 files (3.0 GiB) not yet on Drive · cache 5.0 GiB of 10.0 GiB" in text
    assert "/d · everything is on Drive · cache 0 B" in text
    assert "Drive    not known: stuck" in str(make_specs(drive_error="stuck"))


def test_json_of_a_clouds_instance_and_a_mount() -> None:
    """What the metadata server and the daemon told is in the JSON."""
    told = Instance("gcp", "a3", "42", "us-central1-a", False)
    values = make_specs(instance=told, drive=(DriveMount("/d", "me", 1, 2, 3.0, 4, None),)).to_json()
    assert values["host"]["instance"] == {
        "cloud": "gcp", "type": "a3", "id": "42", "zone": "us-central1-a", "preemptible": False,
    }  # fmt: skip
    assert values["drive"]["mounts"][0]["pending_bytes"] == 2


def test_history_keeps_the_newest_and_draws_gaps() -> None:
    """Old points go, 0 is a low line, and what is not known is a gap, not 0."""
    kept = history.History(length=3)
    for second, busy in enumerate((0.9, 0.0, None, 1.0)):
        specs = make_specs(GpuReport((T4,)), cpu_utilization=busy)
        kept.add(make_specs(GpuReport((T4,)), cpu_utilization=busy, time=specs.time + timedelta(seconds=second)))
    assert len(kept) == 3
    assert kept.sparkline(lambda point: point.cpu, 10) == "▁ █"
    assert kept.sparkline(lambda point: point.cpu, 1) == "█"
    assert kept.sparkline(lambda point: point.cpu, 0) == ""
    assert [point.gpu for point in kept] == [{"GPU-0": 0.5}] * 3
    assert [point.gpu_memory for point in kept] == [{"GPU-0": 0.25}] * 3


def test_a_frame_has_gauges_and_curves() -> None:
    """Gauges are filled by their ratio; what is not known shows question marks."""
    specs = make_specs(GpuReport((T4, SILENT)))
    past = history.History()
    past.add(specs)
    lines = list(watch.frame(specs, past, 100))
    assert "CPU       [█████···············]  25%                        ▃" in lines
    assert "GPU 0     [██████████··········]  50%                        ▅" in lines
    assert "  memory  [█████···············]  25% 4.0 GiB of 16.0 GiB" in lines
    assert "GPU 1     [????????????????????]  N/A" in lines


def test_a_long_frame_is_cut_to_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written beyond the last line or column, where it would scroll; what was cut is said."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "5")
    output = Terminal()
    watch.watch(output, interval=0.2, count=1)
    assert output.getvalue().startswith("\x1b[?1049h\x1b[?25l")
    assert output.getvalue().endswith("\x1b[?25h\x1b[?1049l")
    shown = re.sub(r"\x1b\[[?0-9]*[A-Za-z]", "", output.getvalue()).split("\n")
    assert len(shown) == 5
    assert max(map(len, shown)) <= 40
    assert re.fullmatch(r"… \d+ lines more: enlarge the window", shown[-1])


def test_without_a_terminal_each_look_is_plain_text() -> None:
    """In a pipe or a notebook's cell there are no control sequences."""
    output = io.StringIO()
    watch.watch(output, interval=0.2, count=2)
    assert "\x1b" not in output.getvalue()
    assert output.getvalue().count("\nBox ") == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_the_terminal_is_given_back(number: int, code: int) -> None:
    """Whether by Ctrl-C or by a polite kill, the cursor and the first screen are back when the command has ended."""
    primary, secondary = pty.openpty()
    command = [sys.executable, "-c", "from drivefs_agent.cli import main; main()", "specs", "--watch"]
    with subprocess.Popen(command, stdin=secondary, stdout=secondary, stderr=secondary, start_new_session=True) as process:
        os.close(secondary)
        seen = b""
        while b"Ctrl-C ends" not in seen:
            seen += os.read(primary, 65536)
        process.send_signal(number)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                seen += os.read(primary, 65536)
            except OSError:  # the other side is closed: the process has ended
                break
        assert process.wait(timeout=20) == code
    os.close(primary)
    assert seen.startswith(b"\x1b[?1049h\x1b[?25l")
    assert seen.endswith(b"\x1b[?25h\x1b[?1049l")
    assert b"Traceback" not in seen


def test_a_sampler_asks_seldom_for_what_changes_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks are asked every 15 seconds, mounts' daemons every 2, the clock and the load every time."""
    now = 0.0
    asked: list[str] = []

    def disks(self: DiskReader, mounts: object) -> tuple[Disk, ...]:
        asked.append("disks")
        return ()

    def drive(self: DriveReader, mounted: object) -> tuple[tuple[DriveMount, ...], str | None]:
        asked.append("drive")
        return (), None

    monkeypatch.setattr(DiskReader, "read", disks)
    monkeypatch.setattr(DriveReader, "read", drive)
    with Sampler(tmp_path, clock=lambda: now) as sampler:
        moments = set()
        for _ in range(16):
            moments.add(sampler.sample().time)
            now += 1
    assert (asked.count("disks"), asked.count("drive"), len(moments)) == (2, 8, 16)
