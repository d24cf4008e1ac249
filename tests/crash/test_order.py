"""What Drive shows in between, while changes go out, answers are lost and the daemon is killed: never a state that is a loss.

Uploads run side by side and coalesce, so Drive does not go through all states in order. These orders hold: no name without the
write that came before it took that name, no deletion without the copy that came before it, and what is there and still exists
here never vanishes.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from ..support.mounts import Mount
from ..support.server import Server
from .history import digest_of

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("DRIVEFS_ORDER_KILLS", "3"))
CHAINS = 6
# (path, MD5) of every file that Drive shows at one moment; a newcomer and its victim may have one path for a moment.
Snapshot = frozenset[tuple[str, str]]


@dataclass
class Chain:
    """The life of one content: made, copied, the original removed, the copy changed, moved, and moved over another file."""

    folder: Path
    name: str
    first: bytes
    second: bytes
    victim: bytes
    done: int = 0

    def steps(self) -> list[Callable[[], object]]:
        made, copy, moved, target = (self.folder / path for path in self.paths())
        return [
            lambda: target.write_bytes(self.victim),
            lambda: made.write_bytes(self.first),
            lambda: shutil.copyfile(made, copy),
            made.unlink,
            lambda: copy.write_bytes(self.second),
            lambda: copy.rename(moved),
            lambda: moved.replace(target),
        ]

    def paths(self) -> tuple[str, str, str, str]:
        return f"{self.name} made", f"{self.name} copy", f"sub/{self.name} moved", f"{self.name} target"

    def go_on(self) -> None:
        self.steps()[self.done]()
        self.done += 1

    @property
    def ended(self) -> bool:
        return self.done == len(self.steps())

    def judge(self, snapshots: list[Snapshot]) -> list[str]:
        """The states that must not be, in words."""
        made, copy, moved, target = self.paths()
        first, second, victim = digest_of(self.first), digest_of(self.second), digest_of(self.victim)
        right = {made: {first}, copy: {first, second}, moved: {second}, target: {victim, second}}
        wrong = [
            f"{path} without its content"
            for shown in snapshots
            for path, md5 in shown
            if path in right and md5 not in right[path]
        ]
        wrong += vanished([any(md5 in (first, second) for _, md5 in shown) for shown in snapshots], f"the content of {self.name}")
        wrong += vanished([any(path == target for path, _ in shown) for shown in snapshots], target)
        return wrong


def vanished(there: list[bool], what: str) -> list[str]:
    """there: whether, in snapshot after snapshot."""
    return [f"{what} has vanished"] if any(before and not after for before, after in pairwise(there)) else []


@dataclass
class Watcher:
    """Looks at Drive as often as it can."""

    server: Server
    snapshots: list[Snapshot] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.ended.is_set():
            self.look()

    def look(self) -> None:
        shown = frozenset((item["path"].removeprefix("w/"), item["md5"]) for item in self.server.tree() if item["md5"])
        if not self.snapshots or shown != self.snapshots[-1]:
            self.snapshots.append(shown)


def new_chain(folder: Path, number: int, chance: random.Random) -> Chain:
    first, second, victim = (chance.randbytes(chance.randrange(100, 20_000)) for _ in range(3))
    return Chain(folder, f"c{number}", first, second, victim)


def work(chains: list[Chain], chance: random.Random, steps: int) -> None:
    for _ in range(steps):
        going = [chain for chain in chains if not chain.ended]
        if not going:
            return
        chance.choice(going).go_on()
        time.sleep(chance.uniform(0, 0.08))  # so that Drive is told in many different bundles


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_shows_on_drive_before_what_it_came_after(seed: int, mount: Mount, server: Server) -> None:
    """Of every snapshot of Drive during kills, lost answers and latency, and of all pairs of neighbours."""
    chance = random.Random(seed)
    folder = mount.my / "w"
    (folder / "sub").mkdir(parents=True)
    mount.flush()
    mount.expect_log("trying again|not on Drive yet")
    server.ask(
        "POST",
        "/_emulator/faults",
        {
            "rules": [
                {"latency": {"uniform": [0.0, 0.15]}},
                {"verb": "P*", "reset": "after", "probability": 0.1},
                {"verb": "P*", "status": 503, "probability": 0.1},
            ]
        },
    )
    chains: list[Chain] = []
    watcher = Watcher(server)
    thread = threading.Thread(target=watcher.run)
    thread.start()
    try:
        for _ in range(KILLS):
            chains += [new_chain(folder, len(chains) + n, chance) for n in range(CHAINS)]
            work(chains, chance, 5 * CHAINS)
            mount.kill()
            mount.mount()
        work(chains, chance, 7 * len(chains))
        mount.flush()
    finally:
        watcher.ended.set()
        thread.join()
    watcher.look()
    assert [wrong for chain in chains for wrong in chain.judge(watcher.snapshots)] == []
    assert watcher.snapshots[-1] == {(chain.paths()[3], digest_of(chain.second)) for chain in chains}
    print(f"seed {seed}: {len(chains)} lives of 7 changes, {KILLS} kills, {len(watcher.snapshots)} states of Drive, no finding")


def test_the_verdict_on_orders() -> None:
    """Each order that is broken is seen."""
    chain = Chain(Path("/"), "c", b"first", b"second", b"victim")
    made, copy, moved, target = chain.paths()
    first, second, victim = digest_of(b"first"), digest_of(b"second"), digest_of(b"victim")
    before = (target, victim)
    right = [frozenset(one) for one in ([before], [before, (made, first)], [before, (copy, second)], [(target, second)])]
    assert chain.judge(right) == []
    assert chain.judge([right[1], right[0], right[2]]) == ["the content of c has vanished"]
    assert chain.judge([frozenset([before, (moved, first)])]) == [f"{moved} without its content"]
    assert chain.judge([right[1], frozenset([(copy, first)])]) == [f"{target} has vanished"]
