"""kill -9 of a save or a restore, fifty times at random moments: the store has no state that names what is not there, and the
layer is the old one or the new one.

Of one seed, said when it fails. DRIVEFS_PACKAGES_KILLS asks for more than is shown in a run of all tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from drivefs_agent.packages.directory import DirectoryFolder
from drivefs_agent.packages.history import Store
from drivefs_agent.packages.interpreter import ask
from drivefs_agent.packages.layer import Layer, layer_for
from tests.agent.packages.box import Box, record_problems
from tests.agent.packages.images import Image
from tests.agent.packages.wheels import compiled, wheel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KILLS = int(os.environ.get("DRIVEFS_PACKAGES_KILLS", "50")) // 2
SEED = int(os.environ.get("DRIVEFS_PACKAGES_SEED", "1"))


class Kills:
    """Starts a command and kills it after a random part of the time that it took when it was left alone."""

    def __init__(self, box: Box, seed: int) -> None:
        self._box = box
        self._chance = random.Random(seed)
        self.died = 0

    def timed(self, *words: str) -> float:
        began = time.monotonic()
        self._box.packages(*words)
        return time.monotonic() - began

    def kill(self, seconds: float, *words: str) -> None:
        process = self._box.start("packages", *words)
        time.sleep(self._chance.uniform(0.3, 1.1) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self.died += process.returncode == -signal.SIGKILL


def sound(store: Path) -> set[str]:
    """Every state can be read, and everything that it names is there and is what it says. Returns the states' ids."""
    opened = Store(DirectoryFolder(store))
    ids = set()
    for line in opened.lines():
        for commit in opened.graph(line).newest_first():
            manifest = opened.read(commit)
            ids.add(manifest.id)
            for name, one in manifest.objects.items():
                content = (store / "objects" / name).read_bytes()
                assert (len(content), hashlib.sha256(content).hexdigest()) == (one.size, one.sha256), name
    return ids


def put_in(layer: Layer, number: int) -> None:
    """What pip would install, at once: a distribution of some files, the larger ones of which do not compress."""
    site = layer.site
    name = f"part{number}"
    files = {f"{name}/m{each}.py": f"N = {number}{each}\n".encode() for each in range(30)}
    files[f"{name}/data.bin"] = random.Random(number).randbytes(400_000)
    files[f"{name}-1.0.dist-info/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode()
    files[f"{name}-1.0.dist-info/INSTALLER"] = b"pip\n"
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
    rows = [*files, f"{name}-1.0.dist-info/RECORD"]
    (site / f"{name}-1.0.dist-info" / "RECORD").write_text("".join(f"{row},,\n" for row in rows))


@pytest.fixture
def box(image: Image, tmp_path: Path) -> Box:
    return Box(image, tmp_path / "box", tmp_path / "store").enable()


def layer_of(box: Box) -> Layer:
    return layer_for(ask(box.image.python), box.layers)


def test_kills_during_saves(box: Box, tmp_path: Path) -> None:
    """A state appears whole or not at all; the next save goes on, and sends nothing twice that had arrived."""
    store, layer, kills = tmp_path / "store", layer_of(box), Kills(box, SEED)
    number = 0
    for _ in range(6):
        put_in(layer, number := number + 1)
    seconds = kills.timed("save")
    before = sound(store)
    for _ in range(KILLS):
        for _ in range(3):
            put_in(layer, number := number + 1)
        kills.kill(seconds, "save")
        after = sound(store)
        assert before <= after, f"seed {SEED}: a state is gone"
        before = after
        assert not list((store / "objects").glob("*.json"))
    assert kills.died > KILLS // 3, "too few of the kills came in time to mean anything"
    arrived = {path.name: path.stat().st_mtime_ns for path in (store / "objects").iterdir() if not path.name.startswith(".")}
    box.save()
    sound(store)
    again = {name for name, when in arrived.items() if (store / "objects" / name).stat().st_mtime_ns != when}
    assert again == set()
    (head,) = [row for row in json.loads(box.packages("history", "--json", "-n", "100")) if row["head"]]
    assert head["parts"] == number
    assert [path.name for path in layer.root.iterdir() if path.name.startswith("saving-")] == []


def test_kills_during_restores(box: Box, tmp_path: Path) -> None:
    """The layer is what it was or what the state says, whole; what was installed and not saved is in it always."""
    layer, kills = layer_of(box), Kills(box, SEED)
    links = box.image.links
    wheel(links, "alpha", "1.0", files={"alpha.py": "V = 1\n", "_alpha.so": compiled("a" * 3_000_000)})
    wheel(links, "alpha", "2.0", files={"alpha.py": "V = 2\n", "_alpha.so": compiled("b" * 3_000_000)})
    wheel(links, "beta", "1.0", console={"beta": "beta:version"})
    wheel(links, "mine", "1.0")
    box.install("alpha==1.0")
    box.save()
    for number in range(8):
        put_in(layer, number)
    box.install("beta")
    box.install("--upgrade", "alpha==2.0")
    box.save()
    newest, first = (row["id"][-12:] for row in json.loads(box.packages("history", "--json")))
    box.install("mine")
    states = {newest: {"alpha": "2.0", "beta": "1.0", **{f"part{number}": "1.0" for number in range(8)}}, first: {"alpha": "1.0"}}
    seconds = kills.timed("restore", "--no-watch", "--no-compile", first)
    here = first
    for turn in range(KILLS):
        wanted = (newest, first)[turn % 2]
        kills.kill(seconds, "restore", "--no-watch", "--no-compile", wanted)
        found = box.installed()
        assert found.pop("mine") == "1.0"
        assert found in (states[here], states[wanted]), f"seed {SEED}, turn {turn}"
        here = wanted if found == states[wanted] else here
        assert record_problems(box.site) == []
        assert box.evaluate("__import__('alpha').V") == states[here]["alpha"][0]
    assert kills.died > KILLS // 3, "too few of the kills came in time to mean anything"
    box.restore(newest)
    assert box.installed() == {**states[newest], "mine": "1.0"}
    generations = list((layer.root / "generations").iterdir())
    assert len(generations) == 2, "what the killed ones left is removed by the next"
