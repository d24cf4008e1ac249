"""The layer: a virtual environment on local disk, above the image's own packages, that is replaced as a whole.

    LAYERS/<line>-<8 hex>/    the layer of one Python prefix; <8 hex> of the SHA-256 of its sys.prefix
        current               -> generations/<id>; what everything else names paths through
        previous              -> the generation before
        generations/<id>/     a virtual environment made with --system-site-packages
        image.json            what ``activation`` found in the image and did to it
        protected.txt         the image's distributions that uv leaves alone
        lock                  held (flock) by whoever changes the above

Invariants: ``current`` always leads to a complete environment, because it is only ever replaced, by one rename, after everything
below the new one has been written to the disk. A generation is not changed by us once it is current; pip and uv do that. What a
killed process leaves has no name that anybody looks at, and is removed by the next one that changes the layer.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from drivefs_agent.packages.errors import Conflict, LayerUnusable
from drivefs_agent.packages.files import ASIDE, sync_folder, write_atomically
from drivefs_agent.packages.hook import PipConf
from drivefs_agent.packages.interpreter import Interpreter, find_interpreter, run_in

if TYPE_CHECKING:
    from drivefs_agent.packages.scan import Place

__all__ = ["Layer", "find", "layer_for", "layers_folder"]

_STATE: Final = ".drivefs-layer.json"
_LINKS: Final = ("current", "previous")
_PROMPT: Final = "drivefs"
_LEFTOVERS: Final = ("saving-*", ".gone-*", ".current-*", ".previous-*", f".*.{ASIDE}-*")

_MAKE: Final = "import sys, venv; venv.create(sys.argv[1], system_site_packages=True, symlinks=True, prompt=sys.argv[2])"


@dataclass(frozen=True, slots=True)
class Layer:
    """root: LAYERS/<name>.  interpreter: the image's Python that it is a layer of."""

    root: Path
    interpreter: Interpreter

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def current(self) -> Path:
        """Where the environment is, whichever generation that is: what scripts and settings name."""
        return self.root / "current"

    @property
    def site(self) -> Path:
        return self.current / self.interpreter.layer_site

    @property
    def bin(self) -> Path:
        return self.current / "bin"

    @property
    def python(self) -> Path:
        return self.bin / "python"

    @property
    def place(self) -> Place:
        """Where what is installed in it lies, for ``scan``."""
        from drivefs_agent.packages.scan import Place

        return Place(self.site, self.bin, self.current, str(self.python))

    def exists(self) -> bool:
        return os.access(self.python, os.X_OK) and (self.current / "pyvenv.cfg").exists()

    def marks(self) -> list[tuple[str, int]]:
        """Names and times of what pip and uv make and remove: two looks that differ tell that they were at work between them."""
        try:
            with os.scandir(self.site) as entries:
                marked = [entry for entry in entries if entry.name.endswith((".dist-info", ".egg-info", ".egg-link", ".pth"))]
                return sorted((entry.name, entry.stat(follow_symlinks=False).st_mtime_ns) for entry in marked)
        except FileNotFoundError:  # no layer, or pip removed the folder with its last package, or something goes right now
            return []

    # -- generations -----------------------------------------------------------------------------------------------

    def generation(self) -> Path | None:
        """What ``current`` leads to."""
        return self._target("current")

    @contextmanager
    def new_generation(self) -> Iterator[Path]:
        """An empty environment beside the current one, to be filled and given to ``switch``. Gone again where the block
        raises before that.

        It names ``current`` wherever an environment names itself. The caller holds the lock.
        """
        self.collect()
        folder = self.root / "generations"
        folder.mkdir(parents=True, exist_ok=True)
        made = folder / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
        try:
            self._make_environment(made)
            yield made
        except BaseException:
            if self.generation() != made:
                with suppress(OSError):  # what cannot be removed now is ``collect``'s, and the error is more to the point
                    _discard(made)
            raise

    def _make_environment(self, made: Path) -> None:
        run_in(self.interpreter.executable, f"import sys; sys.argv = ['', {str(made)!r}, {_PROMPT!r}]; {_MAKE}")
        (made / self.interpreter.layer_site).mkdir(parents=True, exist_ok=True)
        old, new = os.fsencode(made), os.fsencode(self.current)
        for path in (made / "pyvenv.cfg", *(made / "bin").iterdir()):
            if path.is_file() and not path.is_symlink() and old in (content := path.read_bytes()):
                path.write_bytes(content.replace(old, new))
        settings = PipConf(self.interpreter.prefix, self.python)
        if settings.state() == "foreign":  # where to find packages, say: pip reads it beside the Python that it runs with
            (made / "pip.conf").symlink_to(settings.path)

    def switch(self, generation: Path) -> None:
        """Make it the current one, at once for all who look; the one before is kept, what is older goes.

        The caller holds the lock.
        """
        _write_to_disk(generation)
        before = self.generation()
        if before is not None and before != generation:
            self._point("previous", before)
        self._point("current", generation)
        sync_folder(self.root)
        self.collect()

    def collect(self) -> None:
        """Remove what is neither the current nor the previous generation, and what killed processes left.

        The caller holds the lock, so that nobody is at work on what is removed.
        """
        kept = {self._target(link) for link in _LINKS}
        for path in (self.root / "generations").glob("*"):
            if path not in kept:
                _discard(path)
        for path in (found for pattern in _LEFTOVERS for found in self.root.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                _discard(path)
            else:
                path.unlink(missing_ok=True)

    def _target(self, link: str) -> Path | None:
        try:
            return self.root / os.readlink(self.root / link)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LayerUnusable(f"{str(self.root / link)!r} is no link of ours. Move it away, then run this again.") from error

    def _point(self, link: str, generation: Path) -> None:
        aside = self.root / f".{link}-{secrets.token_hex(4)}"
        aside.symlink_to(generation.relative_to(self.root))
        aside.replace(self.root / link)

    # -- one at a time ---------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Nobody else changes generations or saves meanwhile. Conflict where somebody does and ``wait`` is false.

        The lock ends with the process that holds it. It is not for nesting.
        """
        self._make_root()
        handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise Conflict(
                    f"Another drivefs-agent is at work on the layer {self.name}. Wait for it, then try again."
                ) from error
            yield
        finally:
            os.close(handle)

    def _make_root(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LayerUnusable(
                f"The layer's folder {str(self.root)!r} cannot be made: {error.strerror}. "
                "Name another place: DRIVEFS_LAYERS=/some/where"
            ) from error
        if not os.access(self.root, os.W_OK):
            raise LayerUnusable(
                f"The layer {str(self.root)!r} belongs to another user. Name a place of your own: DRIVEFS_LAYERS=/some/where"
            )

    # -- notes -----------------------------------------------------------------------------------------------------

    def read_state(self) -> dict[str, Any] | None:
        """What ``write_state`` last wrote into the current generation; None where nothing. LayerUnusable where it is damaged."""
        return _read_object(self.current / _STATE)

    def write_state(self, state: Mapping[str, Any], generation: Path | None = None) -> None:
        """Into the current generation, or one that is being made. Survives a power cut, or the former one does."""
        write_atomically((generation or self.current) / _STATE, json.dumps(state).encode() + b"\n")

    def read_image(self) -> dict[str, Any] | None:
        """What ``activation`` wrote down about the image; None where there was no ``enable``."""
        return _read_object(self.root / "image.json")

    def write_image(self, values: Mapping[str, Any]) -> None:
        write_atomically(self.root / "image.json", json.dumps(values, indent=1).encode() + b"\n")


def layers_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """$DRIVEFS_LAYERS, else /opt/drivefs/layers for root, else the user's own folder for data."""
    if chosen := environment.get("DRIVEFS_LAYERS"):
        return Path(os.path.abspath(chosen))
    if os.geteuid() == 0:
        return Path("/opt/drivefs/layers")
    data = environment.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return Path(data) / "drivefs" / "layers"


def layer_for(interpreter: Interpreter, layers: Path | None = None) -> Layer:
    """The layer of a Python; it need not exist. layers: the folder of all of them."""
    digest = hashlib.sha256(os.fsencode(interpreter.prefix)).hexdigest()
    return Layer((layers or layers_folder()) / f"{interpreter.line}-{digest[:8]}", interpreter)


def find(python: str | None) -> Layer:
    """The layer of the Python that is named, else of Jupyter's, else of the first on PATH (see ``find_interpreter``)."""
    return layer_for(find_interpreter(python))


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise LayerUnusable(f"{str(path)!r} is damaged: {error}. Remove it.") from error
    if not isinstance(found, dict):
        raise LayerUnusable(f"{str(path)!r} is damaged: no object in it. Remove it.")
    return found


def _discard(folder: Path) -> None:
    """Away from its name first: a program that its killed parent had started may be writing there still, and then finds nothing.

    What that one puts there all the same is left to the next time.
    """
    gone = folder.with_name(f".gone-{secrets.token_hex(4)}")
    folder.rename(gone)
    try:
        shutil.rmtree(gone)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise


def _write_to_disk(path: Path) -> None:
    """Everything of the file system that ``path`` is on: one call for tens of thousands of files. Source: syncfs(2)."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(handle)
