"""``drivefs serve`` as people and programs run it: real processes and sockets, a daemon with canned answers."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from drivefs import client, launch
from drivefs.base.config import Config
from drivefs.base.errors import CacheUnusable, ExitCode
from drivefs.client import Client, ClientError
from drivefs.control import Progress, serve
from drivefs.record import Record, records
from drivefs.settings import Account, Flags, build_config

from .conftest import ROOT, Drivefs

ACCOUNT = {"DRIVEFS_API_ROOT": "http://127.0.0.1:9", "DRIVEFS_ACCESS_TOKEN": "tok-secret"}


def place_of(home: Path) -> Path:
    (place,) = (home / "data" / "cache").glob("drive-*")
    return place


def test_from_serve_to_unmount(home: Path, drivefs: Drivefs) -> None:
    """It returns with one line while the daemon lives on; its place is its cache; status, flush and unmount reach it there."""
    served = drivefs("serve", "--upload-delay", "0", **ACCOUNT)
    place = place_of(home)
    assert (served.returncode, served.stdout, served.stderr) == (0, f"Serving {place}\n", "")
    assert [one.mountpoint for one in client.running()] == [str(place)]
    state = Client(place).status()
    assert (state["serves"], state["mountpoint"], state["cache_dir"]) == ("socket", str(place), str(place))
    assert state["supervised"] is True
    told = json.loads((place / "seen.json").read_text())
    assert (told["token"], told["upload_delay"]) == ("tok-secret", 0.0)
    assert "DRIVEFS_ACCESS_TOKEN" not in told["environment"]
    text = drivefs("status").stdout
    assert f"served without a mount, as {str(place)!r}" in text
    assert drivefs("flush").returncode == 0
    ended = drivefs("unmount", str(place))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert client.running() == []
    assert os.access(place, os.W_OK)


def test_json(home: Path, drivefs: Drivefs) -> None:
    """One object on standard output, also where nothing had to be started; a mount of the same account is found as well."""
    first = json.loads(drivefs("serve", "--json", **ACCOUNT).stdout)
    place = str(place_of(home))
    assert first == {"place": place, "mounted": False, "already": False}
    pid = Client(place).status()["pid"]
    assert json.loads(drivefs("serve", "--json", **ACCOUNT).stdout) == {"place": place, "mounted": False, "already": True}
    again = drivefs("serve", **ACCOUNT)
    assert (again.returncode, again.stdout) == (0, f"Already served by the daemon of {place}\n")
    assert Client(place).status()["pid"] == pid


def test_a_mount_serves_too(home: Path, drivefs: Drivefs) -> None:
    """Where a mount has the account nothing is started, and its place is told; in the foreground that is a refusal."""
    drivefs("mount", "d", **ACCOUNT)
    told = json.loads(drivefs("serve", "--json", **ACCOUNT).stdout)
    assert told == {"place": str(home / "d"), "mounted": True, "already": True}
    assert drivefs("serve", **ACCOUNT).stdout == f"Already served by the mount at {home / 'd'}\n"
    refused = drivefs("serve", "--foreground", **ACCOUNT)
    assert (refused.returncode, refused.stdout) == (ExitCode.CACHE_IN_USE, "")
    assert [one.mountpoint for one in client.running()] == [str(home / "d")]


def test_another_account_is_served_beside(home: Path, drivefs: Drivefs) -> None:
    """Each account has a cache, and so a place, of its own."""
    drivefs("serve", **ACCOUNT)
    other = drivefs("serve", "--cache-dir", "other", **ACCOUNT)
    assert other.stdout == f"Serving {home / 'other'}\n"
    assert len(client.running()) == 2


def test_a_mount_takes_over(home: Path, drivefs: Drivefs) -> None:
    """It ends the daemon without a mount, which is not started again, and has its cache."""
    drivefs("serve", **ACCOUNT)
    pid = Client(place_of(home)).status()["pid"]
    mounted = drivefs("mount", "d", **ACCOUNT)
    assert (mounted.returncode, mounted.stdout) == (0, "Mounted at d\n")
    assert [one.mountpoint for one in client.running()] == [str(home / "d")]
    assert Client(home / "d").status()["cache_dir"] == str(place_of(home))
    assert not Path(f"/proc/{pid}").exists()


def test_a_mount_never_gives_way(home: Path, drivefs: Drivefs) -> None:
    """It does not know the verb."""
    drivefs("mount", "d", **ACCOUNT)
    with pytest.raises(ClientError, match="give_way") as caught:
        Client(home / "d").give_way()
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_daemon_that_does_not_give_way_keeps_the_cache(home: Path) -> None:
    """What kept it is said, as a refusal that the mount ends with."""
    flags = Flags(mountpoint=str(home / "d"), cache_dir=str(home / "cache"))
    config = build_config(flags, Account(embedded=True), os.environ)

    async def refuse(_: Mapping[str, Any], __: Progress) -> Any:
        raise CacheUnusable("Not now. Try later.")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            path = Path(client.socket_path(str(home / "run"), str(home / "cache")))
            await nursery.start(serve, path, {"give_way": refuse})
            with pytest.raises(CacheUnusable, match="Not now"):
                await trio.to_thread.run_sync(launch._take_over, config)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_neither_fuse_nor_its_library_is_needed(home: Path) -> None:
    """All parts of a daemon without a mount load where pyfuse3 is missing."""
    code = "import sys; sys.modules['pyfuse3'] = None; import drivefs.daemon, drivefs.cli, drivefs.launch; print('loaded')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "loaded\n"


def test_the_place_of_a_daemon_without_a_mount_is_its_cache(home: Path) -> None:
    """Wherever that is said to be."""
    config = build_config(Flags(mountpoint=None, cache_dir="c"), Account(embedded=True), os.environ)
    assert (config.serves, config.mountpoint, config.cache_dir) == ("socket", home / "c", home / "c")


def test_one_cache_has_one_record(home: Path) -> None:
    """What crashed elsewhere with a cache is over once another daemon has it; records of other caches stay."""
    run = home / "run"
    run.mkdir(mode=0o700)
    for cache in ("a", "b"):
        (home / cache).mkdir()
    Record(run / "1.sock").begin(home / "mnt", home / "a")
    Record(run / "2.sock").begin(home / "b", home / "b", "socket")
    Record(run / "3.sock").begin(home / "a", home / "a", "socket")
    assert {record.path.name for record in records(run)} == {"2.json", "3.json"}
    assert [record.last_session()["serves"] for record in records(run)] == ["socket", "socket"]


@pytest.fixture
def asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Mapping[str, Any]]]:
    """What a Client asks, instead of asking it; a put is answered with what its source held at that moment."""
    heard: list[tuple[str, Mapping[str, Any]]] = []

    def call(_path: str, _subject: str, verb: str, arguments: Mapping[str, Any], **_options: Any) -> Any:
        heard.append((verb, arguments))
        if verb == "put" and "source" in arguments:
            return {"content": Path(arguments["source"]).read_bytes()}
        return {"content": base64.b64decode(arguments["data"])} if verb == "put" else None

    monkeypatch.setattr(client, "call", call)
    return heard


@pytest.mark.parametrize("size", [0, 1, 512 << 10, (512 << 10) + 1, 3 << 20])
def test_bytes_of_any_size_can_be_put(asked: list[tuple[str, Mapping[str, Any]]], size: int) -> None:
    """Few of them travel in the request, which is limited; more lie in a file of their own meanwhile, and not afterwards."""
    data = os.urandom(size)
    assert Client("/mnt/d").put("MyDrive/f", data)["content"] == data
    ((_, arguments),) = asked
    assert len(json.dumps(dict(arguments))) < 1 << 20
    assert ("source" in arguments) == (size > 512 << 10)
    assert not os.path.exists(arguments.get("source", "/no/such/file"))


def test_a_path_is_made_absolute(home: Path, asked: list[tuple[str, Mapping[str, Any]]]) -> None:
    """The daemon works in another directory."""
    (home / "f").write_bytes(b"content")
    spellings: list[Callable[[], str | Path]] = [lambda: "f", lambda: Path("f"), lambda: "~/f", lambda: home / "f"]
    for spelling in spellings:
        assert Client("/mnt/d").put("MyDrive/f", spelling())["content"] == b"content"


def test_config_defaults_to_a_mount() -> None:
    """What starts daemons without naming a door gets the one that there has always been."""
    assert Config(mountpoint=Path("/m"), cache_dir=Path("/c"), runtime_dir=Path("/r")).serves == "mount"
