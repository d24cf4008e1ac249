"""Environments with packages in them, made without pip: as pip would have left them, in a moment."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from drivefs_agent.packages import pack, record
from drivefs_agent.packages.extract import Arrived, extract, finish
from drivefs_agent.packages.landing import Landing, layer_schemes
from drivefs_agent.packages.model import Kind, Object
from drivefs_agent.packages.scan import Found, Place

__all__ = ["SITE", "chunks_of", "contents", "environment", "install", "land", "packed"]

SITE: Final = "lib/python3.11/site-packages"
_SCRIPT: Final = "import sys\nfrom {module} import {function}\nsys.exit({function}())\n"


def environment(root: Path) -> Place:
    """What ``venv`` makes, as far as it matters: with files that belong to no package and travel with none."""
    site, scripts = root / SITE, root / "bin"
    site.mkdir(parents=True)
    scripts.mkdir()
    (root / "include").mkdir()
    (root / "pyvenv.cfg").write_text("include-system-site-packages = true\n")
    (root / "lib64").symlink_to("lib")
    for name in ("python", "python3", "python3.11"):
        (scripts / name).symlink_to(sys.executable)
    for name in ("activate", "activate.fish", "Activate.ps1"):
        (scripts / name).write_text("VIRTUAL_ENV=...\n")
    (site / "_virtualenv.pth").write_text("import _virtualenv\n")
    return Place(site, scripts, root, str(scripts / "python"))


def install(
    place: Place,
    name: str,
    version: str = "1.0",
    *,
    files: Mapping[str, str | bytes] | None = None,
    console: Mapping[str, str] | None = None,
    metadata: str = "",
    tags: Iterable[str] = ("py3-none-any",),
    editable: str | None = None,
    requested: bool = False,
    record_rows: Iterable[record.Row] = (),
) -> Path:
    """Install a package. files: relative to site-packages ("../../../share/x" lies in share).  record_rows: more of them.

    Returns its metadata directory.
    """
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    contents: dict[str, bytes] = {}
    for path, text in ({f"{module}.py": f"version = {version!r}\n"} if files is None else files).items():
        contents[path] = text.encode() if isinstance(text, str) else text
    for script, target in (console or {}).items():
        of, _, function = target.partition(":")
        contents[f"../../../bin/{script}"] = f"#!{place.python}\n{_SCRIPT.format(module=of, function=function)}".encode()
    contents[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}\n".encode()
    contents[f"{info}/WHEEL"] = "".join(["Wheel-Version: 1.0\n", *(f"Tag: {tag}\n" for tag in tags)]).encode()
    contents[f"{info}/INSTALLER"] = b"pip\n"
    if requested:
        contents[f"{info}/REQUESTED"] = b""
    if editable is not None:
        url = {"url": f"file://{editable}", "dir_info": {"editable": True}}
        contents[f"{info}/direct_url.json"] = json.dumps(url).encode()
    for path, content in contents.items():
        target_path = Path(os.path.normpath(place.site / path))
        target_path.parent.mkdir(parents=True, exist_ok=True)
        target_path.write_bytes(content)
        target_path.chmod(0o755 if "/bin/" in path else 0o644)
    rows = [
        record.Row(path, record.claim(hashlib.sha256(content).hexdigest()), str(len(content)))
        for path, content in contents.items()
    ]
    (place.site / info / "RECORD").write_bytes(record.write([*rows, *record_rows, record.Row(f"{info}/RECORD", "", "")]))
    return place.site / info


def packed(found: Iterable[Found], into: Path, python: str = "/layer/bin/python") -> tuple[bytes, Object]:
    """The bytes of an archive, and what a manifest would say of it."""
    made = pack.write([each for each in found if each.files], python, into)
    content = into.read_bytes()
    into.unlink()
    return content, made


def chunks_of(content: bytes, size: int = 10_007) -> Iterator[bytes]:
    """As they come from a network: in pieces that fit nothing."""
    return (content[start : start + size] for start in range(0, len(content), size))


def land(found: Iterable[Found], content: bytes, root: Path, python: str = "/layer/bin/python") -> list[Arrived]:
    """Unpack an archive of ``found`` below ``root``, and verify it."""
    with Landing() as landing:
        for each in found:
            if each.files:
                schemes = {"data": ""} if each.part.kind == Kind.DIRECTORY else layer_schemes(SITE)
                landing.put(each.part, root, schemes, python)
        arrived = list(extract(chunks_of(content), landing).parts)
        finish(landing, arrived)
        return arrived


def contents(root: Path) -> dict[str, tuple[str, bytes | str]]:
    """Everything below ``root`` that is no directory: permissions and bytes, or where a link points to."""
    found: dict[str, tuple[str, bytes | str]] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_file():
            found[name] = (f"{path.stat().st_mode & 0o777:o}", path.read_bytes())
    return found
