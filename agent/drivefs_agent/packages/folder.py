"""The folder that a store lies in, as all of ``packages`` sees it: names, bytes, and whose they are.

Two are behind it: ``drive_folder`` (through a daemon of drivefs) and ``directory`` (a directory of this machine).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Entry", "Folder", "Progress"]

# Told how many more bytes went by.
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in the folder. id: what ``open`` and ``trash`` take.  md5: what the store says of its bytes; None where it does not.

    owned: it belongs to the account that asks.  created: Unix time.
    """

    name: str
    id: str
    size: int
    md5: str | None
    owned: bool
    created: float


class Folder(Protocol):
    """All paths are relative, with slashes: "objects/x.tar.zst". Raises StoreUnreachable, and StoreDamaged for wrong bytes."""

    @property
    def address(self) -> str:
        """For people: where this is."""

    def owned(self) -> bool:
        """The folder belongs to the account; also where it does not exist yet."""

    def files(self, path: str = "") -> list[Entry]:
        """The files (not the folders) directly in a sub-folder, as the store itself has them now; empty where there is no such
        folder. Two may have one name.
        """

    def folders(self, path: str = "") -> list[str]:
        """The names of the folders directly in a sub-folder."""

    def open(self, entry: Entry, progress: Progress | None = None) -> AbstractContextManager[Iterator[bytes]]:
        """Its bytes as they come. Raises while iterating where they break off."""

    def put(self, path: str, source: Path | bytes, progress: Progress | None = None) -> Entry:
        """Write a file, or replace one of that name, as a whole. Returns when the store confirmed its checksum."""

    def trash(self, entry: Entry) -> None:
        """Take it away such that a person can bring it back for some weeks."""
