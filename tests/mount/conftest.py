"""Real mounts for these tests: one Drive server for each module, emptied before each test, and a fresh home for each mount."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..support.mounts import Mount, check_cache, why_no_mounts
from ..support.server import Server

NewMount = Callable[[], Mount]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs the kernel."""
    here = Path(__file__).parent
    reason = why_no_mounts()
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.mount)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def home() -> Iterator[Path]:
    """A short private directory: sockets have short paths."""
    path = Path(tempfile.mkdtemp(prefix="dfs-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def module_server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="dfs-server-"))
    server = Server(folder / "data")
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def server(module_server: Server) -> Server:
    """An empty Drive."""
    module_server.reset()
    return module_server


@pytest.fixture
def new_mount(home: Path, server: Server) -> Iterator[NewMount]:
    """Makes mounts that are not mounted yet, each with a home of its own; at the end their logs and caches are judged."""
    mounts: list[Mount] = []

    def make() -> Mount:
        place = home / str(len(mounts))
        place.mkdir()
        mounts.append(Mount(place, server))
        return mounts[-1]

    yield make
    for mount in mounts:
        mount.end()
    for mount in mounts:
        mount.judge_log()
        if (mount.cache / "state.db").exists():
            check_cache(mount.cache)


@pytest.fixture
def mount(new_mount: NewMount) -> Mount:
    """Mounted, on an empty Drive."""
    return new_mount().mount()
