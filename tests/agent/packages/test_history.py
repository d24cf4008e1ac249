"""Manifests in a folder: graph, heads, joining, trust, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from drivefs_agent.packages.directory import DirectoryFolder
from drivefs_agent.packages.errors import NothingFits, StoreDamaged, Untrusted
from drivefs_agent.packages.history import Store
from drivefs_agent.packages.model import Manifest, Part

from .states import TARGET, manifest, part


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "my_env"


@pytest.fixture
def store(root: Path, tmp_path: Path) -> Store:
    return Store(DirectoryFolder(root), cache=tmp_path / "cache")


def written(
    store: Store, *parts: Part, parents: tuple[str, ...] = (), time: float = 1_700_000_000.0, box: str = "box"
) -> Manifest:
    made = manifest(*parts, parents=parents, time=time, box=box)
    store.write(made)
    return made


def test_a_manifest_comes_back_as_it_was_written(store: Store) -> None:
    """With its parts, objects, target and parents."""
    first = written(store, part("a"))
    second = written(store, part("a"), part("b", "2.0"), parents=(first.id,))
    graph = store.graph(TARGET.line)
    (head,) = graph.heads()
    assert store.read(head) == second
    assert [commit.id for commit in graph.newest_first() if commit.hex in graph.ancestors(head)] in (
        [second.id, first.id],
        [first.id, second.id],
    )


def test_two_states_after_one_are_joined(store: Store) -> None:
    """Two boxes saved at once: each one's new package is in what they amount to."""
    first = written(store, part("a"), part("old"))
    written(store, part("a"), part("b"), parents=(first.id,), box="one")
    written(store, part("a"), part("old"), part("c"), parents=(first.id,), box="two")
    joined = store.join(store.graph(TARGET.line))
    assert joined is not None
    assert set(joined.merged.parts) == {"a", "b", "c"}
    assert len(joined.heads) == 2
    assert {each.split("-")[0] for each in joined.objects} == {"a", "b", "c", "old"}


def test_whose_clock_is_wrong_does_not_decide_who_is_newest(store: Store) -> None:
    """A follower is newer than what it follows, also where its box lives in the past."""
    first = written(store, part("a"), time=1_900_000_000.0)
    second = written(store, part("b"), parents=(first.id,), time=1_000_000_000.0)
    assert [head.id for head in store.graph(TARGET.line).heads()] == [second.id]


def test_other_files_in_the_folder_are_no_manifests(store: Store, root: Path) -> None:
    """People and Drive put things there: notes, "name (1).json"."""
    made = written(store, part("a"))
    folder = root / "envs" / "default" / TARGET.line
    for name in ("note.txt", f"{made.id} (1).json", f"{made.id}.json.bak", "99999999T999999999Z-box-000000000000.json"):
        (folder / name).write_text("{}")
    assert [head.id for head in store.graph(TARGET.line).heads()] == [made.id]


def test_a_state_is_found_by_the_beginning_of_its_last_part(store: Store) -> None:
    """As people name commits; what is not there, or not one, is said."""
    made = written(store, part("a"))
    graph = store.graph(TARGET.line)
    assert graph.find(made.id[-12:][:6]).id == made.id
    for wrong in ("", "zzzz", made.id[-12:][:2]):
        with pytest.raises(NothingFits, match="packages history"):
            graph.find(wrong)


def change(root: Path, made: Manifest, **values: object) -> None:
    (path,) = (root / "envs" / "default" / TARGET.line).glob(f"{made.id}*")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "values",
    [
        {"id": "20260101T000000000Z-box-000000000000"},
        {"parents": ["20260101T000000000Z-box-000000000000"]},
        {"env": "other"},
        {"schema": "drivefs.packages/9"},
        {"parts": {}},
        {"parts": [{"name": "../../etc", "version": "1", "key": "0" * 64, "kind": "distribution"}]},
        {"parts": [{"name": "a", "version": "1/2", "key": "0" * 64, "kind": "distribution"}]},
        {
            "parts": [
                {"name": "a", "version": "1", "key": "0" * 64, "kind": "distribution", "object": "../x-0000000000000000.tar.zst"}
            ]
        },
        {"parts": [{"name": "a", "version": "1", "key": "0" * 64, "kind": "distribution", "size": -1}]},
        {"parts": [{"name": "a", "version": "1", "key": "0" * 64, "kind": "device"}]},
        {"parts": [{"name": "a", "version": "1", "key": "0" * 64, "kind": "distribution"}] * 2},
        {"objects": {"a-1.0-0123456789abcdef.tar.zst": {"sha256": "0" * 64, "size": 1}}},
        {"target": []},
        {"time": "now"},
    ],
)
def test_a_manifest_that_none_of_ours_can_be_is_refused(store: Store, root: Path, values: dict[str, object]) -> None:
    """It decides where files go, so nothing in it is believed unchecked."""
    made = written(store, part("a"))
    change(root, made, **values)
    (head,) = store.graph(TARGET.line).heads()
    with pytest.raises(StoreDamaged):
        store.read(head)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"null", b"\xff"])
def test_a_damaged_manifest_is_refused(store: Store, root: Path, content: bytes) -> None:
    """Half a file, deep brackets, no JSON."""
    made = written(store, part("a"))
    (path,) = (root / "envs" / "default" / TARGET.line).glob(f"{made.id}*")
    path.write_bytes(content)
    (head,) = store.graph(TARGET.line).heads()
    with pytest.raises(StoreDamaged):
        store.read(head)


def test_what_others_may_write_is_refused_unless_trusted(store: Store, root: Path) -> None:
    """Packages run as who restores them."""
    written(store, part("a"))
    (path,) = (root / "envs" / "default" / TARGET.line).iterdir()
    path.chmod(0o666)
    with pytest.raises(Untrusted, match="--trust"):
        store.graph(TARGET.line)
    assert Store(DirectoryFolder(root), trust=True).graph(TARGET.line).heads()
    root.chmod(0o777)
    with pytest.raises(Untrusted, match="--trust"):
        store.require_trusted()


def test_the_target_s_line_tells_pythons_apart() -> None:
    """Free-threaded builds and machines have histories of their own."""
    assert (TARGET.line, replace(TARGET, minor="3.13", abi="t", machine="aarch64").line) == ("cp311-x86_64", "cp313t-aarch64")


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a b"])
def test_names_of_environments(root: Path, name: str) -> None:
    """They are folders, so they must be no paths."""
    with pytest.raises(StoreDamaged, match="no name"):
        Store(DirectoryFolder(root), name)


def test_a_put_that_is_killed_leaves_nothing_under_its_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes come before the name, and what was written aside is not listed."""
    folder = DirectoryFolder(root)
    folder.put("objects/a", b"old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.put("objects/a", b"new")
    monkeypatch.undo()
    (entry,) = folder.files("objects")
    with folder.open(entry) as chunks:
        assert b"".join(chunks) == b"old"
    folder.trash(entry)
    assert (folder.files("objects"), len(list((root / ".trash").iterdir()))) == ([], 1)
