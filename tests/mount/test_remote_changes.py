"""What others do on Drive appears in the mount within the poll interval, and our own doings cause no traffic."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path

from ..support.mounts import Mount, errno_of, eventually
from ..support.server import Server
from .conftest import NewMount

# Seconds. The poll interval of these mounts is 0.2 s; the rest is a busy machine's.
SOON = 5.0


def gone(path: Path) -> bool:
    return errno_of(path.lstat) == errno.ENOENT


def test_items_made_elsewhere_appear(mount: Mount, server: Server) -> None:
    """A new file, folder and file in that folder show up in a directory that had been listed, and where "no such" was cached."""
    assert os.listdir(mount.my) == []
    assert gone(mount.my / "new")
    server.create("new", b"content")
    folder = server.make("folder")
    server.create("inside", b"deep", folder)
    eventually(lambda: sorted(os.listdir(mount.my)) == ["folder", "new"], SOON)
    assert (mount.my / "new").read_bytes() == b"content"
    assert (mount.my / "folder" / "inside").read_bytes() == b"deep"


def test_renames_and_moves_elsewhere_are_followed(mount: Mount, server: Server) -> None:
    """The old name goes, the new one comes, the inode stays; so for a folder with what lies in it."""
    folder = server.make("folder")
    item = server.create("before", b"x", folder)
    eventually(lambda: (mount.my / "folder" / "before").exists(), SOON)
    inode = (mount.my / "folder" / "before").stat().st_ino
    server.change(item, {"name": "after"})
    eventually(lambda: os.listdir(mount.my / "folder") == ["after"], SOON)
    assert gone(mount.my / "folder" / "before")
    server.move(item, folder, server.root_id)
    eventually(lambda: (mount.my / "after").exists(), SOON)
    assert gone(mount.my / "folder" / "after")
    assert (mount.my / "after").stat().st_ino == inode
    server.change(folder, {"name": "renamed"})
    eventually(lambda: sorted(os.listdir(mount.my)) == ["after", "renamed"], SOON)


def test_trash_and_deletion_elsewhere(mount: Mount, server: Server) -> None:
    """A trashed file, a deleted file and a trashed folder with its children go; a file restored from the trash comes back."""
    folder = server.make("folder")
    trashed, deleted = server.create("trashed", b"t"), server.create("deleted", b"d")
    server.create("child", b"c", folder)
    eventually(lambda: len(os.listdir(mount.my)) == 3, SOON)
    assert (mount.my / "folder" / "child").read_bytes() == b"c"
    server.trash(trashed)
    server.delete(deleted)
    server.trash(folder)
    eventually(lambda: os.listdir(mount.my) == [], SOON)
    assert gone(mount.my / "folder" / "child")
    server.change(trashed, {"trashed": False})
    eventually(lambda: os.listdir(mount.my) == ["trashed"], SOON)
    assert (mount.my / "trashed").read_bytes() == b"t"


def test_new_content_is_seen_by_the_next_open(mount: Mount, server: Server) -> None:
    """A file that was read, and lies in our and the kernel's caches, shows the new bytes and size after a change elsewhere."""
    item = server.create("f", b"old" * 10_000)
    path = mount.my / "f"
    eventually(path.exists, SOON)
    assert path.read_bytes() == b"old" * 10_000
    server.write(item, b"brand new")
    eventually(lambda: path.stat().st_size == 9, SOON)
    assert path.read_bytes() == b"brand new"
    server.write(item, b"the same!")  # of the same length: nothing but the content tells
    eventually(lambda: path.read_bytes() == b"the same!", SOON)


def test_a_reader_keeps_the_version_it_opened(mount: Mount, server: Server) -> None:
    """Half of a large file is read, the file changes on Drive, and the rest still comes from the old version: never a mixture."""
    old, new = os.urandom(24 << 20), os.urandom(24 << 20)
    item = server.create("big", old)
    path = mount.my / "big"
    eventually(path.exists, SOON)
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        begin = os.pread(fd, 1 << 20, 0)
        mtime = path.stat().st_mtime_ns
        server.write(item, new)
        eventually(lambda: path.stat().st_mtime_ns != mtime, SOON)
        rest = b"".join(os.pread(fd, 1 << 20, offset) for offset in range(1 << 20, 24 << 20, 1 << 20))
        assert begin + rest == old
    assert path.read_bytes() == new


def test_changed_metadata_elsewhere(mount: Mount, server: Server) -> None:
    """A new modification time appears with its milliseconds; one that we set is on Drive with its milliseconds."""
    item = server.create("f", b"x")
    path = mount.my / "f"
    eventually(path.exists, SOON)
    server.change(item, {"modifiedTime": "2001-02-03T04:05:06.789Z"})
    eventually(lambda: path.stat().st_mtime_ns == 981_173_106_789_000_000, SOON)
    os.utime(path, ns=(0, 1_000_000_000_123_000_000))
    mount.flush()
    assert server.get(item)["modifiedTime"] == "2001-09-09T01:46:40.123Z"


def test_first_look_into_a_folder_changes_nothing(server: Server, new_mount: NewMount) -> None:
    """Who works in a folder that is being listed keeps it as the current directory, and its time stays the one that Drive has."""
    outer = server.make("outer", modifiedTime="2001-02-03T04:05:06.000Z")
    inner = server.make("inner", parent=outer)
    for n in range(50):
        server.create(f"{n}", b"", inner)
    server.change(outer, {"modifiedTime": "2001-02-03T04:05:06.000Z"})
    mount = new_mount().mount()
    program = subprocess.Popen(["sleep", "600"], cwd=mount.my / "outer" / "inner")
    try:
        assert len(os.listdir(mount.my / "outer" / "inner")) == 50
        polls = server.requests()["changes.list"]
        eventually(lambda: server.requests()["changes.list"] >= polls + 2)
        assert os.readlink(f"/proc/{program.pid}/cwd") == str(mount.my / "outer" / "inner")
    finally:
        program.kill()
        program.wait()
    assert (mount.my / "outer").stat().st_mtime == 981_173_106


def test_modes_and_links_survive_a_new_cache(mount: Mount, server: Server) -> None:
    """Permission bits, executable or not, and targets of links, short and long, are kept on Drive."""
    (mount.my / "run").write_bytes(b"#!/bin/sh\nexit 7\n")
    os.chmod(mount.my / "run", 0o750)
    os.mkdir(mount.my / "d", 0o755)
    targets = {"short": "run", "long": "x/" * 400 + "é", "absolute": "/usr/bin/env"}
    for name, target in targets.items():
        os.symlink(target, mount.my / name)
    mount.remount(wipe=True)
    assert oct((mount.my / "run").stat().st_mode & 0o777) == "0o750"
    assert oct((mount.my / "d").stat().st_mode & 0o777) == "0o755"
    assert {name: os.readlink(mount.my / name) for name in targets} == targets
    assert {name: (mount.my / name).lstat().st_size for name in targets} == {n: len(t.encode()) for n, t in targets.items()}


def test_own_writes_come_back_without_a_download(mount: Mount, server: Server) -> None:
    """After our upload came back through the feed, reading costs no request, and the inode and its pages are what they were."""
    path = mount.my / "f"
    path.write_bytes(b"x" * 100_000)
    os.mkdir(mount.my / "d")
    inode = path.stat().st_ino
    mount.flush()
    polls = server.requests()["changes.list"]
    eventually(lambda: server.requests()["changes.list"] >= polls + 2)
    before = server.requests()
    assert path.read_bytes() == b"x" * 100_000
    assert path.stat().st_ino == inode
    assert sorted(os.listdir(mount.my)) == ["d", "f"]
    spent = server.requests() - before
    assert spent.keys() <= {"changes.list"}
    assert mount.status()["bytes_down"] == 0
    assert before["files.create"] == 2


def test_remote_change_under_unsent_content_keeps_both(mount: Mount, server: Server) -> None:
    """A file changed here and on Drive: Drive's version keeps name and id, ours lies beside it as a conflict copy."""
    mount.expect_log(r"was changed here and on Drive; ours is kept as")
    item = server.create("f.txt", b"base")
    path = mount.my / "f.txt"
    eventually(path.exists, SOON)
    with path.open("r+b") as file:
        file.write(b"ours")
        file.flush()
        server.write(item, b"theirs")
    mount.flush()
    names = eventually(lambda: len(names := sorted(os.listdir(mount.my))) == 2 and names)
    assert names
    copy = next(name for name in names if name != "f.txt")
    assert copy.startswith("f (conflict ")
    assert copy.endswith(").txt")
    eventually(lambda: path.read_bytes() == b"theirs")
    assert (mount.my / copy).read_bytes() == b"ours"
    items = server.paths()
    assert items["f.txt"]["id"] == item
    assert server.content(item) == b"theirs"
    assert server.content(items[copy]["id"]) == b"ours"


def test_deleted_elsewhere_while_we_have_unsent_content(mount: Mount, server: Server) -> None:
    """A file deleted for good on Drive while it is changed here is sent as a new file: what the user wrote is never dropped."""
    item = server.create("f", b"base")
    path = mount.my / "f"
    eventually(path.exists, SOON)
    with path.open("r+b") as file:
        file.write(b"ours")
        file.flush()
        server.delete(item)
        polls = server.requests()["changes.list"]
        eventually(lambda: server.requests()["changes.list"] >= polls + 2)
    mount.flush()
    again = server.paths()["f"]
    assert again["id"] != item
    assert server.content(again["id"]) == path.read_bytes() == b"ours"


def test_many_changes_in_one_page_keep_the_mount_quick(mount: Mount, server: Server) -> None:
    """While a thousand changes from elsewhere are merged, a stat of a known file is answered within half a second each time."""
    (mount.my / "known").write_bytes(b"x")
    mount.flush()
    for n in range(300):
        server.make(f"folder {n}")
    slowest = 0.0
    deadline = time.monotonic() + 20
    while len(os.listdir(mount.my)) < 301:
        assert time.monotonic() < deadline
        begin = time.monotonic()
        (mount.my / "known").stat()
        slowest = max(slowest, time.monotonic() - begin)
    assert slowest < 0.5


def test_a_lost_place_in_the_feed_loses_no_change(mount: Mount, server: Server) -> None:
    """Drive no longer knows our token: what happened in the gap is seen at its names, and by whoever had looked before."""
    folder = server.make("d")
    edited, renamed = (server.create(name, b"old", folder) for name in ("edited", "renamed"))
    path = mount.my / "d"
    eventually(path.is_dir)
    assert (path / "edited").read_bytes() == b"old"
    assert not (path / "fresh").exists()  # which the kernel remembers
    server.ask("POST", "/_emulator/faults", {"method": "changes.list", "status": 404})
    server.ask("POST", "/_emulator/faults", {"method": "changes.getStartPageToken", "status": 503})
    mount.expect_log("remote changes cannot be read")
    server.write(edited, b"newer")
    server.change(renamed, {"name": "renamed 2"})
    server.create("fresh", b"fresh", folder)
    eventually(lambda: "the changes feed is begun anew" in mount.log.read_text())
    server.ask("DELETE", "/_emulator/faults")
    server.ask("POST", "/_emulator/faults", {"method": "changes.list", "status": 404, "times": 1})
    eventually(lambda: sorted(os.listdir(path)) == ["edited", "fresh", "renamed 2"], 60)
    eventually(lambda: (path / "edited").read_bytes() == b"newer")
    assert (path / "fresh").read_bytes() == b"fresh"
