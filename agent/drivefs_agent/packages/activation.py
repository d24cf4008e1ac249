"""``enable`` makes an image's Python see its layer, and its pip install there; ``disable`` leaves the image as it was.

    {purelib}/_drivefs_layer.py, zz_drivefs_layer.pth, zz_drivefs_layer.start    the layer comes first on sys.path and PATH
    {prefix}/pip.conf                                                            pip installs with the layer's Python

Where the image cannot be written, the first three lie in the user's own folder for packages instead. Where pip.conf cannot be
used (somebody else's is there; a Python of another version shares the prefix and would obey it, too; the image is read-only), the
hook tells pip through PIP_PYTHON, in processes that run pip and in no others.

Order: what is about to be made is noted in image.json first; then the files that do nothing by themselves; then those that have
an effect. ``disable`` goes the other way. Both may be killed at any point and run again. Both hold the layer's lock.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from packaging.version import InvalidVersion, Version

from drivefs_agent.packages.errors import LayerUnusable
from drivefs_agent.packages.files import write_atomically
from drivefs_agent.packages.hook import Hook, PipConf, render
from drivefs_agent.packages.interpreter import Interpreter, ask, run_in
from drivefs_agent.packages.layer import Layer
from drivefs_agent.packages.protected import protected_of
from drivefs_agent.packages.resolve import find_uv
from drivefs_agent.packages.scan import distributions

__all__ = [
    "OLDEST_PIP",
    "Disabled",
    "Enabled",
    "disable",
    "enable",
    "hooks",
    "image_distributions",
    "is_enabled",
    "pip_conf",
    "pip_of_layer",
    "write_protected",
]

# The first to have --python. Source: pip's NEWS, 22.3.
OLDEST_PIP: Final = Version("22.3")
_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Enabled:
    """made: the layer is new.  folder: where the hook lies.  pip_told_by: "pip.conf" or "environment".

    protected: the image's distributions that uv is told to leave alone.  pip: the version put into the layer, None where none
    was needed.  notes: sentences for people.
    """

    made: bool
    folder: Path
    pip_told_by: str
    protected: tuple[str, ...]
    pip: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Disabled:
    """removed: there was something.  notes: sentences for people."""

    removed: bool
    notes: tuple[str, ...] = ()


def enable(layer: Layer) -> Enabled:
    """Make the layer where there is none, and have the image use it. Idempotent; repairs what a killed run left.

    LayerUnusable, and the image is as it was, where its Python will not see the layer.
    """
    with layer.locked(wait=True):
        made, before = not layer.exists(), is_enabled(layer)
        if made:
            with layer.new_generation() as generation:
                layer.switch(generation)
        layer.site.mkdir(parents=True, exist_ok=True)  # pip removes it with the last package
        hook = _place(layer)
        pip = _equip(layer)
        told_by, why = _how_to_tell_pip(layer, hook)
        protected = write_protected(layer)
        _note(layer, hook, told_by)
        try:
            hook.folder.mkdir(parents=True, exist_ok=True)
            hook.write(
                render(layer, excluded=layer.root / "protected.txt" if protected else None, tell_pip=told_by == "environment")
            )
            if told_by == "pip.conf":
                pip_conf(layer).write()
            _require_effect(layer)
        except BaseException:
            if not before:
                _remove(layer)
            raise
        return Enabled(made, hook.folder, told_by, tuple(protected), pip, why)


def disable(layer: Layer) -> Disabled:
    """Leave the image as ``enable`` found it. The layer and what is in it stay. Idempotent; repairs what a killed run left."""
    lock: AbstractContextManager[None] = layer.locked(wait=True) if layer.root.exists() else nullcontext()
    with lock:
        return _remove(layer)


def hooks(layer: Layer) -> tuple[Hook, Hook]:
    """Where a hook may lie: in the image, and in the user's folder, which all Pythons of that version read."""
    own = "_" + layer.name.rpartition("-")[2]
    return Hook(Path(layer.interpreter.purelib)), Hook(Path(layer.interpreter.user_site), own)


def pip_conf(layer: Layer) -> PipConf:
    return PipConf(layer.interpreter.prefix, layer.python)


def is_enabled(layer: Layer) -> bool:
    return any(hook.is_written() for hook in hooks(layer))


def image_distributions(interpreter: Interpreter) -> dict[str, str]:
    """What the image itself holds, in whichever folders: normalised name to version. Not the layer's, nor the user's."""
    found: dict[str, str] = {}
    for site in interpreter.sites:
        found = distributions(Path(site)) | found  # the first on the path is the one that counts
    return found


def write_protected(layer: Layer) -> dict[str, str]:
    """Write down, for uv, which of the image's distributions are to be left alone. Those, by name. The caller holds the lock."""
    protected = protected_of(image_distributions(layer.interpreter))
    write_atomically(layer.root / "protected.txt", "".join(f"{name}\n" for name in protected).encode())
    return protected


def pip_of_layer(layer: Layer) -> Version | None:
    """Of the pip that the layer has of its own."""
    return _version(distributions(layer.site).get("pip")) if layer.exists() else None


# -- where and how -------------------------------------------------------------------------------------------------------


def _place(layer: Layer) -> Hook:
    """In the image where that can be written, else for this user alone."""
    image, user = hooks(layer)
    if _is_writable(image.folder):
        return image
    return user


def _is_writable(folder: Path) -> bool:
    """Also of one that is still to be made."""
    existing = next(each for each in (folder, *folder.parents) if each.is_dir())
    return os.access(existing, os.W_OK | os.X_OK)


def _how_to_tell_pip(layer: Layer, hook: Hook) -> tuple[str, tuple[str, ...]]:
    """ "pip.conf" or "environment", and sentences that say why."""
    conf = pip_conf(layer)
    if hook.folder == Path(layer.interpreter.user_site):
        return "environment", (
            f"{layer.interpreter.prefix!r} cannot be written by you, so this holds for you alone, and not where Python is told "
            "to ignore your own packages (python -I, python -s, PYTHONNOUSERSITE).",
        )
    if conf.state() == "foreign" or (conf.state() == "shared" and not conf.has_effect()):
        return "environment", (f"{str(conf.path)!r} is somebody else's and stays as it is; the hook tells pip where to install.",)
    if _other_pythons(layer.interpreter) or not _is_writable(conf.path.parent):
        return "environment", ()
    return "pip.conf", ()


def _other_pythons(interpreter: Interpreter) -> list[str]:
    """Standard libraries of other versions in the same prefix: their pip would obey the same pip.conf."""
    found = Path(interpreter.prefix, "lib").glob("python[0-9]*/os.py")
    return sorted(str(path.parent) for path in found if not _same_file(path.parent, Path(interpreter.stdlib)))


def _same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


def _note(layer: Layer, hook: Hook, told_by: str) -> None:
    """Before anything is made: what was there. A second ``enable`` keeps the first one's memory of the image's folders."""
    interpreter, before = layer.interpreter, layer.read_image() or {}
    made = set(before.get("made_folders", ())) | {str(path) for path in _missing(hook.folder / "__pycache__")}
    layer.write_image(
        {
            "executable": interpreter.executable,
            "prefix": interpreter.prefix,
            "version": interpreter.version,
            "enabled": time.time(),
            "hook": str(hook.folder),
            "pip_told_by": told_by,
            "made_folders": sorted(made, key=len, reverse=True),
            "distributions": image_distributions(interpreter),
        }
    )


def _missing(folder: Path) -> Iterator[Path]:
    while not os.path.lexists(folder):
        yield folder
        folder = folder.parent


def _require_effect(layer: Layer) -> None:
    """Ask the image's Python as a user's shell would."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DRIVEFS_LAYER", "PYTHONHOME")}
    seen = run_in(layer.interpreter.executable, "import sys; print(*sys.path, sep='\\n')", environment=environment).splitlines()
    if str(layer.site) not in seen:
        raise LayerUnusable(
            f"{layer.interpreter.executable!r} does not read the file that was put into a folder of packages for it, so that was "
            "taken back. If PYTHONNOUSERSITE is set, unset it; else run this as the image's owner (root)."
        )


def _remove(layer: Layer) -> Disabled:
    noted: Mapping[str, Any] = layer.read_image() or {}
    conf = pip_conf(layer)
    removed = conf.state() in ("ours", "shared") or is_enabled(layer)
    notes: tuple[str, ...] = ()
    if conf.state() == "shared":
        notes = (f"Somebody has added settings to {str(conf.path)!r}; they stay, ours are gone.",)
    try:
        conf.remove()
        for hook in hooks(layer):
            hook.remove()
    except PermissionError as error:
        raise LayerUnusable(
            f"{error.filename!r} may not be removed by you. Run this as the one who ran enable (root)."
        ) from error
    for folder in noted.get("made_folders", ()):
        _remove_if_empty(Path(folder))
    (layer.root / "image.json").unlink(missing_ok=True)
    return Disabled(removed, notes)


def _remove_if_empty(folder: Path) -> None:
    """Somebody may have put something into it since."""
    try:
        folder.rmdir()
    except OSError:
        if folder.exists() and not any(folder.iterdir()):
            raise


# -- pip itself ----------------------------------------------------------------------------------------------------------


def _equip(layer: Layer) -> str | None:
    """Put a pip into the layer where the image has none that can install elsewhere. The version; None where there was no need.

    One that is older than the image's goes: it was needed on another box, and here the image's program ``pip`` would find it and
    not what it expects.
    """
    images, layers = _version(layer.interpreter.pip), pip_of_layer(layer)
    if images is not None and images >= OLDEST_PIP:
        if layers is not None and layers < images:
            _remove_pip(layer)
        return None
    if layers is not None and layers >= OLDEST_PIP:
        return None
    attempts = [[str(wheel)] for wheel in _bundled(layer.interpreter)] + [[f"pip>={OLDEST_PIP}"]]
    problem = "there is no uv and no pip to install it with"
    for requirement in attempts:
        for command in _installers(layer):
            done = _run([*command, *requirement])
            if done is None:
                return str(pip_of_layer(layer))
            problem = done
    was = f"pip {layer.interpreter.pip}, which cannot install into a layer" if layer.interpreter.pip else "no pip"
    raise LayerUnusable(
        f"{layer.interpreter.executable!r} has {was}, and a newer one could not be put into the layer ({problem}). "
        "Connect to the package index, or install pip 22.3 or newer into the image, then run this again."
    )


def _remove_pip(layer: Layer) -> None:
    uv, problem = find_uv(os.environ.get("PATH")), "there is no uv"
    if uv is not None:
        problem = _run([str(uv), "pip", "uninstall", "--quiet", "--python", str(layer.python), "pip"]) or ""
    if problem:
        raise LayerUnusable(
            f"The layer has a pip older than the image's, and it could not be removed ({problem}). Remove it yourself: "
            f"{layer.python} -m pip uninstall pip"
        )


def _bundled(interpreter: Interpreter) -> Iterator[Path]:
    """The image's own wheel of pip, else that of the Python that runs us; new enough ones."""
    candidates = [interpreter.bundled_pip, ask(sys.executable).bundled_pip]
    for candidate in filter(None, candidates):
        version = _version(Path(candidate).name.split("-")[1])
        if version is not None and version >= OLDEST_PIP:
            yield Path(candidate)


def _installers(layer: Layer) -> Iterator[list[str]]:
    if (uv := find_uv(os.environ.get("PATH"))) is not None:
        yield [str(uv), "pip", "install", "--quiet", "--no-deps", "--python", str(layer.python)]
    if layer.interpreter.pip is not None:
        yield [str(layer.python), "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]


def _run(command: list[str]) -> str | None:
    """None where it went well, else the last thing it said."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PIP_TARGET", "PIP_PREFIX", "PIP_USER")}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]


def _version(text: str | None) -> Version | None:
    try:
        return None if text is None else Version(text)
    except InvalidVersion:
        return None
