"""What is saved besides the layer: directories that ``drivefs-agent.toml`` in the store declares, and a list of apt packages."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from drivefs_agent.packages import extras
from drivefs_agent.packages.errors import Misdeclared, StoreDamaged, Untrusted
from drivefs_agent.packages.history import Store
from drivefs_agent.packages.layer import Layer, layers_folder
from drivefs_agent.packages.scan import Found, scan_directory
from drivefs_agent.state import state_folder

__all__ = ["More", "declared", "more_of", "on_apt"]


@dataclass(frozen=True, slots=True)
class More:
    """found: a part for each child of a declared directory.  apt: names of packages.

    absent: names of declared directories that are not there. A disk may not be mounted: that is no removal of what is saved.
    blind: it is not known what is declared.
    """

    found: tuple[Found, ...] = ()
    apt: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    blind: bool = False

    def speaks_of(self, name: str) -> bool:
        """Whether a part of that name would be among ``found`` if it were on this box."""
        return not self.blind and not any(name.startswith(f"dir/{each}/") for each in self.absent)


def more_of(store: Store, layer: Layer) -> More:
    """Looked at now. What is declared wrongly, or cannot be had, keeps no package from being saved: it is said."""
    try:
        return _look(store, layer)
    except Misdeclared as error:
        return More(warnings=(f"{error} Until then no directory is saved; what was saved stays.",), blind=True)


def _look(store: Store, layer: Layer) -> More:
    wanted = _read(store)
    scans = [(place, scan_directory(place.name, place.path)) for place in extras.places(wanted, _own(store, layer))]
    return More(
        found=tuple(found for _, one in scans for found in one.found),
        apt=extras.apt_packages() if wanted.apt else (),
        warnings=tuple(sentence for _, one in scans for sentence in one.warnings),
        absent=tuple(place.name for place, _ in scans if not place.path.is_dir()),
    )


def declared(store: Store, layer: Layer) -> dict[str, Path]:
    """Where the declared directories lie on this box, by name."""
    return {place.name: place.path for place in extras.places(_read(store), _own(store, layer))}


def on_apt(saved: Collection[str]) -> tuple[str, ...]:
    """A sentence about the system's packages that the state has and this box has not. To install them is for root to decide."""
    try:
        missing = sorted({*saved} - {*extras.apt_packages()}) if saved else []
    except Misdeclared as error:
        return (str(error),)
    if not missing:
        return ()
    return (f"Packages of the system that were installed by hand there and not here: apt-get install {' '.join(missing)}",)


def _read(store: Store) -> extras.Extras:
    """It decides which files of this box are sent, so it must be the account's own."""
    entry = next((entry for entry in store.folder.files() if entry.name == extras.FILE), None)
    if entry is None:
        return extras.Extras()
    if not entry.owned and not store.trusts:
        raise Untrusted(f"{extras.FILE} in {store.folder.address} belongs to somebody else. Remove it, or use --trust.")
    with store.folder.open(entry) as chunks:
        content = b"".join(chunks)
    try:
        return extras.load(content.decode())
    except UnicodeDecodeError as error:
        raise StoreDamaged(f"{extras.FILE} in {store.folder.address} is no text in UTF-8.") from error


def _own(store: Store, layer: Layer) -> tuple[Path, ...]:
    store_folder = (Path(store.folder.address),) if store.folder.address.startswith("/") else ()
    return (layers_folder(), layer.root, state_folder(), *store_folder)
