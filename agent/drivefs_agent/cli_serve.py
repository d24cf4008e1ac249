"""``drivefs-agent serve`` and ``url``: the status page."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

import click

__all__ = ["serve_command", "url_command"]

_PORT = click.option("--port", type=click.IntRange(0, 65535), default=8787, show_default=True, help="0 takes any free one.")


@click.command("serve")
@_PORT
@click.option("--bind", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="0.0.0.0 lets other machines ask.")
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME:PORT", help="Another name the page is called by. Repeatable.")
def serve_command(port: int, bind: str, hosts: tuple[str, ...]) -> None:
    """Show the box on a web page, as JSON and to Prometheus.

    Prints the page's address, with the token that it wants. The token is $DRIVEFS_AGENT_TOKEN, else one that is made once and
    kept for this user. Programs send it as a header: "Authorization: Bearer TOKEN".
    """
    from drivefs_agent.access import Keys
    from drivefs_agent.monitor import Monitor
    from drivefs_agent.state import State, StateError
    from drivefs_agent.web import CannotListen, listen, serve

    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    state = State()
    try:
        token = state.token()
        listener = listen(bind, port)
    except (StateError, CannotListen) as error:
        _fail(str(error))
    host, bound = listener.getsockname()[:2]

    def ready() -> None:
        click.echo(_announcement(host, bound, token))
        sys.stdout.flush()

    serve(listener, Monitor(state), Keys(token, bound), hosts, ready)


@click.command("url")
@_PORT
def url_command(port: int) -> None:
    """Print the page's address with the token, for a browser on this machine."""
    from drivefs_agent.state import State, StateError

    try:
        click.echo(_address("127.0.0.1", port, State().token()))
    except StateError as error:
        _fail(str(error))


def _announcement(host: str, port: int, token: str) -> str:
    # Whoever may read the machine's journal is not thereby one who may see the page.
    if "JOURNAL_STREAM" in os.environ:
        return f"Serving {_address(host, port)}; `drivefs-agent url` tells the address with the token."
    return f"The page: {_address(host, port, token)}"


def _address(host: str, port: int, token: str | None = None) -> str:
    # What is bound to every address is called by one.
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    place = f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"
    return place if token is None else f"{place}?token={token}"


def _fail(sentence: str) -> NoReturn:
    click.echo(sentence, err=True)
    sys.exit(1)
