"""Which wheels a Python can load, by their tags, for a Python that need not be the one that runs this.

Source: PyPA specifications, "Platform compatibility tags"; PEP 425, 513, 571, 599, 600 (manylinux), 656 (musllinux), 703 ("t").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from packaging.tags import InvalidTag, Tag, compatible_tags, cpython_tags, parse_tag

from drivefs_agent.packages.model import Target

__all__ = ["at_least", "libc_of", "loadable"]

_LIBC: Final = re.compile(r"(?P<name>[a-z]+)[- ]?(?P<major>\d+)\.(?P<minor>\d+)")
# The oldest glibc that the manylinux policies know, by machine; and the names that some had before they were numbered.
_OLDEST_X86: Final = 5
_OLDEST: Final = 17
_NAMED_GLIBC: Final = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
# A compressed tag stands for the product of its pieces; the longest that is published has some 150 characters.
_LONGEST: Final = 300


def libc_of(text: str) -> tuple[str, int, int] | None:
    """("glibc", 2, 36) of "glibc-2.36"; None where it cannot be told."""
    match = _LIBC.match(text)
    return (match["name"], int(match["major"]), int(match["minor"])) if match else None


def at_least(here: str, then: str) -> bool:
    """What was built with the C library ``then`` runs with ``here``: the same one, and not older."""
    ours, theirs = libc_of(here), libc_of(then)
    if ours is None or theirs is None:
        return here == then
    return ours[0] == theirs[0] and ours[1:] >= theirs[1:]


def loadable(tags: Iterable[str], target: Target, *, local: bool) -> bool:
    """Whether a wheel with any of ``tags`` (compressed or not) can be loaded.

    local: also one that was built on a box and not for publishing ("linux_x86_64"), because its box was like this one.
    """
    known = _known(target.implementation, target.minor, target.abi, target.machine, target.libc, local)
    return any(tag in known for text in tags for tag in _parsed(text))


def _parsed(text: str) -> frozenset[Tag]:
    """A tag that is none can be loaded by nobody."""
    try:
        return parse_tag(text) if len(text) <= _LONGEST and text.count("-") == 2 else frozenset()
    except InvalidTag:
        return frozenset()


@lru_cache(maxsize=16)
def _known(implementation: str, minor: str, abi: str, machine: str, libc: str, local: bool) -> frozenset[Tag]:
    version = tuple(int(number) for number in minor.split("."))
    name = f"{implementation}{minor.replace('.', '')}"
    # An empty list would mean "those of the Python that runs this"; "linux" alone is a platform that no wheel is for.
    platforms = [*_platforms(machine, libc), *([f"linux_{machine}"] if local else [])] or ["linux"]
    found = set(compatible_tags(version, name, platforms))
    if implementation == "cp":
        found |= set(cpython_tags(version, [name + abi], platforms))
    return frozenset(found)


def _platforms(machine: str, libc: str) -> Iterator[str]:
    known = libc_of(libc)
    if known is None:
        return
    name, major, minor = known
    if name == "musl":
        yield from (f"musllinux_{major}_{each}_{machine}" for each in range(minor + 1))
    if name == "glibc" and major == 2:  # it has been 2 since 1997
        oldest = _OLDEST_X86 if machine in ("x86_64", "i686") else _OLDEST
        for each in range(oldest, minor + 1):
            yield f"manylinux_2_{each}_{machine}"
            if each in _NAMED_GLIBC:
                yield f"{_NAMED_GLIBC[each]}_{machine}"
