"""What others do to the tree while it is mounted, at its nastiest: names and folders change places; nobody meets an error."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..support.mounts import Mount, eventually
from ..support.server import Server

pytestmark = pytest.mark.slow

HOSTILE = ("a/b", "/", "..", ".", "", "\x1b[2J\n", "x" * 300, "ü" * 200)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shows(folder: Path, wanted: dict[str, bytes]) -> bool:
    """AssertionError, with what is there, where it does not."""
    try:
        found = contents(folder)
    except FileNotFoundError as error:  # it went while this looked, as it may
        raise AssertionError from error
    assert found == wanted
    return True


@contextmanager
def somebody_looks(folder: Path) -> Iterator[None]:
    """Walks the tree again and again; that a name has gone meanwhile is the only error that it may meet."""
    ended = threading.Event()
    failures: list[OSError] = []

    def failed(error: OSError) -> None:
        if error.errno != errno.ENOENT:
            failures.append(error)

    def look() -> None:
        while not ended.is_set():
            for depth, (where, _, files) in enumerate(os.walk(folder, onerror=failed)):
                assert depth < 1000, "the walk does not end"
                for name in files:
                    try:
                        Path(where, name).read_bytes()
                    except OSError as error:
                        failed(error)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert failures == []


@pytest.mark.parametrize("count", [2, 3])
def test_names_change_places(count: int, mount: Mount, server: Server) -> None:
    """Files and folders take each other's names in a round: each keeps its content, who has one open keeps reading it, and
    what was changed here and not sent goes to the item that it was made from."""
    files = [server.create(f"f{n}", b"file %d" % n) for n in range(count)]
    folders = [server.make(f"d{n}") for n in range(count)]
    for n, folder in enumerate(folders):
        server.create("inside", b"folder %d" % n, folder)
    eventually(lambda: len(contents(mount.my)) == 2 * count)
    mount.remount("--upload-delay", "600")
    assert len(contents(mount.my)) == 2 * count
    with (mount.my / "d0" / "inside").open("ab") as file:
        file.write(b", changed")
    with somebody_looks(mount.my), (mount.my / "f0").open("rb", buffering=0) as opened:
        for kind, items in (("f", files), ("d", folders)):
            server.change(items[0], {"name": "on its way"})
            for n in range(1, count):
                server.change(items[n], {"name": f"{kind}{n - 1}"})
            server.change(items[0], {"name": f"{kind}{count - 1}"})
        wanted = {f"f{(n - 1) % count}": b"file %d" % n for n in range(count)}
        wanted |= {f"d{(n - 1) % count}/inside": b"folder %d" % n for n in range(count)}
        wanted[f"d{count - 1}/inside"] = b"folder 0, changed"
        eventually(lambda: shows(mount.my, wanted), 3)
        assert opened.read() == b"file 0"
    mount.flush()
    assert contents(mount.my) == wanted
    assert {path: server.content(item["id"]) for path, item in server.paths().items() if item["md5"]} == wanted


@pytest.mark.parametrize("lag", [0, 0.6])
def test_folders_are_turned_inside_out(lag: float, mount: Mount, server: Server) -> None:
    """a/b/c becomes c/b/a, so that halfway each is told to lie in its own child: the tree stays a tree, nothing in it is lost,
    and a file that was made here meanwhile stays where it was made."""
    ids: dict[str, str] = {}
    parent = server.root_id
    for name in "abc":
        ids[name] = parent = server.make(name, parent=parent)
        server.create("inside", name.encode(), parent)
    eventually(lambda: len(contents(mount.my)) == 3)
    mount.remount("--upload-delay", "600")
    assert len(contents(mount.my)) == 3
    (mount.my / "a" / "b" / "new").write_bytes(b"made here")
    if lag:
        server.ask("POST", "/_emulator/faults", {"method": "changes.list", "changes_lag": lag})
    with somebody_looks(mount.my):
        server.move(ids["c"], ids["b"], server.root_id)
        server.move(ids["b"], ids["a"], ids["c"])
        server.move(ids["a"], server.root_id, ids["b"])
        wanted = {"c/inside": b"c", "c/b/inside": b"b", "c/b/a/inside": b"a", "c/b/new": b"made here"}
        eventually(lambda: shows(mount.my, wanted))
    mount.flush()
    assert {path: server.content(item["id"]) for path, item in server.paths().items() if item["md5"]} == wanted
    mount.remount(wipe=True)
    assert contents(mount.my) == wanted


def test_names_become_hostile_while_they_are_looked_at(mount: Mount, server: Server) -> None:
    """A file and a folder are given each of the names that no local name can be, and back: always listed, always readable."""
    file, folder = server.create("file", b"of the file"), server.make("folder")
    server.create("inside", b"of the folder", folder)
    eventually(lambda: len(contents(mount.my)) == 2)
    with somebody_looks(mount.my):
        for name in HOSTILE:
            for item in (file, folder):
                server.change(item, {"name": name})
            eventually(lambda: not {"file", "folder"} & set(os.listdir(mount.my)), 5)
            assert sorted(contents(mount.my).values()) == [b"of the file", b"of the folder"]
            server.change(file, {"name": "file"})
            server.change(folder, {"name": "folder"})
            eventually(lambda: set(os.listdir(mount.my)) == {"file", "folder"}, 5)
    mount.flush()
    assert server.paths().keys() == {"file", "folder", "folder/inside"}
