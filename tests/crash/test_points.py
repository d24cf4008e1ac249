"""The daemon dies at each named place in turn, under one operation of every kind: what was acknowledged is there, once, whole.

Each case has a folder of its own on one mount, which lives in between; so the cases cost one armed start and one plain start.
The verdict: the mount at once after the restart, the server once all was sent, and all folders again through a fresh cache.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from drivefs.base.crashpoints import POINTS
from drivefs.client import ClientError

from ..support.mounts import QUICK, Mount, check_cache
from ..support.server import FOLDER, Server

# Of a path: (kind, bytes or target, permission bits).
Value = tuple[str, bytes, int]
View = dict[str, Value]
LARGE = 18_000_000

# Which passings of a place are the last one; the first unless said otherwise.
PASSINGS: dict[str, tuple[int, ...]] = {
    "after-commit": (2, 6, 12),
    "answer-PATCH": (1, 3, 5),
    "answer-POST": (1, 2, 4),
    "answer-not-recorded": (1, 4, 7),
    "before-commit": (2, 6, 12),
    "before-step": (1, 4, 7),
    "chunk-answered": (1, 2),
    "content-answered": (1, 3),
    "done-write": (1, 4),
    "recovery-entry": (1, 4),
    "recovery-file": (1, 4),
    "request": (20, 35, 50),
    "row-dropped": (1, 2),
    "upload-recorded": (1, 3),
}
AT_START = {"page-applied", "recovery-discarded", "recovery-entry", "recovery-file"}
IN_CHUNKS = {"answer-PUT", "chunk-answered", "session-noted", "session-opened"}
CASES = [(point, n) for point in sorted(POINTS) for n in PASSINGS.get(point, (1,))]


@dataclass(frozen=True)
class Op:
    """``between``: what may be seen when the daemon died in the middle; each is a change of what was before."""

    name: str
    act: Callable[[Path], None]
    after: dict[str, Value | None]
    between: list[dict[str, Value | None]] = field(default_factory=list)


def file(data: bytes, mode: int = 0o600) -> Value:
    return ("file", data, mode)


NOTHING: Value = ("folder", b"", 0o700)
PREPARED: View = {name: file(b"old " + name.encode()) for name in ("changed", "log", "cut", "saved", "from", "gone", "mode")}
PREPARED |= {"x": file(b"x"), "y": file(b"y"), "full": NOTHING, "full/inside": file(b"i"), "empty": NOTHING}


def create(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def patch(path: Path) -> None:
    with path.open("r+b", buffering=0) as opened:
        opened.write(b"new")


def append(path: Path) -> None:
    with path.open("ab", buffering=0) as opened:
        opened.write(b" and more")


def save(folder: Path) -> None:
    (folder / ".saved").write_bytes(b"new saved")
    os.replace(folder / ".saved", folder / "saved")


def make_durable(folder: Path) -> None:
    with (folder / "durable").open("wb", buffering=0) as opened:
        opened.write(b"on the disk")
        os.fsync(opened.fileno())
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def delete_open(folder: Path) -> None:
    """Ends with the deletion: the descriptor is closed too, but by then the name has gone."""
    with (folder / "gone").open("rb") as opened:
        os.unlink(folder / "gone")
        opened.read()


OPS = [
    Op(
        "create",
        lambda f: create(f / "new", b"brand new"),
        {"new": file(b"brand new")},
        [{"new": file(b"")}],
    ),
    Op("overwrite", lambda f: patch(f / "changed"), {"changed": file(b"new changed")}),
    Op("append", lambda f: append(f / "log"), {"log": file(b"old log and more")}),
    Op("truncate", lambda f: os.truncate(f / "cut", 2), {"cut": file(b"ol")}),
    Op(
        "replace",
        save,
        {"saved": file(b"new saved")},
        [{".saved": file(b"")}, {".saved": file(b"new saved")}],
    ),
    Op("rename", lambda f: os.rename(f / "from", f / "full" / "to"), {"from": None, "full/to": file(b"old from")}),
    Op("rename over", lambda f: os.replace(f / "x", f / "y"), {"x": None, "y": file(b"x")}),
    Op("unlink", delete_open, {"gone": None}),
    Op("mkdir", lambda f: os.mkdir(f / "made"), {"made": NOTHING}),
    Op("rmdir", lambda f: os.rmdir(f / "empty"), {"empty": None}),
    Op("symlink", lambda f: os.symlink("new", f / "link"), {"link": ("link", b"new", 0o777)}),
    Op("setattr", lambda f: os.chmod(f / "mode", 0o640), {"mode": file(b"old mode", 0o640)}),
    Op("durable", make_durable, {"durable": file(b"on the disk")}, [{"durable": file(b"")}]),
]
UPLOAD = Op("large", lambda f: create(f / "big", bytes(LARGE)), {"big": file(bytes(LARGE))})


def changed(view: View, change: dict[str, Value | None]) -> View:
    return {path: value for path, value in (view | change).items() if value is not None}


def seen(folder: Path) -> View:
    """Everything below; what is listed can be opened and read."""
    found: View = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", os.fsencode(path.readlink()), mode)
        elif path.is_dir():
            found[name] = ("folder", b"", mode)
        else:
            found[name] = ("file", path.read_bytes(), mode)
            assert status.st_size == len(found[name][1]), name
    return found


@dataclass
class Stage:
    """The mount with a folder for each case, and what is in those that have been judged."""

    mount: Mount
    server: Server
    views: dict[str, View] = field(default_factory=dict)

    def folder(self, name: str) -> Path:
        return self.mount.my / name

    def arm(self, text: str) -> bool:
        """Start the daemon that is to die; whether it lived to serve the mount."""
        command = ("mount", self.mount.point, "--cache-dir", self.mount.cache, *QUICK, "--no-supervise")
        return self.mount.run(*command, env={"DRIVEFS_CRASH_AT": text}).returncode == 0

    def wait(self, seconds: float) -> bool:
        """Whether the daemon dies while it sends, or soon after."""
        pid = self.mount.pid
        if pid is None:
            return True
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            try:
                self.mount.client.flush(timeout=30)
            except ClientError:
                seconds = 10.0  # it is dying
            return bool(select.select([handle], [], [], seconds)[0])
        finally:
            os.close(handle)


def perform(folder: Path, view: View, ops: list[Op]) -> list[View]:
    """Do all until the daemon dies; returns every view that is right then, the latest first."""
    for op in ops:
        after = changed(view, op.after)
        try:
            op.act(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
                raise
            return [after, *(changed(view, change) for change in op.between), view]
        view = after
    return [view]


def judge_server(stage: Stage, name: str) -> None:
    """Of the folder: just these paths, each once, with these bytes."""
    items = {path: item for path, item in stage.server.paths().items() if path.startswith(f"{name}/")}
    wanted = {f"{name}/{path}": value for path, value in stage.views[name].items()}
    assert items.keys() == wanted.keys()
    for path, (kind, data, _mode) in wanted.items():
        if kind == "folder":
            assert items[path]["mimeType"] == FOLDER, path
        elif kind == "file":
            assert items[path]["size"] == len(data), path
            assert stage.server.content(items[path]["id"]) == data, path


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Mounted, with a prepared folder for each case; all of it is on the server."""
    home = Path(tempfile.mkdtemp(prefix="dfs-"))
    mask = os.umask(0o077)
    server = Server(home / "server")
    mount = Mount(home, server)
    try:
        mount.mount()
        stage = Stage(mount, server)
        for point, n in CASES:
            prepare(stage.folder(f"{point}-{n}"))
        mount.flush()
        yield stage
        mount.expect_log("the mount at .* is dead")
        mount.judge_log()
    finally:
        os.umask(mask)
        mount.end()
        server.stop()
        if mount.cache.exists():
            check_cache(mount.cache)
        shutil.rmtree(home)


def prepare(folder: Path) -> None:
    folder.mkdir()
    for name, (kind, data, _mode) in PREPARED.items():
        if kind == "folder":
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(data)


def kill_with_a_deleted_file_open(mount: Mount, path: Path) -> None:
    """What is open and deleted leaves content that the next start drops."""
    number = os.open(path, os.O_RDONLY)
    os.unlink(path)
    mount.kill()
    with contextlib.suppress(OSError):  # the mount is dead, and says so
        os.close(number)


def die_at(stage: Stage, point: str, n: int, folder: Path) -> list[View]:
    """Have the daemon die at that passing, under operations in ``folder``; returns the views that are right."""
    if stage.mount.pid is None:  # a case before this one failed
        stage.mount.mount()
    if point in AT_START:
        (left,) = perform(folder, PREPARED, OPS)
        if point == "page-applied":
            stage.mount.flush()
        kill_with_a_deleted_file_open(stage.mount, folder / "new")
        del left["new"]
        assert not stage.arm(f"{point}:{n}") or stage.wait(3.0), f"{point} was not passed {n} times after a start"
        return [left]
    stage.mount.kill()
    assert stage.arm(f"{point}:{n}")
    possible = perform(folder, PREPARED, [UPLOAD] if point in IN_CHUNKS else OPS)
    assert stage.wait(3.0), f"{point} was not passed {n} times"
    return possible


def difference(actual: View, wanted: View) -> str:
    paths = sorted(path for path in actual.keys() | wanted.keys() if actual.get(path) != wanted.get(path))
    return "\n".join(f"{path}: {actual.get(path)!r:.200} in place of {wanted.get(path)!r:.200}" for path in paths)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "n"), CASES)
def test_death_at_each_place(point: str, n: int, stage: Stage) -> None:
    """At once the mount shows what was acknowledged, or the operation in flight whole; and so does the server after a flush."""
    folder = stage.folder(f"{point}-{n}")
    possible = die_at(stage, point, n, folder)
    stage.mount.mount()
    actual = seen(folder)
    if folder.joinpath(".saved").exists():
        os.unlink(folder / ".saved")
    assert actual in possible, difference(actual, possible[0])
    actual.pop(".saved", None)
    stage.views[folder.name] = actual
    stage.mount.flush()
    judge_server(stage, folder.name)


@pytest.mark.slow
def test_all_of_it_through_a_fresh_cache(stage: Stage) -> None:
    """Wiping the cache changes nothing in any folder, permission bits and links included."""
    stage.mount.unmount()
    stage.mount.wipe()
    stage.mount.mount()
    assert stage.views
    for name, view in stage.views.items():
        assert seen(stage.folder(name)) == view, name
