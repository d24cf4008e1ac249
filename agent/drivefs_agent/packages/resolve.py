"""Parts that cannot be used as they were saved are installed anew: the same versions, from where they came, without dependencies.

With uv where there is one, else with the pip that the Python has. All in one call; where that fails, halves are tried, so that
one package that cannot be had does not keep the others away.

Invariants: only the environment that is named is changed. Nothing is built from files of the box that saved a part (``origin``).
Which index is asked is the user's choice, in uv's settings or in pip's; what would divert an installation elsewhere
(PIP_TARGET, UV_SYSTEM_PYTHON …) is not passed on, nor what would change a version (UV_OVERRIDE …).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drivefs_agent.packages.errors import LayerUnusable
from drivefs_agent.packages.index_settings import for_uv
from drivefs_agent.packages.model import Part, normalised
from drivefs_agent.packages.origin import origin_of

__all__ = ["Failure", "Resolved", "find_uv", "resolve"]

WITHIN: Final = 900.0  # seconds for everything: compiled packages may have to be built
# Settings of a user's that send an installation elsewhere, or change what is asked for.
_DIVERTING: Final = frozenset({
    "PIP_DRY_RUN", "PIP_EDITABLE", "PIP_IGNORE_INSTALLED", "PIP_PREFIX", "PIP_PYTHON", "PIP_REQUIREMENT", "PIP_REQUIRE_HASHES",
    "PIP_ROOT", "PIP_TARGET", "PIP_UPGRADE", "PIP_USER", "PYTHONHOME", "PYTHONPATH", "UV_CONSTRAINT", "UV_EXCLUDE", "UV_OVERRIDE",
    "UV_PROJECT", "UV_PYTHON", "UV_REQUIRE_HASHES", "UV_SYSTEM_PYTHON", "UV_WORKING_DIR", "VIRTUAL_ENV", "CONDA_PREFIX",
})  # fmt: skip
# Not one package's failure but the network's: trying the others would only take long. pip says how many retries are left.
_UNREACHABLE: Final = re.compile(r"error sending request|dns error|client error \(Connect\)|Retry\(total=0", re.IGNORECASE)
_ERROR: Final = re.compile(r"\s*(?:error:|ERROR:|[×x]) (?P<text>.*)")
_CAUSE: Final = re.compile(r"\s*(?:cause:|Caused by:|[├╰]─▶) ?")
_LONGEST_REASON: Final = 300


@dataclass(frozen=True, slots=True)
class Failure:
    """reason: a sentence, or what the installer said."""

    part: Part
    reason: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """installer: "uv" or "pip"; "" where there was nothing to do, or neither."""

    installed: tuple[Part, ...] = ()
    failed: tuple[Failure, ...] = ()
    installer: str = ""


def resolve(
    layer_python: Path,
    parts: Sequence[Part],
    protected: Path,
    *,
    uv: Path | None = None,
    within: float = WITHIN,
    environment: Mapping[str, str] | None = None,
) -> Resolved:
    """Install ``parts`` into the environment of ``layer_python``. Each ends up in ``installed`` or, with why, in ``failed``.

    protected: a file of names, one a line, that are the image's and are not touched.  uv: in place of ``find_uv()``.
    within: seconds, after which what is left fails.  environment: in place of ours.

    Scripts that an installer writes name ``layer_python`` as it is given. Raises LayerUnusable where there is no such Python.
    """
    wanted, refused = _sorted_out(parts, _names(protected))
    if not wanted:
        return Resolved(failed=tuple(refused))
    if not os.access(layer_python, os.X_OK):
        raise LayerUnusable(f"There is no Python at {str(layer_python)!r} to install packages for. Use: drivefs-agent enable")
    outer = os.environ if environment is None else environment
    passed = {name: value for name, value in outer.items() if name not in _DIVERTING} | {"DRIVEFS_LAYER": "0"}
    found = uv or find_uv(outer.get("PATH"))
    with tempfile.TemporaryDirectory(prefix="drivefs-anew-") as folder:
        if found is not None:
            installer: _Installer = _Uv(found, layer_python, passed, Path(folder))
        elif _has_pip(layer_python, passed):
            installer = _Pip(layer_python, passed, Path(folder))
        else:
            advice = "There is neither uv nor pip here to install it with. Install uv, and restore again."
            return Resolved(failed=(*refused, *(Failure(part, advice) for part in wanted)))
        run = _Run(installer, time.monotonic() + within, within)
        run.install(wanted)
    return Resolved(tuple(run.installed), (*refused, *run.failed), installer.name)


def find_uv(path: str | None = None) -> Path | None:
    """The one that came with drivefs, else the first on ``path`` ($PATH where None)."""
    beside = Path(sys.executable).with_name("uv")
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("uv", path=path)
    return Path(found) if found else None


def _names(protected: Path) -> frozenset[str]:
    with contextlib.suppress(FileNotFoundError):  # an image without any torch protects nothing
        lines = protected.read_text(encoding="utf-8").splitlines()
        return frozenset(normalised(line.strip()) for line in lines if line.strip() and not line.startswith("#"))
    return frozenset()


def _sorted_out(parts: Sequence[Part], protected: frozenset[str]) -> tuple[list[Part], list[Failure]]:
    wanted, refused = [], []
    for part in parts:
        if part.name in protected:
            refused.append(Failure(part, f"The image has its own {part.name}, which stays."))
        elif refusal := origin_of(part).refusal:
            refused.append(Failure(part, refusal))
        else:
            wanted.append(part)
    return wanted, refused


class _Run:
    """One attempt after the other, until all is decided or the time is over."""

    def __init__(self, installer: _Installer, end: float, within: float) -> None:
        self._installer = installer
        self._end = end
        self._within = within
        self.installed: list[Part] = []
        self.failed: list[Failure] = []

    def install(self, parts: Sequence[Part]) -> None:
        left = self._end - time.monotonic()
        if left <= 0:
            self._fail(parts, f"There was no time left for it after {self._within:g} s. Restore again, or install it with pip.")
            return
        output = self._installer.install([origin_of(part).requirement for part in parts], left)
        if output is None:
            self.installed += parts
        elif len(parts) == 1:
            self._fail(parts, _reason(output))
        elif _UNREACHABLE.search(output) and not any(map(_is_link, parts)):
            self._fail(parts, f"The index cannot be reached: {_reason(output)}")
        else:
            for each in _halves(parts):
                self.install(each)

    def _fail(self, parts: Sequence[Part], reason: str) -> None:
        self.failed += [Failure(part, reason) for part in parts]


def _is_link(part: Part) -> bool:
    return part.direct_url is not None


def _halves(parts: Sequence[Part]) -> tuple[Sequence[Part], Sequence[Part]]:
    """Links part from the index first, as each may lead to a host of its own that is down."""
    links = [part for part in parts if _is_link(part)]
    indexed = [part for part in parts if not _is_link(part)]
    if links and indexed:
        return indexed, links
    middle = len(parts) // 2
    return parts[:middle], parts[middle:]


class _Installer(ABC):
    """A program that installs requirements, all or none."""

    name = ""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._environment = environment
        self._folder = folder

    def install(self, requirements: Sequence[str], seconds: float) -> str | None:
        """None where all are installed, else what the program said."""
        listed = self._folder / "requirements.txt"
        listed.write_text("".join(f"{each}\n" for each in requirements), encoding="utf-8")
        return self._run(self._command(listed), seconds)

    @abstractmethod
    def _command(self, listed: Path) -> list[str]:
        """What installs the requirements that are listed in a file."""

    def _run(self, command: Sequence[str], seconds: float) -> str | None:
        # In a folder of our own, as uv takes settings from the one it runs in; and as a session, to end its builds with it.
        process = subprocess.Popen(
            command,
            cwd=self._folder,
            env=dict(self._environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        with process:
            try:
                output, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                _end(process)
                return f"error: it took longer than {seconds:.0f} s"
            except BaseException:
                _end(process)
                raise
        return None if process.returncode == 0 else output.decode("utf-8", "replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class _Uv(_Installer):
    name = "uv"

    def __init__(self, uv: Path, python: Path, environment: Mapping[str, str], folder: Path) -> None:
        options, settings = for_uv(python, environment)
        super().__init__({**environment, **settings}, folder)
        quiet = ["--no-deps", "--no-progress", "--color", "never"]
        self._start = [str(uv), "pip", "install", "--python", str(python), *quiet, *options]

    def _command(self, listed: Path) -> list[str]:
        return [*self._start, "--requirement", str(listed)]


class _Pip(_Installer):
    name = "pip"

    def __init__(self, python: Path, environment: Mapping[str, str], folder: Path) -> None:
        super().__init__(environment, folder)
        quiet = ["--no-input", "--disable-pip-version-check", "--no-color", "--progress-bar", "off", "--no-warn-script-location"]
        self._start = [str(python), "-I", "-m", "pip", "install", "--no-deps", "--no-user", "--no-compile", "--quiet", *quiet]

    def _command(self, listed: Path) -> list[str]:
        return [*self._start, "--requirement", str(listed)]


def _has_pip(python: Path, environment: Mapping[str, str]) -> bool:
    command = [str(python), "-I", "-c", "import pip"]
    return subprocess.run(command, env=dict(environment), capture_output=True, check=False).returncode == 0


def _reason(output: str) -> str:
    """What failed, and in the end why: the first error's line and the last line of all, as a sentence."""
    lines = [line for line in _plain(output).splitlines() if line.strip() and not line.lstrip().startswith(("hint:", "[notice]"))]
    errors = [match["text"].strip() for line in lines if (match := _ERROR.match(line))]
    last = _CAUSE.sub("", lines[-1]).strip() if lines else "the installer ended without a word"
    if match := _ERROR.match(last):
        last = match["text"].strip()
    first = errors[0] if errors and not errors[0].startswith(("No solution found", "Could not find a version")) else ""
    told = f"{first.rstrip('.:')}: {last}" if first and first != last else last
    return f"{told[:_LONGEST_REASON].rstrip('.')}."


def _plain(text: str) -> str:
    """Without colours and control characters: it is shown on a terminal."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)
