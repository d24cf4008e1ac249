"""Unpacking: what was packed comes back, and what none of ours can be is rejected and reaches nothing outside."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import resource
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivefs_agent.packages import record
from drivefs_agent.packages.errors import Hostile, LayerUnusable, StoreDamaged, StoreUnreachable
from drivefs_agent.packages.extract import Extracted, Limits, extract, finish
from drivefs_agent.packages.landing import Landing, layer_schemes
from drivefs_agent.packages.model import Kind, Object, Part
from drivefs_agent.packages.scan import Found, Place, content_of, scan, scan_directory

from .trees import SITE, chunks_of, contents, environment, install, land, packed

PYTHON = "/layer/bin/python"
GENEROUS = Limits()
PART = Part("a", "1.0", "0" * 64, size=1 << 40, files=1 << 20)
DIRECTORY = Part("dir/d/child", "", "0" * 64, Kind.DIRECTORY, size=1 << 40, files=1 << 20)


def found_in(root: Path) -> list[Found]:
    place = environment(root)
    install(
        place, "alpha", files={"alpha/x.py": "x", "../../../share/alpha": "y"}, console={"alpha": "alpha:main"}, requested=True
    )
    install(place, "beta", "2.0", files={"beta.py": "b" * 3_000_000, "empty.py": ""})
    (place.site / "mine.py").write_text("mine")
    return list(scan(place).found)


# -- what comes back ---------------------------------------------------------------------------------------------------


def test_there_and_back(tmp_path: Path) -> None:
    """A restored environment scans as the saved one did, whole parts equal: so the next save has nothing to do."""
    found = found_in(tmp_path / "env")
    content, _ = packed(found, tmp_path / "a")
    restored = environment(tmp_path / "new")
    land(found, content, restored.data, restored.python)
    again = scan(restored)
    assert again.warnings == ()
    assert {each.part.name: each.part for each in again.found if each.part.kind == Kind.DISTRIBUTION} == {
        each.part.name: each.part for each in found if each.part.kind == Kind.DISTRIBUTION
    }
    assert {each.part.key for each in again.found} == {each.part.key for each in found}
    assert (restored.scripts / "alpha").read_text().startswith(f"#!{restored.python}\n")
    assert os.access(restored.scripts / "alpha", os.X_OK)


def test_record_holds_after_restoring(tmp_path: Path) -> None:
    """Also for scripts, whose first line is this box's: whoever verifies RECORD finds nothing."""
    found = found_in(tmp_path / "env")
    content, _ = packed(found, tmp_path / "a")
    (tmp_path / "new").mkdir()
    land(found, content, tmp_path / "new", PYTHON)
    checked = 0
    for path in (tmp_path / "new" / SITE).glob("*.dist-info/RECORD"):
        for row in record.read(path.read_bytes()):
            if row.checksum:
                named = (tmp_path / "new" / SITE / row.path).read_bytes()
                assert (record.claim(hashlib.sha256(named).hexdigest()), str(len(named))) == (row.checksum, row.size)
                checked += 1
    assert checked == 12


NAMES = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=80).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200 and not name.endswith(".pyc") and name[0] not in "~."
)
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=6).map(tuple),
    st.tuples(st.binary(max_size=2000), st.integers(1, 2000), st.sampled_from([0o644, 0o755])),
    max_size=12,
)


@pytest.mark.slow
@given(tree=TREES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_tree_comes_back(
    tree: dict[tuple[str, ...], tuple[bytes, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Names of any characters and lengths, empty files, files of several pieces, and permissions."""
    root = tmp_path_factory.mktemp("tree")
    place = environment(root / "env")
    for names, (content, times, mode) in tree.items():
        path = place.site.joinpath("top", *names)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content * times)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue  # a file where another one of this tree has a directory
        path.chmod(mode)
    found = scan(place).found
    if not found:
        return
    content, _ = packed(found, root / "a")
    (root / "new").mkdir()
    land(found, content, root / "new")
    saved = {name: value for name, value in contents(place.site).items() if name.startswith("top/")}
    assert contents(root / "new" / SITE) == saved


def test_a_declared_directory_comes_back(tmp_path: Path) -> None:
    """With its links and its permissions, and nothing writable for others."""
    child = tmp_path / "d" / "child"
    (child / "blobs").mkdir(parents=True)
    (child / "blobs" / "1").write_text("weights")
    (child / "blobs" / "key").write_text("k")
    (child / "blobs" / "key").chmod(0o600)
    (child / "snap" / "x").mkdir(parents=True)
    (child / "snap" / "x" / "model").symlink_to("../../blobs/1")
    (child / "snap" / "latest").symlink_to("x")
    (tmp_path / "d" / ".hidden").write_text("h")
    found = scan_directory("d", tmp_path / "d").found
    content, _ = packed(found, tmp_path / "a")
    (tmp_path / "new").mkdir()
    land(found, content, tmp_path / "new")
    assert contents(tmp_path / "new") == contents(tmp_path / "d")
    assert (tmp_path / "new" / "child" / "snap" / "latest" / "model").read_text() == "weights"


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    """A daemon with a strict umask must not make packages that others cannot import."""
    found = found_in(tmp_path / "env")
    content, _ = packed(found, tmp_path / "a")
    (tmp_path / "new").mkdir()
    before = os.umask(0o077)
    try:
        land(found, content, tmp_path / "new")
    finally:
        os.umask(before)
    assert {mode for mode, _ in contents(tmp_path / "new").values()} == {"644", "755"}
    assert (tmp_path / "new" / SITE / "alpha").stat().st_mode & 0o777 == 0o755


def test_what_is_not_wanted_is_passed_over(tmp_path: Path) -> None:
    """Small parts share an archive; one of them may not be for this box."""
    found = found_in(tmp_path / "env")
    content, made = packed(found, tmp_path / "a")
    (tmp_path / "new").mkdir()
    with Landing() as landing:
        landing.put(found[1].part, tmp_path / "new", layer_schemes(SITE), PYTHON)
        landing.skip(found[0].part)
        landing.skip(found[2].part)
        extracted = extract(chunks_of(content), landing, expected=made)
        finish(landing, extracted.parts)
    assert (extracted.size, extracted.sha256) == (made.size, made.sha256)
    assert {name.split("/")[-1] for name in contents(tmp_path / "new") if "info" not in name} == {"beta.py", "empty.py"}


def test_a_modified_file_stays_modified(tmp_path: Path) -> None:
    """RECORD says what the package came with, so whoever asks is told of the change on the next box too."""
    place = environment(tmp_path / "env")
    install(place, "alpha", files={"alpha/x.py": "x", "alpha/y.py": "y"})
    (place.site / "alpha" / "x.py").write_text("changed")
    (place.site / "alpha" / "y.py").write_text("Y")  # of the same size
    os.utime(place.site / "alpha" / "y.py", (2**32, 2**32))
    found = scan(place).found
    assert found[0].part.modified == ("purelib/alpha/x.py", "purelib/alpha/y.py")
    content, _ = packed(found, tmp_path / "a")
    (tmp_path / "new").mkdir()
    land(found, content, tmp_path / "new")
    assert (tmp_path / "new" / SITE / "alpha" / "x.py").read_text() == "changed"
    assert scan(Place(tmp_path / "new" / SITE, tmp_path / "new" / "bin", tmp_path / "new", PYTHON)).found[0].part == found[0].part


# -- collisions --------------------------------------------------------------------------------------------------------


def _colliding(tmp_path: Path) -> tuple[list[Found], list[bytes]]:
    """Two parts with one path and other bytes, as two boxes may have saved them; the second was installed later."""
    parts, archives = [], []
    for number, name in enumerate(("one", "two")):
        place = environment(tmp_path / name)
        info = install(place, name, files={"shared/__init__.py": f"{name}\n" * 1000, f"shared/{name}.py": name})
        os.utime(info / "INSTALLER", (1000 + number, 1000 + number))
        (found,) = scan(place).found
        parts.append(found)
        archives.append(packed([found], tmp_path / "a")[0])
    return parts, archives


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_part_installed_later_keeps_a_path(tmp_path: Path, order: tuple[int, int]) -> None:
    """Whichever archive arrives first."""
    parts, archives = _colliding(tmp_path)
    (tmp_path / "new").mkdir()
    with Landing() as landing:
        for found in parts:
            landing.put(found.part, tmp_path / "new", layer_schemes(SITE), PYTHON)
        arrived = [each for number in order for each in extract(chunks_of(archives[number]), landing).parts]
        finish(landing, arrived)
    assert (tmp_path / "new" / SITE / "shared" / "__init__.py").read_text() == "two\n" * 1000
    assert {path.name for path in (tmp_path / "new" / SITE / "shared").iterdir()} == {"__init__.py", "one.py", "two.py"}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"lib"}


@pytest.mark.parametrize("newer", ["what is there", "what comes"])
def test_a_collision_with_what_is_there(tmp_path: Path, newer: str) -> None:
    """The former generation's file, which may be the same inode, is not written to; the path gets another one, or is kept."""
    (_, second), archives = _colliding(tmp_path)
    former = tmp_path / "former.py"
    former.write_text("former")
    place = tmp_path / "new" / SITE / "shared"
    place.mkdir(parents=True)
    os.link(former, place / "__init__.py")
    there = Part("there", "1", "0" * 64, installed=5000.0 if newer == "what is there" else 1.0)
    with Landing() as landing:
        landing.put(second.part, tmp_path / "new", layer_schemes(SITE), PYTHON)
        landing.occupy(there, tmp_path / "new", f"{SITE}/shared/__init__.py")
        finish(landing, extract(chunks_of(archives[1]), landing).parts)
    assert former.read_text() == "former"
    assert (place / "__init__.py").read_text() == ("former" if newer == "what is there" else "two\n" * 1000)


@pytest.mark.parametrize("path", ["pyvenv.cfg", "bin/python", "lib64", "bin/activate"])
def test_the_environments_own_files_are_not_replaced(tmp_path: Path, path: str) -> None:
    """An archive that brings its own pyvenv.cfg would choose the Python; one that brings bin/python would be it."""
    scheme = path.replace("bin/", "scripts/", 1) if path.startswith("bin/") else f"data/{path}"
    place = environment(tmp_path / "env")
    before = contents(place.data)
    with pytest.raises(Hostile, match="already"):
        _extract(place.data, tar((file(f"a-1.0/{scheme}"), b"x")))
    assert contents(place.data) == before


# -- hostile and damaged archives --------------------------------------------------------------------------------------

Entry = tuple[tarfile.TarInfo, bytes]


def file(name: str, size: int | None = None, **fields: object) -> tarfile.TarInfo:
    """``size``: what the header says, where it is not what there is."""
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    member.size = -1 if size is None else size
    return member


def special(name: str, kind: bytes, link: str = "") -> Entry:
    return file(name, 0, type=kind, linkname=link), b""


def tar(*entries: Entry, form: Literal[1, 2] = tarfile.PAX_FORMAT, end: bytes = bytes(1024)) -> bytes:
    parts = []
    for member, content in entries:
        if member.size < 0:
            member.size = len(content)
        parts += [member.tobuf(form, "utf-8", "surrogateescape"), content, bytes(-len(content) % 512)]
    return b"".join([*parts, end])


def squeezed(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(plain)


def _extract(
    root: Path, plain: bytes | None, raw: bytes = b"", limits: Limits = GENEROUS, parts: tuple[Part, ...] = (PART,)
) -> None:
    with Landing() as landing:
        for part in parts:
            schemes = {"data": ""} if part.kind == Kind.DIRECTORY else layer_schemes(SITE)
            landing.put(part, root, schemes, PYTHON)
        extracted = extract(chunks_of(squeezed(plain) if plain is not None else raw), landing, limits)
        landing.settle()
        assert extracted.parts


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Where to unpack to; beside it a directory that must not change."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("untouched")
    (tmp_path / "root").mkdir(mode=0o700)
    before = contents(canary), sorted(os.listdir(tmp_path))
    yield tmp_path / "root"
    assert (contents(canary), sorted(os.listdir(tmp_path))) == before


OK: Entry = (file("a-1.0/purelib/ok.py"), b"ok")
DEEP = "d" * 247
LINKS: dict[str, list[Entry]] = {
    "to a file outside": [special("a-1.0/purelib/x", tarfile.SYMTYPE, "/etc/passwd")],
    "in a distribution": [special("a-1.0/purelib/x", tarfile.SYMTYPE, "ok.py")],
    "then a file through it": [
        special("a-1.0/purelib/x", tarfile.SYMTYPE, "../../../../canary"),
        (file("a-1.0/purelib/x/file"), b"evil"),
    ],
    "hard": [special("a-1.0/purelib/x", tarfile.LNKTYPE, "a-1.0/purelib/ok.py")],
    "hard to outside": [special("a-1.0/purelib/x", tarfile.LNKTYPE, "../../canary/file")],
}
DIRECTORY_LINKS: dict[str, list[Entry]] = {
    "up": [special("dir_d_child/data/child/x", tarfile.SYMTYPE, "../../canary/file")],
    "out of the child": [special("dir_d_child/data/child/x", tarfile.SYMTYPE, "../other")],
    "absolute": [special("dir_d_child/data/child/x", tarfile.SYMTYPE, "/etc/passwd")],
    "dots behind a name": [special("dir_d_child/data/child/x", tarfile.SYMTYPE, "a/../../../canary")],
    "empty component": [special("dir_d_child/data/child/x", tarfile.SYMTYPE, "a//b")],
    "at the top": [special("dir_d_child/data/child", tarfile.SYMTYPE, ".")],
    "then a file through it": [
        special("dir_d_child/data/child/x", tarfile.SYMTYPE, "y"),
        (file("dir_d_child/data/child/x/file"), b"evil"),
    ],
    "twice": [special("dir_d_child/data/child/x", tarfile.SYMTYPE, "y")] * 2,
    # CVE-2025-4517: links and directories of great length, so that realpath gives up and takes the rest by its name.
    "of great length": [
        *itertools.chain.from_iterable(
            (
                (file("dir_d_child/data/child/" + "/".join([DEEP] * depth), 0, type=tarfile.DIRTYPE), b""),
                special("dir_d_child/data/child/" + "/".join([DEEP] * (depth - 1) + [f"l{depth}"]), tarfile.SYMTYPE, DEEP),
            )
            for depth in range(1, 16)
        ),
        special(
            "dir_d_child/data/child/" + "/".join(f"l{n}" for n in range(1, 16)) + "/" + "l" * 254, tarfile.SYMTYPE, "../" * 16
        ),
        special("dir_d_child/data/child/escape", tarfile.SYMTYPE, "l1/" * 15 + "l" * 254 + "/../../../canary"),
        (file("dir_d_child/data/child/escape/file"), b"evil"),
    ],
}


@pytest.mark.parametrize("entries", LINKS.values(), ids=LINKS)
def test_links_of_packages_are_rejected(root: Path, entries: list[Entry]) -> None:
    """Packages have none; a link is how other unpackers were led out."""
    with pytest.raises(Hostile):
        _extract(root, tar(OK, *entries))


@pytest.mark.parametrize("entries", DIRECTORY_LINKS.values(), ids=DIRECTORY_LINKS)
def test_links_that_lead_out_of_a_directory_are_rejected(root: Path, entries: list[Entry]) -> None:
    """Only links into the same child are kept, and none of them exists while files are written."""
    with pytest.raises(Hostile):
        _extract(root, tar(*entries), parts=(DIRECTORY,))


NAMES_OF_NONE = {
    "absolute": "/etc/passwd",
    "up": "a-1.0/purelib/../../../canary/file",
    "up at the end": "a-1.0/purelib/..",
    "up first": "../canary/file",
    "dot": "a-1.0/purelib/./x",
    "double slash": "a-1.0/purelib//x",
    "absolute behind": "a-1.0//etc/passwd",
    "newline": "a-1.0/purelib/x\ny",
    "escape": "a-1.0/purelib/\x1b[2J",
    "surrogate": "a-1.0/purelib/\udcff",
    "long component": f"a-1.0/purelib/{'x' * 256}",
    "long path": "a-1.0/purelib/" + "/".join(["x" * 200] * 21),
    "no scheme": "a-1.0",
    "only scheme": "a-1.0/purelib",
    "unknown scheme": "a-1.0/elsewhere/x",
    "unknown part": "b-1.0/purelib/x",
    "no part": "purelib/x",
    "our own state": "a-1.0/data/.drivefs-layer.json",
    "our own aside": "a-1.0/data/.drivefs-aside/0",
    "deep": "a-1.0/purelib/" + "x/" * 70 + "x",
}


@pytest.mark.parametrize("name", NAMES_OF_NONE.values(), ids=NAMES_OF_NONE)
def test_names_of_none_are_rejected(root: Path, name: str) -> None:
    """A path that leads elsewhere, or that ours never have."""
    with pytest.raises(Hostile):
        _extract(root, tar(OK, (file(name), b"evil")))
    assert set(contents(root)) <= {f"{SITE}/ok.py"}


@pytest.mark.parametrize(
    "kind",
    [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, tarfile.AREGTYPE, b"V", b"g"],
)
def test_kinds_of_none_are_rejected(root: Path, kind: bytes) -> None:
    """Devices and pipes, and what old tars had."""
    with pytest.raises(Hostile):
        _extract(root, tar(OK, special("a-1.0/purelib/x", kind)))


def test_gnu_headers_are_rejected(root: Path) -> None:
    """Ours are of POSIX; another kind of long name is another reader to be wrong in."""
    with pytest.raises(Hostile):
        _extract(root, tar((file("a-1.0/purelib/" + "x/" * 60 + "y"), b""), form=tarfile.GNU_FORMAT))


@pytest.mark.parametrize(
    ("entries", "where"),
    [
        ([OK, OK], "same name"),
        ([OK, (file(f"a-1.0/data/{SITE}/ok.py"), b"evil")], "another scheme"),
        ([OK, (file("a-1.0/purelib/ok.py/x"), b"evil")], "a directory over a file"),
        ([(file("a-1.0/purelib/x/y"), b""), (file("a-1.0/purelib/x"), b"evil")], "a file over a directory"),
        ([OK, (file("a-1.0/purelib/ok.py", 0, type=tarfile.DIRTYPE), b"")], "a directory member over a file"),
    ],
)
def test_one_path_twice_is_rejected(root: Path, entries: list[Entry], where: str) -> None:
    """What is verified and what lies there must be one thing."""
    with pytest.raises(Hostile):
        _extract(root, tar(*entries))
    assert b"evil" not in {content for _, content in contents(root).values()}, where


def test_directories_are_taken(root: Path) -> None:
    """Ours have none, but a directory is no harm."""
    _extract(root, tar((file("a-1.0/purelib/d/", 0, type=tarfile.DIRTYPE), b""), (file("a-1.0/purelib/d/x"), b"x")))
    assert set(contents(root)) == {f"{SITE}/d/x"}


def _patched(offset: int, value: bytes, plain: bytes | None = None) -> bytes:
    """An archive whose first header has other bytes, and a checksum that holds for them."""
    header = bytearray(plain or tar(OK))
    header[offset : offset + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


HEADERS = {
    "negative size": _patched(124, b"\xff" * 12),
    "size in base 256": _patched(124, b"\x80" + struct.pack(">11B", *[0] * 10, 2)),
    "size of letters": _patched(124, b"0000000000x\0"),
    "size with a sign": _patched(124, b"-0000000002\0"),
    "no size": _patched(124, bytes(12)),
    "mode of letters": _patched(100, b"rwxr-xr\0"),
    "old magic": _patched(257, b"ustar  \0"),
    "no magic": _patched(257, bytes(8)),
    "prefix": _patched(345, b"../../canary"),
    "link name": _patched(157, b"/etc/passwd"),
    "no name": _patched(0, bytes(100)),
    "NUL in the name": _patched(0, b"a-1.0/purelib\0/x"),
    "no UTF-8": _patched(0, b"a-1.0/purelib/\xff\xfe"),
}


@pytest.mark.parametrize("plain", HEADERS.values(), ids=HEADERS)
def test_headers_of_none_are_rejected(root: Path, plain: bytes) -> None:
    """Numbers that are none, and fields that ours leave empty."""
    with pytest.raises(Hostile):
        _extract(root, plain)
    assert contents(root) == {}


def test_a_damaged_header_is_not_taken_for_another(root: Path) -> None:
    """Its checksum tells."""
    plain = bytearray(tar(OK))
    plain[3] ^= 1
    with pytest.raises(StoreDamaged, match="damaged"):
        _extract(root, bytes(plain))


def _pax(records: bytes, size: int | None = None) -> bytes:
    header = file("PaxHeader", len(records) if size is None else size, type=tarfile.XHDTYPE)
    return header.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512) + tar(OK)


def _pax_record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


PAX = {
    "huge": _pax(_pax_record(b"path", b"x" * 70_000)),
    "said to be huge": _pax(b"", size=(8 << 30) - 1),
    "empty": _pax(b""),
    "NUL": _pax(_pax_record(b"path", b"a-1.0/purelib/x\0y")),
    "unknown key": _pax(_pax_record(b"GNU.sparse.major", b"1")),
    "wrong length": _pax(b"99 path=x\n"),
    "short length": _pax(b"5 path=a-1.0/purelib/x\n"),
    "no length": _pax(b"path=x\n"),
    "length of thousands of digits": _pax(b"9" * 5000 + b" path=x\n"),
    "twice": _pax(_pax_record(b"path", b"a-1.0/purelib/x") * 2),
    "negative size": _pax(_pax_record(b"size", b"-1")),
    "size of thousands of digits": _pax(_pax_record(b"size", b"9" * 5000)),
    "size of letters": _pax(_pax_record(b"size", b"0x10")),
    "path out": _pax(_pax_record(b"path", b"../../canary/file")),
    "link of a file": _pax(_pax_record(b"linkpath", b"/etc/passwd")),
    "no UTF-8": _pax(_pax_record(b"path", b"\xff")),
    "header of a header": _pax(_pax_record(b"path", b"x"))[:1024] + _pax(_pax_record(b"path", b"x")),
}


@pytest.mark.parametrize("plain", PAX.values(), ids=PAX)
def test_extended_headers_of_none_are_rejected(root: Path, plain: bytes) -> None:
    """They are short, and say a path, a link's target or a size, once."""
    with pytest.raises(StoreDamaged):
        _extract(root, plain)
    assert contents(root) == {}


def test_a_file_said_to_be_larger_than_the_archive(root: Path) -> None:
    """It ends too soon, whatever the header says."""
    for size in (1 << 20, 0o77777777777):
        with pytest.raises(StoreDamaged):
            _extract(root, tar((file("a-1.0/purelib/x", size), b"x")))
        (root / SITE / "x").unlink(missing_ok=True)


# -- too much ----------------------------------------------------------------------------------------------------------


def _bomb(size: int) -> Iterator[bytes]:
    """An archive of one file of zeros, a thousandth of that and less, as it would come."""
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    yield compressor.compress(file("a-1.0/purelib/x", size).tobuf(tarfile.PAX_FORMAT))
    for _ in range(size >> 20):
        yield compressor.compress(bytes(1 << 20))
    yield compressor.flush()


@pytest.mark.parametrize(
    ("limits", "part"),
    [
        (Limits(ratio=100, ratio_from=1 << 20), PART),
        (Limits(total=4 << 20), PART),
        (Limits(file=4 << 20), PART),
        (Limits(), replace(PART, size=4 << 20)),
    ],
    ids=["ratio", "total", "file", "the manifest's size"],
)
def test_a_bomb(root: Path, limits: Limits, part: Part) -> None:
    """It is recognised long before the disk is full, and without the memory for it."""
    with Landing() as landing, pytest.raises(Hostile):
        landing.put(part, root, layer_schemes(SITE))
        extract(_bomb(64 << 20), landing, limits)
    assert sum(len(content) for _, content in contents(root).values()) <= 6 << 20


def test_a_bomb_of_a_part_that_is_not_wanted(root: Path) -> None:
    """Passing over it must not take for ever either."""
    with Landing() as landing, pytest.raises(Hostile):
        landing.skip(PART)
        extract(_bomb(64 << 20), landing, Limits(ratio=100, ratio_from=1 << 20))


def test_an_endless_archive(root: Path) -> None:
    """A stream that never ends, of ever more files, ends at a limit."""

    def endless() -> Iterator[bytes]:
        compressor = zstandard.ZstdCompressor().compressobj()
        for number in itertools.count():
            yield compressor.compress(tar((file(f"a-1.0/purelib/{number}"), b""), end=b""))
            yield compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    for limits, part in ((Limits(files=50), PART), (Limits(), replace(PART, files=60))):
        with Landing() as landing, pytest.raises(Hostile):
            landing.put(part, root, layer_schemes(SITE))
            extract(endless(), landing, limits)
        for path in (root / SITE).iterdir():
            path.unlink()


def test_a_frame_that_asks_for_much_memory(root: Path) -> None:
    """A window of gigabytes is the decompressor's memory."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    raw = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    content = raw.compress(tar(OK)) + raw.flush()
    with pytest.raises(StoreDamaged):
        _extract(root, None, content)


def test_a_script_of_any_size(root: Path) -> None:
    """Scripts are held in memory, so there is a limit for what begins like one."""
    plain = tar((file("a-1.0/scripts/x"), b"#!@PYTHON@\n" + bytes(1 << 20)))
    with pytest.raises(Hostile):
        _extract(root, plain, limits=Limits(text=1 << 20))


# -- damaged -----------------------------------------------------------------------------------------------------------


def test_cut_anywhere(root: Path) -> None:
    """Whatever is missing at the end, the archive is not taken for complete."""
    plain = tar(OK, (file("a-1.0/purelib/" + "y" * 120), bytes(2000)))
    raw = squeezed(plain)
    for cut in range(len(raw)):
        with Landing() as landing, pytest.raises(StoreDamaged):
            landing.put(PART, root, layer_schemes(SITE))
            expected = Object(f"x-{hashlib.sha256(raw).hexdigest()[:16]}.tar.zst", hashlib.sha256(raw).hexdigest(), len(raw))
            extract(chunks_of(raw[:cut]), landing, expected=expected)
        _empty(root)
    for cut in range(0, len(plain), 256):
        with pytest.raises(StoreDamaged):
            _extract(root, plain[:cut])
        _empty(root)


def test_any_wrong_byte(root: Path) -> None:
    """By zstd's checksum or by ours."""
    raw = squeezed(tar(OK))
    digest = hashlib.sha256(raw).hexdigest()
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= 0x55
        with Landing() as landing, pytest.raises(StoreDamaged):
            landing.put(PART, root, layer_schemes(SITE))
            extract([bytes(damaged)], landing, expected=Object(f"x-{digest[:16]}.tar.zst", digest, len(raw)))
        _empty(root)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"PK\x03\x04",
        b"\x1f\x8b" + bytes(100),
        tar(OK),
        squeezed(b""),
        squeezed(tar(OK, end=bytes(512))),
        squeezed(tar(OK, end=bytes(512) + b"x" * 512)),
        squeezed(tar(OK, end=bytes(1536))),
        squeezed(tar(OK) + tar(OK)),
        squeezed(tar(OK)) + b"garbage",
        squeezed(tar(OK)) + squeezed(tar((file("a-1.0/purelib/second.py"), b"evil"))),
    ],
    ids=itertools.count(),
)
def test_what_is_no_archive_or_more_than_one(root: Path, raw: bytes) -> None:
    """Nothing before, behind or instead of the one frame."""
    with pytest.raises(StoreDamaged):
        _extract(root, None, raw)


def test_other_bytes_than_the_manifest_says(tmp_path: Path) -> None:
    """A sound archive of other content: the sum of the archive, the key of the part, and RECORD each tell."""
    found = found_in(tmp_path / "env")
    content, made = packed(found, tmp_path / "a")
    expectations: list[tuple[list[Part], Object | None]] = [
        ([each.part for each in found], replace(made, sha256="0" * 64)),
        ([replace(each.part, key="1" * 64) for each in found], None),
        ([*(each.part for each in found), PART], None),
    ]
    for number, (parts, expected) in enumerate(expectations):
        new = tmp_path / f"new{number}"
        new.mkdir()
        with Landing() as landing, pytest.raises(StoreDamaged):
            for part in parts:
                landing.put(part, new, layer_schemes(SITE), PYTHON)
            finish(landing, extract(chunks_of(content), landing, expected=expected).parts)


def test_a_record_that_does_not_hold(tmp_path: Path) -> None:
    """RECORD is no part of the key, so it is verified by itself."""
    found = found_in(tmp_path / "env")
    (alpha,) = [each for each in found if each.part.name == "alpha"]
    (stored,) = [file for file in alpha.files if file.scheme.endswith("RECORD")]
    for wrong in (b"", b"\xff", (stored.content or b"").replace(b"sha256=", b"sha256=A")):
        lying = replace(stored, content=wrong, size=len(wrong), sha256=hashlib.sha256(wrong).hexdigest())
        files = tuple(lying if file is stored else file for file in alpha.files)
        part = replace(alpha.part, size=sum(file.size for file in files))
        content, _ = packed([Found(part, files)], tmp_path / "a")
        new = tmp_path / hashlib.sha256(wrong).hexdigest()
        new.mkdir()
        with pytest.raises(StoreDamaged, match="RECORD"):
            land([Found(part, files)], content, new)


def test_a_transport_that_breaks_off(root: Path) -> None:
    """Its error is what is told."""

    def breaking() -> Iterator[bytes]:
        yield squeezed(tar(OK))[:20]
        raise StoreUnreachable("No network.")

    with Landing() as landing, pytest.raises(StoreUnreachable):
        landing.put(PART, root, layer_schemes(SITE))
        extract(breaking(), landing)


def _empty(root: Path) -> None:
    for name in contents(root):
        (root / name).unlink()


# -- this machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A sentence with what to do."""
    found = found_in(tmp_path / "env")
    content, _ = packed(found, tmp_path / "a")
    (tmp_path / "new").mkdir()

    def full(fd: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LayerUnusable, match="no room"):
        land(found, content, tmp_path / "new")


def test_a_real_limit(tmp_path: Path) -> None:
    """The kernel refuses in the middle of a file: RLIMIT_FSIZE, as a quota would."""
    found = found_in(tmp_path / "env")
    content, _ = packed(found, tmp_path / "a")
    (tmp_path / "new").mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(LayerUnusable, match="no room"):
            land(found, content, tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_many_at_once(tmp_path: Path) -> None:
    """Eight archives land in one root by eight threads, with common directories and colliding files; no descriptor is left."""
    founds, archives = [], []
    for number in range(8):
        place = environment(tmp_path / str(number))
        files = {f"shared/{each}/{number}.py": f"{number}" * each for each in range(30)}
        info = install(place, f"p{number}", files={**files, "shared/__init__.py": f"# {number}\n" * 500})
        os.utime(info / "INSTALLER", (1000 + number, 1000 + number))
        (found,) = scan(place).found
        founds.append(found)
        archives.append(packed([found], tmp_path / "a")[0])
    (tmp_path / "new").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    barrier = threading.Barrier(8)
    with Landing() as landing:
        for found in founds:
            landing.put(found.part, tmp_path / "new", layer_schemes(SITE), PYTHON)

        def one(content: bytes) -> Extracted:
            barrier.wait()
            return extract(chunks_of(content, 1000), landing)

        with ThreadPoolExecutor(8) as pool:
            finish(landing, [each for done in pool.map(one, archives) for each in done.parts])
    assert len(os.listdir("/proc/self/fd")) == before
    assert (tmp_path / "new" / SITE / "shared" / "__init__.py").read_text() == "# 7\n" * 500
    restored = scan(Place(tmp_path / "new" / SITE, tmp_path / "new" / "bin", tmp_path / "new", PYTHON), orphans=False)
    assert [each.part.files for each in restored.found] == [each.part.files for each in founds]
    assert {
        each.part.name
        for each in restored.found
        if each.part.key == next(f.part.key for f in founds if f.part.name == each.part.name)
    }


@pytest.mark.slow
def test_python_imports_what_was_restored(tmp_path: Path) -> None:
    """The last judge: a script of a restored package runs."""
    place = environment(tmp_path / "env")
    install(place, "alpha", files={"alpha.py": "def main():\n    print('ran')\n"}, console={"alpha": "alpha:main"})
    found = scan(place).found
    content, _ = packed(found, tmp_path / "a")
    (tmp_path / "new").mkdir()
    land(found, content, tmp_path / "new", sys.executable)
    done = subprocess.run(
        [tmp_path / "new" / "bin" / "alpha"],
        env={"PYTHONPATH": str(tmp_path / "new" / SITE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "ran\n"


def test_content_of_is_what_was_scanned(tmp_path: Path) -> None:
    """The pieces of large files are whole."""
    found = found_in(tmp_path / "env")
    for file_ in itertools.chain.from_iterable(each.files for each in found):
        assert len(b"".join(content_of(file_))) == file_.size
