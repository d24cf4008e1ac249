"""What a scan finds in an environment, what a part's key depends on, and what is said of what cannot be saved."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from drivefs_agent.packages import looking, record
from drivefs_agent.packages import scan as scan_module
from drivefs_agent.packages.looking import opened
from drivefs_agent.packages.metadata import About, about
from drivefs_agent.packages.model import Kind, Part
from drivefs_agent.packages.scan import Changed, Found, Place, Scan, content_of, distributions, scan, scan_directory

from .trees import environment, install
from .wheels import compiled, offline, project, wheel


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return environment(tmp_path / "env")


def names(scanned: Scan) -> list[str]:
    return [found.part.name for found in scanned.found]


def only(scanned: Scan, name: str) -> Found:
    (found,) = [found for found in scanned.found if found.part.name == name]
    return found


def schemes(found: Found) -> set[str]:
    return {file.scheme for file in found.files}


def test_an_empty_environment_holds_nothing(place: Place) -> None:
    """What venv made is nobody's, and is made anew on the next box."""
    assert scan(place) == Scan((), ())
    assert distributions(place.site) == {}


def test_a_distribution(place: Place) -> None:
    """Its files are named independently of where the layer lies and which Python it has; RECORD is among them."""
    install(
        place,
        "Some_Thing",
        "1.2",
        files={"some/__init__.py": "a = 1\n", "../../../share/some/data": "d", "some/_core.so": compiled()},
        console={"some": "some:main"},
        metadata="Requires-Dist: Torch>=2\nRequires-Dist: jax; extra == 'jax'\nRequires-Dist: other\n\nRequires-Dist: triton\n",
        tags=("cp311-cp311-manylinux_2_17_x86_64",),
        requested=True,
    )
    (found,) = scan(place).found
    assert schemes(found) == {
        "purelib/some/__init__.py",
        "purelib/some/_core.so",
        "data/share/some/data",
        "scripts/some",
        *(f"purelib/Some_Thing-1.2.dist-info/{name}" for name in ("METADATA", "WHEEL", "INSTALLER", "REQUESTED", "RECORD")),
    }
    part = found.part
    assert (part.name, part.version, part.kind, part.files) == ("some-thing", "1.2", Kind.DISTRIBUTION, len(found.files))
    assert (part.tags, part.native, part.needs) == (("cp311-cp311-manylinux_2_17_x86_64",), True, ("torch",))
    assert (part.requested, part.editable, part.modified, part.object) == (True, None, (), "")
    assert part.size == sum(len(b"".join(content_of(file))) for file in found.files)
    assert Part.from_json(part.to_json()) == part
    assert distributions(place.site) == {"some-thing": "1.2"}


@pytest.mark.parametrize(
    ("files", "tags", "native"),
    [
        ({"a.py": ""}, ["py3-none-any"], False),
        ({"a.py": ""}, ["cp311-cp311-linux_x86_64"], True),
        ({"a.so.1.2": "x"}, ["py3-none-any"], True),
        ({"../../../bin/tool": compiled()}, ["py3-none-any"], True),
        ({"a.pyc": "x"}, ["py3-none-any"], True),
        ({"a.song": "x"}, [], False),
    ],
)
def test_compiled_code_is_told(place: Place, files: dict[str, str | bytes], tags: list[str], native: bool) -> None:
    """By the wheel's tags, and by the files where tags say nothing: it may not run on another box."""
    install(place, "a", files=files, tags=tags)
    assert only(scan(place), "a").part.native is native


def test_the_key_is_over_what_counts(place: Place, tmp_path: Path) -> None:
    """Where the environment lies, who installed it, why and when, and what Python compiled, make no other package."""
    other = environment(tmp_path / "another" / "place")
    for each, requested in ((place, True), (other, False)):
        install(each, "a", files={"a/x.py": "x"}, console={"tool": "a:main"}, requested=requested)
    (other.site / "a-1.0.dist-info" / "INSTALLER").write_text("uv")
    (other.site / "a" / "__pycache__").mkdir()
    (other.site / "a" / "__pycache__" / "x.cpython-311.pyc").write_text("compiled")
    first, second = only(scan(place), "a").part, only(scan(other), "a").part
    assert first.key == second.key


@pytest.mark.parametrize(
    "change",
    [
        lambda site: (site / "a" / "x.py").write_text("another"),
        lambda site: (site / "a" / "x.py").unlink(),
        lambda site: (site / "a-1.0.dist-info" / "METADATA").write_text("Name: a\nVersion: 1.0\nSummary: another\n"),
        lambda site: (site / "../../../bin/tool").write_text("#!/bin/sh\n"),
    ],
)
def test_the_key_changes_with_the_content(place: Place, change: Callable[[Path], object]) -> None:
    """Two packages with one key hold the same bytes."""
    install(place, "a", files={"a/x.py": "x", "a/y.py": "y"}, console={"tool": "a:main"})
    before = only(scan(place), "a").part.key
    change(place.site)
    assert only(scan(place), "a").part.key != before


def test_record_is_believed_and_nothing_is_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan after each pip run must not read gigabytes: only bin is opened, for first lines."""
    install(place, "a", files={"a/x.py": "x", "a/y.py": "y"}, console={"tool": "a:main"})
    seen: list[str] = []

    def noticed(path: str) -> io.FileIO:
        seen.append(path)
        return opened(path)

    monkeypatch.setattr(looking, "opened", noticed)
    scan(place)
    assert seen == [f"{place.scripts}/tool"]


def test_a_file_changed_by_hand_is_read(place: Place) -> None:
    """Newer than RECORD, or of another size: what it is counts, and the difference is noted."""
    install(place, "a", files={"a/x.py": "x", "a/y.py": "y", "a/z.py": "z"})
    (place.site / "a" / "x.py").write_text("X")  # of the same size
    os.utime(place.site / "a" / "x.py", ns=(0, (place.site / "a-1.0.dist-info" / "RECORD").stat().st_mtime_ns + 1))
    (place.site / "a" / "y.py").write_text("longer")
    os.utime(place.site / "a" / "y.py", (0, 0))
    os.utime(place.site / "a" / "z.py", (2**33, 2**33))  # newer, but the same
    found = only(scan(place), "a")
    assert found.part.modified == ("purelib/a/x.py", "purelib/a/y.py")
    by_scheme = {file.scheme: file.sha256 for file in found.files}
    assert by_scheme["purelib/a/x.py"] == hashlib.sha256(b"X").hexdigest()
    assert by_scheme["purelib/a/y.py"] == hashlib.sha256(b"longer").hexdigest()


def test_a_lie_that_nothing_tells(place: Place) -> None:
    """The checksum in RECORD is wrong from the start. Packing finds it, and names what to read at the next scan."""
    install(place, "a", files={"a/x.py": "x"})
    (place.site / "a" / "x.py").write_text("X")
    os.utime(place.site / "a" / "x.py", (0, 0))
    found = only(scan(place), "a")
    assert found.part.modified == ()
    (file,) = [file for file in found.files if file.scheme == "purelib/a/x.py"]
    with pytest.raises(Changed, match="RECORD") as raised:
        list(content_of(file))
    again = only(scan(place, suspects=raised.value.paths), "a")
    assert again.part.modified == ("purelib/a/x.py",)
    assert again.part.key != found.part.key
    for file in again.files:
        assert b"".join(content_of(file)) or file.size == 0


def test_what_is_missing_is_said(place: Place) -> None:
    """The rest of the package is saved, and RECORD speaks of the rest."""
    install(place, "a", files={f"a/{number}.py": "x" for number in range(6)})
    for number in range(5):
        (place.site / "a" / f"{number}.py").unlink()
    scanned = scan(place)
    (warning,) = scanned.warnings
    assert warning.startswith("a 1.0: files are missing: ")
    assert warning.endswith("a/2.py and 2 more.")
    (stored,) = [file.content or b"" for file in only(scanned, "a").files if file.scheme.endswith("RECORD")]
    assert {row.path for row in record.read(stored) if row.path.startswith("a/")} == {"a/5.py"}


def test_a_path_that_leads_out(place: Place, tmp_path: Path) -> None:
    """RECORD may name anything; nothing outside the environment is saved."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    install(
        place, "a", files={"a.py": ""}, record_rows=[record.Row(str(secret), "", ""), record.Row("../../../../secret", "", "")]
    )
    scanned = scan(place)
    assert not [file for found in scanned.found for file in found.files if "secret" in file.path]
    assert "outside the environment" in scanned.warnings[0]


def test_lib64_is_lib(place: Place) -> None:
    """venv makes a link of it, and RECORD may name a file by either."""
    install(place, "a", files={"a.py": "", "../../../lib64/libfoo.a": "x"})
    (found,) = scan(place).found
    assert "data/lib/libfoo.a" in schemes(found)


def test_files_of_two_packages(place: Place) -> None:
    """A file that two RECORDs name belongs to both: either can be restored without the other."""
    install(place, "a", files={"shared/__init__.py": "", "shared/a.py": ""})
    install(place, "b", files={"shared/__init__.py": "", "shared/b.py": ""})
    assert "purelib/shared/__init__.py" in schemes(only(scan(place), "a")) & schemes(only(scan(place), "b"))


def test_two_versions_of_one_package(place: Place) -> None:
    """pip install --target --upgrade leaves the older metadata: the version installed last is the one that counts."""
    install(place, "a", "1.0", files={"a.py": "old", "gone.py": ""})
    os.utime(place.site / "a-1.0.dist-info" / "INSTALLER", (1000, 1000))
    install(place, "a", "2.0", files={"a.py": "new"})
    scanned = scan(place)
    assert only(scanned, "a").part.version == "2.0"
    assert names(scanned) == ["a"]
    assert "a is there twice, as 1.0 and 2.0" in " ".join(scanned.warnings)


def test_an_editable_install(place: Place) -> None:
    """Its source is elsewhere, and cannot travel: it is named and said, and its path file is no orphan."""
    install(place, "a", files={"__editable__.a.pth": "/src/a b\n"}, editable="/src/a%20b")
    scanned = scan(place)
    (found,) = scanned.found
    assert (found.part.editable, found.files, found.part.files) == ("/src/a b", (), 0)
    assert found.part.direct_url is not None
    assert "/src/a b" in scanned.warnings[0]
    assert Part.from_json(found.part.to_json()) == found.part


def test_what_nobody_owns(place: Place) -> None:
    """Copied modules, downloaded data and old eggs are one part; what is compiled, half removed or of the environment is none."""
    install(place, "a")
    orphans = {"purelib/mine.py", "purelib/old-1.egg-info/PKG-INFO", "data/share/nltk_data/x", "scripts/mine", "data/.hidden"}
    for path in (*(place.site / name for name in ("mine.py", "old-1.egg-info/PKG-INFO", "~orch/x.py", "p/__pycache__/x.pyc")),):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    for path in (place.data / "share/nltk_data/x", place.data / ".hidden", place.data / ".drivefs-layer.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (place.scripts / "mine").write_text(f"#!{place.python}\n")
    (place.site / "easy-install.pth").write_text("/src\n")
    scanned = scan(place)
    found = only(scanned, "_orphans")
    assert schemes(found) == orphans
    assert (found.part.kind, found.part.version, found.part.native) == (Kind.ORPHANS, "", False)
    assert next(file.content for file in found.files if file.scheme == "scripts/mine") == b"#!@PYTHON@\n"
    assert scanned.warnings == ()
    assert names(scan(place, orphans=False)) == ["a"]
    (place.site / "mine.py").write_bytes(compiled())
    assert only(scan(place), "_orphans").part.native


def test_links(place: Place, tmp_path: Path) -> None:
    """A link to a file inside is that file; any other is said and left."""
    outside = tmp_path / "outside"
    outside.write_text("secret")
    (place.site / "real.py").write_text("x")
    (place.site / "inner.py").symlink_to("real.py")
    (place.site / "outer.py").symlink_to(outside)
    (place.site / "nowhere.py").symlink_to("gone")
    (place.site / "folder").symlink_to(place.site)
    scanned = scan(place)
    found = only(scanned, "_orphans")
    assert schemes(found) == {"purelib/real.py", "purelib/inner.py"}
    assert {b"".join(content_of(file)) for file in found.files} == {b"x"}
    assert all(file.link is None for file in found.files)
    assert len(scanned.warnings) == 2


def test_names_that_cannot_travel(place: Place) -> None:
    """Everything that reads a list of files line by line would stumble."""
    for name in (b"new\nline.py", b"\xff.py"):
        with open(os.fsencode(place.site) + b"/" + name, "wb"):
            pass
    (place.site / "fine ü.py").write_text("")
    os.mkfifo(place.site / "pipe")
    scanned = scan(place)
    assert schemes(only(scanned, "_orphans")) == {"purelib/fine ü.py"}
    assert {"control characters" in warning or "no files" in warning for warning in scanned.warnings} == {True}
    assert all(warning.isprintable() or "\n" in warning for warning in scanned.warnings)


def test_pip_at_work(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that changes while it is looked at is no state of it."""
    install(place, "a")
    install(place, "b")

    def removes_a(folder: Path) -> About:
        if folder.name.startswith("b-"):
            shutil.rmtree(place.site / "a-1.0.dist-info")
        return about(folder)

    monkeypatch.setattr(scan_module, "about", removes_a)
    with pytest.raises(Changed, match="being installed or removed"):
        scan(place)


def test_damaged_metadata(place: Place) -> None:
    """A directory that says little or nonsense is made the most of; without a usable RECORD its files are nobody's."""
    bare = place.site / "bare-1.0.dist-info"
    bare.mkdir()
    (bare / "RECORD").write_text("bare-1.0.dist-info/RECORD,,\n")
    odd = install(place, "odd", "1.0")
    (odd / "METADATA").write_bytes(b"Name: Odd One!\nVersion: 1.0 beta\xff\nRequires-Dist: !!\nRequires-Dist:\n")
    none = place.site / "none-1.0.dist-info"
    none.mkdir()
    (none / "METADATA").write_text("Name: none\n")
    broken = install(place, "broken")
    (broken / "RECORD").write_bytes(b"\xff\xfe")
    scanned = scan(place)
    assert {(found.part.name, found.part.version) for found in scanned.found} == {
        ("bare", "1.0"),
        ("odd-one", "1.0_beta_"),
        ("_orphans", ""),
    }
    assert {"purelib/none-1.0.dist-info/METADATA", "purelib/broken.py"} <= schemes(only(scanned, "_orphans"))
    for found in scanned.found:
        assert Part.from_json(found.part.to_json()) == found.part


def test_setuptools_of_old(place: Place) -> None:
    """setup.py install left a list of files without checksums; each is read."""
    info = place.site / "old-1.0-py3.11.egg-info"
    info.mkdir()
    (info / "PKG-INFO").write_text("Name: old\nVersion: 1.0\n")
    (info / "installed-files.txt").write_text("../old.py\nPKG-INFO\n../../../../bin/old\n")
    (place.site / "old.py").write_text("x")
    (place.scripts / "old").write_text(f"#!{place.python}\n")
    (found,) = scan(place).found
    assert schemes(found) == {
        "scripts/old",
        "purelib/old.py",
        *(f"purelib/{info.name}/{name}" for name in ("PKG-INFO", "installed-files.txt")),
    }
    assert (found.part.name, found.part.version, found.part.modified) == ("old", "1.0", ())


def test_unreadable_files_do_not_stop_a_save(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file of another user's is said, and the others are saved."""
    (place.site / "mine.py").write_text("x")
    (place.site / "theirs.py").write_text("x")

    def refuse(path: str) -> io.FileIO:
        if path.endswith("theirs.py"):
            raise PermissionError(13, "Permission denied", path)
        return opened(path)

    monkeypatch.setattr(looking, "opened", refuse)
    scanned = scan(place)
    assert schemes(only(scanned, "_orphans")) == {"purelib/mine.py"}
    assert "cannot be read" in scanned.warnings[0]


@pytest.mark.parametrize("installer", ["pip", "uv"])
@pytest.mark.slow
def test_real_installers(tmp_path: Path, installer: str) -> None:
    """What pip and uv leave is understood: nothing is an orphan, nothing is modified, and both make the same packages."""
    links, home = tmp_path / "links", tmp_path / "home"
    home.mkdir()
    wheel(
        links,
        "alpha",
        files={"alpha/__init__.py": "def main(): pass\n", "alpha/_c.abi3.so": compiled()},
        console={"alpha": "alpha:main"},
        data={"scripts/tool": "#!python\nprint()\n", "data/share/alpha.txt": "x", "headers/alpha.h": "h"},
        requires=["beta"],
    )
    wheel(links, "beta")
    project(tmp_path / "gamma", "gamma")
    root = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root], check=True)
    python = str(root / "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install"]
    uv = [sys.executable, "-m", "uv", "pip", "install", "--python", python]
    tool = {"pip": pip, "uv": uv}[installer]
    subprocess.run([*tool, "alpha", "-e", tmp_path / "gamma"], check=True, env=offline(links, home), capture_output=True)
    (site,) = root.glob("lib/python3*/site-packages")
    scanned = scan(Place(site, root / "bin", root, str(root / "bin/python")))
    parts = {found.part.name: found.part for found in scanned.found}
    assert set(parts) == {"alpha", "beta", "gamma"}
    assert {name for name, part in parts.items() if part.modified} == set()
    assert parts["gamma"].editable == str(tmp_path / "gamma")
    assert parts["alpha"].requested
    assert not parts["beta"].requested
    assert (
        next(file.content for file in only(scanned, "alpha").files if file.scheme == "scripts/tool") == b"#!@PYTHON@\nprint()\n"
    )
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert {"data/share/alpha.txt", f"data/include/site/python{minor}/alpha/alpha.h"} <= schemes(only(scanned, "alpha"))
    assert len(scanned.warnings) == 1


@pytest.mark.parametrize("installer", ["pip", "uv"])
@pytest.mark.slow
def test_a_target_tree(tmp_path: Path, installer: str) -> None:
    """``--target DIR`` puts everything into one directory, and its RECORDs speak of another; its parts are like any others."""
    links, home, target = tmp_path / "links", tmp_path / "home", tmp_path / "my_env"
    home.mkdir()
    wheel(links, "alpha", console={"alpha": "alpha:main"}, data={"data/share/alpha.txt": "x"})
    command = {"pip": ["pip", "install"], "uv": ["uv", "pip", "install"]}[installer]
    subprocess.run(
        [sys.executable, "-m", *command, "--target", target, "alpha"], check=True, env=offline(links, home), capture_output=True
    )
    (target / "mine.py").write_text("x")
    scanned = scan(Place(target, target / "bin", target, sys.executable))
    assert {"purelib/alpha.py", "scripts/alpha", "data/share/alpha.txt"} <= schemes(only(scanned, "alpha"))
    assert "purelib/mine.py" in schemes(only(scanned, "_orphans"))
    (stored,) = [file.content or b"" for file in only(scanned, "alpha").files if file.scheme.endswith("/RECORD")]
    assert {"../../../bin/alpha", "../../../share/alpha.txt", "alpha.py"} <= {row.path for row in record.read(stored)}


# -- declared directories ----------------------------------------------------------------------------------------------


def test_a_directory_is_a_part_for_each_child(tmp_path: Path) -> None:
    """So that one more model is one more archive."""
    hub = tmp_path / "hub"
    (hub / "models--a" / "blobs").mkdir(parents=True)
    (hub / "models--a" / "blobs" / "1").write_text("weights")
    (hub / "models--a" / "snapshots" / "x").mkdir(parents=True)
    (hub / "models--a" / "snapshots" / "x" / "model").symlink_to("../../blobs/1")
    (hub / "models--a" / "absolute").symlink_to(hub / "models--a" / "blobs" / "1")
    (hub / "version.txt").write_text("1")
    (hub / "empty").mkdir()
    (hub / "ünsound").write_text("1")
    scanned = scan_directory("HF_HOME", hub)
    assert scanned.warnings == ()
    first = only(scanned, "dir/HF_HOME/models--a")
    assert {(file.scheme, file.link) for file in first.files} == {
        ("data/models--a/blobs/1", None),
        ("data/models--a/snapshots/x/model", "../../blobs/1"),
        ("data/models--a/absolute", "blobs/1"),
    }
    assert (first.part.kind, first.part.size, first.part.files, first.part.version) == (Kind.DIRECTORY, 7, 3, "")
    assert len(scanned.found) == 3
    for found in scanned.found:
        assert Part.from_json(found.part.to_json()) == found.part
    assert scan_directory("X", tmp_path / "missing") == Scan((), ())


def test_permissions_count_in_directories(tmp_path: Path) -> None:
    """A private key that others can read is useless; nothing becomes set-user-id or writable for others."""
    key = tmp_path / "ssh" / "id"
    key.parent.mkdir()
    key.write_text("k")
    keys = set()
    for mode, kept in ((0o600, 0o600), (0o644, 0o644), (0o4777, 0o755), (0o400, 0o600)):
        key.chmod(mode)
        (found,) = scan_directory("ssh", key.parent).found
        assert found.files[0].mode == kept
        keys.add(found.part.key)
    assert len(keys) == 3


def test_links_out_of_a_directory(tmp_path: Path) -> None:
    """A link is kept only where it leads into its own child on any box, whatever other links say."""
    child = tmp_path / "d" / "child"
    (child / "a" / "b").mkdir(parents=True)
    (child / "a" / "f").write_text("x")
    (tmp_path / "d" / "other").write_text("x")
    (child / "up").symlink_to("a/b")
    for name, target in {
        "out": "../other",
        "far": "/etc/passwd",
        "itself": "itself",
        "through": "up/../f",
        "fine": "a/../a/f",
    }.items():
        (child / name).symlink_to(target)
    (tmp_path / "d" / "top").symlink_to("child")
    scanned = scan_directory("d", tmp_path / "d")
    assert {file.scheme: file.link for file in only(scanned, "dir/d/child").files if file.link} == {
        "data/child/up": "a/b",
        "data/child/fine": "a/f",
        "data/child/itself": "itself",
    }
    assert "links are not saved" in scanned.warnings[0]
    assert replace(scanned, warnings=()) == Scan(scanned.found)
