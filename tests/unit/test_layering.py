"""The layering rule: imports go down only, and each heavy library has one door.

    cli → daemon → fuse | control → vfs → jobs → remote | store → base

Rooms on one level do not import each other. Annexes: the emulator knows nothing of drivefs and is reached by URL only; ``client``
is standard library only, and all that colab and the agent know of drivefs.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Level of each room (a package or module of drivefs). A room may import rooms of lower levels, and itself.
LEVELS = {
    "base": 0,
    "notify": 1,
    "private": 1,
    "look": 1,
    "mountpoint": 2,
    "stuck": 3,
    "guard": 1,
    "manifest": 1,
    "fuse_mount": 1,
    "record": 2,
    "report": 2,
    "remote": 2,
    "store": 2,
    "jobs": 3,
    "vfs": 4,
    "interrupts": 4,
    "fuse": 5,
    "control": 5,
    # The daemon, and what the command needs around it.
    "supervisor": 5,
    "signin": 5,
    "verbs": 6,
    "source": 3,
    "storage": 6,
    "mounting": 6,
    "serving": 6,
    "lastword": 7,
    "gone": 7,
    "daemon": 8,
    "background": 7,
    "embedded": 7,
    "settings": 7,
    "launch": 9,
    "cli": 10,
    "__main__": 11,
}
# Rooms outside the levels, and all of drivefs that they may import.
ANNEXES: dict[str, set[str]] = {
    "conversation": set(),
    "client": {"conversation"},
    "colab": {"client"},
    "emulator": set(),
    "drivefs_agent": {"client"},
}
# Who may import an annex.
DOORS = {
    "conversation": {"client"},
    "client": {"cli", "gone", "launch", "background", "settings", "report", "colab", "drivefs_agent"},
    "emulator": {"cli"},
    "colab": set(),
    "drivefs_agent": set(),
}
SOLE_IMPORTERS = {
    "pyfuse3": ("drivefs/fuse*.py",),
    "sqlite3": ("drivefs/store/db.py", "drivefs/emulator/*.py"),
    "pycurl": ("drivefs/remote/http.py",),
    "google.auth": ("drivefs/remote/auth.py", "drivefs/remote/keyfile.py"),
    "google.oauth2": ("drivefs/remote/keyfile.py",),
    "googleapiclient": ("drivefs/remote/api.py",),
    "starlette": ("drivefs/emulator/*.py", "agent/drivefs_agent/web.py", "agent/drivefs_agent/access.py"),
    "uvicorn": ("drivefs/emulator/*.py", "agent/drivefs_agent/web.py"),
    "lark": ("drivefs/emulator/*.py",),
    "click": ("drivefs/cli.py", "drivefs/emulator/server.py", "drivefs/emulator/datafolder.py", "agent/drivefs_agent/cli*.py"),
    "zstandard": ("agent/drivefs_agent/packages/pack.py", "agent/drivefs_agent/packages/untar.py"),
    "pynvml": ("agent/drivefs_agent/nvml.py",),
}
SOURCES = sorted([*ROOT.glob("drivefs/**/*.py"), *ROOT.glob("agent/drivefs_agent/**/*.py")])


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names that the module imports, at its top and inside functions; ``from a import b`` yields ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room is meant"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(dotted: str) -> str | None:
    """The room that a dotted name lies in; None for other people's modules and for the bare package."""
    first, _, rest = dotted.partition(".")
    if first == "drivefs_agent":
        return first
    room = rest.partition(".")[0]
    return room if first == "drivefs" and (room in LEVELS or room in ANNEXES) else None


def room_of_file(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "drivefs_agent" if parts[0] == "agent" else parts[1]


def may_import(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    if importer in ANNEXES:
        return imported in ANNEXES[importer]
    if imported in DOORS:
        return importer in DOORS[imported]
    return LEVELS[imported] < LEVELS[importer]


def breaches(paths: list[Path]) -> list[str]:
    found = []
    for path in paths:
        importer = room_of_file(path)
        rooms = {room for name in imports_of(path) if (room := room_of(name))}
        found += [f"{path.relative_to(ROOT)} imports {room}" for room in sorted(rooms) if not may_import(importer, room)]
    return found


def test_every_room_has_a_level() -> None:
    """A new module or package at the top of drivefs must be given its place here."""
    rooms = {room_of_file(path) for path in SOURCES} - {"__init__"}
    assert rooms <= set(LEVELS) | set(ANNEXES)


def test_imports_go_down_only() -> None:
    """No module imports a room of its own level or above it, and annexes keep to themselves."""
    assert breaches([path for path in SOURCES if room_of_file(path) != "__init__"]) == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [("store", "remote"), ("remote", "store"), ("vfs", "fuse"), ("base", "store"), ("jobs", "emulator"), ("fuse", "control")],
)
def test_the_rule_forbids(importer: str, imported: str) -> None:
    """The rule above is one that can be broken."""
    assert not may_import(importer, imported)


@pytest.mark.parametrize("library", SOLE_IMPORTERS)
def test_each_library_has_one_door(library: str) -> None:
    """Only the named files import the library, so that it can be replaced, and its errors translated, in one place."""
    users = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(name == library or name.startswith(f"{library}.") for name in imports_of(path))
    ]
    assert [user for user in users if not any(fnmatch(user, door) for door in SOLE_IMPORTERS[library])] == []


@pytest.mark.parametrize("room", ["client", "conversation", "base", "colab"])
def test_standard_library_only(room: str) -> None:
    """The client and what notebooks import need no package; neither does the ground floor."""
    allowed = sys.stdlib_module_names | {"drivefs", "IPython"} if room == "colab" else sys.stdlib_module_names | {"drivefs"}
    names = {name for path in SOURCES if room_of_file(path) == room for name in imports_of(path)}
    assert {name for name in names if name.partition(".")[0] not in allowed} == set()


def test_no_registry_and_no_path_of_a_developer() -> None:
    """What is in the repository works elsewhere: no package index is named, nor the place where it was written."""
    home = Path.home()
    registries = [rf"\b{name}\.{end}\b" for name, end in (("pypi", "org"), ("pythonhosted", "org"), ("anaconda", "com"))]
    places = [re.escape(str(place)) + r"\b" for place in (ROOT, home) if len(place.parts) > 2]
    forbidden = re.compile("|".join([*registries, *places]))
    files = [*SOURCES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("bench/**/*.py"), *ROOT.glob("scripts/*"), ROOT / "pyproject.toml"]
    found = [f"{path.relative_to(ROOT)}: {hit[0]}" for path in files if (hit := forbidden.search(path.read_text()))]
    assert found == []
