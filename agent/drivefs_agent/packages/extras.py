"""What is kept besides packages: the directories that ``drivefs-agent.toml`` in the store's folder declares, and apt's list.

The file lies on Drive and is read on every box, so a directory has a name that is the same on all of them ("HF_HOME"), wherever
it lies on this one. It also decides where a restore writes, so a place is refused where files of the system lie, or keys that
were not asked for by name, or that is none of this box's own disks.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from drivefs_agent.host import Mount, read_mounts
from drivefs_agent.packages.errors import Misdeclared

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["FILE", "TEMPLATE", "Declared", "Extras", "apt_packages", "load", "places"]

FILE: Final = "drivefs-agent.toml"
TEMPLATE: Final = """\
# What drivefs-agent keeps besides Python packages. Every box that uses this store reads it.
[persist]

# Directories, such as "~/data", or named by a variable: "$HF_HOME" (models and data sets of Hugging Face), "$TORCH_HOME" (models
# of torch.hub), "$JUPYTER_CONFIG_DIR" (Jupyter's settings). Each box keeps them where its own variable says. They are saved
# whole: look at their size first.
directories = []

# ~/.ssh, with its private keys: whoever can read this store can then use them.
ssh = false

# The names of the system's packages that were installed by hand. They are not installed again by themselves.
apt = true
"""

_LARGEST: Final = 64 << 10  # characters of the file
_KEYS: Final[Mapping[str, type]] = {"directories": list, "ssh": bool, "apt": bool}
_NAMES: Final[Mapping[type, str]] = {list: "a list of texts", bool: "true or false"}
# Where each lies on a box that does not say. Source: documentation of huggingface_hub ("Environment variables"), torch.hub
# ("Where are my downloaded models saved?"), Jupyter ("Common directories"), IPython, NLTK, Keras.
_DEFAULTS: Final = {
    "HF_HOME": "$XDG_CACHE_HOME/huggingface",
    "TORCH_HOME": "$XDG_CACHE_HOME/torch",
    "JUPYTER_CONFIG_DIR": "~/.jupyter",
    "JUPYTER_DATA_DIR": "$XDG_DATA_HOME/jupyter",
    "IPYTHONDIR": "~/.ipython",
    "NLTK_DATA": "~/nltk_data",
    "KERAS_HOME": "~/.keras",
    "XDG_CACHE_HOME": "~/.cache",
    "XDG_CONFIG_HOME": "~/.config",
    "XDG_DATA_HOME": "~/.local/share",
}
_VARIABLE: Final = re.compile(r"\$(?:\{(?P<braced>[A-Za-z_]\w*)\}|(?P<plain>[A-Za-z_]\w*))(?P<rest>/.*)?", re.ASCII)
_SYSTEM: Final = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root", "/run", "/sbin", "/sys", "/usr",
    "/var",
)  # fmt: skip
# Of the user's own: what others would gain by reading, or what runs by itself when it is written.
_PRIVATE: Final = (".ssh", ".gnupg", ".aws", ".azure", ".config/gcloud", ".kube", ".config/systemd", ".config/autostart")
_SECONDS: Final = 30.0
_PACKAGE: Final = re.compile(r"[a-z0-9][a-z0-9+.-]*(?::[a-z0-9-]+)?")


@dataclass(frozen=True, slots=True)
class Extras:
    """directories: as they are written.  ssh: ~/.ssh too.  apt: the list of packages installed by hand, too."""

    directories: tuple[str, ...] = ()
    ssh: bool = False
    apt: bool = False


@dataclass(frozen=True, slots=True)
class Declared:
    """A directory. name: one for all boxes, without slashes.  path: where it is on this one, or will be.  text: as declared."""

    name: str
    path: Path
    text: str


def load(text: str) -> Extras:
    """The file's content; an empty one declares nothing. Misdeclared where it is wrong: a guess may lose what was meant."""
    if len(text) > _LARGEST:
        raise Misdeclared(f"{FILE} has more than {_LARGEST} characters. Is it the right file?")
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Misdeclared(f"{FILE} is not valid TOML: {error}. Mend it in the store's folder.") from error
    _known(found, ("persist",), "")
    persist = found.get("persist", {})
    if not isinstance(persist, dict):
        raise Misdeclared(f"In {FILE}, persist is no table. Write [persist] on a line of its own.")
    _known(persist, _KEYS, "persist.")
    for name, value in persist.items():
        if type(value) is not _KEYS[name]:
            raise Misdeclared(f"In {FILE}, persist.{name} is {value!r}. Write {_NAMES[_KEYS[name]]}.")
    directories = persist.get("directories", [])
    wrong = [each for each in directories if not isinstance(each, str) or not each or not each.isprintable()]
    if wrong:
        raise Misdeclared(f"In {FILE}, persist.directories has {wrong[0]!r}. Write {_NAMES[list]}.")
    return Extras(tuple(directories), persist.get("ssh", False), persist.get("apt", False))


def _known(table: Mapping[str, Any], names: Iterable[str], prefix: str) -> None:
    for name in table:
        if name not in names:
            raise Misdeclared(f"In {FILE}, {prefix}{name} is not known. These are: {', '.join(prefix + each for each in names)}.")


def places(
    extras: Extras,
    own: Sequence[Path] = (),
    *,
    environment: Mapping[str, str] = os.environ,
    mounts: Sequence[Mount] | None = None,
) -> tuple[Declared, ...]:
    """Where everything that is declared lies on this box; it need not exist. Misdeclared where one may not be kept.

    own: folders of drivefs's own (layers, caches, credentials, a store in a directory).  mounts: in place of this box's.
    """
    home = Path(environment.get("HOME") or Path.home())
    rules = _Rules(home, tuple(own), tuple(read_mounts() if mounts is None else mounts))
    found = [_declared(text, home, environment) for text in extras.directories]
    for one in found:
        rules.check(one)
    if extras.ssh:
        found.append(Declared("ssh", home / ".ssh", "~/.ssh"))
    _disjoint(found)
    return tuple(found)


def _declared(text: str, home: Path, environment: Mapping[str, str]) -> Declared:
    name, path = _expand(text, home, environment)
    if not os.path.isabs(path):
        raise _refused(text, f"{path!r} is not an absolute path. Begin it with / or ~/")
    if ".." in path.split("/"):
        raise _refused(text, "it leads through '..'. Write where it leads")
    return Declared(name, Path(os.path.normpath("/" + path.lstrip("/"))), text)


def _expand(text: str, home: Path, environment: Mapping[str, str], depth: int = 0) -> tuple[str, str]:
    """Its name on all boxes, and its path on this one."""
    if text.startswith("~"):
        if text != "~" and not text.startswith("~/"):
            raise _refused(text, "only one's own home can be named. Write ~/")
        return _name("home", text[2:]), str(home) + text[1:]
    if not text.startswith("$"):
        return _name("root", text.lstrip("/")), text
    match = _VARIABLE.fullmatch(text)
    if match is None:
        raise _refused(text, "only one variable, at the beginning, is understood. Write $NAME or $NAME/folder")
    variable, rest = match["braced"] or match["plain"], match["rest"] or ""
    value = environment.get(variable) or _DEFAULTS.get(variable)
    if value is None:
        raise _refused(text, f"${variable} is not set on this box, and drivefs knows no usual place for it. Write a path")
    if value.startswith(("~", "$")):
        if depth > len(_DEFAULTS):
            raise _refused(text, f"${variable} is defined by itself")
        value = _expand(value, home, environment, depth + 1)[1]
    return _name(variable, rest.strip("/"), bare=True), value + rest


def _name(root: str, below: str, *, bare: bool = False) -> str:
    """Of what is declared and not of where it lies. What cannot be kept of it is told apart by a checksum."""
    below = "/".join(piece for piece in below.split("/") if piece not in ("", "."))
    if not below and bare:
        return root
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", below)[:60]
    digest = hashlib.sha256(below.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{root}-{plain}" if plain == below else f"{root}-{plain}-{digest}"


class _Rules:
    """Which places may be kept."""

    def __init__(self, home: Path, own: tuple[Path, ...], mounts: tuple[Mount, ...]) -> None:
        self._home = home
        self._own = own
        self._mounts = mounts

    def check(self, one: Declared) -> None:
        """First as it is written, as asking a mount where its links lead may take for ever; then where they do lead."""
        self._check(one, one.path, self._home)
        self._check(one, Path(os.path.realpath(one.path)), Path(os.path.realpath(self._home)))

    def _check(self, one: Declared, path: Path, home: Path) -> None:
        if path == Path("/") or _holds(path, home):
            raise _refused(one.text, f"{path} holds far more than one would keep. Name folders in it")
        if not _holds(home, path) and any(_holds(Path(folder), path) for folder in _SYSTEM):
            raise _refused(one.text, f"{path} belongs to the system. Keep folders in the home directory, or of a disk of data")
        private = next((home / name for name in _PRIVATE if _meet(home / name, path)), None)
        if private is not None:
            advice = "Use ssh = true" if private.name == ".ssh" else "Keep it elsewhere"
            raise _refused(one.text, f"{private} holds keys, or what runs by itself. {advice}")
        own = next((folder for folder in self._own if _meet(folder, path)), None)
        if own is not None:
            raise _refused(one.text, f"drivefs keeps its own files in {own}. Name another folder")
        mount = self._mount_of(path)
        # A container's own root may be one, through fuse-overlayfs.
        if mount is not None and mount.kind == "fuse" and "overlay" not in mount.fstype and mount.mountpoint != "/":
            raise _refused(
                one.text, f"{path} lies on {mount.mountpoint}, which is not a disk of this box and needs no keeping. Remove it"
            )

    def _mount_of(self, path: Path) -> Mount | None:
        holding = [mount for mount in self._mounts if _holds(Path(mount.mountpoint), path)]
        return max(holding, key=lambda mount: len(mount.mountpoint), default=None)


def _holds(folder: Path, path: Path) -> bool:
    return path == folder or folder in path.parents


def _meet(one: Path, other: Path) -> bool:
    return _holds(one, other) or _holds(other, one)


def _disjoint(found: Sequence[Declared]) -> None:
    """What lies in two of them would be saved twice, and restored over itself."""
    real = [(Path(os.path.realpath(one.path)), one) for one in found]
    for position, (path, one) in enumerate(real):
        for other_path, other in real[:position]:
            if path == other_path:
                raise _refused(one.text, f"it is the same directory as {other.text!r}. Remove one of them")
            if _meet(path, other_path):
                raise _refused(one.text, f"one of it and {other.text!r} lies in the other. Remove the inner one")
            if one.name == other.name:
                raise _refused(one.text, f"it has the same name as {other.text!r}. Remove one of them")


def _refused(text: str, reason: str) -> Misdeclared:
    return Misdeclared(f"{FILE} declares {text!r}, but {reason}.")


def apt_packages() -> tuple[str, ...]:
    """What apt counts as installed by hand, sorted; empty on a box without apt. Source: apt-mark(8)

    Misdeclared where apt does not answer: the list was asked for, and an empty one would replace the former.
    """
    program = shutil.which("apt-mark")
    if program is None:
        return ()
    try:
        done = subprocess.run(
            [program, "showmanual"],
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Misdeclared(f"apt-mark does not say what is installed: {error}. Mend it, or use apt = false in {FILE}.") from error
    return tuple(sorted({line for line in done.stdout.split() if _PACKAGE.fullmatch(line)}))
