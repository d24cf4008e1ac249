"""The store on Drive: the real daemon without a mount, the embedded Drive, and what it is asked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivefs.client import running
from tests.agent.packages.box import Box, record_problems
from tests.agent.packages.images import Images
from tests.agent.packages.wheels import compiled, wheel
from tests.support.server import TOKEN, Server

pytestmark = [pytest.mark.slow]

STORE = "Colab Notebooks/my_env"
# Calls that change something on Drive, besides those that carry content.
WRITES = ("files.create", "files.update", "files.delete", "files.copy", "upload.chunk", "files.emptyTrash")


@pytest.fixture
def home() -> Iterator[Path]:
    """Short: sockets have short paths."""
    path = Path(tempfile.mkdtemp(prefix="dfp-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    server = Server(home / "server")
    yield server
    server.stop()


@pytest.fixture
def boxes(images: Images, home: Path, server: Server) -> Iterator[list[Box]]:
    """Two boxes of one account, each with a daemon of its own that is started by the first command that needs it."""
    made = []
    for name in ("one", "two"):
        image = images.make(home / name)
        wheel(image.links, "hello", "1.0", console={"hello": "hello:version"})
        wheel(image.links, "large", "1.0", files={"large.so": compiled("x" * 8_000_000)})
        wheel(image.links, "einops", "0.8.1")
        account = {"DRIVEFS_API_ROOT": server.url, "DRIVEFS_ACCESS_TOKEN": TOKEN}
        made.append(Box(image, home / name, f"MyDrive/{STORE}", account))
    yield made
    for box in made:
        end_daemons(box)


def end_daemons(box: Box) -> None:
    for client in running(runtime=box.more["DRIVEFS_RUNTIME_DIR"]):
        assert client.unmount(timeout=30) == []


def writes(server: Server, before: Counter[str]) -> Counter[str]:
    made = server.requests() - before
    return Counter({name: count for name, count in made.items() if name in WRITES})


def test_through_drive_to_another_box(boxes: list[Box], server: Server) -> None:
    """No mount, no FUSE: what one box saved, the next one has."""
    one, two = boxes
    one.enable().install("hello", "large")
    assert "Saved 2 parts" in one.save()
    stored = server.paths()
    names = {path.removeprefix(f"{STORE}/").partition("/")[0] for path in stored if path.startswith(f"{STORE}/")}
    assert names == {"objects", "envs", "requirements.txt", "README.txt"}
    report = two.restore()
    assert (report["complete"], two.installed()) == (True, {"hello": "1.0", "large": "1.0"})
    assert record_problems(two.site) == []


def test_how_many_calls_it_takes(boxes: list[Box], server: Server) -> None:
    """Nothing new: no call that writes. One more small package: two items are created, and a list is brought up to date."""
    one, _ = boxes
    one.enable().install("hello", "large")
    one.save()
    before = server.requests()
    assert one.save() == "Nothing has changed since the last save.\n"
    assert writes(server, before) == Counter()
    one.install("einops")
    before = server.requests()
    one.save()
    made = writes(server, before)
    assert made["files.create"] <= 2, made
    assert sum(made.values()) <= 3, made


def test_a_full_drive_leaves_the_former_state(boxes: list[Box], server: Server) -> None:
    """The save says so with exit code 3, and no state names what is not there; with room again it goes through."""
    one, two = boxes
    one.enable().install("hello")
    one.save()
    one.install("large")
    server.ask("POST", "/_emulator/faults", {"name": "large*", "reason": "storageQuotaExceeded"})
    said = one.packages("save", code=3)
    assert "storage" in said.lower() or "full" in said.lower(), said
    two.restore()
    assert two.installed() == {"hello": "1.0"}
    server.ask("DELETE", "/_emulator/faults")
    one.save()
    two.restore()
    assert two.installed() == {"hello": "1.0", "large": "1.0"}


def test_a_strangers_package_is_refused(boxes: list[Box], server: Server) -> None:
    """Somebody with whom the folder is shared puts an archive into it: it would run as us."""
    one, two = boxes
    one.enable().install("hello")
    one.save()
    server.ask("POST", "/_emulator/users", {"email": "bob@example.com", "name": "Bob"})
    folder = server.paths()[f"{STORE}/objects"]["id"]
    permission = {"type": "user", "role": "writer", "emailAddress": "bob@example.com"}
    server.ask("POST", f"/drive/v3/files/{folder}/permissions", permission, sendNotificationEmail="false")
    body = {"name": "evil-1.0-0123456789abcdef.tar.zst", "parents": [folder]}
    server.ask("POST", "/_emulator/as/bob@example.com/drive/v3/files", body)
    for command in (one, "save"), (two, "restore"):
        box, word = command
        if box.layers.exists():
            box.install("einops")
        said = box.packages(word, code=1)
        assert "evil-1.0" in said
        assert "--trust" in said


def test_a_mount_takes_the_daemon_over_and_packages_go_on(boxes: list[Box], server: Server, home: Path) -> None:
    """Packages were saved without a mount; then Drive is mounted, and the next save finds the mount's daemon."""
    from tests.support.mounts import why_no_mounts

    if reason := why_no_mounts():
        pytest.skip(reason)
    one, _ = boxes
    one.enable().install("hello")
    one.save()
    point = home / "mnt"
    command = [sys.executable, "-m", "drivefs", "mount", str(point)]
    done = subprocess.run(command, env=one.image.environment(one.more), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"Mounted at {point}\n"), done
    try:
        assert (point / "MyDrive" / STORE / "README.txt").exists()
        one.install("einops")
        assert "Saved 2 parts" in one.save()
        # By the path in the mount, and without an account: the mount is found by itself.
        bare = {**one.more, "DRIVEFS_ACCESS_TOKEN": "", "DRIVEFS_API_ROOT": ""}
        found = json.loads(one.packages("history", "--json", more={**bare, "DRIVEFS_STORE": str(point / "MyDrive" / STORE)}))
        assert len(found) == 2
        assert len(json.loads(one.packages("history", "--json", more=bare))) == 2
    finally:
        release = [sys.executable, "-m", "drivefs", "unmount", "--release", str(point)]
        subprocess.run(release, env=one.image.environment(one.more), check=True, timeout=60)


def test_without_an_account_or_a_mount_it_says_what_to_do(boxes: list[Box]) -> None:
    """Exit code 3: the store cannot be reached."""
    one, _ = boxes
    one.enable()
    said = one.packages("save", code=3, more={"DRIVEFS_ACCESS_TOKEN": "", "DRIVEFS_API_ROOT": ""})
    assert "drivefs mount" in said
    assert "--credentials" in said


def test_a_daemon_that_is_killed_is_replaced(boxes: list[Box]) -> None:
    """kill -9 between two saves: the next command starts another."""
    one, _ = boxes
    one.enable().install("hello")
    one.save()
    (client,) = running(runtime=one.more["DRIVEFS_RUNTIME_DIR"])
    os.kill(client.status()["pid"], signal.SIGKILL)
    one.install("einops")
    assert "Saved 2 parts" in one.save()


def test_the_account_of_a_key_file(boxes: list[Box], server: Server, home: Path) -> None:
    """Named as everywhere, by a path that is relative to where the person stands."""
    one, _ = boxes
    key = home / "key.json"
    key.write_bytes(server.call("POST", "/_emulator/service-accounts", {}))
    key.chmod(0o600)
    one.enable().install("hello")
    account = {"DRIVEFS_ACCESS_TOKEN": "", "DRIVEFS_API_ROOT": "", "DRIVEFS_CREDENTIALS": os.path.relpath(key, "/")}
    assert "Saved 1 part" in one.packages("save", "--api-root", server.url, more=account)
    assert f"{STORE}/requirements.txt" in server.paths()
    assert "key.json" in one.packages("save", "--credentials", "nowhere/key.json", code=3)


def test_two_boxes_of_one_account_save_at_once(boxes: list[Box], server: Server) -> None:
    """Each through its own daemon: after one more save of either, one state has what both installed."""
    one, two = boxes
    one.enable().install("hello")
    one.save()
    two.restore()
    for turn in range(2):
        one.install(*(["einops"] if not turn else ["--upgrade", "hello"]))
        two.install(*(["large"] if not turn else ["--force-reinstall", "large"]))
        saves = [box.start("packages", "save") for box in boxes]
        said = [save.communicate(timeout=60)[1] for save in saves]
        assert [save.returncode for save in saves] == [0, 0], said
    one.save()
    rows = json.loads(two.packages("history", "--json"))
    assert [row["parts"] for row in rows if row["head"]] == [3]
    two.restore()
    one.restore()
    assert one.installed() == two.installed() == {"hello": "1.0", "einops": "0.8.1", "large": "1.0"}
    beside = sorted(path.removeprefix(f"{STORE}/") for path in server.paths() if path.startswith(STORE) and path.endswith(".txt"))
    assert beside == ["README.txt", "requirements.txt"]
    assert server.content(server.paths()[f"{STORE}/requirements.txt"]["id"]).count(b"==") == 3
