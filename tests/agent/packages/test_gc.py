"""Sweeping a store: what may go, what never does, and whose clock decides."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from drivefs_agent.packages.directory import DirectoryFolder
from drivefs_agent.packages.errors import StoreDamaged
from drivefs_agent.packages.gc import sweep
from drivefs_agent.packages.history import Store
from drivefs_agent.packages.model import Manifest, Part

from .states import TARGET, manifest, object_of, part

DAY = 86400


class Folder:
    """A store in a directory, whose files are given ages in days."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(DirectoryFolder(root))
        self.now = time.time()

    def state(self, *parts: Part, age: float, parents: tuple[Manifest, ...] = ()) -> Manifest:
        for each in parts:
            self.object(each.name, age=age)
        made = manifest(*parts, parents=tuple(one.id for one in parents), time=self.now - age * DAY)
        self.store.write(made)
        (path,) = (self.root / "envs" / "default" / TARGET.line).glob(f"{made.id}*")
        os.utime(path, (self.now - age * DAY,) * 2)
        return made

    def object(self, name: str, *, age: float) -> None:
        path = self.root / "objects" / object_of(name).name
        if not path.exists():
            self.store.folder.put(f"objects/{path.name}", b"12345")
            os.utime(path, (self.now - age * DAY,) * 2)

    def names(self) -> set[str]:
        return {path.name.split("-")[0] for path in (self.root / "objects").iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "store")


def test_old_states_and_their_objects_go_to_the_trash(folder: Folder) -> None:
    """The newest ten stay, and all of the last 30 days; an object goes when no state names it, and only to the trash."""
    states: list[Manifest] = []
    for number in range(14):
        # Two of the last month, twelve older ones.
        age = 0.1 if number == 13 else 10 if number == 12 else 60 - number
        states.append(folder.state(part("always"), part(f"p{number}"), age=age, parents=tuple(states[-1:])))
    swept = sweep(folder.store)
    assert swept.states == tuple(sorted(each.id for each in states[:4]))
    assert folder.names() == {"always", *(f"p{number}" for number in range(4, 14))}
    assert len(list((folder.root / ".trash").iterdir())) == 8
    assert swept.bytes == 20
    assert sweep(folder.store).states == ()


def test_a_head_stays_whatever_its_age(folder: Folder) -> None:
    """Another box's unmerged state is not forgotten."""
    first = folder.state(part("a"), age=100)
    lonely = folder.state(part("lonely"), age=90, parents=(first,))
    last = first
    for number in range(12):
        last = folder.state(part("b"), age=12 - number, parents=(last,))
    sweep(folder.store, keep=1)
    assert "lonely" in folder.names()
    assert lonely.id in {head.id for head in folder.store.graph(TARGET.line).heads()}


def test_an_object_of_a_save_under_way_stays(folder: Folder) -> None:
    """It comes before its manifest; after a day without one it is left over from a kill."""
    folder.state(part("a"), age=0)
    folder.object("coming", age=0.9)
    folder.object("left", age=1.1)
    assert [name.split("-")[0] for name in sweep(folder.store, dry_run=True).objects] == ["left"]
    assert folder.names() == {"a", "coming", "left"}
    sweep(folder.store)
    assert folder.names() == {"a", "coming"}


def test_the_clock_of_the_box_does_not_matter(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A box that lives ten years ahead takes nothing that another has just put there."""
    folder.state(part("a"), age=0)
    folder.object("coming", age=0.01)
    monkeypatch.setattr(time, "time", lambda: folder.now + 3650 * DAY)
    assert sweep(folder.store).objects == ()


def test_a_state_that_cannot_be_read_keeps_everything(folder: Folder) -> None:
    """What it names is not known, so nothing is loose."""
    made = folder.state(part("a"), age=0)
    folder.object("left", age=5)
    (path,) = (folder.root / "envs" / "default" / TARGET.line).glob(f"{made.id}*")
    path.write_bytes(b"{")
    with pytest.raises(StoreDamaged):
        sweep(folder.store)
    assert folder.names() == {"a", "left"}


def test_other_environments_keep_what_they_name(folder: Folder) -> None:
    """Objects are shared by all environments of a store."""
    folder.state(part("a"), age=0)
    folder.object("b", age=5)
    Store(folder.store.folder, "other").write(manifest(part("b"), env="other"))
    sweep(folder.store)
    assert folder.names() == {"a", "b"}


def test_an_object_that_is_named_while_it_is_being_swept_stays(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save finds a left object by its name and names it, between the sweep's look and its deed."""
    folder.state(part("a"), age=0)
    folder.object("left", age=5)
    listed = folder.store.objects()
    monkeypatch.setattr(folder.store, "objects", lambda: folder.state(part("left"), age=0) and listed)
    assert sweep(folder.store).objects == ()
    assert folder.names() == {"a", "left"}
