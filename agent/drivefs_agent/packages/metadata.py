"""What the metadata directory of an installed distribution says of it.

Source: PyPA specifications, "Recording installed projects", "Core metadata", "Direct URL" (PEP 610), "Binary
distribution format".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from drivefs_agent.packages.model import normalised
from drivefs_agent.packages.protected import is_protected

__all__ = ["About", "about", "name_and_version"]

_FOLDER: Final = re.compile(r"(?P<name>.+?)-(?P<version>\d[^-]*)(-py[\d.]+)?\.(dist|egg)-info")
_FOLDER_WITHOUT_VERSION: Final = re.compile(r"(?P<name>[^-]+)(-(?P<version>[^-]+))?(-.*)?\.(dist|egg)-info")
_REQUIREMENT: Final = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")
_EXTRA: Final = re.compile(r";.*\bextra\b")
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")
_NO_VERSION: Final = re.compile(r"[^A-Za-z0-9._+!-]+")
_LONGEST_NAME: Final = 200
_LONGEST_VERSION: Final = 100


@dataclass(frozen=True, slots=True)
class About:
    """name: normalised.  tags, needs, direct_url, editable: as in ``model.Part``.  requested: the installer says so.

    requires: all that it may depend on, by normalised names.  installer: "pip", "uv", "conda"; "" where nothing says it.
    """

    name: str
    version: str
    tags: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    requested: bool = False
    direct_url: str | None = None
    editable: str | None = None
    requires: tuple[str, ...] = ()
    installer: str = ""


def about(folder: Path) -> About:
    """``folder``: a *.dist-info or *.egg-info directory. What it lacks is told from its name, or left empty."""
    header = list(_header(_text(folder / "METADATA") or _text(folder / "PKG-INFO")))
    name, version = name_and_version(folder.name)
    values = {key: value for key, value in reversed(header) if value}
    requirements = [value for key, value in header if key == "requires-dist"]
    direct_url = _text(folder / "direct_url.json") or None
    return About(
        name=_named(values.get("name", name)),
        version=_versioned(values.get("version", version)),
        tags=tuple(sorted({value for key, value in _header(_text(folder / "WHEEL")) if key == "tag"})),
        needs=tuple(sorted({need for each in requirements for need in _needs(each)})),
        requested=(folder / "REQUESTED").exists(),
        direct_url=direct_url,
        editable=_editable(direct_url) if direct_url else None,
        requires=tuple(sorted({normalised(match[1]) for each in requirements if (match := _REQUIREMENT.match(each))})),
        installer=_text(folder / "INSTALLER").strip(),
    )


def name_and_version(folder: str) -> tuple[str, str]:
    """Of a distribution, from the name of its metadata directory: ("numpy", "2.4.6") of "numpy-2.4.6.dist-info"."""
    match = _FOLDER.fullmatch(folder) or _FOLDER_WITHOUT_VERSION.fullmatch(folder)
    if match is None:
        return _named(folder), ""
    return _named(match["name"]), _versioned(match["version"] or "")


def _named(name: str) -> str:
    """Old installers left names that no index would take."""
    return normalised(_NO_NAME.sub("-", name)).strip("-")[:_LONGEST_NAME] or "unnamed"


def _versioned(version: str) -> str:
    return _NO_VERSION.sub("_", version).lstrip("._+!-")[:_LONGEST_VERSION]


def _header(text: str) -> Iterator[tuple[str, str]]:
    """The fields before the first blank line, with lower-case names. The description after it may be long."""
    for line in text.partition("\n\n")[0].splitlines():
        key, colon, value = line.partition(":")
        if colon and not line[0].isspace():
            yield key.strip().lower(), value.strip()


def _needs(requirement: str) -> Iterator[str]:
    """An extra that was not asked for is no need, and whether it was is not recorded anywhere."""
    match = _REQUIREMENT.match(requirement)
    if match and is_protected(match[1]) and not _EXTRA.search(requirement):
        yield normalised(match[1])


def _editable(direct_url: str) -> str | None:
    try:
        found: Any = json.loads(direct_url)
        if found.get("dir_info", {}).get("editable") is True:
            return unquote(urlsplit(found["url"]).path)
    except (ValueError, AttributeError, KeyError, TypeError):
        return None
    return None


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n").replace("\0", "")
    except (FileNotFoundError, NotADirectoryError):
        return ""
