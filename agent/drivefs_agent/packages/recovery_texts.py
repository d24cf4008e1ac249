"""The two texts in a store for somebody who has nothing but a browser and pip. Pure.

Invariant: equal states give equal texts (no time, no box), so that a save that changed nothing writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from drivefs_agent.packages.model import Kind, Manifest, Part
from drivefs_agent.packages.origin import origin_of

__all__ = ["readme", "requirements"]

_README: Final = """\
Python packages, kept by drivefs-agent
======================================

This folder ({address})
holds the Python packages that were installed on your boxes. On a new box, one command brings them back:

    drivefs-agent enable
    drivefs-agent packages restore

What lies here
--------------
requirements.txt   what was saved last, as a list that pip understands
objects/           the packages themselves, each archive under a name that ends in its checksum
envs/              the states, newest last by name: which packages, for which Python, in which archives

Please change nothing in objects/ and envs/. An archive is shared by many states, is never changed once it is written, and is
checked before it is used: an edited one is refused. What no state needs any more goes to the trash by: drivefs-agent packages gc

Without drivefs
---------------
The simple way, with the same versions from the network:

    pip install --no-deps -r requirements.txt

Without the network, or for what the network no longer has, unpack archives by hand. Each holds folders named NAME-VERSION, and in
each of those: purelib/ (what belongs into site-packages), scripts/ (what belongs into bin) and data/ (what belongs into the
environment's root):

    mkdir unpacked
    for archive in objects/*.tar.zst; do tar --zstd -xf "$archive" -C unpacked; done
    PYTHONPATH=unpacked/numpy-2.4.6/purelib python

In scripts, the word @PYTHON@ on the first lines stands for the path of Python: put yours there. Packages with compiled code work
only with the Python that they were saved for; the folders in envs/ are named after it (cp311-x86_64 is Python 3.11 on x86-64).
"""


def readme(address: str) -> str:
    """README.txt. ``address``: where the store is, for people."""
    return _README.format(address=" ".join(address.split()))


def requirements(manifest: Manifest) -> str:
    """requirements.txt: what a person asked for first, then what came with it, then what cannot be had again, as comments."""
    distributions = sorted((part for part in manifest.parts if part.kind == Kind.DISTRIBUTION), key=lambda part: part.name)
    image = manifest.target.image
    had = [part for part in distributions if origin_of(part).requirement]
    blocks = [
        _head(manifest),
        _block("Asked for by name", (_line(part, image) for part in had if part.requested)),
        _block("What these need, or what was installed with them", (_line(part, image) for part in had if not part.requested)),
        _block("Not to be had from an index", (_comment(part) for part in distributions if part not in had)),
        _block("Packages of the system that were installed by hand (apt)", (f"# {_plain(name)}" for name in manifest.apt)),
    ]
    return "\n".join(block for block in blocks if block)


def _head(manifest: Manifest) -> str:
    target = manifest.target
    image = ", ".join(f"{_plain(name)} {_plain(version)}" for name, version in sorted(target.image.items()))
    lines = [
        "# Written by drivefs-agent at each save: changes made here are lost.",
        f"# For Python {target.minor}{target.abi} on {_plain(target.machine)}:",
        "#     pip install --no-deps -r requirements.txt",
    ]
    lines += [f"# The image had, and these packages use: {image}"] if image else []
    return "".join(f"{line}\n" for line in lines)


def _block(title: str, lines: Iterable[str]) -> str:
    found = list(lines)
    return "".join(f"{line}\n" for line in [f"# {title}:", *found]) if found else ""


def _line(part: Part, image: Mapping[str, str]) -> str:
    requirement = origin_of(part).requirement
    # The next image probably has one too, and pip would fetch gigabytes to replace it.
    return f"# {requirement}  (the image had one of its own)" if part.name in image else requirement


def _comment(part: Part) -> str:
    return f"# {_plain(part.name)} {_plain(part.version)}: {_plain(origin_of(part).refusal)}".replace(" : ", ": ")


def _plain(text: str) -> str:
    """On one line: what a manifest says must not become a line of its own."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
