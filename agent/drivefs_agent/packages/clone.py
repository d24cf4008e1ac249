"""A generation begins as the one before it, without what is to go: hard links, so that it costs neither time nor room.

Nobody writes into an installed file in place: pip, uv and we replace files. Compiled files (``__pycache__``) are not taken along:
they would keep folders alive whose modules have gone, and such a folder can be imported.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from drivefs_agent.packages.scan import Found

__all__ = ["clone"]

_NOT_LINKED = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)


def clone(current: Path, generation: Path, found: Iterable[Found], stay: Collection[str]) -> None:
    """Everything of ``current`` but the files that only parts not named in ``stay`` have.

    What ``generation`` has already, as its own interpreter and settings, is left alone.
    """
    found = list(found)
    kept = {file.path for each in found if each.part.name in stay for file in each.files}
    gone = {file.path for each in found if each.part.name not in stay for file in each.files} - kept
    for folder, folders, names in os.walk(current):
        folders[:] = [name for name in folders if name != "__pycache__"]
        inside = os.path.relpath(folder, current)
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in [*names, *links]:
            source = os.path.join(folder, name)
            if source not in gone and not name.startswith(".drivefs-"):
                _take(source, generation / inside / name)


def _take(source: str, target: Path) -> None:
    if os.path.lexists(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NOT_LINKED:
            raise
        shutil.copy2(source, target, follow_symlinks=False)
