"""The first line of scripts, which names the Python that runs them, and so the box that they are on.

In archives, and in the keys of parts, it is "#!@PYTHON@" with whatever arguments it has, however the installer had to write it:

    #!/path/python -s                   the plain form
    #!/bin/sh                           where the path is long or has blanks: sh runs the second line, and Python takes it, with
    '''exec' "/path/python" -s "$0" "$@"    the third, for a string
    ' '''

A script that names another interpreter than the layer's stays as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Final

from drivefs_agent.packages.record import Row, claim, read, write

__all__ = ["PLACEHOLDER", "to_placeholder", "to_real", "with_scripts"]

PLACEHOLDER: Final = b"@PYTHON@"
# Linux before 5.1 cuts the first line after 127 bytes (execve(2)).
_LONGEST_LINE: Final = 127
_INTERPRETER: Final = re.compile(rb"python(\d+(\.\d+)?t?)?")
_PLAIN: Final = re.compile(rb"#![ \t]*(?P<path>/[^\s]*)(?P<rest>[^\r\n]*)\r?\n")
_EXEC: Final = re.compile(
    rb"#!/bin/sh\n'''exec' (?:\"(?P<double>/[^\"\n]*)\"|'(?P<single>/[^'\n]*)'|(?P<bare>/[^\s\"']*))"
    rb"(?P<rest>[^\n]*?) \"\$0\" \"\$@\"\n' '''\n"
)
_QUOTED: Final = re.compile(rb'\\([\\"$`])')
_SPECIAL: Final = re.compile(rb'([\\"$`])')
_BLANK: Final = re.compile(rb"\s")


def to_placeholder(content: bytes, python: str) -> bytes:
    """A script as it is stored.

    python: the path of the layer's Python. Its other names in the same directory (python3, python3.11) are the layer's too, and
    so is that directory by its path without symbolic links, which some installers write. "" where any Python is meant: scripts of
    a tree that is to move into the layer name whichever Python installed it.
    """
    if not content.startswith(b"#!"):
        return content
    match = _EXEC.match(content) or _PLAIN.match(content)
    if match is None:
        return content
    found = match.groupdict()
    path = found.get("path") or found.get("single") or found.get("bare") or _QUOTED.sub(rb"\1", found.get("double") or b"")
    folder, _, name = path.rpartition(b"/")
    if (python and folder not in _folders(python)) or not _INTERPRETER.fullmatch(name):
        return content
    return b"#!" + PLACEHOLDER + match["rest"].rstrip() + b"\n" + content[match.end() :]


def to_real(content: bytes, python: str) -> bytes:
    """A stored script for the Python at the path ``python``; what has no placeholder stays as it is."""
    if not content.startswith(b"#!" + PLACEHOLDER):
        return content
    line, newline, rest = content[len(b"#!" + PLACEHOLDER) :].partition(b"\n")
    path = os.fsencode(python)
    plain = b"#!" + path + line
    if _BLANK.search(path) is None and len(plain) < _LONGEST_LINE:
        return plain + newline + rest
    quoted = b'"' + _SPECIAL.sub(rb"\\\1", path) + b'"'
    return b"#!/bin/sh\n'''exec' " + quoted + line + b" \"$0\" \"$@\"\n' '''\n" + rest


def with_scripts(content: bytes, scripts: Mapping[str, bytes]) -> bytes:
    """A RECORD that holds for what scripts have become. ``scripts``: contents by their path in RECORD."""
    rows = [_row(row, scripts.get(row.path)) for row in read(content)]
    return write(rows)


def _row(row: Row, content: bytes | None) -> Row:
    if content is None or not row.checksum:
        return row
    return Row(row.path, claim(hashlib.sha256(content).hexdigest()), str(len(content)))


def _folders(python: str) -> tuple[bytes, bytes]:
    folder = os.path.dirname(python)
    return os.fsencode(folder), os.fsencode(os.path.realpath(folder))
