"""What keeps pip from installing into the layer, or the layer's packages from being seen: found by asking, not by guessing.

The image's Python, its pip and uv are run as a shell of the user's would run them, and asked where they would install. Settings
that divert them are named beside, since their effect alone does not tell which one it was.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from packaging.version import InvalidVersion, Version

from drivefs_agent import text
from drivefs_agent.packages.activation import OLDEST_PIP, image_distributions, is_enabled, pip_conf
from drivefs_agent.packages.errors import LayerUnusable
from drivefs_agent.packages.index_settings import pip_settings
from drivefs_agent.packages.interpreter import PIP_VERSION, ask, run_in
from drivefs_agent.packages.layer import Layer
from drivefs_agent.packages.resolve import find_uv
from drivefs_agent.packages.scan import distributions

__all__ = ["Finding", "examine"]

_SECONDS: Final = 60.0
_FEW_BYTES: Final = 2 << 30  # a torch of one's own is larger
_FEW_FILES: Final = 50_000  # a large environment has 40,000
_SHOWN: Final = 8
# Where uv would install. Source: uv, crates/uv/src/commands/pip/operations.rs, report_target_environment
_UV_TARGET: Final = re.compile(r"environment at: (.+?)\s*$", re.MULTILINE)
_MARK: Final = "drivefs-doctor:"
_PROBE: Final = f"""
import json, os, sys
{PIP_VERSION}
print({_MARK!r} + json.dumps({{"path": sys.path, "environment": dict(os.environ), "pip": pip}}))
"""
# Options of pip's that install elsewhere, by name in its settings.
_DIVERTING: Final = ("target", "prefix", "user", "root")


@dataclass(frozen=True, slots=True)
class Finding:
    """level: "ok", "warn" (works, but may surprise) or "bad" (does not work).  text: a sentence.  advice: what to do."""

    level: str
    text: str
    advice: str = ""


def examine(layer: Layer, environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """All findings, in the order in which they are worth reading. environment: the user's."""
    return list(_Examination(layer, environment).findings())


class _Examination:
    def __init__(self, layer: Layer, environment: Mapping[str, str]) -> None:
        self._layer = layer
        self._python = layer.interpreter
        self._environment = dict(environment)
        self._probe: dict[str, Any] = {}

    def findings(self) -> Iterator[Finding]:
        yield from self._of_the_environment()
        if not self._layer.exists():
            yield from self._without_layer()
            return
        yield from self._of_the_layer()
        if not is_enabled(self._layer):
            yield Finding("bad", f"{self._python.executable} does not know of its layer.", "drivefs-agent enable")
            return
        self._probe = self._ask_python()
        yield from self._of_the_path()
        yield from self._of_pip()
        yield from self._of_uv()
        yield from self._of_the_image()
        yield from self._of_the_users_own()
        yield from self._of_space()

    # -- the layer -------------------------------------------------------------------------------------------------

    def _without_layer(self) -> Iterator[Finding]:
        if pip_conf(self._layer).has_effect() or is_enabled(self._layer):
            yield Finding(
                "bad",
                f"The image of {self._python.executable} uses the layer {str(self._layer.root)!r}, which is gone: its pip fails.",
                "drivefs-agent enable makes a new one, disable gives the image back as it was",
            )
        else:
            yield Finding("bad", f"{self._python.executable} has no layer for packages yet.", "drivefs-agent enable")

    def _of_the_layer(self) -> Iterator[Finding]:
        count = len(distributions(self._layer.site))
        try:
            inside = ask(self._layer.python)
        except LayerUnusable as error:
            yield Finding(
                "bad",
                f"The layer's own Python does not run: {error}",
                "drivefs-agent packages restore builds it anew from the store",
            )
            return
        if inside.base_prefix != self._python.prefix or inside.minor != self._python.minor:
            yield Finding(
                "bad",
                f"The layer was made from {inside.base_executable}, not from {self._python.executable}.",
                "drivefs-agent enable",
            )
            return
        yield Finding(
            "ok", f"The layer {str(self._layer.root)!r} works; it holds {count} distribution{'' if count == 1 else 's'}."
        )

    # -- Python ----------------------------------------------------------------------------------------------------

    def _user_environment(self) -> dict[str, str]:
        return {name: value for name, value in self._environment.items() if name != "PYTHONHOME"}

    def _ask_python(self) -> dict[str, Any]:
        _, _, answer = run_in(self._python.executable, _PROBE, environment=self._user_environment()).rpartition(_MARK)
        found: dict[str, Any] = json.loads(answer)
        return found

    def _of_the_path(self) -> Iterator[Finding]:
        path, site = self._probe["path"], str(self._layer.site)
        if site not in path:
            off = self._environment.get("DRIVEFS_LAYER") == "0"
            advice = (
                "unset DRIVEFS_LAYER" if off else "drivefs-agent enable; in the user's own folder it needs PYTHONNOUSERSITE unset"
            )
            yield Finding("bad", f"{self._python.executable} does not look for packages in the layer.", advice)
            return
        before = [each for each in path[: path.index(site)] if each in self._python.sites or each == self._python.user_site]
        if before:
            yield Finding("bad", f"{before[0]} comes before the layer, so its packages hide the layer's.", "drivefs-agent enable")
        else:
            yield Finding("ok", f"{self._python.executable} finds the layer's packages before the image's.")

    # -- pip and uv ------------------------------------------------------------------------------------------------

    def _of_pip(self) -> Iterator[Finding]:
        version = _version(self._probe["pip"])
        if version is None:
            yield Finding("bad", "There is no pip, neither in the image nor in the layer.", "drivefs-agent enable")
            return
        if version < OLDEST_PIP:
            yield Finding(
                "bad",
                f"pip {version} is older than {OLDEST_PIP} and installs into the image.",
                "drivefs-agent enable puts a newer one there",
            )
            return
        yield self._where_pip_installs(version)
        settings = pip_settings(self._layer.python, self._user_environment())
        for name in _DIVERTING:
            if settings.get(name, "").lower() not in ("", "0", "false", "no", "off"):
                yield Finding(
                    "bad",
                    f"pip is told to install elsewhere: {name} = {settings[name]}.",
                    f"unset PIP_{name.upper()}, or: pip config unset global.{name}",
                )
        if self._python.externally_managed:
            yield Finding("ok", "The image refuses pip (PEP 668); with the layer, pip works all the same.")

    def _where_pip_installs(self, version: Version) -> Finding:
        done = self._run([self._python.executable, "-m", "pip", "--disable-pip-version-check", "debug"])
        found = re.search(r"^sys\.executable: (.+)$", done, re.MULTILINE)
        if found is not None and Path(found[1]).parent == self._layer.bin:
            return Finding("ok", f"pip {version} installs into the layer.")
        advice = "drivefs-agent enable"
        if self._environment.get("PIP_CONFIG_FILE") == os.devnull:
            advice = "unset PIP_CONFIG_FILE, which makes pip ignore all settings"
        elif (told := self._environment.get("PIP_PYTHON")) is not None and told != str(self._layer.python):
            advice = "unset PIP_PYTHON"
        elif found is None:
            return Finding("bad", f"pip {version} does not run: {_last_line(done)}", "pip debug tells more")
        return Finding("bad", f"pip {version} does not install into the layer.", advice)

    def _of_uv(self) -> Iterator[Finding]:
        uv = find_uv(self._environment.get("PATH"))
        if uv is None:
            return
        said = self._run([str(uv), "pip", "list", "--offline"], self._probe["environment"])
        found = _UV_TARGET.search(said)
        # It names paths relative to where it runs, which is the root.
        if found is not None and Path("/", found[1]) == self._layer.current:
            yield Finding("ok", "uv pip, in notebooks and in what this Python starts, installs into the layer.")
        else:
            yield Finding(
                "warn",
                f"uv pip would not install into the layer ({found[1] if found else _last_line(said)}).",
                f"name it: uv pip install --python {self._layer.python} …",
            )
        protected = self._layer.root / "protected.txt"
        told = self._probe["environment"].get("UV_EXCLUDE")
        if protected.exists() and protected.read_text().strip() and told != str(protected):
            yield Finding("warn", "uv is not told to leave the image's torch and the like alone.", f"UV_EXCLUDE={protected}")

    def _run(self, command: list[str], environment: Mapping[str, str] | None = None) -> str:
        """What it says, on both its outputs."""
        try:
            done = subprocess.run(
                command,
                env=dict(self._user_environment() if environment is None else environment),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return done.stdout

    def _of_the_environment(self) -> Iterator[Finding]:
        said = {
            "UV_SYSTEM_PYTHON": "makes uv install into the image, where it is lost with the box",
            "UV_PYTHON": "makes uv install for that Python",
            "PYTHONHOME": "gives every Python another library",
        }
        for name, effect in said.items():
            if self._environment.get(name, "") not in ("", "0", "false", str(self._layer.python)):
                yield Finding("warn", f"{name} is set: it {effect}.", f"unset {name}")
        active = self._environment.get("VIRTUAL_ENV")
        if active and Path(active) not in (self._layer.current, Path(self._python.prefix)):
            yield Finding(
                "warn", f"The virtual environment {active} is active: pip installs there, and it is not saved.", "deactivate"
            )

    # -- the image -------------------------------------------------------------------------------------------------

    def _of_the_image(self) -> Iterator[Finding]:
        noted, now = self._layer.read_image() or {}, image_distributions(self._python)
        if noted.get("distributions") is not None:
            yield from _changes(noted["distributions"], now)
        if noted.get("version", self._python.version) != self._python.version:
            yield Finding("warn", f"Python was {noted['version']} and is {self._python.version} now.", "drivefs-agent enable")
        here = distributions(self._layer.site)
        older = sorted(name for name, version in here.items() if name in now and _is_older(version, now[name]))
        if older:
            yield Finding(
                "warn",
                f"The layer hides newer ones of the image: {_listed(f'{name} {here[name]} ({now[name]})' for name in older)}.",
                "drivefs-agent packages prune --shadowed",
            )
        if Path(self._python.prefix, "conda-meta").is_dir():
            yield Finding("ok", "This Python is conda's: what conda itself installs is not saved, what pip installs is.")

    def _of_the_users_own(self) -> Iterator[Finding]:
        """pip --user leads there, past the layer."""
        own = self._python.user_site
        found = distributions(Path(own)) if own in self._probe["path"] else {}
        if found:
            names = _listed(f"{name} {version}" for name, version in sorted(found.items()))
            yield Finding(
                "warn", f"In your own folder {own!r}, not in the layer, and not saved: {names}.", "install them without --user"
            )

    def _of_space(self) -> Iterator[Finding]:
        room = os.statvfs(self._layer.root)
        free = room.f_bavail * room.f_frsize
        if free < _FEW_BYTES or (room.f_files and room.f_favail < _FEW_FILES):  # some file systems count no files
            yield Finding(
                "warn",
                f"There is room for {text.size(free)} and {room.f_favail} files in {str(self._layer.root)!r}.",
                "make room there, or keep layers elsewhere: DRIVEFS_LAYERS",
            )


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Finding]:
    added = [f"{name} {version}" for name, version in sorted(now.items()) if before.get(name) != version]
    gone = sorted(set(before) - set(now))
    if added:
        yield Finding(
            "warn",
            f"Installed into the image since enable, not into the layer, and not saved: {_listed(added)}.",
            "drivefs-agent packages adopt",
        )
    if gone:
        yield Finding("warn", f"Removed from the image since enable: {_listed(gone)}.", "drivefs-agent enable")
    if not added and not gone:
        yield Finding("ok", "The image's own packages are what they were.")


def _listed(items: Iterator[str] | list[str]) -> str:
    items = list(items)
    return ", ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")


def _version(found: str | None) -> Version | None:
    try:
        return None if found is None else Version(found)
    except InvalidVersion:
        return None


def _is_older(version: str, than: str) -> bool:
    first, second = _version(version), _version(than)
    return first is not None and second is not None and first < second


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["it says nothing"])[-1]
