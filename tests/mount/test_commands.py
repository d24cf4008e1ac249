"""What the commands promise at a real mount: sentences, exit codes, and that nothing is lost on any way out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from ..support.mounts import QUICK, Mount, eventually, mounted_at
from ..support.server import TOKEN, Server
from .conftest import NewMount

# Far away, so that what is written is still unsent when the test looks.
LATER = ("--upload-delay", "600")


def test_mounted_line_and_second_mount(mount: Mount) -> None:
    """``Mounted at MP`` exactly (asserted by the fixture); mounting again says that it is mounted, and changes nothing."""
    pid = mount.status()["pid"]
    again = mount.run("mount", mount.point)
    assert again.returncode == 0
    assert again.stdout.startswith(f"Drive already mounted at {mount.point}; ")
    assert mount.status()["pid"] == pid
    relative = mount.run("mount", "mnt")
    assert relative.stdout.startswith("Drive already mounted at mnt; ")


def test_cache_in_use_names_the_process(mount: Mount) -> None:
    """A second daemon on the same cache is refused with exit code 8 and the pid of the first, and leaves no mountpoint behind."""
    other = mount.home / "other"
    done = mount.run("mount", other, "--cache-dir", mount.cache)
    assert done.returncode == 8
    assert f"pid {mount.status()['pid']}" in done.stderr
    assert not other.exists()
    assert mount.status()["mountpoint"] == str(mount.point)
    mount.expect_log("is in use by another drivefs daemon")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("full", "Mountpoint must not already contain files"),
        ("file", "Mountpoint must either be a directory or not exist"),
        ("link", "Mountpoint must not be a symlink"),
        ("no/parent", "Mountpoint must be in a directory that exists"),
        ("with space", "Mountpoint must not contain a space."),
    ],
)
def test_unusable_mountpoints(kind: str, sentence: str, new_mount: NewMount) -> None:
    """Colab's own sentences, exit code 7, nothing started and nothing changed."""
    mount = new_mount()
    place = mount.home / kind
    if kind == "full":
        place.mkdir()
        (place / "mine").write_bytes(b"x")
    elif kind == "file":
        place.write_bytes(b"x")
    elif kind == "link":
        (mount.home / "real").mkdir()
        place.symlink_to("real")
    done = mount.run("mount", place, "--cache-dir", mount.cache)
    assert (done.returncode, done.stdout) == (7, "")
    assert sentence in done.stderr
    assert mount.pid is None
    assert not mounted_at(place)


def test_bad_token(home: Path) -> None:
    """A token that Drive refuses: exit code 4, a sentence that does not hold the token, no mount and no new directory."""
    server = Server(home / "server", "--token", TOKEN)
    try:
        mount = Mount(home, server)
        done = mount.run("mount", mount.point, "--cache-dir", mount.cache, env={"DRIVEFS_ACCESS_TOKEN": "expired-secret"})
        assert done.returncode == 4
        assert len(done.stderr.strip().splitlines()) <= 2
        assert "expired-secret" not in done.stderr + mount.log.read_text()
        assert not mount.point.exists()
        mount.mount().unmount()
    finally:
        server.stop()


def test_status_says_what_is_pending(new_mount: NewMount) -> None:
    """The fields of ``status --json`` are those documented, and true before and after a flush."""
    mount = new_mount().mount(*LATER)
    (mount.my / "f").write_bytes(b"x" * 1000)
    before = json.loads(mount.run("status", mount.point, "--json").stdout)
    assert (before["mountpoint"], before["pid"]) == (str(mount.point), mount.pid)
    assert (before["pending_files"], before["pending_bytes"]) == (1, 1000)
    assert 0 <= before["oldest_pending_age_s"] < 60
    assert [entry["path"] for entry in before["pending"]] == ["MyDrive/f"]
    assert "safe to power off: no" in mount.run("status", cwd=mount.my).stdout
    mount.flush()
    after = json.loads(mount.run("status", mount.point, "--json").stdout)
    assert (after["pending_files"], after["pending_bytes"], after["oldest_pending_age_s"]) == (0, 0, None)
    assert after["api_requests"]["files.create"] == 1
    assert after["bytes_up"] >= 1000
    assert after["last_errors"] == []
    assert {"cache_bytes", "cache_limit", "cache_dir", "account", "read_only", "since"} <= after.keys()
    assert "safe to power off: yes" in mount.run("status").stdout


def test_flush_of_a_path(server: Server, new_mount: NewMount) -> None:
    """flush PATH sends that path, and the folders it needs, and nothing else; exit code 0; a path elsewhere is refused."""
    mount = new_mount().mount(*LATER)
    (mount.my / "a" / "b").mkdir(parents=True)
    for path in ("a/b/wanted", "a/beside", "other"):
        (mount.my / path).write_bytes(path.encode())
    done = mount.run("flush", mount.my / "a" / "b" / "wanted")
    assert (done.returncode, done.stderr) == (0, "")
    assert server.paths().keys() == {"a", "a/b", "a/b/wanted"}
    assert mount.run("flush", "a", cwd=mount.my).returncode == 0
    assert server.paths().keys() == {"a", "a/b", "a/b/wanted", "a/beside"}
    missing = mount.run("flush", mount.my / "missing")
    assert missing.returncode == 2
    assert "No such file" in missing.stderr
    assert mount.run("flush", "/etc/hostname").returncode == 10
    assert "other" not in server.paths()


def test_flush_right_after_close(server: Server, new_mount: NewMount) -> None:
    """close(2) returns before the kernel tells of the last close; a flush that comes between the two is not put off by it."""
    mount = new_mount().mount(*LATER)
    for n in range(30):
        (mount.my / f"{n}").write_bytes(b"x" * 500_000)
        assert mount.client.flush(timeout=10) == []
    assert len(server.paths()) == 30


def test_flush_sends_what_is_open(server: Server, mount: Mount) -> None:
    """What was written to a file that is still open is on Drive after flush; what is written later follows after close."""
    with (mount.my / "log").open("wb", buffering=0) as file:
        file.write(b"first ")
        assert mount.run("flush", mount.my / "log").returncode == 0
        item = server.paths()["log"]["id"]
        assert server.content(item) == b"first "
        file.write(b"second")
    mount.flush()
    assert server.content(item) == b"first second"
    assert len(server.revisions(item)) == 2


def test_external_unmount_still_sends(server: Server, new_mount: NewMount) -> None:
    """``fusermount3 -u`` by somebody else: the daemon sends what is pending before it ends with success."""
    mount = new_mount().mount(*LATER)
    (mount.my / "f").write_bytes(b"written before umount")
    pid = mount.pid
    assert pid is not None
    handle = os.pidfd_open(pid)
    try:
        subprocess.run(["fusermount3", "-u", mount.point], check=True)
        eventually(lambda: mount.pid is None)
    finally:
        os.close(handle)
    assert server.content(server.paths()["f"]["id"]) == b"written before umount"
    assert not mounted_at(mount.point)


def test_sigterm_drains(server: Server, new_mount: NewMount) -> None:
    """SIGTERM: what is pending is sent, the mount is gone, the process ends."""
    mount = new_mount().mount(*LATER)
    (mount.my / "f").write_bytes(b"x" * 6_000_000)
    mount.signal(signal.SIGTERM)
    assert not mounted_at(mount.point)
    assert server.paths()["f"]["size"] == 6_000_000


def test_busy_mountpoint(server: Server, mount: Mount) -> None:
    """A program works in the mount: unmount has everything sent, says what to do, gives exit code 7, and the mount goes on."""
    mount.expect_log("cannot be unmounted")
    (mount.my / "f").write_bytes(b"x")
    program = subprocess.Popen(["sleep", "600"], cwd=mount.my)
    try:
        done = mount.run("unmount", mount.point)
        assert done.returncode == 7
        assert "Close the files and shells" in done.stderr
        assert server.paths().keys() == {"f"}
        (mount.my / "g").write_bytes(b"y")
    finally:
        program.kill()
        program.wait()
    mount.unmount()
    assert server.paths().keys() == {"f", "g"}


def test_unmount_of_what_is_not_mounted(new_mount: NewMount) -> None:
    """Exit code 10 and a sentence, for a place that was never mounted and for status and flush with nothing mounted."""
    mount = new_mount()
    mount.point.mkdir()
    for command in (("unmount", mount.point), ("status", mount.point), ("flush", mount.point), ("status",), ("flush",)):
        done = mount.run(*command)
        assert done.returncode == 10, command
        assert "mount" in done.stderr


def test_a_killed_daemon_is_explained_and_replaced(server: Server, new_mount: NewMount) -> None:
    """After SIGKILL programs get ENOTCONN; mounting again removes the dead mount, says so, and sends what was pending."""
    mount = new_mount().mount(*LATER)
    (mount.my / "f").write_bytes(b"survives")
    mount.kill()
    assert "f" not in server.paths()
    done = mount.run("mount", mount.point, "--cache-dir", mount.cache, *QUICK)
    assert (done.returncode, done.stdout) == (0, f"Mounted at {mount.point}\n")
    assert "Removed the dead mount" in done.stderr
    assert (mount.my / "f").read_bytes() == b"survives"
    mount.flush()
    assert server.content(server.paths()["f"]["id"]) == b"survives"


def test_cache_and_socket_are_private(mount: Mount) -> None:
    """Directories 0700 and files 0600 whatever the umask; no name of Drive's becomes a name in the cache; no token in it."""
    (mount.my / "a-telling-name").write_bytes(b"x")
    mount.flush()
    token = TOKEN.encode()
    for top in (mount.cache, mount.home / "run"):
        for path in (top, *top.rglob("*")):
            status = path.lstat()
            assert not status.st_mode & 0o077, path
            assert "telling" not in path.name
            if path.is_file():
                assert token not in path.read_bytes(), path
    assert token not in Path(f"/proc/{mount.pid}/cmdline").read_bytes()
    listed = subprocess.run(["su", "nobody", "-s", "/bin/sh", "-c", f"ls {mount.point}"], capture_output=True, check=False)
    assert listed.returncode != 0
