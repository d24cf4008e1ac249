"""What stat(2) shows of a node."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Final

from drivefs.base.model import Kind
from drivefs.store.content import Content
from drivefs.store.tree import Node

__all__ = ["Attributes", "attributes_of"]

_FILE_TYPE: Final = {
    Kind.FOLDER: stat.S_IFDIR,
    Kind.FILE: stat.S_IFREG,
    Kind.DOCUMENT: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.SHORTCUT: stat.S_IFLNK,
}
# What Colab's mount shows for a directory.
_FOLDER_SIZE: Final = 4096


@dataclass(frozen=True, slots=True)
class Attributes:
    """mode holds type and permission bits; size is in bytes; times are nanoseconds since the epoch."""

    inode: int
    mode: int
    links: int
    size: int
    mtime_ns: int
    created_ns: int


def attributes_of(node: Node, content: Content | None) -> Attributes:
    """content: what is open of the node, if anything; it knows length and time of writes that the row does not know yet."""
    size, mtime_ns = node.size, node.mtime_ns
    if node.kind is Kind.FOLDER:
        size = _FOLDER_SIZE
    elif node.kind is Kind.SHORTCUT:
        size = len(shortcut_place(node))
    elif content is not None:
        size = content.size
        mtime_ns = content.mtime_ns or mtime_ns
    links = 0 if node.local_trashed else 2 if node.is_folder else 1
    return Attributes(node.inode, _FILE_TYPE[node.kind] | node.mode, links, size, mtime_ns, node.created_ms * 10**6)


def shortcut_place(node: Node) -> str:
    """Where Colab's mount shows the target of a shortcut, from the mountpoint; all notebooks agree on this place."""
    return f".shortcut-targets-by-id/{node.shortcut_target}/{node.shown_name}"
