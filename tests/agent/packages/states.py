"""Parts, targets and manifests for tests, with as little said as a test needs."""

from __future__ import annotations

import hashlib

from drivefs_agent.packages.history import new_id
from drivefs_agent.packages.model import Manifest, Object, Part, Target

__all__ = ["TARGET", "manifest", "object_of", "part"]

TARGET = Target("cp", "3.11", "", "x86_64", "glibc-2.36")


def part(name: str, version: str = "1.0", *, installed: float = 1000.0, content: str = "", stored: bool = True) -> Part:
    """``content``: tells apart what has one version."""
    key = hashlib.sha256(f"{name} {version} {content}".encode()).hexdigest()
    return Part(name, version, key, installed=installed, object=object_of(name, version, content).name if stored else "", size=10)


def object_of(name: str, version: str = "1.0", content: str = "") -> Object:
    sha256 = hashlib.sha256(f"{name} {version} {content}".encode()).hexdigest()
    return Object(f"{name}-{version}-{sha256[:16]}.tar.zst", sha256, 5)


def manifest(
    *parts: Part, parents: tuple[str, ...] = (), time: float = 1_700_000_000.0, box: str = "box", env: str = "default"
) -> Manifest:
    objects = {one.name: one for each in parts for one in [object_of(each.name, each.version)] if each.object == one.name}
    return Manifest(new_id(time, box), env, parents, time, box, TARGET, parts, objects)
