"""Named places where a test lets the process die by SIGKILL, as a power switch would: ``DRIVEFS_CRASH_AT=name:n``.

The n-th passing of the place called ``name`` is the last thing the process does. Without the variable nothing is counted.
The names in use are listed here, so that tests can go through all of them and a mistyped one is an error.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

__all__ = ["POINTS", "arm", "crash_point", "disarm"]

_REQUESTS: Final = (
    "create",
    "flush",
    "fsync",
    "fsyncdir",
    "mkdir",
    "release",
    "rename",
    "rmdir",
    "setattr",
    "symlink",
    "unlink",
    "write",
)

POINTS: Final[frozenset[str]] = frozenset(
    {
        "after-commit",  # of any transaction of several statements
        "answer-PATCH",  # Drive has applied it, and nobody here knows yet
        "answer-POST",
        "answer-PUT",
        "answer-not-recorded",  # what Drive has answered is about to be merged into the tree
        "before-commit",
        "before-step",  # a pending node's next call is about to be made
        "change-noted",  # the row says dirty; the file lies among the clean ones, and no byte has changed
        "checksum-noted",  # of what the request that comes next will commit
        "chunk-answered",
        "content-answered",  # Drive has the content, and its row still says dirty
        "content-created",  # the file of a new content is there, its row is not committed
        "data-synced",  # fsync: the bytes are on the disk, the rows may not be
        "file-cut",  # a file was cut or extended, its rows not yet
        "id-noted",  # a new item's id is in its row, nothing was sent
        "page-applied",  # a page of the changes feed is merged, the token that follows it is not written
        "recovery-discarded",  # a start has dropped one superseded content
        "recovery-entry",  # a start looks at one pending row
        "recovery-file",  # a start looks at one content file
        "request",  # the kernel's next request has come, so all answers before it have gone out
        "row-dropped",  # eviction, deletion: the content's row is gone, its file is still there
        "session-noted",  # the resumable session's address is in the row
        "session-opened",  # and here it is not
        "upload-recorded",  # the row says clean, the file still lies among the dirty ones
        "written-not-recorded",  # the user's bytes lie in the file, the rows do not know them
        *(f"done-{request}" for request in _REQUESTS),  # carried out, and the kernel has not heard of it
    }
)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


_chosen = ""
_left = 0
_end: Callable[[], None] = _die


def arm(text: str, end: Callable[[], None] = _die) -> None:
    """``text`` is ``name:n``, or ``name`` for its first passing.  end: what is called then.

    Raises ValueError where no place has that name.
    """
    global _chosen, _left, _end
    name, _, times = text.partition(":")
    if name not in POINTS:
        raise ValueError(f"DRIVEFS_CRASH_AT names no crash point: {name!r}")
    _chosen, _left, _end = name, int(times or "1"), end


def disarm() -> None:
    global _chosen
    _chosen = ""


if os.environ.get("DRIVEFS_CRASH_AT"):
    arm(os.environ["DRIVEFS_CRASH_AT"])


def crash_point(name: str) -> None:
    """Die here if this is the passing that was asked for."""
    global _left
    if name != _chosen:
        return
    _left -= 1
    if _left == 0:
        _end()
