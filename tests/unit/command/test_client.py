"""The client's own rules: where the socket is, which mount a path lies in, how the end of a daemon is awaited."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from drivefs import client
from drivefs.base import config
from drivefs.base.errors import ExitCode
from drivefs.client import Client, ClientError
from drivefs.control import Progress, serve

_DAEMON = """
import os, sys, time, trio
from pathlib import Path
from drivefs.control import serve, Reply

async def main():
    async with trio.open_nursery() as nursery:
        async def unmount(arguments, progress):
            if "busy" in sys.argv[2]:
                return {"unsent": [{"path": "p", "size": 1, "age_s": 1, "reason": "r"}]}
            return Reply({"unsent": []}, nursery.cancel_scope.cancel)
        await nursery.start(serve, Path(sys.argv[1]), {"unmount": unmount})
        print("ready", flush=True)

trio.run(main)
time.sleep(0.3)
Path(sys.argv[3]).write_text("the last thing")
"""


@given(st.text(st.characters(exclude_characters="\0"), min_size=1), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_client_and_daemon_agree_on_the_socket(name: str, runtime: str) -> None:
    """The rule stands twice, because the client imports nothing: both give the same path for every mountpoint."""
    mountpoint = "/" + name.strip("/.") if name.strip("/.") else "/m"
    try:
        os.fsencode(mountpoint)
    except UnicodeEncodeError:
        return
    mountpoint = str(Path(mountpoint))
    assert client.socket_path("/r", mountpoint) == str(config.socket_path(Path("/r"), Path(mountpoint)))


@pytest.mark.parametrize(
    "environment",
    [{}, {"DRIVEFS_RUNTIME_DIR": "/x/y"}, {"XDG_RUNTIME_DIR": "/run/user/7"}, {"DRIVEFS_RUNTIME_DIR": "", "XDG_RUNTIME_DIR": ""}],
)
@pytest.mark.parametrize("uid", [0, 1000])
def test_client_and_daemon_agree_on_the_runtime_directory(
    environment: Mapping[str, str], uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For root and for users, with and without each variable."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert client.runtime_dir(environment) == str(config.runtime_dir(environment))


def test_root_has_one_runtime_directory_whatever_its_login_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login shell of root's has XDG_RUNTIME_DIR and a system service has not: both must find the same sockets."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert client.runtime_dir({"XDG_RUNTIME_DIR": "/run/user/0"}) == client.runtime_dir({}) == "/run/drivefs"


def test_the_client_imports_the_standard_library_only() -> None:
    """A notebook or an agent may import it where no dependency of drivefs is installed."""
    code = "import sys; import drivefs.client; print(*sorted(sys.modules), sep='\\n')"
    root = Path(client.__file__).parents[1]
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=root, capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert loaded <= {"__main__", "drivefs", "drivefs.client", "drivefs.conversation"}


@pytest.fixture
def served(home: Path) -> Callable[[str], Path]:
    """Makes mountpoints that look served: a folder with something in it, and a socket where its daemon would listen."""
    (home / "run").mkdir(mode=0o700)

    def make(name: str) -> Path:
        mountpoint = home / name
        (mountpoint / "MyDrive" / "a").mkdir(parents=True)
        Path(client.socket_path(str(home / "run"), str(mountpoint))).touch()
        return mountpoint

    return make


def test_connect_finds_the_mount_above_any_path(
    home: Path, served: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mountpoint itself, deep paths, paths that do not exist, ``..``, relative ones and a trailing slash lead to it."""
    mountpoint = served("drive")
    for path in (
        mountpoint,
        mountpoint / "MyDrive" / "a",
        mountpoint / "no" / "such",
        f"{mountpoint}/MyDrive/../",
        "drive",
        "~/drive",
    ):
        assert client.connect(path).mountpoint == str(mountpoint)
    monkeypatch.chdir(mountpoint / "MyDrive")
    assert client.connect().mountpoint == str(mountpoint)
    with pytest.raises(ClientError, match="is not in a mount of drivefs") as caught:
        client.connect(home)
    assert caught.value.exit_code == ExitCode.NOT_MOUNTED


def test_symlinks_lead_into_the_mount(home: Path, served: Callable[[str], Path]) -> None:
    """A link to a folder in the mount, and a mountpoint under a linked folder, mean that mount; a link IN it is meant itself."""
    mountpoint = served("real/drive")
    (home / "link").symlink_to(mountpoint / "MyDrive")
    (home / "alias").symlink_to(home / "real")
    (mountpoint / "MyDrive" / "out").symlink_to("/etc/hostname")
    assert client.connect(home / "link").mountpoint == str(mountpoint)
    assert client.connect(home / "alias" / "drive" / "MyDrive").mountpoint == str(mountpoint)
    assert Client(home / "alias" / "drive").mountpoint == str(mountpoint)
    assert client._below(str(mountpoint), home / "alias" / "drive" / "MyDrive" / "out") == str(mountpoint / "MyDrive" / "out")


def test_the_innermost_mount_is_found(served: Callable[[str], Path]) -> None:
    """With a mount inside a mount, a path belongs to the nearest one."""
    outer = served("drive")
    inner = served("drive/MyDrive/inner")
    assert client.connect(inner / "MyDrive").mountpoint == str(inner)
    assert client.connect(outer / "MyDrive").mountpoint == str(outer)


async def test_one_stuck_daemon_does_not_hide_the_others(home: Path) -> None:
    """Of three mounts the well one is known, of the stuck one and the crashed one it is told that they are not, in time."""
    runtime = home / "run"
    runtime.mkdir(0o700)
    well, stuck, crashed, clean = (Path(client.socket_path(str(runtime), str(home / name))) for name in ("a", "b", "c", "d"))

    async def status(_: Mapping[str, Any], __: Progress) -> Any:
        return {"mountpoint": str(home / "a"), "pending_files": 0}

    for path, name in ((stuck, "b"), (crashed, "c")):
        path.with_suffix(".json").write_text(json.dumps({"mountpoint": str(home / name), "cache_dir": "/cache"}))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, well, {"status": status})
        with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as left:
            silent.bind(str(stuck))
            silent.listen()
            left.bind(str(clean))  # of a daemon that is gone, and that left no record: everything was on Drive
            begun = trio.current_time()
            found = await trio.to_thread.run_sync(lambda: client.statuses(runtime=str(runtime), timeout=0.5))
            assert trio.current_time() - begun < 5
        nursery.cancel_scope.cancel()
    assert [state["mountpoint"] for state in found] == [str(home / name) for name in ("a", "b", "c")]
    assert found[0]["pending_files"] == 0
    assert "has not answered 'status' within" in found[1]["error"]
    assert (found[2]["mounted"], "in the cache '/cache' alone" in found[2]["error"]) == (False, True)
    assert "pending_files" not in found[1] | found[2]


def test_no_mounts_no_states(home: Path) -> None:
    """Where nothing was ever mounted there is nothing to tell."""
    assert client.statuses(runtime=str(home / "never")) == []


async def test_flush_sends_paths_as_the_daemon_knows_them(
    home: Path, served: Callable[[str], Path], nursery: trio.Nursery
) -> None:
    """Relative paths and other spellings arrive absolute and below the mountpoint; a path elsewhere is refused before asking."""
    mountpoint = served("real/drive")
    (home / "alias").symlink_to(home / "real")
    socket_path = Path(client.socket_path(str(home / "run"), str(mountpoint)))
    socket_path.unlink()
    asked: list[Any] = []

    async def flush(arguments: Mapping[str, Any], _: Progress) -> Any:
        asked.append(arguments["paths"])
        return {"unsent": []}

    await nursery.start(serve, socket_path, {"flush": flush})
    connected = Client(mountpoint)
    paths: list[str | Path] = ["real/drive/MyDrive/new", home / "alias" / "drive" / "x", mountpoint]
    assert await trio.to_thread.run_sync(lambda: connected.flush(paths, timeout=5)) == []
    assert asked == [[f"{mountpoint}/MyDrive/new", f"{mountpoint}/x", str(mountpoint)]]
    with pytest.raises(ClientError, match="is not in the mount"):
        connected.flush([home / "elsewhere"])


def start_daemon(home: Path, mountpoint: Path, mark: Path) -> subprocess.Popen[str]:
    socket_path = client.socket_path(str(home / "run"), str(mountpoint))
    command = [sys.executable, "-c", _DAEMON, socket_path, str(mountpoint), str(mark)]
    root = Path(client.__file__).parents[1]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)})
    assert daemon.stdout is not None
    with daemon.stdout as out:
        assert out.readline() == "ready\n"
    return daemon


@pytest.mark.parametrize("pidfd", [True, False])
def test_unmount_returns_when_the_daemon_has_ended(home: Path, pidfd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the kernel has no pidfd: what the daemon does last is done when unmount returns."""
    if not pidfd:

        def refuse(_: int) -> int:
            raise OSError(errno.ENOSYS, "no such call")

        monkeypatch.setattr(os, "pidfd_open", refuse)
    mark = home / "mark"
    daemon = start_daemon(home, home / "drive", mark)
    assert Client(home / "drive").unmount(timeout=5) == []
    assert mark.exists()
    assert daemon.wait(timeout=5) == 0


def test_unmount_with_unsent_files_leaves_the_daemon_running(home: Path) -> None:
    """The list comes back at once, and nothing is waited for."""
    daemon = start_daemon(home, home / "busy", home / "mark")
    try:
        assert [entry["path"] for entry in Client(home / "busy").unmount(timeout=5)] == ["p"]
        assert daemon.poll() is None
    finally:
        daemon.kill()
        daemon.wait()


def test_a_mount_that_outlives_its_daemon_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOTCONN after the daemon's end means that it did not unmount, and the person is told the command that does."""

    def dead(_: str) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(os, "statvfs", dead)
    with pytest.raises(ClientError, match="fusermount3 -uz /mnt/d"):
        client._require_gone("/mnt/d")
