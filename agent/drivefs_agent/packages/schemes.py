"""Scheme paths: how files are named wherever a layer lies, and whichever minor version its Python has. Pure.

"purelib/<below site-packages>", "scripts/<below bin>", "data/<below the root>". RECORD names the same files relative to
site-packages, and of a virtual environment's there are three ways up from there to its root.
"""

from __future__ import annotations

import os
import re
from typing import Final

from drivefs_agent.packages.found import Place

__all__ = [
    "DATA",
    "OURS",
    "PURELIB",
    "SCRIPTS",
    "UNSOUND",
    "Schemes",
    "is_of_the_environment",
    "path_in_record",
    "scheme_in_record",
]

PURELIB: Final = "purelib/"
SCRIPTS: Final = "scripts/"
DATA: Final = "data/"
# What we make ourselves beside what we keep: the layer's state, files on their way.
OURS: Final = ".drivefs-"
# A name that everything would stumble over that reads a list of files line by line.
UNSOUND: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
# Where site-packages lies in a virtual environment, seen the other way round: root/lib/pythonX.Y/site-packages.
_TO_ROOT: Final = "../../../"
# Made together with a virtual environment by venv, virtualenv or uv, and so made anew with the next one; or our own.
_OF_THE_ENVIRONMENT: Final = re.compile(
    r"(data/(pyvenv\.cfg|lib64|\.gitignore|CACHEDIR\.TAG|\.lock|\.drivefs-[^/]*)"
    r"|scripts/((pypy|.?ython|python)w?[\d.]*t?|[aA]ctivate(_this)?(\.[^/]*)?|deactivate(\.[^/]*)?|pydoc\.bat)"
    r"|purelib/(_virtualenv\.(py|pth)|easy-install\.pth|[^/]*\.egg-link|~[^/]*))(/|$)"
)
# pip and uv put these beside the packages, where they install into a plain directory (--target).
_DATA_OF_A_TARGET: Final = re.compile(r"(share|etc|include|man)/")


class Schemes:
    """Scheme paths from paths, as texts: a scan has tens of thousands."""

    def __init__(self, place: Place) -> None:
        self._site, self._scripts, self._data = (f"{os.path.normpath(each)}/" for each in (place.site, place.scripts, place.data))
        self._target = place.is_target

    def of_row(self, row: str) -> tuple[str, str] | None:
        """The scheme path and the path of what RECORD names; None where it is not in the place."""
        if self._target:
            # In a plain directory the rows are those of the environment that pip installed into first, and then moved.
            row = re.sub(r"^(\.\./)+", f"{self._data}", row)
        elif row[0] not in "./" and "/." not in row and "//" not in row:
            return f"{PURELIB}{row}", self._site + row
        path = os.path.normpath(row if row[0] == "/" else self._site + row)
        if path.startswith(lib64 := f"{self._data}lib64/") and not self._target:  # venv's link to lib
            path = f"{self._data}lib/{path[len(lib64) :]}"
        scheme = self.of_path(path)
        return None if scheme is None else (scheme, path)

    def of_path(self, path: str) -> str | None:
        """The scheme path of a path without dots; None where it is not in the place."""
        if path.startswith(self._scripts):
            return SCRIPTS + path[len(self._scripts) :]
        if path.startswith(self._site):
            below = path[len(self._site) :]
            return DATA + below if self._target and _DATA_OF_A_TARGET.match(below) else PURELIB + below
        return DATA + path[len(self._data) :] if path.startswith(self._data) else None


def is_of_the_environment(scheme: str) -> bool:
    """It came with the virtual environment, or is compiled anew, or is half removed."""
    return "__pycache__/" in scheme or _OF_THE_ENVIRONMENT.match(scheme) is not None


def path_in_record(scheme: str) -> str:
    """How the RECORD of a virtual environment names what has the scheme path ``scheme``."""
    kind, _, path = scheme.partition("/")
    return path if kind == "purelib" else f"{_TO_ROOT}bin/{path}" if kind == "scripts" else f"{_TO_ROOT}{path}"


def scheme_in_record(path: str) -> str:
    """The other way round."""
    if not path.startswith(_TO_ROOT):
        return f"{PURELIB}{path}"
    below = path[len(_TO_ROOT) :]
    return f"{SCRIPTS}{below[len('bin/') :]}" if below.startswith("bin/") else f"{DATA}{below}"
