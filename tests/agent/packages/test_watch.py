"""The background saver: when it saves, and when it waits."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drivefs_agent.packages import watch
from drivefs_agent.packages.errors import StoreUnreachable
from drivefs_agent.packages.interpreter import ask
from drivefs_agent.packages.layer import Layer, layer_for
from drivefs_agent.packages.save import Saved
from tests.agent.packages.box import Box
from tests.agent.packages.images import Image
from tests.agent.packages.wheels import wheel
from tests.support.mounts import eventually


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    """As much of one as the watcher looks at."""
    found = layer_for(ask(sys.executable), tmp_path / "layers")
    (found.root / "generations" / "one").mkdir(parents=True)
    (found.root / "current").symlink_to("generations/one")
    found.site.mkdir(parents=True)
    return found


class Course:
    """Plays what happens at which second, and notes when was saved and whether with everything."""

    def __init__(self, layer: Layer, events: dict[int, Callable[[], object]], seconds: int) -> None:
        self.layer = layer
        self.now = 0.0
        self.busy = False
        self.trouble: Exception | None = None
        self.saves: list[tuple[int, bool]] = []
        self.events = events
        self._seconds = seconds

    def run(self) -> list[tuple[int, bool]]:
        watch.Watch(self.layer, self._save, self._wait, busy=lambda: self.busy, clock=lambda: self.now).run()
        return self.saves

    def _wait(self, seconds: float) -> bool:
        for second in range(int(self.now) + 1, int(self.now + seconds) + 1):
            if second in self.events:
                self.events[second]()
        self.now += seconds
        return self.now >= self._seconds

    def _save(self, full: bool) -> Saved:
        self.saves.append((int(self.now), full))
        if self.trouble is not None:
            raise self.trouble
        return Saved(None)


def install(layer: Layer, name: str) -> Callable[[], object]:
    return lambda: (layer.site / f"{name}-1.0.dist-info").mkdir()


def test_saved_once_when_pip_has_been_quiet_for_ten_seconds(layer: Layer) -> None:
    """At the start with everything; then after the last of several installations, and not again while nothing happens."""
    events = {30: install(layer, "a"), 36: install(layer, "b")}
    assert Course(layer, events, 120).run() == [(10, True), (46, False)]


def test_not_while_pip_is_at_work(layer: Layer) -> None:
    """However long it takes."""
    course = Course(layer, {}, 120)
    course.events |= {
        20: lambda: setattr(course, "busy", True),
        21: install(layer, "a"),
        70: lambda: setattr(course, "busy", False),
    }
    assert course.run() == [(10, True), (70, False)]


def test_a_save_that_fails_is_tried_again_less_and_less_often(layer: Layer, caplog: pytest.LogCaptureFixture) -> None:
    """And what the watcher says of itself tells why, until it goes through."""
    course = Course(layer, {}, 300)
    course.trouble = StoreUnreachable("Drive is full.")
    course.events[130] = lambda: setattr(course, "trouble", None)
    saves = course.run()
    assert [second for second, _ in saves] == [10, 26, 56, 116, 236]
    told = watch.read_report(layer)
    assert told is not None
    assert (told.error, told.failures, told.saved) == (None, 4, 236.0)
    assert caplog.messages == ["packages could not be saved: Drive is full."] * 4


def test_what_is_unsaved_at_the_end_is_saved_first(layer: Layer) -> None:
    """SIGTERM, as at a shutdown: there may be no time to rest."""
    assert Course(layer, {58: install(layer, "late")}, 60).run()[-1] == (60, False)


def test_everything_is_looked_at_once_a_day(layer: Layer) -> None:
    """Data of programs, and directories that are declared, change without pip."""
    saves = Course(layer, {}, 2 * 86400).run()
    assert [full for _, full in saves] == [True, True]
    assert saves[1][0] == pytest.approx(86410, abs=4)


def test_a_new_generation_is_a_change(layer: Layer) -> None:
    """After a restore the layer is another directory."""

    def switch() -> None:
        (layer.root / "generations" / "two").mkdir()
        (layer.root / ".aside").symlink_to("generations/two")
        (layer.root / ".aside").replace(layer.root / "current")
        layer.site.mkdir(parents=True)

    assert Course(layer, {30: switch}, 60).run() == [(10, True), (40, False)]


def test_there_is_one_watcher_only(layer: Layer) -> None:
    """A second one says so; who it is, is known."""
    assert watch.watcher_of(layer) is None
    with watch.only_watcher(layer):
        assert watch.watcher_of(layer) == os.getpid()
        with pytest.raises(watch.AlreadyWatched), watch.only_watcher(layer):
            pass
    assert watch.watcher_of(layer) is None


@pytest.mark.parametrize(
    ("words", "installing"),
    [
        (["pip", "install", "x"], True),
        (["/usr/bin/python3", "/opt/x/bin/pip3.11", "install"], True),
        (["python", "-m", "pip", "install"], True),
        (["python", "/lib/pip/__pip-runner__.py", "install"], True),
        (["/root/.local/bin/uv", "pip", "install"], True),
        (["uv", "--quiet", "pip", "sync", "x.txt"], True),
        (["uv", "run", "train.py"], False),
        (["python", "train.py", "--pipeline"], False),
        (["vim", "pip.conf"], False),
        (["uvicorn", "app"], False),
    ],
)
def test_who_is_an_installer(tmp_path: Path, words: list[str], installing: bool) -> None:
    """By the first words of the command, under whatever name it was started."""
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cmdline").write_bytes(b"".join(os.fsencode(word) + b"\0" for word in words))
    assert list(watch.installers(tmp_path)) == ([7] if installing else [])


def states(store: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in store.glob("envs/*/*/*.json")]


@pytest.mark.slow
def test_plain_pip_and_nothing_else(image: Image, tmp_path: Path) -> None:
    """enable, pip install: some seconds later it is in the store; disable ends the watcher, which saves what is left."""
    wheel(image.links, "one", "1.0")
    wheel(image.links, "two", "1.0")
    box = Box(image, tmp_path / "box", tmp_path / "store")
    assert "in the background" in box.agent("enable")
    try:
        box.pip("install", "one")
        saved = eventually(lambda: states(tmp_path / "store"), 60)
        assert [part["name"] for part in saved[0]["parts"]] == ["one"]
        assert "in step" in box.agent("status")
        box.pip("install", "two")
    finally:
        box.agent("disable")
    assert sorted(part["name"] for state in states(tmp_path / "store") for part in state["parts"]) == ["one", "one", "two"]
    assert watch.watcher_of(layer_for(ask(image.python), box.layers)) is None


@pytest.mark.slow
def test_a_watcher_that_is_killed_is_replaced(image: Image, tmp_path: Path) -> None:
    """Its lock ends with it."""
    box = Box(image, tmp_path / "box", tmp_path / "store")
    box.agent("enable")
    layer = layer_for(ask(image.python), box.layers)
    first = watch.watcher_of(layer)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: watch.watcher_of(layer) is None)
    box.packages("watch", "--background")
    second = watch.watcher_of(layer)
    try:
        assert second not in (None, first)
    finally:
        box.agent("disable")
    assert "Traceback" not in (tmp_path / "box" / "agent" / "packages.log").read_text()
