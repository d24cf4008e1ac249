"""A look at a path that may lie in a mount which answers late or never, from a process that can be left behind.

A system call on a mount of FUSE cannot be given up once the daemon has read the request: who makes it hangs until the daemon
answers, SIGKILL or not. Where a daemon makes one on its own mount, killing it leaves a process that cannot end, which holds the
connection open, so that nobody gets an answer ever. So neither a daemon nor a command makes one: a child does, which holds no
descriptor of ours.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

__all__ = ["Look", "look"]

# stat(2) may be answered from the kernel's cache, even long after the daemon's death; statvfs(2) always asks the daemon.
_CODE: Final = """
import os, sys
try:
    status = os.stat(sys.argv[1])
    os.statvfs(sys.argv[1])
    print(0, status.st_dev, status.st_ino)
except OSError as error:
    print(error.errno, 0, 0)
"""

# Children that were left behind: looked after at the next look, so that they do not stay zombies for ever.
_left: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class Look:
    """error: 0, or the errno that stat(2) or statvfs(2) gave; ETIMEDOUT where neither answered in time."""

    error: int
    device: int = 0
    inode: int = 0


def look(path: str | os.PathLike[str], timeout: float) -> Look:
    """Look at ``path``, following links, for at most ``timeout`` seconds; blocks."""
    _left[:] = [child for child in _left if child.poll() is None]
    command = [sys.executable, "-IS", "-c", _CODE, os.fspath(path)]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/")
    try:
        said, _ = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        child.kill()
        assert child.stdout is not None
        child.stdout.close()
        _left.append(child)
        return Look(errno.ETIMEDOUT)
    fields = said.split()
    return Look(*map(int, fields)) if len(fields) == 3 else Look(errno.EIO)
