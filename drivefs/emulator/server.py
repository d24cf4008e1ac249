"""``drivefs emulator``: the Drive v3 server as a process of its own.

When it answers it prints one JSON line: ``{"url": ..., "pid": ..., "root_id": ..., "data": ...}``, with the TLS door also
``"tls_proxy"`` and ``"ca"``. SIGTERM and SIGINT end it with exit status 0. A data folder is used by one server at a time (flock
on ``lock``); ``server.json`` in it says where that one is.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final

import click
import uvicorn

from drivefs.emulator import datafolder
from drivefs.emulator.app import Emulator
from drivefs.emulator.certificates import Authority, AuthorityError
from drivefs.emulator.connection import Connection
from drivefs.emulator.datafolder import Refused
from drivefs.emulator.faults.quota import MODELS
from drivefs.emulator.faults.rules import RuleError
from drivefs.emulator.faults.setup import FaultOptions
from drivefs.emulator.settings import DEFAULT_SETTINGS, Settings
from drivefs.emulator.store import FREE_TIER, Store
from drivefs.emulator.tlsdoor import TlsDoor
from drivefs.emulator.tokens import TOKEN_SECONDS

__all__ = ["command", "main", "serve"]

_GRACE_SECONDS: Final = 2  # for answers under way when the server is told to stop
_KEEP_ALIVE_SECONDS: Final = 240


class _Server(uvicorn.Server):
    """Announces itself when it listens, and ends when nobody asked anything for ``idle_exit`` seconds."""

    def __init__(self, config: uvicorn.Config, emulator: Emulator, idle_exit: float | None, ready: dict[str, Any]) -> None:
        super().__init__(config)
        self._emulator, self._idle_exit, self._ready = emulator, idle_exit, ready
        self.door: tuple[TlsDoor, socket.socket] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.door:
            await self.door[0].open(self.door[1])
        if self.started:
            sys.stdout.write(json.dumps(self._ready) + "\n")
            sys.stdout.flush()

    async def on_tick(self, counter: int) -> bool:
        if self._idle_exit is not None and self._emulator.traffic.idle_seconds() >= self._idle_exit:
            return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.door:
            self.door[0].close()
        await super().shutdown(sockets)


def _listen(host: str, port: int, former_port: int) -> socket.socket:
    if port == 0 and former_port:
        with contextlib.suppress(OSError):  # taken by someone else meanwhile: any port will do
            return _bind(host, former_port)
    try:
        return _bind(host, port)
    except OSError as error:
        message = f"cannot listen on {host}:{port} ({error}). Choose another --host or --port; port 0 takes any free one."
        raise Refused(message) from None


def _bind(host: str, port: int) -> socket.socket:
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048)
    # Inherited by every connection. Without it each answer waits 40 ms for the client's delayed acknowledgement, since head and
    # body are two writes.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    data: Path | None = None,
    *,
    idle_exit: float | None = None,
    tokens: tuple[str, ...] = (),
    storage_limit: int | None = FREE_TIER,
    tls_proxy_port: int | None = None,
    ca_dir: Path | None = None,
    token_seconds: int = TOKEN_SECONDS,
    faults: FaultOptions | None = None,
    settings: Settings = DEFAULT_SETTINGS,
) -> None:
    """Serve until told to stop. data None: everything is in memory and in a temporary folder, and gone at the end.

    tls_proxy_port None: no TLS door; 0: any free port. ca_dir None: the authority is kept in the data folder.
    Raises click.ClickException, with exit_code 8 where the data folder is in use.
    """
    data = data.absolute() if data else None
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(datafolder.working_folder(data))
        listener = stack.enter_context(_listen(host, port, datafolder.former_port(folder)))
        tls = None
        if tls_proxy_port is not None:
            tls = _tls_parts(host, tls_proxy_port, ca_dir.absolute() if ca_dir else folder / "ca")
            stack.enter_context(tls[1])
        store = Store.open(folder, in_memory=data is None, storage_limit=storage_limit)
        store.settings = settings
        emulator = _emulator(store, tokens, faults or FaultOptions(), token_seconds)
        try:
            url = _url(host, listener)
            ready = {"url": url, "pid": os.getpid(), "root_id": store.root_id, "data": str(data) if data else None}
            if tls:
                ready |= {"tls_proxy": _url(host, tls[1]), "ca": str(tls[0].path)}
            if data is not None:
                datafolder.write_server_file(data, ready)
            _run(emulator, listener, idle_exit, ready, tls)
        finally:
            emulator.close()


def _emulator(store: Store, tokens: tuple[str, ...], faults: FaultOptions, token_seconds: int) -> Emulator:
    try:
        return Emulator(store, frozenset(tokens), faults, token_seconds)
    except RuleError as error:
        store.close()
        raise Refused(str(error)) from None


def _url(host: str, listener: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def _tls_parts(host: str, port: int, folder: Path) -> tuple[Authority, socket.socket]:
    """What the TLS door needs. It opens to this machine only: whoever reaches it is served as Google would be."""
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        raise Refused(f"the TLS door opens to this machine only, not at {host}. Leave out --tls-proxy-port, or --host.")
    try:
        return Authority.open(folder), _listen(host, port, 0)
    except AuthorityError as error:
        raise Refused(str(error)) from None


def _run(
    emulator: Emulator,
    listener: socket.socket,
    idle_exit: float | None,
    ready: dict[str, Any],
    tls: tuple[Authority, socket.socket] | None,
) -> None:
    config = uvicorn.Config(
        emulator.wire,
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = _Server(config, emulator, idle_exit, ready)
    if tls:
        server.door = TlsDoor(tls[0], server), tls[1]
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal once more when it has shut down; to be told to stop is no failure.
        signal.signal(number, lambda *_: None)
    asyncio.run(server.serve(sockets=[listener]))


def _settings(given: tuple[str, ...]) -> Settings:
    pairs = (one.partition("=")[::2] for one in given)
    try:
        return DEFAULT_SETTINGS.changed({name: int(value) if value.isdecimal() else value for name, value in pairs})
    except ValueError as error:
        raise Refused(f"{error} Write --set NAME=NUMBER.") from None


@click.command("emulator")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 takes any free one.")
@click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Keep everything in this folder. Default: memory only."
)
@click.option("--idle-exit", type=click.FloatRange(0, min_open=True), metavar="S", help="End after S seconds without a request.")
@click.option(
    "--token", "tokens", multiple=True, metavar="T", help="Accept only this access token (repeatable), and issued ones."
)
@click.option(
    "--token-lifetime",
    "token_seconds",
    default=TOKEN_SECONDS,
    show_default=True,
    type=click.IntRange(1),
    metavar="S",
    help="How long access tokens from /token are good.",
)
@click.option(
    "--storage-limit", default=FREE_TIER, show_default=True, type=click.IntRange(0), metavar="BYTES", help="0 = unlimited."
)
@click.option(
    "--tls-proxy-port",
    type=click.IntRange(0, 65535),
    metavar="P",
    help="Also listen here as https proxy for clients with compiled-in Google addresses; 0 takes any free port.",
)
@click.option(
    "--ca-dir", type=click.Path(path_type=Path, file_okay=False), help="Where that proxy's certificate authority is kept."
)
@click.option("--set", "settings", multiple=True, metavar="NAME=N", help="A limit or habit, as /_emulator/settings lists them.")
@click.option("--faults", type=click.Path(path_type=Path), metavar="FILE", help="Rules (TOML, or .json), re-read when changed.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Of everything that is left to chance.")
@click.option("--latency", default="none", show_default=True, type=click.Choice(["none", "drive"]), help="drive = as Google's.")
@click.option("--quota", default="none", show_default=True, type=click.Choice(["none", *MODELS]), help="Calls a minute.")
@click.option("--quota-scale", default=1.0, type=click.FloatRange(0, min_open=True), metavar="F", help="Multiplies that quota.")
@click.option(
    "--upload-limit", type=click.IntRange(1), metavar="BYTES", help="In 24 hours. Default with a quota: 750 GB times F."
)
def command(
    host: str,
    port: int,
    data: Path | None,
    idle_exit: float | None,
    tokens: tuple[str, ...],
    storage_limit: int,
    tls_proxy_port: int | None,
    ca_dir: Path | None,
    token_seconds: int,
    settings: tuple[str, ...],
    faults: Path | None,
    **habits: Any,
) -> None:
    """Run a local Google Drive (API v3) for tests and first steps."""
    if ca_dir is not None and tls_proxy_port is None:
        raise Refused("--ca-dir does nothing without --tls-proxy-port. Give both, or neither.")
    serve(
        host,
        port,
        data,
        idle_exit=idle_exit,
        tokens=tokens,
        storage_limit=storage_limit or None,
        tls_proxy_port=tls_proxy_port,
        ca_dir=ca_dir,
        token_seconds=token_seconds,
        faults=FaultOptions(faults, **habits),
        settings=_settings(settings),
    )


def main(argv: list[str] | None = None) -> int:
    """Run with command-line arguments. Returns the exit status."""
    try:
        command.main(args=argv, prog_name="drivefs emulator", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    return 0
