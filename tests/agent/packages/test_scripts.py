"""The first line of scripts: stored without the box's paths, and right again on the next box."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefs_agent.packages import record
from drivefs_agent.packages.scripts import to_placeholder, to_real, with_scripts

PYTHON = "/opt/drivefs/layers/cp311/current/bin/python"
BODY = b"import sys\nprint(sys.executable, sys.argv[1:])\n"
LONG = "/opt/" + "long/" * 30 + "bin/python"


@pytest.mark.parametrize(
    "written",
    [
        f"#!{PYTHON}\n",
        f"#!{PYTHON}\r\n",
        f"#! {PYTHON}3\n",
        f"#!{PYTHON}3.11\n",
        f"#!/bin/sh\n'''exec' {PYTHON} \"$0\" \"$@\"\n' '''\n",
        f"#!/bin/sh\n'''exec' \"{PYTHON}\" \"$0\" \"$@\"\n' '''\n",
        f"#!/bin/sh\n'''exec' '{PYTHON}3' \"$0\" \"$@\"\n' '''\n",
    ],
)
def test_every_form_has_one_stored_form(written: str) -> None:
    """pip and uv write differently, and by the length of the path: a package is the same one all the same."""
    assert to_placeholder(written.encode() + BODY, PYTHON) == b"#!@PYTHON@\n" + BODY


def test_arguments_stay() -> None:
    """Python's own arguments belong to the script."""
    assert to_placeholder(f"#!{PYTHON} -sE\n".encode() + BODY, PYTHON) == b"#!@PYTHON@ -sE\n" + BODY
    long = f"#!/bin/sh\n'''exec' {PYTHON} -sE \"$0\" \"$@\"\n' '''\n".encode()
    assert to_placeholder(long + BODY, PYTHON) == b"#!@PYTHON@ -sE\n" + BODY
    assert to_real(b"#!@PYTHON@ -sE\n" + BODY, PYTHON) == f"#!{PYTHON} -sE\n".encode() + BODY


@pytest.mark.parametrize(
    "other",
    [
        b"#!/usr/bin/env python3\n",
        b"#!/usr/bin/python3\n",
        b"#!/bin/sh\necho python\n",
        f"#!{PYTHON}-config\n".encode(),
        f"#!{PYTHON}".encode(),
        b"#!\n",
        b"#!",
        b"\x7fELF",
        b"",
    ],
)
def test_what_names_no_python_of_the_layer_stays(other: bytes) -> None:
    """What a package ships for another interpreter is its own matter."""
    assert to_placeholder(other, PYTHON) == other
    assert to_real(other, PYTHON) == other


def test_the_layer_is_known_by_its_real_path_too(tmp_path: Path) -> None:
    """uv resolves the links on the way to the Python that it installs for."""
    (tmp_path / "generations" / "1" / "bin").mkdir(parents=True)
    (tmp_path / "current").symlink_to("generations/1")
    script = f"#!{tmp_path}/generations/1/bin/python3\n".encode() + BODY
    assert to_placeholder(script, f"{tmp_path}/current/bin/python") == b"#!@PYTHON@\n" + BODY


@given(st.binary(max_size=200), st.sampled_from([PYTHON, LONG, "/with blank/bin/python"]), st.sampled_from(["", " -s", " -E -s"]))
def test_there_and_back(body: bytes, python: str, arguments: str) -> None:
    """Whatever a script holds, and whatever the path of Python is like: stored again, it is the same."""
    stored = b"#!@PYTHON@" + arguments.encode() + b"\n" + body
    real = to_real(stored, python)
    assert b"@PYTHON@" not in real.removesuffix(body)
    assert to_placeholder(real, python) == stored


@pytest.mark.parametrize("folder", ["short", "with blank", "long/" * 30, 'quotes"and$dollars`'])
def test_it_runs(tmp_path: Path, folder: str) -> None:
    """The kernel, sh and Python agree with us about the first lines."""
    python = tmp_path / folder / "python3"
    python.parent.mkdir(parents=True)
    shell = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    python.write_text(shell)
    python.chmod(0o755)
    if folder == "short":  # the plain form needs a binary
        python.unlink()
        python.symlink_to(sys.executable)
    script = tmp_path / "script"
    script.write_bytes(to_real(b"#!@PYTHON@ -E\nimport sys\nprint(sys.flags.ignore_environment, *sys.argv[1:])\n", str(python)))
    script.chmod(0o755)
    done = subprocess.run([script, "one", "two words"], capture_output=True, text=True, check=True)
    assert done.stdout == "1 one two words\n"


def test_sh_is_there() -> None:
    """The long form names it by its path."""
    assert shutil.which("sh", path="/bin") == "/bin/sh"


def test_a_record_follows_its_scripts() -> None:
    """Only the rows of what was rewritten change, and they hold for what was written."""
    rows = [
        record.Row("../../../bin/tool", "sha256=old", "1"),
        record.Row("a.py", "sha256=x", "2"),
        record.Row("a/RECORD", "", ""),
    ]
    found = {
        row.path: row for row in record.read(with_scripts(record.write(rows), {"../../../bin/tool": BODY, "a/RECORD": b"?"}))
    }
    assert found["../../../bin/tool"] == ("../../../bin/tool", record.claim(hashlib.sha256(BODY).hexdigest()), str(len(BODY)))
    assert found["a.py"] == rows[1]
    assert found["a/RECORD"] == rows[2]


@given(st.lists(st.text(st.characters(exclude_characters="\r\n\x00", exclude_categories=["Cs"]), min_size=1), unique=True))
def test_record_keeps_any_path(paths: list[str]) -> None:
    """Commas and quotes in names are the CSV's matter."""
    rows = [record.Row(path, record.claim("ab" * 32), "3") for path in paths]
    assert list(record.read(record.write(rows))) == sorted(rows)


@pytest.mark.parametrize("checksum", ["", "md5=abc", "sha256=", "sha256=" + "!" * 43, "sha512=" + "A" * 86, "sha256=" + "é" * 43])
def test_no_sha256(checksum: str) -> None:
    """Then the file is read, whatever RECORD says."""
    assert record.sha256_of(checksum) is None


def test_no_record() -> None:
    """A file of that name with something else in it is told apart."""
    with pytest.raises(ValueError, match="no RECORD"):
        list(record.read(b"\xff\xfe"))
