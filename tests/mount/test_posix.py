"""The same small programs on the mount and on the local disk: results and errnos must be the same.

What differs by decision is listed in ``OURS``, each with its reason; nothing else may differ.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support.mounts import Mount
from ..support.server import Server
from . import posix_attributes, posix_content, posix_names
from .programs import PROGRAMS, outcome, tree

# Importing a module registers its programs.
_MODULES = (posix_attributes, posix_content, posix_names)

# What the mount may answer where the local disk answers something else, and why.
OURS: dict[str, list[Any]] = {
    # Drive has no second name for an item. We answer ENOSYS as Colab does, which newer kernels turn into EPERM; git, pip and
    # uv fall back to copies.
    "hard_link": ["ENOSYS", "EPERM"],
    # Drive holds files and folders; there is nothing that a pipe, a socket or a device could become.
    "mkfifo": ["EPERM"],
    "bind_unix_socket": ["EPERM"],
    "mknod_device": ["EPERM"],
    # Names on Drive are Unicode.
    "name_not_utf8": ["EILSEQ"],
    # Nobody may plant a file that runs as somebody else on the next machine.
    "chmod_setuid": [0o755],
    # Drive knows accounts, not the users of one machine.
    "chown_to_another": ["EPERM"],
    # Attributes are Drive's own.
    "set_an_xattr": ["ENOTSUP"],
    # RENAME_EXCHANGE would be several calls on Drive, so it could not be atomic.
    "rename_exchange": ["EINVAL"],
    # Holes take no room here either, but nobody asks FUSE where they are: all is data up to the end.
    "seek_data_and_hole": [(0, 1 << 20)],
}


@pytest.fixture(scope="module")
def shared(module_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """One mount for all programs of this module: each works in a directory of its own."""
    home = Path(tempfile.mkdtemp(prefix="dfs-"))
    mount = Mount(home, module_server).mount()
    yield mount
    mount.unmount()
    mount.end()


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_as_the_local_disk(name: str, shared: Mount, tmp_path: Path) -> None:
    """A program sees on the mount what it sees on the local disk, but for the listed differences."""
    folder = shared.my / name
    folder.mkdir()
    local = outcome(PROGRAMS[name], tmp_path)
    ours = outcome(PROGRAMS[name], folder)
    if name in OURS:
        assert ours in OURS[name]
        assert local not in OURS[name], "no difference any more: take it out of OURS"
    else:
        assert ours == local
    shared.judge_log()


def test_drive_has_what_the_programs_left(shared: Mount, module_server: Server) -> None:
    """After all of that the server's tree is the mount's tree, byte for byte."""
    shared.flush()
    mine = tree(shared.my)
    items = module_server.paths()
    for path, content in mine.items():
        if isinstance(content, bytes):
            assert module_server.content(items[path]["id"]) == content, path
    assert items.keys() == mine.keys()
    assert mine, "no program left anything"
