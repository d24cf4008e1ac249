"""Images for tests: a whole CPython in a prefix of its own, with pip and nothing else, that a test may change as it likes.

A pristine copy of an interpreter of this machine is made once; a test's image consists of hard links to it. That is safe as long
as nobody writes into a file in place: pip, venv and Python's own compiler replace files, and so must tests.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.agent.packages.wheels import offline

__all__ = ["THIS", "Image", "Images"]

THIS: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
# Of no use to pip or to a test, and half of the size.
_LEFT_OUT: Final = ("site-packages", "dist-packages", "test", "tests", "idle_test", "config-*", "idlelib", "lib2to3", "tkinter",
                    "turtledemo", "pydoc_data", "libpython*.a", "*.opt-?.pyc")  # fmt: skip


@dataclass(frozen=True)
class Image:
    """One Python prefix. links: where pip finds wheels.  home: the user's, empty at first."""

    prefix: Path
    minor: str
    links: Path
    home: Path

    @property
    def python(self) -> Path:
        return self.prefix / "bin" / f"python{self.minor}"

    @property
    def site(self) -> Path:
        return self.prefix / "lib" / f"python{self.minor}" / "site-packages"

    @property
    def bin(self) -> Path:
        return self.prefix / "bin"

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a shell of this box has: the image first on PATH, and none of this machine's settings for Python, pip and uv."""
        path = os.pathsep.join([str(self.bin), "/usr/local/bin", "/usr/bin", "/bin"])
        return offline(self.links, self.home) | {"PATH": path} | dict(more or {})

    def run(
        self, *command: str | Path, more: Mapping[str, str] | None = None, code: int | None = 0, cwd: Path | None = None
    ) -> str:
        """Standard output of a command that must end with ``code`` (None: with any)."""
        done = subprocess.run(
            [str(word) for word in command],
            env=self.environment(more),
            cwd=cwd or self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert code is None or done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def pip(self, *words: str | Path, more: Mapping[str, str] | None = None, code: int | None = 0) -> str:
        """Plain ``pip``, as a person types it."""
        return self.run("pip", *words, more=more, code=code)

    def evaluate(self, expression: str, *options: str, more: Mapping[str, str] | None = None) -> str:
        """What the image's Python prints for an expression. Modules are to be imported by ``__import__``."""
        return self.run(self.python, *options, "-c", f"print({expression})", more=more).strip()

    def unpack(self, wheel: Path) -> None:
        """Put a wheel without scripts into the image, as its maker would have; much quicker than pip."""
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.site)
        info = next(self.site.glob(f"{wheel.name.split('-')[0]}-{wheel.name.split('-')[1]}.dist-info"))
        _installed_by_pip(info)
        self.run(self.python, "-I", "-m", "compileall", "-q", self.site)

    def contents(self) -> dict[str, str]:
        """Everything below the prefix, each with what makes two of them different: kind, mode, and bytes or target."""
        return {str(path.relative_to(self.prefix)): _described(path) for path in _below(self.prefix)}


class Images:
    """Makes them. root: where the pristine copies lie, for all who share it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def make(self, folder: Path, minor: str = THIS, *, pip: bool = True) -> Image:
        """An image in ``folder``/image, whose home is ``folder``/home, and whose wheels lie in ``folder``/wheels.

        pip: false for one without it.  Skips the test where this machine has no Python of this minor version.
        """
        image = Image(folder / "image", minor, folder / "wheels", folder / "home")
        image.links.mkdir(parents=True, exist_ok=True)
        image.home.mkdir(exist_ok=True)
        shutil.copytree(self._pristine(minor), image.prefix, symlinks=True, copy_function=_link)
        if not pip:
            for path in [*image.site.glob("pip*"), *image.bin.glob("pip*")]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for script in image.bin.glob("pip*"):  # a script names its own interpreter; replaced, not written into
            content = script.read_text()
            script.unlink()
            script.write_text(f"#!{image.python}\n" + content.partition("\n")[2])
            script.chmod(0o755)
        return image

    def _pristine(self, minor: str) -> Path:
        kept = self._root / f"python{minor}"
        with _alone(self._root / f"python{minor}.lock"):
            if not kept.exists():
                _build(_interpreter(minor), minor, kept)
        return kept


def _interpreter(minor: str) -> Path:
    """A whole CPython of this machine, with the pip that came with it."""
    places = [Path(sys.base_prefix)] if minor == THIS else []
    places += sorted((Path.home() / ".pyenv" / "versions").glob(f"{minor}.*"), reverse=True)
    found = shutil.which(f"python{minor}")
    places += [Path(found).resolve().parents[1]] if found else []
    for place in (*places, Path("/usr/local"), Path("/opt/python")):
        bundled = place / "lib" / f"python{minor}" / "ensurepip" / "_bundled"
        if (place / "bin" / f"python{minor}").exists() and any(bundled.glob("pip-*.whl")):
            return place
    pytest.skip(f"no CPython {minor} with its own pip on this machine to make an image of")


def _build(source: Path, minor: str, target: Path) -> None:
    """In a folder aside, so that a kill leaves nothing that looks whole."""
    aside = target.with_name(f"{target.name}.{os.getpid()}")
    library = f"lib/python{minor}"
    shutil.copytree(source / library, aside / library, ignore=shutil.ignore_patterns(*_LEFT_OUT), symlinks=True)
    (aside / library / "site-packages").mkdir()
    (aside / "bin").mkdir()
    shutil.copy2(source / f"bin/python{minor}", aside / f"bin/python{minor}", follow_symlinks=True)
    for alias in ("python3", "python"):
        (aside / "bin" / alias).symlink_to(f"python{minor}")
    for shared in (source / "lib").glob(f"libpython{minor}*.so*"):
        shutil.copy2(shared, aside / "lib" / shared.name, follow_symlinks=False)
    _put_pip(aside, minor)
    # What is compiled already is written by nobody later, so that an image that only ran is still the pristine one.
    compiled = (aside / library / "__pycache__").is_dir()
    folder = aside / library / "site-packages" if compiled else aside / library
    command = [str(aside / f"bin/python{minor}"), "-I", "-m", "compileall", "-q", "-j2", str(folder)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run(command, check=True, timeout=120, env=environment, stdout=subprocess.DEVNULL)
    aside.rename(target)


def _put_pip(prefix: Path, minor: str) -> None:
    library = prefix / "lib" / f"python{minor}"
    (bundled,) = (library / "ensurepip" / "_bundled").glob("pip-*.whl")
    with zipfile.ZipFile(bundled) as archive:
        archive.extractall(library / "site-packages")
    (info,) = (library / "site-packages").glob("pip-*.dist-info")
    _installed_by_pip(info)
    for name in ("pip", "pip3", f"pip{minor}"):
        script = prefix / "bin" / name
        script.write_text("#!python\nimport sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n")
        script.chmod(0o755)


def _installed_by_pip(info: Path) -> None:
    (info / "INSTALLER").write_text("pip\n")
    with (info / "RECORD").open("a") as record:
        record.write(f"{info.name}/INSTALLER,,\n")


def _link(source: str, target: str, *, follow_symlinks: bool = True) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target, follow_symlinks=follow_symlinks)


def _below(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        yield from (Path(root, name) for name in (*folders, *files))


def _described(path: Path) -> str:
    status = path.lstat()
    mode = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
    if stat.S_ISLNK(status.st_mode):
        return f"{mode} {os.readlink(path)}"
    if (
        stat.S_ISREG(status.st_mode) and status.st_nlink > 1
    ):  # still the pristine copy's, unless somebody wrote into it, which its time tells
        return f"{mode} {status.st_size} {status.st_mtime_ns}"
    if stat.S_ISREG(status.st_mode):
        return f"{mode} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return mode


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
