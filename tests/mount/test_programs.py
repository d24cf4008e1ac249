"""Real programs on the mount, and what Drive has of their work once the cache is gone."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ..support.mounts import Mount
from ..support.server import Server, environment


def run(*command: str | Path, cwd: Path | None = None) -> str:
    quiet = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}
    author = {f"GIT_{who}_{what}": "t@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(command, cwd=cwd, env=environment(**quiet, **author), capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def test_git(mount: Mount, server: Server, tmp_path: Path) -> None:
    """A clone into the mount, a commit and gc in it: fsck finds nothing wrong, there and with a wiped cache; no lock is left."""
    origin = tmp_path / "origin"
    run("git", "init", "-q", "-b", "main", origin)
    for n in range(40):
        path = origin / f"d{n % 4}" / f"f{n}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{n}\n" * 50)
    (origin / "link").symlink_to("d0/f0.txt")
    (origin / "run").write_text("#!/bin/sh\n")
    (origin / "run").chmod(0o755)
    run("git", "add", "-A", cwd=origin)
    run("git", "commit", "-q", "-m", "first", cwd=origin)
    clone = mount.my / "clone"
    run("git", "clone", "-q", "--no-local", origin, clone)
    (clone / "new.txt").write_text("new")
    run("git", "add", "-A", cwd=clone)
    run("git", "commit", "-q", "-m", "second", cwd=clone)
    run("git", "gc", "-q", cwd=clone)
    mount.remount(wipe=True)
    run("git", "fsck", "--full", "--strict", cwd=clone)
    # Size and time are in git's index; what Drive keeps of them must be what git saw.
    run("git", "update-index", "-q", "--refresh", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    assert run("git", "log", "--format=%s", cwd=clone) == "second\nfirst\n"
    assert os.readlink(clone / "link") == "d0/f0.txt"
    assert os.access(clone / "run", os.X_OK)
    assert not [path for path in server.paths() if path.endswith(".lock") or "tmp_obj" in path or "fuse_hidden" in path]


@pytest.mark.parametrize("journal", ["DELETE", "TRUNCATE", "PERSIST", "WAL", "OFF"])
def test_sqlite(journal: str, mount: Mount, server: Server) -> None:
    """A database written in the mount in this journal mode passes its integrity check, there and as Drive has it."""
    path = mount.my / "db.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        mode = connection.execute(f"PRAGMA journal_mode = {journal}").fetchone()[0]
        if journal == "WAL" and mode != "wal":
            pytest.fail(f"WAL was refused: {mode}")
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x BLOB)")
        for round_ in range(10):
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO t (x) VALUES (?)", [(os.urandom(500),) for _ in range(20)])
            connection.execute("DELETE FROM t WHERE n % 7 = ?", (round_ % 7,))
            connection.execute("COMMIT")
        rows = connection.execute("SELECT count(*), sum(length(x)) FROM t").fetchone()
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        connection.close()
    mount.remount(wipe=True)
    again = sqlite3.connect(path)
    try:
        assert again.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert again.execute("SELECT count(*), sum(length(x)) FROM t").fetchone() == rows
    finally:
        again.close()


def sample_tree(top: Path) -> None:
    (top / "sub" / "deeper").mkdir(parents=True)
    for n, path in enumerate((top / "a", top / "sub" / "b", top / "sub" / "deeper" / "c")):
        path.write_bytes(os.urandom(10_000 * (n + 1)))
        os.utime(path, ns=(0, 1_600_000_000_123_000_000 + n))
    (top / "a").chmod(0o700)
    (top / "link").symlink_to("sub/b")


def described(top: Path) -> dict[str, object]:
    """Type, bytes, bits and times (to the millisecond) of everything below."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        when = None if path.is_dir() or path.is_symlink() else status.st_mtime_ns // 10**6
        found[str(path.relative_to(top))] = (oct(status.st_mode), when, what)
    return found


def test_cp_and_tar(mount: Mount, tmp_path: Path) -> None:
    """``cp -a`` and ``tar x`` into the mount keep bytes, bits, links and times, which is what a wiped cache shows again."""
    origin = tmp_path / "origin"
    sample_tree(origin)
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(origin, "packed")
    run("cp", "-a", origin, mount.my / "copied")
    run("tar", "-x", "-f", archive, "-C", mount.my)
    for _ in range(2):
        assert described(mount.my / "copied") == described(origin)
        assert described(mount.my / "packed") == described(origin)
        mount.remount(wipe=True)
    run("cp", "-a", mount.my / "copied", tmp_path / "back")
    assert described(tmp_path / "back") == described(origin)
    run("rm", "-r", mount.my / "copied")
    assert os.listdir(mount.my) == ["packed"]


def make_wheel(folder: Path) -> Path:
    """A wheel with one module, a data file and a script, made by hand: pip needs no network for it."""
    wheel = folder / "tinything-1.0-py3-none-any.whl"
    info = "tinything-1.0.dist-info"
    files = {
        "tinything/__init__.py": "VALUE = 42\n",
        "tinything/data.txt": "data",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
        packed.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]))
    return wheel


def installer() -> list[str]:
    """pip where this Python has it, else uv, which installs in the same way."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    uv = Path(sys.executable).parent / "uv"
    assert uv.exists(), "neither pip nor uv is there"
    return [str(uv), "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-cache"]


def test_pip_install_target(mount: Mount, tmp_path: Path) -> None:
    """A package installed into the mount is imported from there, also by a later session with an empty cache."""
    target = mount.my / "my_env"
    run(*installer(), "--target", target, make_wheel(tmp_path))
    code = f"import sys; sys.path.insert(0, {str(target)!r}); import tinything; print(tinything.VALUE, tinything.__file__)"
    for _ in range(2):
        assert run(sys.executable, "-c", code) == f"42 {target}/tinything/__init__.py\n"
        mount.remount(wipe=True)


def save_by_rename(path: Path, content: bytes) -> None:
    """As editors, notebooks, torch.save wrappers and rsync do."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        os.fsync(file.fileno())
    os.replace(temporary, path)


@pytest.mark.parametrize("flush_between", [True, False], ids=["uploaded", "not uploaded"])
def test_saving_by_rename_keeps_the_id(flush_between: bool, mount: Mount, server: Server) -> None:
    """Replacing a file by a renamed temporary one gives the same Drive item a new revision; no temporary file is left."""
    path = mount.my / "notebook.ipynb"
    path.write_bytes(b"first")
    mount.flush()
    item = server.paths()["notebook.ipynb"]["id"]
    for n in range(3):
        save_by_rename(path, b"version %d" % n)
        if flush_between:
            mount.flush()
    mount.flush()
    assert {path: entry["id"] for path, entry in server.paths().items()} == {"notebook.ipynb": item}
    assert server.content(item) == b"version 2"
    revisions = server.revisions(item)
    assert len(revisions) == (4 if flush_between else len(set(revisions)))
    assert 2 <= len(revisions) <= 4
    mount.remount(wipe=True)
    assert path.read_bytes() == b"version 2"


def test_short_lived_files_cost_no_upload(mount: Mount, server: Server) -> None:
    """A file that is created and deleted before its turn never reaches Drive; ten renames are one call."""
    mount.remount("--upload-delay", "1")
    before = server.requests()
    for n in range(20):
        (mount.my / f"tmp{n}").write_bytes(b"x" * 1000)
        (mount.my / f"tmp{n}").unlink()
    (mount.my / "a0").write_bytes(b"x")
    for n in range(10):
        os.rename(mount.my / f"a{n}", mount.my / f"a{n + 1}")
    mount.flush()
    spent = server.requests() - before
    assert spent["files.create"] == 1
    assert spent["files.update"] == 0
    assert server.paths().keys() == {"a10"}


def test_folders_change_places(mount: Mount, server: Server) -> None:
    """Folders move into what had been inside them, before any of it is sent: Drive follows without a refused call."""
    for n in range(10):
        (mount.my / f"{n}" / "b" / "c").mkdir(parents=True)
    mount.flush()
    ids = {path: item["id"] for path, item in server.paths().items()}
    mount.remount("--upload-delay", "600")
    wanted: dict[str, str] = {}
    for n in range(10):
        os.rename(mount.my / f"{n}" / "b", mount.my / f"b{n}")
        os.rename(mount.my / f"{n}", mount.my / f"b{n}" / "c" / "a")
        os.rename(mount.my / f"b{n}" / "c", mount.my / f"c{n}")
        os.rename(mount.my / f"b{n}", mount.my / f"c{n}" / "a" / "b")
        wanted |= {f"c{n}": f"{n}/b/c", f"c{n}/a": f"{n}", f"c{n}/a/b": f"{n}/b"}
    mount.flush()
    assert {path: item["id"] for path, item in server.paths().items()} == {new: ids[old] for new, old in wanted.items()}


def test_log_that_stays_open(mount: Mount, server: Server) -> None:
    """A program appends to a log for long: a reader beside it sees each line at once, and after close Drive has all of them."""
    path = mount.my / "train.log"
    with path.open("a") as log:
        for n in range(50):
            log.write(f"step {n}\n")
            log.flush()
            assert path.read_text().splitlines()[-1] == f"step {n}"
    mount.flush()
    assert server.content(server.paths()["train.log"]["id"]).decode() == "".join(f"step {n}\n" for n in range(50))


def test_notebook_cells(mount: Mount) -> None:
    """The classic cells of a notebook: write returns 2, ls shows the file, it reads back, json and shutil work on it."""
    with (mount.my / "test.txt").open("w") as file:
        assert file.write("hi") == 2
    assert run("ls", mount.my) == "test.txt\n"
    assert (mount.my / "test.txt").read_text() == "hi"
    shutil.copy2(mount.my / "test.txt", mount.my / "copy.txt")
    (mount.my / "x.json").write_text(json.dumps({"a": 1}))
    shutil.move(mount.my / "x.json", mount.my / "y.json")
    assert sorted(os.listdir(mount.my)) == ["copy.txt", "test.txt", "y.json"]
