"""What can go wrong with packages. Every text is a sentence for people, with the next step; ``exit_code`` is the command's."""

from __future__ import annotations

__all__ = [
    "Conflict",
    "Hostile",
    "LayerUnusable",
    "Misdeclared",
    "NothingFits",
    "PackagesError",
    "StoreDamaged",
    "StoreUnreachable",
    "Untrusted",
]


class PackagesError(Exception):
    """The base of all."""

    exit_code = 1


class LayerUnusable(PackagesError):
    """The layer, or the Python that it belongs to, cannot be used as it is."""


class Misdeclared(PackagesError):
    """What drivefs-agent.toml says is not understood, or may not be."""

    exit_code = 2


class StoreUnreachable(PackagesError):
    """The store cannot be read or written now: no daemon, no network, no room."""

    exit_code = 3


class StoreDamaged(PackagesError):
    """An object or a manifest is not what was saved."""


class Untrusted(PackagesError):
    """The store, or something in it, belongs to somebody else."""


class Hostile(StoreDamaged):
    """An archive that none of ours can be: a path that leads out, a device, a bomb."""


class NothingFits(PackagesError):
    """No manifest is for a Python like this one."""

    exit_code = 4


class Conflict(PackagesError):
    """What was asked contradicts what is there, and only a person can say which is meant."""

    exit_code = 5
