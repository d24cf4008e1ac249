"""How a mount ends, and what it leaves: the list of what is not on Drive, and a directory that takes no writes."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivefs import guard

from ..support.mounts import Mount, errno_of, eventually, mounted_at
from ..support.server import Server
from .conftest import NewMount

LATER = ("--upload-delay", "600")
NO_WRITE = (errno.EPERM, errno.EACCES, errno.EROFS)


@pytest.fixture
def own_server(home: Path) -> Iterator[Server]:
    """One that the test may stop and start."""
    server = Server(home / "server")
    yield server
    server.stop()


@pytest.fixture
def lonely(home: Path, own_server: Server) -> Iterator[Mount]:
    """Mounted, with one file on Drive; its log may speak of the server's absence."""
    mount = Mount(home, own_server)
    mount.mount()
    (mount.my / "known").write_bytes(b"k")
    mount.flush()
    yield mount
    mount.end()
    mount.expect_log("cannot be reached|cannot be read|not on Drive|Drive has not answered yet")
    mount.judge_log()


def manifest(mount: Mount) -> list[str]:
    """The paths of the list that the last session left; none where there is no list."""
    path = mount.cache / "unsent.json"
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    assert (content["version"], content["mountpoint"]) == (1, str(mount.point))
    assert content["files"] == len(content["entries"])
    assert content["bytes"] == sum(entry["size"] for entry in content["entries"])
    assert all(entry["reason"] and entry["age_s"] >= 0 for entry in content["entries"])
    return [entry["path"] for entry in content["entries"]]


# -- the list ----------------------------------------------------------------------------------------------------------


def test_sigterm_leaves_a_list_at_once(own_server: Server, lonely: Mount) -> None:
    """The machine dies a moment after SIGTERM: the list is there already, status shows it, and the next mount sends it."""
    own_server.stop()
    (lonely.my / "d").mkdir()
    (lonely.my / "d" / "unsent").write_bytes(b"u" * 2048)
    pid = lonely.pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: sorted(manifest(lonely)) == ["MyDrive/d", "MyDrive/d/unsent"], 4)
    lonely.kill()
    subprocess.run(["fusermount3", "-uz", lonely.point], check=True)
    for command in (("status", lonely.point), ("status",), ("status", lonely.my)):
        said = lonely.run(*command)
        assert said.returncode == 3
        assert said.stdout.startswith(
            "safe to power off: no (not mounted: 2 files, 2.0 KiB of the last session only in the cache"
        )
        assert "'MyDrive/d/unsent'  2.0 KiB" in said.stdout
    state = json.loads(lonely.run("status", lonely.point, "--json").stdout)
    assert (state["mounted"], state["pending_files"], state["pending_bytes"]) == (False, 2, 2048)
    assert "has not sent everything" in lonely.run("unmount", lonely.point).stderr
    own_server.start()
    done = lonely.run("mount", lonely.point, "--cache-dir", lonely.cache, "--no-supervise")
    assert "2 changes of the last session still to be sent; sending now" in done.stderr
    lonely.flush()
    eventually(lambda: not (lonely.cache / "unsent.json").exists())
    assert own_server.content(own_server.paths()["d/unsent"]["id"]) == b"u" * 2048
    assert lonely.run("status", lonely.point).returncode == 0
    lonely.unmount()


def test_the_deadline_of_a_drain(own_server: Server, lonely: Mount) -> None:
    """--drain-timeout: SIGTERM without a server ends in that time, with the list in the cache and in the log, and unmounted."""
    lonely.remount("--drain-timeout", "1")
    own_server.stop()
    (lonely.my / "unsent").write_bytes(b"u" * 100)
    begin = time.monotonic()
    lonely.signal(signal.SIGTERM)
    assert time.monotonic() - begin < 6
    assert not mounted_at(lonely.point)
    assert manifest(lonely) == ["MyDrive/unsent"]
    assert "not on Drive, kept in the cache: 'MyDrive/unsent' (100 bytes)" in lonely.log.read_text()


def test_sigterm_ends_although_a_program_has_files_open(server: Server, new_mount: NewMount) -> None:
    """What the program wrote so far is sent, and the daemon ends at its deadline; the program then gets an error."""
    mount = new_mount().mount("--drain-timeout", "2")
    with (mount.my / "log").open("wb", buffering=0) as file:
        file.write(b"so far")
        begin = time.monotonic()
        mount.signal(signal.SIGTERM)
        assert time.monotonic() - begin < 10
        assert not mounted_at(mount.point)
        assert errno_of(lambda: file.write(b"more")) == errno.ENOTCONN
        assert errno_of(lambda: os.close(os.dup(file.fileno()))) == errno.ENOTCONN
        assert server.content(server.paths()["log"]["id"]) == b"so far"
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # what is left of it cannot be closed without an error
    assert not (mount.cache / "unsent.json").exists()


def test_the_estimate_of_status(own_server: Server, lonely: Mount) -> None:
    """Once uploads were timed, what waits has an estimate; what is on Drive needs no time."""
    assert lonely.status()["estimated_seconds"] == 0
    own_server.stop()
    (lonely.my / "next").write_bytes(b"n" * 1000)
    assert 0 < lonely.status()["estimated_seconds"] < 60
    assert " to go)" in lonely.run("status", lonely.point).stdout.splitlines()[0]
    state = lonely.status()
    assert state["dirty_bytes"] >= 1000
    assert state["min_free"] > 0
    assert state["fsync"] == "local"


def test_somebody_else_s_umount_leaves_a_list(own_server: Server, lonely: Mount) -> None:
    """``fusermount3 -u`` without a server: the list is written at once, and again at the end."""
    lonely.remount("--drain-timeout", "3")
    own_server.stop()
    (lonely.my / "unsent").write_bytes(b"u" * 100)
    subprocess.run(["fusermount3", "-u", lonely.point], check=True)
    eventually(lambda: manifest(lonely) == ["MyDrive/unsent"], 2)
    assert lonely.pid is not None
    eventually(lambda: lonely.pid is None)
    assert manifest(lonely) == ["MyDrive/unsent"]


def test_no_list_where_everything_was_sent(server: Server, new_mount: NewMount) -> None:
    """A drain that succeeds takes back the list that it began with."""
    mount = new_mount().mount(*LATER)
    (mount.my / "f").write_bytes(b"x" * 1000)
    mount.signal(signal.SIGTERM)
    assert server.paths().keys() == {"f"}
    assert not (mount.cache / "unsent.json").exists()
    assert mount.run("status").returncode == 10


def test_status_exit_code(own_server: Server, lonely: Mount) -> None:
    """0 when it is safe to power off, 3 when it is not."""
    assert lonely.run("status").returncode == 0
    own_server.stop()
    (lonely.my / "unsent").write_bytes(b"u")
    assert lonely.run("status").returncode == 3
    own_server.start()
    lonely.flush()
    assert lonely.run("status", "--json").returncode == 0


# -- the bare directory ------------------------------------------------------------------------------------------------


def test_nothing_is_written_beside_drive(new_mount: NewMount) -> None:
    """While no daemon serves it, the mountpoint refuses files and folders: after a kill, an unmount, and another kill."""
    mount = new_mount()
    mount.point.mkdir(0o755)
    for end in (mount.kill, lambda: mount.run("unmount", mount.point), mount.kill):
        mount.mount()
        (mount.my / "f").write_bytes(b"on Drive")
        mount.flush()
        end()
        if mounted_at(mount.point):
            assert errno_of(lambda: (mount.my / "g").write_bytes(b"x")) == errno.ENOTCONN
            subprocess.run(["fusermount3", "-uz", mount.point], check=True)
        assert errno_of(lambda: (mount.point / "checkpoint").write_bytes(b"x")) in NO_WRITE
        assert errno_of(lambda: os.makedirs(mount.my / "run1", exist_ok=True)) in NO_WRITE
        assert os.listdir(mount.point) == []


def test_release_makes_a_plain_directory_of_it(new_mount: NewMount) -> None:
    """unmount says how to lift it, ``--release`` does so, mounted or not, and only there."""
    mount = new_mount().mount()
    said = mount.run("unmount", mount.point)
    assert (said.returncode, said.stdout) == (0, "")
    assert f"drivefs unmount --release {mount.point}" in said.stderr
    assert mount.run("unmount", mount.point, "--release").returncode == 0
    (mount.point / "mine").write_bytes(b"x")
    (mount.point / "mine").unlink()
    assert mount.run("unmount", mount.point, "--release").returncode == 10
    mount.mount()
    done = mount.run("unmount", mount.point, "--release")
    assert (done.returncode, done.stderr) == (0, "")
    os.rmdir(mount.point)


def test_a_refused_mount_leaves_the_directory_as_it_was(new_mount: NewMount, server: Server) -> None:
    """Neither closed nor removed, where the daemon did not come to mount."""
    mount = new_mount()
    mount.point.mkdir(0o750)
    done = mount.run("mount", mount.point, "--cache-dir", mount.cache, env={"DRIVEFS_API_ROOT": "http://127.0.0.1:9"})
    assert done.returncode == 5
    mount.expect_log("cannot be reached")
    assert mount.point.stat().st_mode & 0o777 == 0o750
    assert not guard.is_closed(mount.point)


# -- quick starts, and whose cache it is -------------------------------------------------------------------------------


def test_300_unsent_files_do_not_delay_the_mount(own_server: Server, lonely: Mount) -> None:
    """With 300 unsent files the mount answers within 5 s, with the server and without it, and has them all."""
    own_server.stop()
    (lonely.my / "many").mkdir()
    for n in range(300):
        (lonely.my / "many" / f"{n}").write_bytes(b"%d" % n)
    for is_up in (False, True):
        lonely.kill()
        if is_up:
            own_server.start()
        begin = time.monotonic()
        lonely.mount(*LATER)
        seconds = time.monotonic() - begin
        print(f"mount with 300 unsent files, server {'up' if is_up else 'down'}: {seconds:.2f} s")
        assert seconds < 5
        assert len(os.listdir(lonely.my / "many")) == 300
    lonely.flush()
    assert len(own_server.paths()) == 302
    lonely.unmount()


def give_away(cache: Path) -> None:
    """From now on the cache is somebody else's."""
    with sqlite3.connect(cache / "state.db") as db:
        db.execute("UPDATE meta SET value = 'somebody-else' WHERE key = 'account'")
    db.close()


def test_another_account_s_cache_is_refused(own_server: Server, lonely: Mount) -> None:
    """Exit code 8, a sentence that says what to do, nothing sent to the stranger, and what is unsent stays and is listed."""
    own_server.stop()
    (lonely.my / "mine").write_bytes(b"not for strangers")
    lonely.kill()
    give_away(lonely.cache)
    own_server.start()
    done = lonely.run("mount", lonely.point, "--cache-dir", lonely.cache, "--no-supervise")
    lonely.expect_log("belongs to another account")
    assert (done.returncode, done.stdout) == (8, ""), done
    assert "Choose another with --cache-dir" in done.stderr
    assert own_server.paths().keys() == {"known"}
    assert not mounted_at(lonely.point)
    assert manifest(lonely) == ["MyDrive/mine"]


def test_another_account_that_is_seen_late(own_server: Server, lonely: Mount) -> None:
    """Mounted without the server: when it answers and the account is another one, the mount ends before anything is sent."""
    lonely.kill()
    give_away(lonely.cache)
    own_server.stop()
    lonely.mount("--upload-delay", "0")
    (lonely.my / "mine").write_bytes(b"not for strangers")
    os.unlink(lonely.my / "known")
    own_server.start()
    eventually(lambda: lonely.pid is None)
    lonely.expect_log("belongs to another account")
    assert not mounted_at(lonely.point)
    assert own_server.paths().keys() == {"known"}
    assert sorted(manifest(lonely)) == ["MyDrive/known", "MyDrive/mine"]


def test_a_newer_cache_is_refused(new_mount: NewMount) -> None:
    """Exit code 8 and a sentence; the database is left as it was."""
    mount = new_mount().mount()
    mount.unmount()
    with sqlite3.connect(mount.cache / "state.db") as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        db.execute(f"PRAGMA user_version = {version + 1}")
    db.close()
    before = (mount.cache / "state.db").read_bytes()
    done = mount.run("mount", mount.point, "--cache-dir", mount.cache)
    mount.expect_log("newer")
    assert (done.returncode, done.stdout) == (8, ""), done
    assert "newer" in done.stderr
    assert (mount.cache / "state.db").read_bytes() == before
    with sqlite3.connect(mount.cache / "state.db") as db:
        db.execute(f"PRAGMA user_version = {version}")
    db.close()
