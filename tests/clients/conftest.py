"""Third parties' clients, unmodified, led to the embedded Drive through its TLS door: they believe they speak to Google."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ..support.server import Server

__all__ = ["Door"]


@dataclass(frozen=True)
class Door:
    """A server, its https proxy, and the certificate to trust."""

    server: Server
    proxy: str
    ca: str

    def environment(self, **more: str) -> dict[str, str]:
        """For a client's process: everything goes to the proxy, and nothing is known of the real home."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return kept | {"HTTPS_PROXY": self.proxy, "https_proxy": self.proxy} | more


@pytest.fixture(scope="module")
def module_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    server = Server(folder / "data", "--tls-proxy-port", "0", "--ca-dir", str(folder / "ca"))
    yield Door(server, server.ready["tls_proxy"], server.ready["ca"])
    server.stop()


@pytest.fixture
def door(module_door: Door) -> Door:
    """The door to an empty Drive."""
    module_door.server.reset()
    return module_door
