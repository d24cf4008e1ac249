"""What the agent costs a box with eight GPUs: memory and processor time, the server with its page's stream included."""

from __future__ import annotations

import http.client
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from tests.agent.running import Served, serving

pytestmark = pytest.mark.slow

_WATCHED = 6.0


def test_the_servers_appetite(stub_library: Path) -> None:
    """Eight GPUs looked at once a second for one page, plus a scrape: under 80 MiB, under a twentieth of a core."""
    home = Path(tempfile.mkdtemp(prefix="ag-"))
    try:
        with serving(home, LD_LIBRARY_PATH=str(stub_library), NVML_STUB="n=8") as served:
            served.ask("/metrics")
            watcher = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
            watcher.request("GET", "/api/events", headers={"Authorization": f"Bearer {served.token}"})
            stream = watcher.getresponse()
            begun, before, looks = time.monotonic(), seconds(served), 0
            while time.monotonic() - begun < _WATCHED:
                looks += stream.readline() == b"event: look\n"
            used = (seconds(served) - before) / (time.monotonic() - begun)
            rss = resident(served)
            watcher.close()
            each = used * _WATCHED / looks * 1000
            print(f"8 GPUs, one watcher: {rss >> 20} MiB resident, {used * 100:.2f} % of a core, {each:.1f} ms a look")
            assert looks >= 4
            assert served.ask("/metrics")[1].count("drivefs_agent_gpu_power_watts{") == 8
    finally:
        shutil.rmtree(home)
    assert rss < 80 << 20
    assert used < 0.05


def seconds(served: Served) -> float:
    """Processor time so far: proc_pid_stat(5), utime and stime, its children's too."""
    words = Path(f"/proc/{served.process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(word) for word in words[11:15]) / os.sysconf("SC_CLK_TCK")


def resident(served: Served) -> int:
    """Bytes: the second word of proc_pid_statm(5)."""
    return int(Path(f"/proc/{served.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
