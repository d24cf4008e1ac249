"""The files that go into an image or a user's folder: what is in them, which are ours, and taking them away without a trace.

Ours are the files with our names that say so, or that hold exactly what we write; a file of somebody else's at such a place is
never touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from drivefs_agent.packages.errors import LayerUnusable
from drivefs_agent.packages.files import remove_asides, write_atomically

if TYPE_CHECKING:
    from drivefs_agent.packages.layer import Layer

__all__ = ["Hook", "PipConf", "render"]

_MODULE: Final = "_drivefs_layer"
_STARTER: Final = "zz_drivefs_layer"  # last in the alphabet, and so the last to run
_SIGNATURE: Final = "Made by: drivefs-agent enable."
_PIP_SIGNATURE: Final = f"# {_SIGNATURE} It makes this Python's pip install into the layer. Removed by: drivefs-agent disable."
_TEMPLATE: Final = Path(__file__).with_name("image_hook.py")


def render(layer: Layer, *, excluded: Path | None, tell_pip: bool) -> str:
    """The module for one layer. excluded: the file for UV_EXCLUDE, where there is one."""
    interpreter = layer.interpreter
    values = {
        "PREFIX": interpreter.prefix,
        "MINOR": tuple(int(number) for number in interpreter.minor.split(".")),
        "LAYER": str(layer.current),
        "SITE": str(layer.site),
        "EXCLUDE": str(excluded or ""),
        "TELL_PIP": tell_pip,
    }
    lines = _TEMPLATE.read_text(encoding="utf-8").split("\n")
    for index, line in enumerate(lines):
        name, equals, _ = line.partition(" = ")
        if equals and name in values:
            lines[index] = f"{name} = {values.pop(name)!r}"
    assert not values, f"image_hook.py has no place for {sorted(values)}"
    return "\n".join(lines)


class Hook:
    """The three files in one folder that the image's Python reads ``.pth`` files in.

    suffix: to their names, where several Pythons read one folder.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self.folder = folder
        self._name = f"{_MODULE}{suffix}"
        self._module = folder / f"{self._name}.py"
        self._pth = folder / f"{_STARTER}{suffix}.pth"
        self._start = folder / f"{_STARTER}{suffix}.start"

    def contents(self, module: str) -> dict[Path, bytes]:
        """What is written where. The .pth is the last: before it nothing has any effect."""
        return {
            self._module: module.encode(),
            self._start: f"{self._name}:main\n".encode(),
            self._pth: f"import {self._name}; {self._name}.main()\n".encode(),
        }

    def write(self, module: str) -> None:
        """Idempotent. LayerUnusable where somebody else's file has such a name: then nothing is written."""
        for path in self.contents(module):
            if os.path.lexists(path) and not self._is_ours(path):
                raise LayerUnusable(f"{str(path)!r} is there and is not ours. Move it away, then run this again.")
        for path, content in self.contents(module).items():
            if not path.is_file() or path.read_bytes() != content:
                write_atomically(path, content)

    def is_written(self) -> bool:
        return all(self._is_ours(path) for path in (self._module, self._pth))

    def remove(self) -> None:
        """With what Python compiled of it. First what has an effect, so that a kill in between leaves only what does nothing."""
        for path in (self._pth, self._start, self._module):
            if self._is_ours(path):
                path.unlink()
        compiled = list(self._compiled())
        for path in compiled:
            path.unlink(missing_ok=True)
        if compiled and not any(compiled[0].parent.iterdir()):
            compiled[0].parent.rmdir()
        remove_asides((self._pth, self._start, self._module))

    def _compiled(self) -> Iterator[Path]:
        """Also of a compilation that was killed: its file has a number behind the name."""
        return (self.folder / "__pycache__").glob(f"{self._name}.*.pyc*")

    def _is_ours(self, path: Path) -> bool:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return False
        except OSError:  # a folder, a loop of links: nothing that we wrote
            return False
        return _SIGNATURE.encode() in content if path == self._module else content == self.contents("")[path]


class PipConf:
    """``{sys.prefix}/pip.conf``: the level of pip's settings that one interpreter's pip reads, and no virtual environment's.

    It is written only where there is none, and taken away only as far as it is ours.
    """

    def __init__(self, prefix: str, python: Path) -> None:
        """python: the layer's."""
        self.path = Path(prefix, "pip.conf")
        self._setting = f"python = {python}"

    def state(self) -> str:
        """ "absent", "ours", "shared" (ours, and somebody has added to it), or "foreign"."""
        if not os.path.lexists(self.path):
            return "absent"
        lines = self._lines()
        if _PIP_SIGNATURE not in lines:
            return "foreign"
        return "ours" if len(lines) == 3 and lines[:2] == [_PIP_SIGNATURE, "[global]"] else "shared"

    def has_effect(self) -> bool:
        """pip of the image is told to install into this layer."""
        return self._setting in self._lines()

    def write(self) -> None:
        """Where there is none, or one of ours. Idempotent."""
        content = f"{_PIP_SIGNATURE}\n[global]\n{self._setting}\n".encode()
        if self.state() in ("absent", "ours") and (not self.path.exists() or self.path.read_bytes() != content):
            write_atomically(self.path, content)

    def remove(self) -> None:
        """What somebody has added to it stays."""
        state = self.state()
        if state == "ours":
            self.path.unlink()
        elif state == "shared":
            kept = [line for line in self._lines() if line not in (_PIP_SIGNATURE, self._setting)]
            write_atomically(self.path, "".join(f"{line}\n" for line in kept).encode())
        remove_asides((self.path,))

    def _lines(self) -> list[str]:
        try:
            return self.path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError:  # none, or a folder: nothing that pip reads either
            return []
