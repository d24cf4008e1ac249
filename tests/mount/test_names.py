"""Names from strangers: whatever somebody puts into a shared Drive, everything stays reachable and nothing breaks out."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ..support.mounts import Mount, errno_of, eventually
from ..support.server import FOLDER, Server
from .conftest import NewMount

DOCUMENT = "application/vnd.google-apps.document"
HOSTILE = (
    "/",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "nul\0inside",
    "esc\x1b[31mred",
    "line\nbreak\r",
    "\u202egnp.exe",
    "del\x7f",
    "tab\t",
    " ",
    "x" * 256,
    "é" * 200,
    "y" * 1000 + ".tar.gz",
    "e\u0301",
    "\u00e9",
    "'; DROP TABLE node; --",
    "%s%n",
    "<script>alert(1)</script>",
    "$(touch pwned)",
    "-rf",
    "con",
)


def test_every_name_is_reachable(server: Server, new_mount: NewMount) -> None:
    """Each hostile name gets a legal, distinct one under which just its content is found, the same with a new cache."""
    ids = {server.create(name, name.encode()): name for name in HOSTILE}
    folder = server.make("a/folder/..")
    server.create("inside", b"inside", folder)
    mount = new_mount().mount()
    shown = os.listdir(mount.my)
    assert len(set(shown)) == len(HOSTILE) + 1
    found = {}
    for name in shown:
        path = mount.my / name
        assert 0 < len(os.fsencode(name)) <= 255
        if stat.S_ISREG(path.lstat().st_mode):
            found[os.getxattr(path, "user.drive.id").decode()] = path.read_bytes()
        else:
            assert (path / "inside").read_bytes() == b"inside"
    assert found == {item: name.encode() for item, name in ids.items()}
    mount.remount(wipe=True)
    assert sorted(os.listdir(mount.my)) == sorted(shown)
    assert b"\x1b" not in mount.log.read_bytes()


def test_changing_a_file_keeps_its_hostile_name(server: Server, new_mount: NewMount) -> None:
    """Writing to, touching and moving an item whose shown name is ours leaves Drive's name alone; renaming it changes it."""
    item, folder = server.create("a/b", b"x"), server.make("folder")
    mount = new_mount().mount()
    (name,) = (name for name in os.listdir(mount.my) if name != "folder")
    (mount.my / name).write_bytes(b"changed")
    os.utime(mount.my / name, (5, 5))
    os.rename(mount.my / name, mount.my / "folder" / name)
    mount.flush()
    stated = server.get(item)
    assert (stated["name"], stated["parents"]) == ("a/b", [folder])
    assert server.content(item) == b"changed"
    os.rename(mount.my / "folder" / name, mount.my / "folder" / "plain")
    mount.flush()
    assert server.get(item)["name"] == "plain"


def test_three_siblings_of_one_name(server: Server, new_mount: NewMount) -> None:
    """All three are reachable under names that stay over a remount and with a new cache; deleting one deletes just that id."""
    ids = [server.create("same.txt", b"%d" % n) for n in range(3)]
    mount = new_mount().mount()

    def by_id() -> dict[str, str]:
        return {os.getxattr(mount.my / name, "user.drive.id").decode(): name for name in os.listdir(mount.my)}

    names = by_id()
    assert sorted(names.values()) == ["same (1).txt", "same (2).txt", "same.txt"]
    assert names.keys() == set(ids)
    for n, item in enumerate(ids):
        assert (mount.my / names[item]).read_bytes() == b"%d" % n
    mount.remount()
    assert by_id() == names
    mount.remount(wipe=True)
    assert by_id() == names
    os.unlink(mount.my / names[ids[1]])
    mount.flush()
    assert {item["id"] for item in server.tree()} == {ids[0], ids[2]}
    assert by_id() == {item: name for item, name in names.items() if item != ids[1]}
    mount.remount()
    assert by_id().keys() == {ids[0], ids[2]}


def test_a_shown_number_is_not_sent_to_drive(server: Server, new_mount: NewMount) -> None:
    """Changing ``same (1)`` writes to the second item, whose name on Drive stays ``same``."""
    ids = [server.create("same", b"%d" % n) for n in range(2)]
    mount = new_mount().mount()
    (mount.my / "same (1)").write_bytes(b"second")
    os.chmod(mount.my / "same (1)", 0o700)
    mount.flush()
    assert [server.get(item)["name"] for item in ids] == ["same", "same"]
    assert [server.content(item) for item in ids] == [b"0", b"second"]


def test_a_name_taken_on_both_sides(server: Server, mount: Mount) -> None:
    """A file made here and one of the same name made elsewhere are two files afterwards; neither is lost."""
    assert os.listdir(mount.my) == []
    (mount.my / "f").write_bytes(b"ours")
    server.create("f", b"theirs")
    mount.flush()
    eventually(lambda: sorted(os.listdir(mount.my)) == ["f", "f (1)"])
    assert {(mount.my / name).read_bytes() for name in ("f", "f (1)")} == {b"ours", b"theirs"}
    assert sorted(item["path"] for item in server.tree()) == ["f", "f"]


def test_google_documents(server: Server, new_mount: NewMount) -> None:
    """They are listed with Colab's suffixes; opening one is EOPNOTSUPP; renaming keeps the suffix off Drive; removing works."""
    item = server.make("Notes", DOCUMENT)
    server.make("Numbers", "application/vnd.google-apps.spreadsheet")
    mount = new_mount().mount()
    assert sorted(os.listdir(mount.my)) == ["Notes.gdoc", "Numbers.gsheet"]
    path = mount.my / "Notes.gdoc"
    assert stat.S_ISREG(path.lstat().st_mode)
    for attempt in (path.read_bytes, lambda: path.write_bytes(b"x"), lambda: os.truncate(path, 0)):
        assert errno_of(attempt) == errno.EOPNOTSUPP
    os.rename(path, mount.my / "Diary.gdoc")
    mount.flush()
    assert server.get(item)["name"] == "Diary"
    os.unlink(mount.my / "Diary.gdoc")
    mount.flush()
    assert server.get(item)["trashed"] is True


def test_shortcuts_lead_to_their_targets(server: Server, new_mount: NewMount) -> None:
    """A shortcut is a link to its target's place; one to a folder can be walked; removing it leaves the target."""
    folder = server.make("folder")
    target = server.create("target", b"content", folder)
    server.shortcut("to file", target)
    to_folder = server.shortcut("to folder", folder)
    mount = new_mount().mount()
    assert sorted(os.listdir(mount.my)) == ["folder", "to file", "to folder"]
    assert os.listdir(mount.my / "folder") == ["target"]
    assert (mount.my / "to file").is_symlink()
    assert (mount.my / "to file").read_bytes() == b"content"
    assert (mount.my / "to folder" / "target").read_bytes() == b"content"
    os.unlink(mount.my / "to folder")
    mount.flush()
    assert server.get(to_folder)["trashed"] is True
    assert server.get(folder)["trashed"] is False


def test_shortcut_loops_end(server: Server, new_mount: NewMount) -> None:
    """A shortcut to its own folder is a loop that a walk which follows no links passes by, and resolves for who follows it."""
    folder = server.make("folder")
    server.shortcut("myself", folder, folder)
    dangling = server.create("doomed", b"x")
    server.shortcut("dangling", dangling)
    server.delete(dangling)
    mount = new_mount().mount()
    walked = [(os.path.relpath(where, mount.my), sorted(folders + files)) for where, folders, files in os.walk(mount.my)]
    assert walked == [(".", ["dangling", "folder"]), ("folder", ["myself"])]
    assert os.path.samefile(mount.my / "folder" / "myself" / "myself", mount.my / "folder")
    assert errno_of(lambda: (mount.my / "dangling").read_bytes()) == errno.ENOENT


def test_two_mounts_move_folders_into_each_other(server: Server, mount: Mount, new_mount: NewMount) -> None:
    """Only one of two moves can win on Drive; both mounts end with that tree, and no folder vanishes into a circle."""
    (mount.my / "a").mkdir()
    (mount.my / "b").mkdir()
    mount.flush()
    other = new_mount().mount("--upload-delay", "600", "--poll-interval", "600")
    assert sorted(os.listdir(other.my)) == ["a", "b"]
    other.expect_log("moved elsewhere|not on Drive yet")
    os.rename(other.my / "b", other.my / "a" / "b")
    os.rename(mount.my / "a", mount.my / "b" / "a")
    mount.flush()
    other.end()
    other.mount()
    for one in (mount, other):
        eventually(lambda one=one: [path.relative_to(one.my) for path in one.my.rglob("*")] == [Path("b"), Path("b/a")])  # type: ignore[misc]
        one.flush()
    assert server.paths().keys() == {"b", "b/a"}


def test_control_characters_stay_out_of_terminals(server: Server, new_mount: NewMount) -> None:
    """What status prints of pending files, and what the log says, holds no escape sequence of theirs."""
    server.make("folder\x1b[2J", FOLDER)
    mount = new_mount().mount("--upload-delay", "600")
    (mount.my / "folder\x1b[2J" / "f\r\n\x1b[31m").write_bytes(b"x")
    shown = mount.run("status", mount.point)
    assert shown.returncode == 3
    assert "not on Drive yet" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert r"\x1b[31m" in shown.stdout
    mount.flush()
