"""Writers work, the daemon is killed and comes back, and all the while something is wrong with Drive: the same verdict.

Each fault goes on over the work, the kill, the restart and the sending, and ends only where it could not come to an end under it.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from ..support.mounts import Mount, eventually
from ..support.server import Server
from .people import Person
from .test_kill import judge_server

pytestmark = pytest.mark.slow

Rules = list[dict[str, Any]]
WRITERS = 2
# Acknowledged operations before the kill, and again after it.
WORK = 40
# What the daemon may say of a Drive that fails.
COMPLAINTS = "not on Drive yet|remote changes cannot be read|cannot be reached|Drive cannot|said no|too many|trying again"

FAULTS: dict[str, Rules] = {
    "latency": [{"latency": {"uniform": [0.05, 0.4]}}],
    "connection reset before the request is applied": [{"reset": "before", "probability": 0.3}],
    "answer lost after the server applied it": [
        {"verb": verb, "reset": "after", "probability": 0.3} for verb in ("POST", "PATCH")
    ],
    "error told after the server applied it": [{"verb": "P*", "status": 503, "applied": True, "probability": 0.3}],
    "torn upload": [{"method": "upload.multipart", "cut_request": 700, "probability": 0.5}],
    "torn chunk": [{"method": "upload.chunk", "cut_request": 300_000, "times": 3}],
    "lost session": [{"method": "upload.chunk", "session_gone": gone, "nth": n} for n, gone in ((1, 404), (2, 410))],
    "server errors": [{"status": status, "probability": 0.1} for status in (500, 502, 503, 504)],
    "throttled": [{"reason": "userRateLimitExceeded", "probability": 0.1}, {"status": 429, "probability": 0.1}],
    "silence": [{"verb": "P*", "stall": 2, "probability": 0.1}],
    "everything at once": [
        {"latency": {"uniform": [0.0, 0.1]}},
        {"verb": "P*", "reset": "after", "probability": 0.1},
        {"reset": "before", "probability": 0.1},
        {"status": 503, "probability": 0.1},
        {"method": "changes.list", "changes_lag": 1},
    ],
}
BIG = 6_000_000  # goes in chunks of a session


def inflict(server: Server, rules: Rules) -> None:
    server.ask("POST", "/_emulator/faults", {"rules": rules})


def relieve(server: Server) -> None:
    server.ask("DELETE", "/_emulator/faults")


def hits(server: Server) -> int:
    return sum(rule["hits"] for rule in server.ask("GET", "/_emulator/faults")["rules"])


def work_until_killed(mount: Mount, people: list[Person], chance: random.Random) -> None:
    for person in people:
        person.start(chance.randrange(1 << 30))
    eventually(lambda: sum(person.acknowledged() for person in people) >= WORK, 30)
    mount.kill()
    for person in people:
        person.read_journal()


@pytest.mark.parametrize("fault", FAULTS)
def test_work_goes_on_under(fault: str, mount: Mount, server: Server, home: Path) -> None:
    """What was acknowledged is there at once after the kill, on the server once, and through a fresh cache."""
    chance = random.Random(fault)
    people = [Person(n, mount.my / f"w{n}", home / f"journal{n}") for n in range(WRITERS)]
    for person in people:
        person.folder.mkdir()
    mount.flush()
    inflict(server, FAULTS[fault])
    for _ in range(2):
        if "chunk" in fault or "session" in fault:
            (mount.my / "w0.big").write_bytes(chance.randbytes(BIG))
        work_until_killed(mount, people, chance)
        mount.mount()
        for person in people:
            assert person.judge() == [], person.number
    assert not mount.client.flush(timeout=100)
    assert hits(server) > 0
    relieve(server)
    (mount.my / "w0.big").unlink(missing_ok=True)
    mount.flush()
    judge_server(server, people)
    mount.expect_log(COMPLAINTS)
    mount.judge_log()
    mount.expect_log(COMPLAINTS)
    mount.remount(wipe=True)
    for person in people:
        assert person.judge() == [], person.number


def test_latency_is_not_felt_locally(mount: Mount, server: Server) -> None:
    """Drive takes 0.2 to 5 s for everything; of 400 creates, stats and renames 99 in a hundred take less than 20 ms."""
    inflict(server, [{"latency": {"uniform": [0.2, 5.0]}}])
    took = []
    for number in range(100):
        path, moved = mount.my / f"f{number}", mount.my / f"g{number}"
        for act in (lambda p=path: p.write_bytes(b"x"), path.stat, lambda p=path, m=moved: p.rename(m), moved.stat):
            begin = time.perf_counter()
            act()
            took.append(time.perf_counter() - begin)
    relieve(server)
    assert statistics.quantiles(took, n=100)[98] < 0.02


@pytest.mark.parametrize("effect", [{"cut_response": 1000}, {"flip": "random"}, {"cut_response": {"at": 500, "how": "reset"}}])
def test_torn_and_flipped_downloads(effect: dict[str, Any], mount: Mount, server: Server) -> None:
    """Half of the answers are broken or wrong: a reader gets the right bytes or EIO, and in the end the right bytes."""
    contents = {f"f{number}": os.urandom(50_000 + number) for number in range(12)}
    for name, data in contents.items():
        server.create(name, data)
    eventually(lambda: len(os.listdir(mount.my)) == len(contents))
    inflict(server, [{"method": "files.get_media", "probability": 0.5, **effect}])
    wrong, failed = [], []
    for name, data in contents.items():
        try:
            if (mount.my / name).read_bytes() != data:
                wrong.append(name)
        except OSError:
            failed.append(name)
    assert wrong == []
    relieve(server)
    for name in failed:
        assert (mount.my / name).read_bytes() == contents[name]
    mount.expect_log("do not match|could not be read|read: |broke off|" + COMPLAINTS)


REFUSALS: dict[str, Rules] = {
    "Drive is full": [{"quota_full": True}],
    "no permission": [{"verb": "P*", "reason": "insufficientFilePermissions"}],
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_is_refused_is_kept_and_named(refusal: str, mount: Mount, server: Server) -> None:
    """It is listed with its path and reason, readable, writable, survives a kill, is not tried in a hot loop, and goes later."""
    mount.expect_log(COMPLAINTS + "|full|permission|refused")
    (mount.my / "before").write_bytes(b"before")
    mount.flush()
    inflict(server, REFUSALS[refusal])
    path = mount.my / "kept"
    path.write_bytes(b"refused")
    (unsent,) = eventually(
        lambda: [u for u in mount.client.flush(timeout=0.5) if u["reason"] not in ("being sent", "waiting for its turn")]
    )
    assert unsent["path"] == "MyDrive/kept"
    with path.open("ab") as file:
        file.write(b", and more")
    spent = sum(server.requests().values()) - server.requests()["changes.list"]
    time.sleep(2)  # the subject of the test: what happens in a while in which nobody asks
    assert sum(server.requests().values()) - server.requests()["changes.list"] - spent < 12
    mount.kill()
    mount.mount()
    assert path.read_bytes() == b"refused, and more"
    relieve(server)
    mount.kill()
    mount.mount()  # whoever is refused waits for a minute; a restart asks at once
    mount.flush()
    assert server.content(server.paths()["kept"]["id"]) == b"refused, and more"


def test_parent_gone(mount: Mount, server: Server) -> None:
    """The folder is deleted for good on Drive while a new file in it waits: both are made again."""
    (mount.my / "d").mkdir()
    mount.flush()
    mount.kill()
    folder = server.paths()["d"]["id"]
    mount.mount("--upload-delay", "600", "--poll-interval", "600")
    (mount.my / "d" / "new").write_bytes(b"new")
    server.delete(folder)
    mount.expect_log(COMPLAINTS + "|not found|404|no longer")
    mount.flush()
    assert server.content(server.paths()["d/new"]["id"]) == b"new"


def test_replay_after_long_offline(mount: Mount, server: Server) -> None:
    """300 changes without the server, which others changed meanwhile: all of ours arrive, and theirs are not undone."""
    mount.expect_log(COMPLAINTS + "|changed here and on Drive")
    both, theirs = server.create("both", b"base"), server.create("theirs", b"base")
    eventually(lambda: len(os.listdir(mount.my)) == 2)
    assert (mount.my / "both").read_bytes() == b"base"
    mount.flush()
    inflict(server, [{"offline": "reset"}])
    for number in range(100):
        path = mount.my / f"{number}"
        path.write_bytes(b"%d" % number)
        path.rename(mount.my / f"r{number}")
        with (mount.my / f"r{number}").open("ab") as file:
            file.write(b"!")
    (mount.my / "both").write_bytes(b"ours")
    for item, data in ((both, b"edited there"), (theirs, b"edited too")):
        server.call("PATCH", f"/_emulator/as/me/upload/drive/v3/files/{item}", data, kind="text/plain", uploadType="media")
    mount.kill()
    mount.mount()
    relieve(server)
    assert not mount.client.flush(timeout=100)
    items = {path: server.content(item["id"]) for path, item in server.paths().items()}
    (copy,) = (path for path in items if path.startswith("both (conflict "))
    assert items.pop(copy) == b"ours"
    wanted = {f"r{number}": b"%d!" % number for number in range(100)}
    assert items == wanted | {"both": b"edited there", "theirs": b"edited too"}


def test_two_mounts_write_one_file(mount: Mount, server: Server, home: Path) -> None:
    """Both close at nearly the same time: both versions are on Drive, as a file and its conflict copy, or as two revisions."""
    other_home = home / "other"
    other_home.mkdir()
    other = Mount(other_home, server).mount()
    try:
        item = server.create("f", b"base")
        for one in (mount, other):
            one.expect_log("changed here and on Drive|" + COMPLAINTS)
            eventually((one.my / "f").exists)
            assert (one.my / "f").read_bytes() == b"base"
        (mount.my / "f").write_bytes(b"mine")
        (other.my / "f").write_bytes(b"other's")
        mount.flush()
        other.flush()
        heads = {server.content(one["id"]) for one in server.paths().values()}
        revisions = {
            server.call("GET", f"/drive/v3/files/{item}/revisions/{revision}", alt="media") for revision in server.revisions(item)
        }
        assert {b"mine", b"other's"} <= heads | revisions
        assert heads & {b"mine", b"other's"}
    finally:
        other.end()
    other.judge_log()
