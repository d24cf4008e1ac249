"""Archives: the same bytes for the same content, and never other bytes than a key was made of."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from drivefs_agent.packages import pack
from drivefs_agent.packages.errors import Conflict
from drivefs_agent.packages.model import Object
from drivefs_agent.packages.scan import Changed, Found, scan, scan_directory

from .trees import environment, install, packed

LONG = "very/" * 30 + "long.py"


def found_in(root: Path, *, salt: str = "") -> list[Found]:
    place = environment(root)
    install(place, "alpha", files={"alpha/ü.py": f"a{salt}", LONG: "b", "alpha/empty": ""}, console={"alpha": "alpha:main"})
    install(place, "beta", "2.0+local")
    return list(scan(place).found)


def test_equal_content_makes_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the environment lies, whenever it was made, in whatever order, on however many cores."""
    first = packed(found_in(tmp_path / "one"), tmp_path / "a")
    time.sleep(0.01)
    second = packed(reversed(found_in(tmp_path / "another" / "deeper")), tmp_path / "a")
    assert first == second
    monkeypatch.setattr(pack, "_WORKERS", 5)
    assert packed(found_in(tmp_path / "third"), tmp_path / "a") == first
    assert packed(found_in(tmp_path / "other", salt="x"), tmp_path / "a") != first


def test_large_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """zstd cuts its work into jobs of some MiB; the workers' number must not show."""
    place = environment(tmp_path / "env")
    install(place, "big", files={"big.bin": os.urandom(1 << 20) * 6 + os.urandom(5 << 20)})
    found = scan(place).found
    made = packed(found, tmp_path / "a")
    monkeypatch.setattr(pack, "_WORKERS", 1)
    assert packed(found, tmp_path / "a") == made


def test_the_object_names_its_bytes(tmp_path: Path) -> None:
    """By checksum and size, and by a name that a manifest may have."""
    found = found_in(tmp_path / "env")
    for each, title in ((found, "pack"), (found[:1], "alpha-1.0"), (found[1:], "beta-2.0+local")):
        content, made = packed(each, tmp_path / "a")
        sha256 = hashlib.sha256(content).hexdigest()
        assert made == Object(f"{title}-{sha256[:16]}.tar.zst", sha256, len(content))
        assert Object.from_json(made.name, made.to_json()) == made


@pytest.mark.parametrize("child", ["models--a", "My model", "_private", "ünïcode", "-", "x" * 200])
def test_any_part_has_a_name(tmp_path: Path, child: str) -> None:
    """Children of declared directories are named by their owners."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / child).write_text("x")
    _, made = packed(scan_directory("hub", tmp_path / "d").found, tmp_path / "a")
    assert Object.from_json(made.name, made.to_json()) == made


def test_any_tar_unpacks_it(tmp_path: Path) -> None:
    """People can do without us: the members are plain, and named by part and scheme."""
    found = found_in(tmp_path / "env")
    content, _ = packed(found, tmp_path / "a")
    (tmp_path / "a.tar").write_bytes(zstandard.ZstdDecompressor().decompressobj().decompress(content))
    with tarfile.open(tmp_path / "a.tar") as archive:
        members = archive.getmembers()
        names = [member.name for member in members]
        assert names == sorted(names)
        assert set(names) == {f"{each.part.folder}/{file.scheme}" for each in found for file in each.files}
        assert {(member.uid, member.gid, member.mtime, member.type) for member in members} == {(0, 0, 0, tarfile.REGTYPE)}
        script = archive.extractfile("alpha-1.0/scripts/alpha")
        assert script is not None
        assert script.read().startswith(b"#!@PYTHON@\n")
    if shutil.which("tar"):
        (tmp_path / "out").mkdir()
        subprocess.run(["tar", "-xf", tmp_path / "a.tar", "-C", tmp_path / "out"], check=True)
        assert (tmp_path / "out" / "alpha-1.0" / "purelib" / LONG).read_text() == "b"
        assert (tmp_path / "out" / "alpha-1.0" / "purelib" / "alpha" / "ü.py").read_text() == "a"


@pytest.mark.parametrize("change", ["grown", "shrunk", "other", "gone", "replaced by a link"])
def test_a_file_that_changed_since_the_scan(tmp_path: Path, change: str) -> None:
    """Then there is no archive: a key must not name other bytes. What changed is named."""
    found = found_in(tmp_path / "env")
    path = tmp_path / "env" / "lib/python3.11/site-packages/beta.py"
    content = path.read_bytes()
    if change in ("gone", "replaced by a link"):
        path.unlink()
    if change == "replaced by a link":
        path.symlink_to(tmp_path / "env" / "bin" / "activate")
    if change in ("grown", "shrunk", "other"):
        path.write_bytes({"grown": content + b"x", "shrunk": content[:-1], "other": content.swapcase()}[change])
    with pytest.raises(Changed) as raised:
        pack.write(found, "", tmp_path / "a")
    assert raised.value.paths == {"purelib/beta.py"}
    assert not (tmp_path / "a").exists()


def test_two_parts_with_one_folder(tmp_path: Path) -> None:
    """Nobody could tell their files apart again."""
    found = found_in(tmp_path / "env")[0]
    twin = replace(found, part=replace(found.part, name="alpha-1.0", version=""))
    with pytest.raises(Conflict, match="one folder"):
        pack.write([found, twin], "", tmp_path / "a")
