"""Homes for crash tests: like the mount tests, but the daemon is expected to die."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.mounts import Mount, check_cache, why_no_mounts
from ..support.server import Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    reason = why_no_mounts()
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.mount)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="dfs-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    server = Server(home / "server")
    yield server
    server.stop()


@pytest.fixture
def mount(home: Path, server: Server) -> Iterator[Mount]:
    """Mounted. Being killed is no excuse for a line in the log: a restart finds nothing to complain of."""
    mount = Mount(home, server).mount()
    yield mount
    if mount.pid is not None:  # a daemon that ends in order leaves nothing for the next start to tidy
        mount.run("unmount", mount.point, "--timeout", "20")
    mount.end()
    mount.judge_log()
    check_cache(mount.cache)
