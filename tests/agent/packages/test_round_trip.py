"""pip installs, the agent saves, the box goes, the next one restores: with a directory for a store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drivefs_agent.packages.directory import DirectoryFolder
from drivefs_agent.packages.errors import Conflict
from drivefs_agent.packages.folder import Entry, Progress
from drivefs_agent.packages.history import Store
from drivefs_agent.packages.interpreter import ask
from drivefs_agent.packages.layer import layer_for
from drivefs_agent.packages.restore import Restorer
from drivefs_agent.packages.target import read_target
from tests.agent.packages.box import Box, record_problems
from tests.agent.packages.images import Image, Images
from tests.agent.packages.wheels import compiled, wheel

pytestmark = [pytest.mark.slow]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "my_env"


@pytest.fixture
def box(image: Image, tmp_path: Path, store: Path) -> Box:
    """Enabled, with wheels at hand: a pure one with a script and a data file, a compiled one, one that needs the first."""
    links = image.links
    data = {"data/share/hello/x.txt": "x"}
    hello = "version = '1.0'\ndef main():\n    import sys\n    print('hello from', sys.prefix)\n"
    wheel(links, "hello", "1.0", files={"hello.py": hello}, console={"hello": "hello:main"}, data=data)
    wheel(links, "hello", "2.0", files={"hello.py": hello.replace("1.0", "2.0")}, console={"hello": "hello:main"}, data=data)
    tag = f"cp{image.minor.replace('.', '')}"
    wheel(
        links, "fast", "1.0", files={"fast.py": "version = '1.0'\n", "_fast.so": compiled("one")}, tag=f"{tag}-{tag}-linux_x86_64"
    )
    wheel(links, "needy", "0.3", requires=["hello"])
    wheel(links, "tiny", "0.1")
    return Box(image, tmp_path / "box", store).enable()


def another(images: Images, tmp_path: Path, store: Path, name: str = "another") -> Box:
    """A fresh box at other paths, with the same wheels at hand."""
    image = images.make(tmp_path / name)
    shutil.copytree(tmp_path / "wheels", image.links, dirs_exist_ok=True)
    return Box(image, tmp_path / name / "box", store)


def states(store: Path) -> list[Path]:
    return sorted(store.glob("envs/*/*/*.json"))


def test_the_next_box_has_what_this_one_installed(box: Box, images: Images, tmp_path: Path, store: Path) -> None:
    """At another prefix: it imports, RECORD holds for all files, scripts run with its Python, pip check and uninstall work."""
    box.pip("install", "needy", "fast")
    box.save()
    fresh = another(images, tmp_path, store)
    report = fresh.restore()
    assert (report["complete"], {item["name"] for item in report["restored"]}) == (True, {"needy", "hello", "fast"})
    assert fresh.installed() == {"needy": "0.3", "hello": "2.0", "fast": "1.0"}
    assert record_problems(fresh.site) == []
    assert fresh.evaluate("__import__('hello').version") == "2.0"
    said = fresh.image.run("hello", more={**fresh.more, "PATH": f"{fresh.current / 'bin'}:{fresh.image.environment()['PATH']}"})
    assert said == f"hello from {fresh.current}\n"
    assert (fresh.current / "share" / "hello" / "x.txt").read_text() == "x"
    assert "No broken requirements" in fresh.pip("check")
    fresh.pip("uninstall", "--yes", "hello")
    assert "hello" not in fresh.installed()
    assert not (fresh.current / "bin" / "hello").exists()
    assert not (fresh.current / "share" / "hello").exists()


def test_nothing_new_writes_nothing(box: Box, store: Path) -> None:
    """A save that finds what it saved leaves every file of the store alone."""
    box.install("needy")
    box.save()
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    assert box.save() == "Nothing has changed since the last save.\n"
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_one_more_small_package_is_one_archive_and_one_state(box: Box, store: Path) -> None:
    """What is stored already is not touched."""
    box.install("needy", "fast")
    box.save()
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    box.install("tiny")
    box.save()
    new = {path.relative_to(store).parts[0] for path in store.rglob("*") if path.is_file() and path not in before}
    added = [path for path in store.rglob("*") if path.is_file() and path not in before]
    assert (len(added), new) == (2, {"objects", "envs"})
    changed = [path.name for path, when in before.items() if path.stat().st_mtime_ns != when]
    assert changed == ["requirements.txt"]
    assert "tiny==0.1" in (store / "requirements.txt").read_text()


def test_upgrades_and_removals_travel_too(box: Box, images: Images, tmp_path: Path, store: Path) -> None:
    """A box that restored before gets what changed, and loses what was uninstalled."""
    box.install("needy", "tiny", "hello==1.0")
    box.save()
    fresh = another(images, tmp_path, store)
    fresh.restore()
    box.install("--upgrade", "hello==2.0")
    box.uninstall("tiny")
    box.save()
    fresh.restore()
    assert fresh.installed() == {"needy": "0.3", "hello": "2.0"}
    assert record_problems(fresh.site) == []


def test_what_is_not_saved_survives_a_restore(box: Box, images: Images, tmp_path: Path, store: Path) -> None:
    """The store does not know it, so it is kept; and saved next time, beside what the other box has."""
    box.install("hello==1.0")
    box.save()
    fresh = another(images, tmp_path, store).enable()
    fresh.install("tiny")
    report = fresh.restore()
    assert [item["name"] for item in report["kept"]] == ["tiny"]
    assert fresh.installed() == {"hello": "1.0", "tiny": "0.1"}
    fresh.save()
    box.restore()
    assert box.installed() == {"hello": "1.0", "tiny": "0.1"}


def test_two_boxes_that_save_at_once_are_merged(box: Box, images: Images, tmp_path: Path, store: Path) -> None:
    """Both began from one state; each added one package and one upgraded: the next restore has everything, of both."""
    box.install("hello==1.0")
    box.save()
    fresh = another(images, tmp_path, store)
    fresh.restore()
    box.install("tiny")
    fresh.install("fast")
    fresh.install("--upgrade", "hello==2.0")
    saves = [one.start("packages", "save") for one in (box, fresh)]
    assert [(save.communicate(timeout=60)[1], save.returncode) for save in saves] == [("", 0), ("", 0)]
    third = another(images, tmp_path, store, "third")
    third.restore()
    assert third.installed() == {"hello": "2.0", "tiny": "0.1", "fast": "1.0"}
    box.save()
    (head,) = [row for row in json.loads(box.packages("history", "--json")) if row["head"]]
    assert head["parts"] == 3


def test_history_diff_and_rollback(box: Box, store: Path) -> None:
    """Each save is a state; going back is one more, and loses none."""
    box.install("hello==1.0")
    box.save()
    box.install("--upgrade", "hello==2.0")
    box.install("tiny")
    box.save()
    newest, first = json.loads(box.packages("history", "--json"))
    assert newest["changes"] == ["~hello 1.0 -> 2.0", "+tiny 0.1"]
    assert box.packages("diff", first["id"][-12:], newest["id"][-12:], code=1) == "~hello 1.0 -> 2.0\n+tiny 0.1\n"
    box.packages("rollback", first["id"][-12:])
    assert box.installed() == {"hello": "1.0"}
    assert box.evaluate("__import__('hello').version") == "1.0"
    rows = json.loads(box.packages("history", "--json"))
    assert ([row["id"] for row in rows[1:]], rows[0]["head"]) == ([newest["id"], first["id"]], True)
    assert rows[0]["changes"] == ["~hello 2.0 -> 1.0", "-tiny 0.1"]
    box.packages("rollback", newest["id"][-12:])
    assert box.installed() == {"hello": "2.0", "tiny": "0.1"}
    box.packages("rollback", "ffffffffffff", code=4)


def test_an_archive_that_was_changed_is_refused_and_nothing_happens(
    box: Box, images: Images, tmp_path: Path, store: Path
) -> None:
    """One bit anywhere: the restore fails with a sentence, and the layer is what it was."""
    box.install("fast", "hello==1.0")
    box.save()
    fresh = another(images, tmp_path, store).enable()
    fresh.install("tiny")
    for archive in (store / "objects").iterdir():
        whole = archive.read_bytes()
        for position in (0, len(whole) // 2, len(whole) - 1):
            archive.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            said = fresh.packages("restore", "--no-watch", code=1)
            assert archive.name in said
            assert fresh.installed() == {"tiny": "0.1"}
        archive.write_bytes(whole[:-7])
        fresh.packages("restore", "--no-watch", code=1)
        archive.write_bytes(whole)
    fresh.restore()
    assert fresh.installed() == {"tiny": "0.1", "fast": "1.0", "hello": "1.0"}
    assert [path.name for path in fresh.layer.iterdir() if path.name.startswith("saving")] == []


def test_a_missing_archive_is_said(box: Box, images: Images, tmp_path: Path, store: Path) -> None:
    """Somebody deleted it: what it held is installed anew from the index, and the report says so."""
    box.install("hello==1.0")
    box.save()
    for archive in (store / "objects").iterdir():
        archive.unlink()
    fresh = another(images, tmp_path, store)
    report = fresh.restore()
    ((item,), complete) = report["anew"], report["complete"]
    assert (item["name"], complete, "not in the store" in item["reason"]) == ("hello", True, True)
    assert fresh.evaluate("__import__('hello').version") == "1.0"


def test_an_empty_store_is_said(box: Box) -> None:
    """Exit code 4, and what to do."""
    assert "Nothing is saved" in box.packages("restore", "--no-watch", code=4)


def test_editable_installs_are_named_and_left_behind(box: Box, images: Images, tmp_path: Path, store: Path) -> None:
    """Their source lies on this box alone."""
    from tests.agent.packages.wheels import project

    source = project(tmp_path / "mine", "mine")
    box.pip("install", "--no-build-isolation", "-e", source)
    box.pip("install", "tiny")
    process = box.start("packages", "save")
    _, said = process.communicate(timeout=60)
    assert (process.returncode, "mine" in said, str(source) in said) == (0, True, True)
    fresh = another(images, tmp_path, store)
    report = fresh.restore()
    assert (fresh.installed(), [item["name"] for item in report["left_out"]]) == ({"tiny": "0.1"}, ["mine"])
    assert "mine" in (store / "requirements.txt").read_text()


def test_files_that_no_distribution_owns_come_along(box: Box, images: Images, tmp_path: Path, store: Path) -> None:
    """Data that a program put into site-packages, a .pth file made by hand."""
    box.install("tiny")
    (box.site / "corpus").mkdir()
    (box.site / "corpus" / "words.txt").write_text("word")
    box.save()
    fresh = another(images, tmp_path, store)
    fresh.restore()
    assert (fresh.site / "corpus" / "words.txt").read_text() == "word"
    assert box.save() == "Nothing has changed since the last save.\n"


def test_by_hand(box: Box, tmp_path: Path, store: Path) -> None:
    """As README.txt in the store says: tar and pip alone bring everything back."""
    box.install("hello==1.0")
    box.save()
    (archive,) = (store / "objects").iterdir()
    listing = subprocess.run(["tar", "--zstd", "-tf", archive], capture_output=True, text=True, check=False)
    if listing.returncode and "zstd" in listing.stderr:
        pytest.skip("this tar has no zstd")
    assert "hello-1.0/purelib/hello.py" in listing.stdout.splitlines()
    target = tmp_path / "by-hand"
    box.image.run(
        "pip",
        "--isolated",
        "install",
        "--no-index",
        "--find-links",
        box.image.links,
        "--target",
        target,
        "-r",
        store / "requirements.txt",
    )
    assert (target / "hello.py").exists()


def test_a_sweep_keeps_what_is_needed(box: Box, images: Images, tmp_path: Path, store: Path) -> None:
    """After it, the newest state is restored whole."""
    box.install("hello==1.0")
    box.save()
    box.install("--upgrade", "hello==2.0")
    box.save()
    box.packages("gc")
    fresh = another(images, tmp_path, store)
    fresh.restore()
    assert fresh.installed() == {"hello": "2.0"}


def test_a_store_that_others_can_write_is_refused(box: Box, store: Path) -> None:
    """Whoever puts a package there runs code here."""
    box.install("tiny")
    box.save()
    store.chmod(0o777)
    for command in ("save", "restore"):
        assert "--trust" in box.packages(command, code=1)
    box.packages("restore", "--no-watch", "--trust")


def test_the_last_package_can_be_removed(box: Box, images: Images, tmp_path: Path, store: Path) -> None:
    """pip removes site-packages itself with it; that is an empty layer, and saved as one."""
    box.pip("install", "tiny")
    box.save()
    box.pip("uninstall", "--yes", "tiny")
    assert not box.site.exists()
    assert box.save().startswith("Saved 0 parts")
    fresh = another(images, tmp_path, store)
    assert fresh.restore()["restored"] == []
    box.pip("install", "hello")
    assert box.evaluate("__import__('hello').version") == "2.0"


def test_removed_here_and_brought_back_by_name(box: Box) -> None:
    """A removal that is not saved yet stands, and is said; naming the state undoes it."""
    box.install("hello", "tiny")
    box.save()
    box.uninstall("hello")
    report = box.restore()
    assert (box.installed(), "hello" in report["notes"][-1]) == ({"tiny": "0.1"}, True)
    (state,) = json.loads(box.packages("history", "--json"))
    box.restore(state["id"][-12:])
    assert box.installed() == {"hello": "2.0", "tiny": "0.1"}
    box.uninstall("hello")
    box.restore()
    assert "-hello 2.0" in box.save() or box.installed() == {"tiny": "0.1"}
    assert json.loads(box.packages("history", "--json"))[0]["changes"] == ["-hello 2.0"]


def test_declared_directories_come_back_where_they_are_missing(box: Box, images: Images, tmp_path: Path, store: Path) -> None:
    """Models, settings: saved with links and modes; what the next box has already stays as it is there."""
    models = box.image.home / "data" / "models"
    (models / "blobs").mkdir(parents=True)
    (models / "blobs" / "1").write_text("weights")
    (models / "run.sh").write_text("#!/bin/sh\n")
    (models / "run.sh").chmod(0o750)
    (models / "latest").symlink_to("blobs/1")
    (models.parent / "settings.json").write_text("mine")
    keys = box.image.home / ".ssh"
    keys.mkdir(mode=0o700)
    (keys / "id_ed25519").write_text("secret")
    (keys / "id_ed25519").chmod(0o600)
    store.mkdir()
    (store / "drivefs-agent.toml").write_text('[persist]\ndirectories = ["~/data"]\nssh = true\n')
    box.install("tiny")
    box.save()
    assert box.save() == "Nothing has changed since the last save.\n"
    fresh = another(images, tmp_path, store)
    (fresh.image.home / "data").mkdir()
    (fresh.image.home / "data" / "settings.json").write_text("theirs")
    report = fresh.restore()
    back = fresh.image.home / "data" / "models"
    assert ((back / "latest").read_text(), (back / "run.sh").stat().st_mode & 0o777) == ("weights", 0o750)
    assert ((back.parent / "settings.json").read_text(), "settings.json" in report["notes"][0]) == ("theirs", True)
    assert sorted(path.name for path in back.parent.iterdir()) == ["models", "settings.json"]
    modes = [path.stat().st_mode & 0o777 for path in (fresh.image.home / ".ssh", fresh.image.home / ".ssh" / "id_ed25519")]
    assert modes == [0o700, 0o600]
    shutil.rmtree(models.parent)  # its disk is not mounted, say
    assert box.save() == "Nothing has changed since the last save.\n"


def test_pip_at_work_during_a_restore_wins(box: Box, images: Images, tmp_path: Path, store: Path) -> None:
    """What it installed while the new generation was built would be lost with the switch, so there is none; exit code 5."""
    box.pip("install", "hello")
    box.save()
    fresh = another(images, tmp_path, store).enable()

    class Slow(DirectoryFolder):
        @contextmanager
        def open(self, entry: Entry, progress: Progress | None = None) -> Iterator[Iterator[bytes]]:
            if entry.name.startswith("hello"):
                fresh.pip("install", "tiny")
            with super().open(entry, progress) as chunks:
                yield chunks

    interpreter = ask(fresh.image.python)
    restorer = Restorer(layer_for(interpreter, fresh.layers), Store(Slow(store)), read_target(interpreter))
    with pytest.raises(Conflict, match="Restore again"):
        restorer.restore()
    assert fresh.installed() == {"tiny": "0.1"}
    restorer.restore()
    assert fresh.installed() == {"tiny": "0.1", "hello": "2.0"}


def test_what_apt_had_installed_is_said(box: Box, images: Images, tmp_path: Path, store: Path) -> None:
    """As a list in requirements.txt, and by a restore on a box that lacks some; installing is left to a person."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "apt-mark").write_text("#!/bin/sh\necho ffmpeg; echo htop\n")
    (programs / "apt-mark").chmod(0o755)
    store.mkdir()
    (store / "drivefs-agent.toml").write_text("[persist]\napt = true\n")
    box.install("tiny")
    box.more["PATH"] = f"{programs}:{box.image.environment()['PATH']}"
    box.save()
    assert "# ffmpeg\n# htop\n" in (store / "requirements.txt").read_text()
    fresh = another(images, tmp_path, store)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "apt-mark").write_text("#!/bin/sh\necho htop\n")
    (tmp_path / "other" / "apt-mark").chmod(0o755)
    fresh.more["PATH"] = f"{tmp_path / 'other'}:{fresh.image.environment()['PATH']}"
    assert fresh.restore()["notes"][-1].endswith(": apt-get install ffmpeg")


def test_going_back_to_an_older_version_takes_the_archive_that_older_states_have(box: Box, store: Path) -> None:
    """However old it is: it is neither sent again nor away for a moment, in which an older state would name nothing."""
    box.install("hello==1.0")
    box.save()
    (archive,) = (store / "objects").iterdir()
    os.utime(archive, (archive.stat().st_mtime - 3 * 86400,) * 2)
    before = archive.stat()
    box.install("hello==2.0")
    box.save()
    box.install("hello==1.0")
    assert "; 0 new archives" in box.save()
    assert (archive.stat().st_ino, archive.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not (store / ".trash").exists()
