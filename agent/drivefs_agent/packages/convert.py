"""Ways into and out of the layer besides pip: a folder of packages is imported, what somebody put into the image is adopted, and
what only hides the image's own is pruned. ``moving`` does the work.

Invariant: neither the folder nor the image is changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from packaging.version import InvalidVersion, Version

from drivefs_agent.packages import extras
from drivefs_agent.packages.activation import image_distributions
from drivefs_agent.packages.errors import Conflict, LayerUnusable, NothingFits
from drivefs_agent.packages.fit import Judged
from drivefs_agent.packages.layer import Layer
from drivefs_agent.packages.model import Part, Target, normalised
from drivefs_agent.packages.moving import Moved, choose, rebuild
from drivefs_agent.packages.protected import is_protected
from drivefs_agent.packages.save import Watcher
from drivefs_agent.packages.scan import Changed, Found, Place, Scan, distributions, scan

__all__ = ["adopt", "import_directory", "prune_shadowed", "shadowing"]

# A store of ours may lie in the very folder that packages were put into.
_STORE: Final = ("objects", "envs", "requirements.txt", "README.txt", extras.FILE)
_ANY_PYTHON: Final = ""


def import_directory(
    layer: Layer,
    directory: Path,
    here: Target,
    *,
    replacing: bool = False,
    orphans: bool = True,
    watcher: Watcher | None = None,
) -> Moved:
    """Take what ``pip install --target DIRECTORY`` has installed.

    replacing: also in place of another version in the layer.  orphans: also files that no package owns, as modules of one's own;
    names that begin with a dot, and the files of a store, are not taken for such.
    NothingFits where no packages are there.
    """
    folder = Path(os.path.abspath(directory))
    if not distributions(folder):
        raise NothingFits(
            f"There are no packages directly in {str(folder)!r}. Name the folder that was given to pip install --target: "
            "*.dist-info folders lie in it."
        )
    if any(folder.samefile(each) for each in (layer.current, layer.site)):
        raise Conflict(f"{str(folder)!r} is the layer itself.")
    strangers = {name for name in os.listdir(folder) if name in _STORE or name.startswith(".")}
    place = Place(folder, folder / "bin", folder, _ANY_PYTHON)

    def look(suspects: Collection[str]) -> Scan:
        return scan(place, orphans=orphans, suspects=suspects, strangers=strangers)

    return _bring(layer, look, replace(here, image={}, cuda=None), here, replacing=replacing, watcher=watcher)


def adopt(
    layer: Layer, here: Target, names: Iterable[str] = (), *, replacing: bool = False, watcher: Watcher | None = None
) -> Moved:
    """Take what was installed into the image since ``enable``, or the distributions that are named, whenever they came there.

    replacing: also in place of another version in the layer.
    Conflict, and nothing is taken, where one that is named is protected or is not in the image.
    """
    image = image_distributions(layer.interpreter)
    wanted = {normalised(name) for name in names}
    if missing := wanted - set(image):
        raise Conflict(f"The image does not have {', '.join(sorted(missing))}. Install it into the layer: pip install NAME")
    stays = _protected(layer)
    if refused := sorted(name for name in wanted if is_protected(name) or name in stays):
        raise Conflict(
            f"{', '.join(refused)}: the image's own stays the image's. It is built for this box's driver, and fills gigabytes."
        )
    new = wanted or _installed_since(layer, image)
    left = [
        Judged(Part(name, image[name], ""), "It is built for this image, and stays the image's.")
        for name in sorted(new)
        if is_protected(name) or name in stays
    ]
    wanted = new - {one.part.name for one in left}

    def look(suspects: Collection[str]) -> Scan:
        return _in_image(layer, wanted, suspects)

    moved = _bring(layer, look, here, here, replacing=replacing, watcher=watcher)
    return replace(moved, left=(*moved.left, *left))


def prune_shadowed(layer: Layer, *, dry_run: bool = False) -> Moved:
    """Take away from the layer what the image has in the same or a newer version. dry_run: only say what would go.

    What was changed by hand since it was installed, and what is installed from its source, stays: the image has not got that.
    """
    with layer.locked(wait=True):
        ours = scan(layer.place, orphans=False)
        names = set(shadowing(layer, (found.part for found in ours.found)))
        hiding = [found.part for found in ours.found if found.part.name in names]
        left = tuple(Judged(part, reason) for part in hiding if (reason := _of_its_own(part)))
        gone = tuple(part for part in hiding if not _of_its_own(part))
        if not dry_run:
            rebuild(layer, ours, {part.name for part in gone})
        return Moved(gone=gone, left=left)


def shadowing(layer: Layer, parts: Iterable[Part]) -> list[str]:
    """Names of those of ``parts`` that the image has in the same or a newer version."""
    image = image_distributions(layer.interpreter)
    return [part.name for part in parts if _is_as_new(image.get(part.name), part.version)]


# -- shared ------------------------------------------------------------------------------------------------------------


def _bring(
    layer: Layer,
    look: Callable[[Collection[str]], Scan],
    made_for: Target,
    here: Target,
    *,
    replacing: bool,
    watcher: Watcher | None,
) -> Moved:
    """``look``: scans what is to come, reading those files whose scheme paths it is given."""
    with layer.locked(wait=True):
        try:
            return _attempt(layer, look(()), made_for, here, replacing=replacing, watcher=watcher)
        except Changed as error:
            if not error.paths:
                raise
            # Files are not what their RECORD says, and neither their times nor their sizes tell. Now they are read.
            return _attempt(layer, look(error.paths), made_for, here, replacing=replacing, watcher=watcher)


def _attempt(layer: Layer, there: Scan, made_for: Target, here: Target, *, replacing: bool, watcher: Watcher | None) -> Moved:
    ours = scan(layer.place)
    chosen = choose(there, ours, made_for, here, replacing=replacing)
    rebuild(layer, ours, chosen.gone, chosen.found, watcher)
    gone = tuple(found.part for found in ours.found if found.part.name in chosen.gone)
    return Moved(tuple(found.part for found in chosen.found), gone, chosen.left, chosen.warnings)


# -- the image ---------------------------------------------------------------------------------------------------------


def _installed_since(layer: Layer, image: dict[str, str]) -> set[str]:
    noted = layer.read_image()
    if noted is None:
        raise LayerUnusable(
            "Nothing says what the image had at first, because the layer is not enabled. "
            "Enable it (drivefs-agent enable), or name what you mean."
        )
    before = noted["distributions"]
    return {name for name, version in image.items() if before.get(name) != version}


def _protected(layer: Layer) -> frozenset[str]:
    try:
        return frozenset((layer.root / "protected.txt").read_text().split())
    except FileNotFoundError:
        return frozenset()


def _in_image(layer: Layer, names: Collection[str], suspects: Collection[str]) -> Scan:
    """Of one that lies in several folders, the one that is imported."""
    found: dict[str, Found] = {}
    warnings: list[str] = []
    for site in layer.interpreter.sites:
        folder = Path(site)
        root = folder.parents[2]  # PREFIX/lib/pythonX.Y/site-packages, and Debian's like it
        place = Place(folder, root / "bin", root, _ANY_PYTHON)
        due = {name for name in distributions(folder) if name in names and name not in found}
        if due:
            one = scan(place, only=due, suspects=suspects)
            found |= {each.part.name: each for each in one.found}
            warnings += one.warnings
    unknown = [
        f"Nothing says which files {name} has in the image, so it stays there." for name in sorted(set(names) - set(found))
    ]
    return Scan(tuple(each for _, each in sorted(found.items())), (*warnings, *unknown))


def _is_as_new(image: str | None, version: str) -> bool:
    if image is None:
        return False
    try:
        return Version(image) >= Version(version)
    except InvalidVersion:
        return image == version


def _of_its_own(part: Part) -> str:
    if part.editable is not None:
        return f"It is installed from its source in {part.editable}."
    return "It has been changed since it was installed." if part.modified else ""
