"""Tiny wheels and source distributions in a folder, for pip and uv without a network; and the environment to run those in."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

__all__ = ["compiled", "offline", "project", "sdist", "wheel"]

_SPOKEN: Final = ("PIP_", "UV_", "PYTHON", "VIRTUAL_ENV", "CONDA_", "XDG_CONFIG", "DRIVEFS_")
_EPOCH: Final = (2020, 1, 1, 0, 0, 0)

# PEP 517 and 660, without requirements: it hands out the wheels that lie beside it, so that nothing must be fetched to "build".
_BACKEND: Final = """
import pathlib, shutil
HERE = pathlib.Path(__file__).parent

def _hand_out(kind, folder):
    (found,) = (HERE / kind).glob("*.whl")
    shutil.copy(found, folder)
    return found.name

def build_wheel(folder, config_settings=None, metadata_directory=None):
    return _hand_out("built", folder)

def build_editable(folder, config_settings=None, metadata_directory=None):
    return _hand_out("editable", folder)
"""


def wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    files: Mapping[str, str | bytes] | None = None,
    console: Mapping[str, str] | None = None,
    data: Mapping[str, str | bytes] | None = None,
    requires: Iterable[str] = (),
    tag: str = "py3-none-any",
    metadata: str = "",
) -> Path:
    """Write a wheel into ``folder`` (made if need be).

    files: below site-packages; by default one module ``<name>.py`` that knows its version.  console: script's name to
    "module:function".  data: what lies in ``*.data``: "scripts/x", "data/share/x", "headers/x.h".  requires: PEP 508.
    metadata: more header lines of METADATA, each with its newline.
    """
    module = name.replace("-", "_").replace(".", "_")
    content: dict[str, str | bytes] = dict({f"{module}.py": f"version = {version!r}\n"} if files is None else files)
    content |= {f"{module}-{version}.data/{path}": each for path, each in (data or {}).items()}
    info = f"{module}-{version}.dist-info"
    lines = "".join(f"Requires-Dist: {each}\n" for each in requires)
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{lines}{metadata}\n"
    pure = "false" if any(path.endswith(".so") for path in content) else "true"
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: {pure}\nTag: {tag}\n"
    if console:
        entries = "".join(f"{script} = {target}\n" for script, target in console.items())
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{entries}"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{module}-{version}-{tag}.whl"
    _write_zip(target, {path: _bytes(each) for path, each in content.items()}, f"{info}/RECORD")
    return target


def compiled(text: str = "") -> bytes:
    """What begins like a shared library of ELF, and cannot be loaded."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + text.encode()


def sdist(folder: Path, name: str, version: str = "1.0", **wheel_arguments: object) -> Path:
    """Write a source distribution that builds the wheel that ``wheel`` would write, on a Python with nothing but pip."""
    module = name.replace("-", "_")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{module}-{version}.tar.gz"
    work = folder / f".{module}-{version}"
    project(work, name, version, **wheel_arguments)
    with tarfile.open(target, "w:gz") as archive:
        for path in sorted(work.rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                member = tarfile.TarInfo(f"{module}-{version}/{path.relative_to(work)}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
        member = tarfile.TarInfo(f"{module}-{version}/PKG-INFO")
        member.size = len(about)
        archive.addfile(member, io.BytesIO(about))
    return target


def project(folder: Path, name: str, version: str = "1.0", **wheel_arguments: object) -> Path:
    """Write a source tree that ``pip install .`` and ``pip install -e .`` take. Editable, its module is ``src/<name>.py``."""
    module = name.replace("-", "_")
    source = folder / "src"
    source.mkdir(parents=True, exist_ok=True)
    (source / f"{module}.py").write_text(f"version = {version!r}\nwhere = 'source'\n")
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n'
    )
    (folder / "backend.py").write_text(_BACKEND)
    wheel(folder / "built", name, version, **wheel_arguments)  # type: ignore[arg-type]  # wheel's own names and types
    wheel(folder / "editable", name, version, files={f"__editable__.{module}-{version}.pth": f"{source}\n"})
    return folder


def offline(links: Path, home: Path) -> dict[str, str]:
    """The environment for pip and uv that take everything from ``links`` and know nothing of this machine's configuration.

    home: an empty directory for what they keep. PIP_CONFIG_FILE stays unset, so that a pip.conf of the interpreter's is read.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SPOKEN)}
    nowhere = str(home / "none")
    return kept | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": nowhere,
        "XDG_CONFIG_DIRS": nowhere,
        "XDG_CACHE_HOME": str(home / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(links),
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "UV_NO_CONFIG": "1",
        "UV_NO_INDEX": "1",
        "UV_OFFLINE": "1",
        "UV_FIND_LINKS": str(links),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_CACHE_DIR": str(home / "cache" / "uv"),
    }


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _write_zip(target: Path, content: Mapping[str, bytes], record: str) -> None:
    rows = "".join(f"{path},sha256={_digest(each)},{len(each)}\n" for path, each in content.items()) + f"{record},,\n"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, each in {**content, record: rows.encode()}.items():
            member = zipfile.ZipInfo(path, date_time=_EPOCH)
            member.external_attr = (0o100755 if ".data/scripts/" in path else 0o100644) << 16
            archive.writestr(member, each, compress_type=zipfile.ZIP_DEFLATED)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
