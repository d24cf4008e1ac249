"""What the packages of a layer ask for and do not find: after a restore on another Python, or above another image.

It is what ``pip check`` tells, for the layer's own packages only (what an image lacks of its own is not ours to report), and
without needing pip: the layer's Python only reads metadata, and the comparing is done here.

Source: PyPA specifications, "Core metadata" (Requires-Dist, Requires-Python), "Dependency specifiers" (PEP 508).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion

from drivefs_agent.packages.errors import LayerUnusable
from drivefs_agent.packages.interpreter import run_in
from drivefs_agent.packages.model import normalised

__all__ = ["unmet"]

_MARK: Final = "drivefs-unmet:"  # what a sitecustomize prints comes before it
# Runs in the layer's Python, from 3.10 on.
_QUESTION: Final = """
import json, os, platform, sys
from importlib import metadata
version = "%d.%d.%d" % sys.implementation.version[:3]
environment = {
    "implementation_name": sys.implementation.name,
    "implementation_version": version,
    "os_name": os.name,
    "platform_machine": platform.machine(),
    "platform_release": platform.release(),
    "platform_system": platform.system(),
    "platform_version": platform.version(),
    "platform_python_implementation": platform.python_implementation(),
    "python_full_version": platform.python_version(),
    "python_version": "%d.%d" % sys.version_info[:2],
    "sys_platform": sys.platform,
}
found = []
for each in metadata.distributions():
    about = each.metadata
    if about and about["Name"]:
        own = os.path.abspath(str(each.locate_file(""))).startswith(os.path.abspath(sys.prefix) + os.sep)
        found.append([about["Name"], about["Version"], about.get_all("Requires-Dist") or [], about["Requires-Python"], own])
print(MARK + json.dumps([environment, found]))
"""


@dataclass(frozen=True, slots=True)
class _Installed:
    """own: it lies in the layer and not in the image."""

    name: str
    version: str
    requires: tuple[str, ...]
    python: str
    own: bool


def unmet(layer_python: Path) -> tuple[str, ...]:
    """Sentences with the next step, by package. Takes some milliseconds for each that is installed.

    What is no valid requirement or version is passed over, as pip does. LayerUnusable where the layer's Python does not run.
    """
    text = run_in(layer_python, f"MARK = {_MARK!r}\n{_QUESTION}").rpartition(_MARK)[2]
    try:
        environment, found = json.loads(text)
    except ValueError as error:
        raise LayerUnusable(f"{str(layer_python)!r} does not say what is installed. See: drivefs-agent doctor") from error
    installed: dict[str, _Installed] = {}
    for each in map(_installed, found):
        installed.setdefault(normalised(each.name), each)  # the first on sys.path is the one that is imported
    own = sorted((each for each in installed.values() if each.own), key=lambda each: normalised(each.name))
    return tuple(sentence for each in own for sentence in _of_one(each, installed, environment))


def _installed(found: list[Any]) -> _Installed:
    name, version, requires, python, own = found
    return _Installed(str(name), str(version), tuple(map(str, requires)), str(python or ""), bool(own))


def _of_one(one: _Installed, installed: Mapping[str, _Installed], environment: Mapping[str, str]) -> Iterator[str]:
    title = f"{one.name} {one.version}"
    here = environment["python_full_version"]
    if not _contains(one.python, here):
        yield f"{title} is for Python {one.python}, and this is {here}. Install another version: pip install --upgrade {one.name}"
    for need in _needs(one, environment):
        present = installed.get(normalised(need.name))
        wanted = f"{need.name}{need.specifier}"
        if present is None:
            yield f"{title} needs {wanted}, which is not here: pip install '{wanted}'"
        elif not _contains(str(need.specifier), present.version):
            yield f"{title} needs {wanted}, and {present.name} {present.version} is here: pip install '{wanted}'"


def _needs(one: _Installed, environment: Mapping[str, str]) -> Iterator[Requirement]:
    """Which extras were asked for is recorded nowhere, so those are not looked at."""
    for text in one.requires:
        try:
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({**environment, "extra": ""}):
                yield need
        except (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName, InvalidVersion):
            continue


def _contains(specifier: str, version: str) -> bool:
    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return True
