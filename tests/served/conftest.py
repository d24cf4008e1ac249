"""Daemons without a mount for these tests: they need no kernel, only processes, sockets and a Drive server."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..support.mounts import check_cache
from ..support.served import Served
from ..support.server import Server

NewServed = Callable[[], Served]


@pytest.fixture(scope="module")
def module_server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="dfs-server-"))
    server = Server(folder / "data")
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def server(module_server: Server) -> Iterator[Server]:
    """An empty Drive, without faults."""
    module_server.reset()
    yield module_server
    module_server.ask("DELETE", "/_emulator/faults")


@pytest.fixture
def new_served(server: Server) -> Iterator[NewServed]:
    """Makes homes that are not served yet; at the end their logs and caches are judged."""
    home = Path(tempfile.mkdtemp(prefix="dfs-"))  # short: sockets have short paths
    made: list[Served] = []

    def make() -> Served:
        place = home / str(len(made))
        place.mkdir()
        made.append(Served(place, server, supervise=bool(made) is False))
        return made[-1]

    yield make
    for one in made:
        one.end()
    for one in made:
        one.judge_log()
        if (one.cache / "state.db").exists():
            check_cache(one.cache)
    shutil.rmtree(home)


@pytest.fixture
def served(new_served: NewServed) -> Served:
    """Served, on an empty Drive, and supervised as people have it."""
    return new_served().serve()
