"""The values that a store is made of, and their form as JSON (schema ``drivefs.packages/1``). Pure.

A *manifest* is one state of an environment: what it is made of (its parts), for which Python and box (its target), and the
manifests that it came after (its parents). A *part* is a distribution, the files in site-packages that no distribution owns, or
a directory declared in drivefs-agent.toml. The bytes of a part lie in an *object*: an immutable archive that holds one part or,
where they are small, several.

Invariants: a manifest is written once and never changed; it is written after all objects that it names; an object's name ends in
the first 16 hexadecimal digits of its SHA-256, so that equal names hold equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from drivefs_agent.packages.errors import StoreDamaged

__all__ = ["SCHEMA", "Kind", "Manifest", "Object", "Part", "Target", "normalised"]

SCHEMA: Final = "drivefs.packages/1"
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_OBJECT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,200}-[0-9a-f]{16}\.tar\.zst")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ /+-]{0,200}")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,100}|")
_MANIFEST_ID: Final = re.compile(r"[0-9]{8}T[0-9]{9}Z-[A-Za-z0-9_]{1,64}-[0-9a-f]{12}")


class Kind:
    """What a part is."""

    DISTRIBUTION: Final = "distribution"
    ORPHANS: Final = "orphans"
    DIRECTORY: Final = "directory"


_KINDS: Final = (Kind.DISTRIBUTION, Kind.ORPHANS, Kind.DIRECTORY)


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it. Source: PyPA specifications, "Names and normalization"."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True, slots=True)
class Target:
    """What a layer is for: a Python, and the box that it runs on.

    implementation: as in wheel tags ("cp").  minor: "3.11".  abi: "t" for a free-threaded build, else "".  machine: as uname.
    libc: its name and version ("glibc-2.36").  cuda: the major version that the image's torch or the driver is for, or None.
    image: the protected distributions of the image (torch and its like), name to version.
    """

    implementation: str
    minor: str
    abi: str
    machine: str
    libc: str
    cuda: str | None = None
    image: Mapping[str, str] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """States with equal lines follow each other in one history: "cp311-x86_64", "cp313t-aarch64"."""
        return f"{self.implementation}{self.minor.replace('.', '')}{self.abi}-{self.machine}"

    def to_json(self) -> dict[str, Any]:
        return {
            "implementation": self.implementation,
            "minor": self.minor,
            "abi": self.abi,
            "machine": self.machine,
            "libc": self.libc,
            "cuda": self.cuda,
            "image": dict(sorted(self.image.items())),
        }

    @classmethod
    def from_json(cls, found: Any) -> Target:
        image = _mapping(found, "image")
        return cls(
            implementation=_text(found, "implementation"),
            minor=_text(found, "minor", re.compile(r"\d+\.\d+")),
            abi=_text(found, "abi", re.compile(r"t?")),
            machine=_text(found, "machine"),
            libc=_text(found, "libc"),
            cuda=None if found.get("cuda") is None else _text(found, "cuda"),
            image={str(name): str(version) for name, version in image.items()},
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an environment.

    name: of a distribution, normalised; "_orphans"; or for a directory, "dir/NAME/CHILD".  key: SHA-256 over what is in it, so
    that parts with equal keys need not be stored twice.  object: the archive that holds it; "" while there is none.
    size: bytes, unpacked; files: how many.  tags: a wheel's, empty where it is not known.  native: it holds compiled code.
    needs: normalised names of the protected distributions that it depends on.  requested: a person asked for it by name.
    direct_url: PEP 610's JSON, where it did not come from an index.  editable: where its source lies on the box that saved it;
    such a part has no object.  modified: paths (scheme paths, see ``scan``) whose bytes are not what RECORD says.
    installed: Unix time.
    """

    name: str
    version: str
    key: str
    kind: str = Kind.DISTRIBUTION
    object: str = ""
    size: int = 0
    files: int = 0
    tags: tuple[str, ...] = ()
    native: bool = False
    needs: tuple[str, ...] = ()
    requested: bool = False
    direct_url: str | None = None
    editable: str | None = None
    modified: tuple[str, ...] = ()
    installed: float = 0.0

    @property
    def folder(self) -> str:
        """The folder in the archive that the part's files lie in."""
        return f"{self.name.replace('/', '_')}-{self.version}" if self.version else self.name.replace("/", "_")

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {"name": self.name, "version": self.version, "key": self.key, "kind": self.kind}
        values |= {"object": self.object, "size": self.size, "files": self.files, "installed": self.installed}
        optional = {"native": self.native, "requested": self.requested, "direct_url": self.direct_url, "editable": self.editable}
        lists = {"tags": list(self.tags), "needs": list(self.needs), "modified": list(self.modified)}
        return values | {name: value for name, value in (optional | lists).items() if value}

    @classmethod
    def from_json(cls, found: Any) -> Part:
        kind = _text(found, "kind")
        if kind not in _KINDS:
            raise StoreDamaged(f"A manifest has a part of an unknown kind {kind!r}. Update drivefs on this box.")
        return cls(
            name=_text(found, "name", _NAME),
            version=_text(found, "version", _VERSION),
            key=_text(found, "key", _HEX64),
            kind=kind,
            object=_text(found, "object", re.compile(f"{_OBJECT.pattern}|")),
            size=_number(found, "size"),
            files=_number(found, "files"),
            tags=_texts(found, "tags"),
            native=bool(found.get("native", False)),
            needs=_texts(found, "needs"),
            requested=bool(found.get("requested", False)),
            direct_url=None if found.get("direct_url") is None else _text(found, "direct_url"),
            editable=None if found.get("editable") is None else _text(found, "editable"),
            modified=_texts(found, "modified"),
            installed=float(_number(found, "installed", float)),
        )


@dataclass(frozen=True, slots=True)
class Object:
    """An archive in the store. sha256: of its bytes; size: bytes, packed."""

    name: str
    sha256: str
    size: int

    def to_json(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "size": self.size}

    @classmethod
    def from_json(cls, name: str, found: Any) -> Object:
        if not _OBJECT.fullmatch(name):
            raise StoreDamaged(f"A manifest names an object {name!r} that none of ours can be.")
        made = cls(name, _text(found, "sha256", _HEX64), _number(found, "size"))
        if not name.endswith(f"-{made.sha256[:16]}.tar.zst"):
            raise StoreDamaged(f"A manifest gives the object {name!r} a checksum that its name denies.")
        return made


@dataclass(frozen=True, slots=True)
class Manifest:
    """One state of an environment. id: also its file's name. time: Unix time. box: the host that wrote it."""

    id: str
    env: str
    parents: tuple[str, ...]
    time: float
    box: str
    target: Target
    parts: tuple[Part, ...]
    objects: Mapping[str, Object]
    reason: str = "save"
    apt: tuple[str, ...] = ()

    def by_name(self) -> dict[str, Part]:
        return {part.name: part for part in self.parts}

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "id": self.id,
            "env": self.env,
            "parents": list(self.parents),
            "time": self.time,
            "box": self.box,
            "reason": self.reason,
            "target": self.target.to_json(),
            "parts": [part.to_json() for part in sorted(self.parts, key=lambda part: part.name)],
            "objects": {name: one.to_json() for name, one in sorted(self.objects.items())},
            "apt": list(self.apt),
        }

    @classmethod
    def from_json(cls, found: Any) -> Manifest:
        """StoreDamaged where it is none, or holds what none of ours can hold: it may come from a stranger."""
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            raise StoreDamaged(f"It is no manifest of {SCHEMA}. If it is from a newer drivefs, update this one.")
        parts = tuple(Part.from_json(each) for each in _list(found, "parts"))
        if len({part.name for part in parts}) != len(parts):
            raise StoreDamaged("A manifest names a part twice.")
        objects = {str(name): Object.from_json(str(name), each) for name, each in _mapping(found, "objects").items()}
        if missing := {part.object for part in parts if part.object} - set(objects):
            raise StoreDamaged(f"A manifest names {len(missing)} objects without their checksums.")
        return cls(
            id=_text(found, "id", _MANIFEST_ID),
            env=_text(found, "env"),
            parents=tuple(_texts(found, "parents")),
            time=float(_number(found, "time", float)),
            box=_text(found, "box"),
            target=Target.from_json(_mapping(found, "target")),
            parts=parts,
            objects=objects,
            reason=_text(found, "reason"),
            apt=_texts(found, "apt"),
        )


def _mapping(found: Any, name: str) -> dict[str, Any]:
    value = found.get(name, {})
    if not isinstance(value, dict):
        raise StoreDamaged(f"In a manifest, {name!r} is no object.")
    return value


def _list(found: Any, name: str) -> list[Any]:
    value = found.get(name, [])
    if not isinstance(value, list):
        raise StoreDamaged(f"In a manifest, {name!r} is no list.")
    return value


def _text(found: Any, name: str, pattern: re.Pattern[str] | None = None) -> str:
    value = found.get(name, "") if isinstance(found, dict) else None
    if not isinstance(value, str) or "\0" in value or (pattern is not None and not pattern.fullmatch(value)):
        raise StoreDamaged(f"In a manifest, {name!r} is {value!r}, which none of ours is.")
    return value


def _texts(found: Any, name: str) -> tuple[str, ...]:
    values = _list(found, name)
    if not all(isinstance(value, str) and "\0" not in value for value in values):
        raise StoreDamaged(f"In a manifest, {name!r} is no list of texts.")
    return tuple(values)


def _number(found: Any, name: str, kind: type[int] | type[float] = int) -> Any:
    value: Any = found.get(name, 0) if isinstance(found, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | kind) or not 0 <= value < 1 << 62:
        raise StoreDamaged(f"In a manifest, {name!r} is {value!r}, which is no size or time.")
    return value
