"""The page in a browser, served by the command itself: what it shows, that it lives, that nothing foreign in it runs."""

from __future__ import annotations

import http.client
import itertools
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivefs_agent.state import State
from tests.agent.browser import Browser, browser
from tests.agent.running import TOKEN, Served, daemon, serving

pytestmark = pytest.mark.slow

ARTEFACTS = Path(__file__).parents[2] / "artefacts" / "agent"
EVIL = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>.pt"
UNSENT = [
    {"path": f"/content/drive/MyDrive/run/{EVIL}", "size": 1 << 30, "age_s": 75.0, "reason": "uploading", "deletion": False},
    {"path": "/content/drive/MyDrive/old.pt", "size": 0, "age_s": 5.0, "reason": "waiting", "deletion": True},
]
WAITING: dict[str, Any] = {
    "account": "ada@example.com", "pending_files": 2, "pending_bytes": 1 << 30, "oldest_pending_age_s": 75.0, "pending": UNSENT,
    "cache_bytes": 21 << 30, "cache_limit": 60 << 30, "estimated_seconds": 95.0,
}  # fmt: skip
SENT: dict[str, Any] = {
    **WAITING, "pending_files": 0, "pending_bytes": 0, "oldest_pending_age_s": None, "pending": [], "estimated_seconds": 0.0,
}  # fmt: skip
DRAWN = "Number(document.body && document.body.dataset.drawn || 0)"


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ag-"))  # short: sockets have short paths
    try:
        yield path
    finally:
        shutil.rmtree(path)


def show(page: Browser, served: Served) -> str:
    """Open the printed address, and the page's words once it is drawn."""
    page.open(served.url)
    page.until(f"{DRAWN} >= 1")
    return page.text()


def test_eight_cards_and_files_on_their_way(home: Path, stub_library: Path) -> None:
    """Eight GPUs, the verdict, the mount and its files, the session; light, dark and on a phone, without a complaint."""
    state = State(home / "agent")
    state.tell(hold_until=time.time() + 3 * 3600, lease_end=time.time() + 7.4 * 3600)
    finding = {"probe": "gpu", "idle": False, "text": "GPU 0 is 64 % busy"}
    state.put_report({"time": time.time(), "idle_seconds": None, "stop_at": None, "notice": None, "findings": [finding]})
    torch = home / "site" / "torch-2.13.0.dist-info"
    torch.mkdir(parents=True)
    (torch / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n")
    driver = {"LD_LIBRARY_PATH": str(stub_library), "NVML_STUB": "n=8,util=64", "PYTHONPATH": str(torch.parent)}
    with daemon(home / "run", "/content/drive", WAITING), serving(home, **driver) as served, browser(home / "profile") as page:
        page.window(1200, 800)
        text = show(page, served)
        for words in (
            "Not yet safe to power off", "2 files (1.0 GiB) not on Drive yet, about 1 min 35 s to go", "3.0 GiB of 140 GiB",
            "Held for", "ends in 7 h 2", "/content/drive", "ada@example.com", "cache 21.0 GiB of 60.0 GiB", EVIL, "deleted here",
            "GPU 0 is 64 % busy", "123 W of 700", "CUDA up to 13.0", "slowed by power cap",
            "Packages", "torch for CPUs", "2.13.0",
        ):  # fmt: skip
            assert words in text, words
        assert page.run("document.querySelectorAll('#gpus article').length") == 8
        assert page.run("document.querySelectorAll('img, #drive script').length") == 0
        assert "pwned" not in page.run("document.title")
        assert "token" not in page.run("location.href")
        assert TOKEN not in page.run("document.documentElement.outerHTML + document.cookie + JSON.stringify(localStorage)")
        page.until(f"{DRAWN} >= 3")
        for name, width, dark in (("light", 1200, False), ("dark", 1200, True), ("phone", 390, False), ("phone-dark", 390, True)):
            page.window(width, 800, dark=dark)
            page.picture(ARTEFACTS / f"page-{name}.png")
            assert (ARTEFACTS / f"page-{name}.png").stat().st_size > 20_000
            assert page.run("document.documentElement.scrollWidth") <= width, "nothing sticks out at the side"
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 22)"
        assert page.complaints == []


def test_it_lives(home: Path) -> None:
    """The page comes back with its agent and shows the new state by itself; an agent that is gone leaves no "safe" behind."""
    unknown = "document.getElementById('verdict-head').textContent.startsWith('Not known')"
    with browser(home / "profile") as page:
        with daemon(home / "run", "/content/drive", SENT), serving(home) as served:
            assert "Safe to power off" in show(page, served)
            page.until(f"{DRAWN} >= 3")
            assert not page.run(unknown)
            served.process.send_signal(signal.SIGSTOP)
            page.until(unknown)
            assert "The agent has not answered for" in page.text()
            served.process.send_signal(signal.SIGCONT)
            page.until(f"!({unknown})")
        page.until("document.getElementById('live-text').textContent.includes('no answer')")
        page.until(unknown)
        with daemon(home / "run", "/content/drive", WAITING), serving(home, "--port", str(served.port)):
            page.until("document.getElementById('verdict-head').textContent == 'Not yet safe to power off'")
            page.until("document.getElementById('live-text').textContent == 'live'")


def test_a_stuck_daemon_is_not_called_safe(home: Path) -> None:
    """A mount whose daemon does not tell makes the verdict unknown, in words."""
    with daemon(home / "run", "/content/drive", {}), serving(home) as served, browser(home / "profile") as page:
        assert "Not known whether it is safe to power off" in show(page, served)


@pytest.mark.parametrize(
    ("stub", "words"),
    [
        ("n=2,lost=1", ["fallen off the bus", "GPU 0"]),
        ("mig=2", ["MIG 0", "MIG 1"]),
        ("na", ["GPU 0", "N/A"]),
        ("mismatch", ["No GPU is seen.", "Reboot"]),
        ("unknown", ["No GPU is seen."]),
        ("unified", ["Memory, shared with the host"]),
        ("n=0", ["No GPU is seen. The driver is loaded, but it shows no card."]),
    ],
)
def test_every_kind_of_box(home: Path, stub_library: Path, stub: str, words: list[str]) -> None:
    """Whatever the driver does, the page is drawn, says what is wrong, and the browser has nothing to complain about."""
    driver = {"LD_LIBRARY_PATH": str(stub_library), "NVML_STUB": stub}
    with serving(home, **driver) as served, browser(home / "profile") as page:
        text = show(page, served)
        assert [word for word in words if word not in text] == []
        assert page.complaints == []
        assert served.ask("/metrics")[0].status == 200


def test_many_watchers_cost_one_look_a_second(home: Path) -> None:
    """Ten streams for three seconds: each gets the same looks, which come at most once a second, and none asks for its own."""
    with serving(home) as served:
        watchers = [http.client.HTTPConnection("127.0.0.1", served.port, timeout=20) for _ in range(10)]
        for watcher in watchers:
            watcher.request("GET", "/api/events", headers={"Authorization": f"Bearer {TOKEN}"})
        streams = [watcher.getresponse() for watcher in watchers]
        assert {stream.headers["Content-Type"] for stream in streams} == {"text/event-stream; charset=utf-8"}
        begun = time.monotonic()
        times = [looks(stream, 4) for stream in streams]
        took = time.monotonic() - begun
        for watcher in watchers:
            watcher.close()
    distinct = sorted({look for one in times for look in one})
    assert len(distinct) <= took / 0.95 + 2
    assert all(later - earlier > 0.9 for earlier, later in itertools.pairwise(distinct[1:]))


def looks(stream: http.client.HTTPResponse, count: int) -> list[float]:
    """The times of the next looks of a stream."""
    found: list[float] = []
    while len(found) < count:
        if stream.readline() == b"event: look\n":
            found.append(json.loads(stream.readline().removeprefix(b"data: "))["time"])
    return found
