"""Unsent files whose database is gone: they come back under ``MyDrive/Recovered DATE``, by what was noted beside each.

A new database knows nothing of them, and their numbers will be given out again; so they are moved out of the way before anything
else, and adopted once it is known whose Drive this is. Nothing that Drive has is touched by it: a recovered file is always a new
one. What nobody noted anything about, or what has holes that only the lost rows told of, stays in ``lost+found``.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from drivefs.base.model import Kind
from drivefs.store.db import Database
from drivefs.store.files import ORIGIN, ContentFiles
from drivefs.store.tree import MY_DRIVE_INODE, Node, Tree

__all__ = ["adopt_orphans", "set_orphans_aside"]

log = logging.getLogger(__name__)

_ORPHANS: Final = "orphans"


def set_orphans_aside(db: Database) -> None:
    """The database is new: whatever lies among the dirty files is not its own."""
    dirty = db.cache_dir / "dirty"
    place = db.cache_dir / _ORPHANS
    if db.fresh and any(dirty.glob("*/*")):
        place.mkdir(mode=0o700, exist_ok=True)
        dirty.rename(place / str(time.time_ns()))


def adopt_orphans(db: Database, tree: Tree, files: ContentFiles) -> list[str]:
    """Make files of them; returns their paths. May be cut off at any point and called again."""
    adopted = []
    top: Node | None = None
    for path in _orphans(db.cache_dir / _ORPHANS):
        origin = _origin_of(path)
        if origin is None:
            files.put_stray_aside(path)
            continue
        top = top or _folder(tree, tree.get(MY_DRIVE_INODE), time.strftime("Recovered %Y-%m-%d %H.%M.%S"))
        node = _adopt(db, tree, files, path, top, origin["path"])
        adopted.append(tree.path(node))
        log.error("%r was not on Drive when the database was lost; it is now %r", origin["path"], adopted[-1])
    _remove_empty(db.cache_dir / _ORPHANS)
    return adopted


def _orphans(place: Path) -> Iterator[Path]:
    for path in sorted(place.glob("*/*/*")):
        if path.stat().st_nlink > 1:  # adopted, and then a kill came
            path.unlink()
        else:
            yield path


def _remove_empty(place: Path) -> None:
    for folder, _, _ in os.walk(place, topdown=False):
        os.rmdir(folder)


def _origin_of(path: Path) -> dict[str, Any] | None:
    """What was noted beside the bytes, where that is enough to make a file of them."""
    try:
        origin = json.loads(os.getxattr(path, ORIGIN))
    except (OSError, ValueError):  # nothing was noted, or that is damaged too: then it is kept without a name
        return None
    usable = isinstance(origin, dict) and isinstance(origin.get("path"), str) and origin.get("complete") is True
    return origin if usable else None


def _adopt(db: Database, tree: Tree, files: ContentFiles, path: Path, top: Node, former: str) -> Node:
    status = path.stat()
    *folders, name = former.removeprefix("MyDrive/").split("/")
    with db.transaction():
        parent = top
        for folder in folders:
            parent = tree.child(parent.inode, folder) or _folder(tree, parent, folder)
        node = tree.create(parent.inode, tree.free_name(parent.inode, name), Kind.FILE, 0o600)
        row = {"inode": node.inode, "base_size": 0, "dirty": 1, "used_ms": time.time_ns() // 10**6}
        content = db.insert("content", row)
        tree.update(
            node.inode,
            content=content,
            content_dirty=1,
            generation=1,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            local_mtime_ms=status.st_mtime_ns // 10**6,
        )
        files.take_in(content, path)
    path.unlink()
    return tree.get(node.inode)


def _folder(tree: Tree, parent: Node, name: str) -> Node:
    return tree.create(parent.inode, tree.free_name(parent.inode, name), Kind.FOLDER, 0o700)
