"""The ``drivefs`` command: what a person types, sees, and gets as exit code.

Imports only click at the top; every command imports what it needs, so that ``drivefs --help`` feels instant.
Answers go to standard output, everything said to a person besides goes to standard error.
"""

from __future__ import annotations

import logging
import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from drivefs.client import Client

__all__ = ["cli", "main"]

logger = logging.getLogger(__name__)


class _Commands(click.Group):
    """Turns every error into its sentence and its exit code; only a defect of ours shows a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        from drivefs.base.errors import DriveFSError, sole_cause
        from drivefs.client import ClientError

        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as group:
            error = sole_cause(group)
            if isinstance(error, (DriveFSError, ClientError)):
                _say(str(error))
                ctx.exit(int(error.exit_code))
            logger.error("unexpected error", exc_info=error)
            _say(f"An error of drivefs itself ({type(error).__name__}). Please report it with the lines above.")
            ctx.exit(1)


def _seconds(value: str) -> float:
    """A duration: finite and not negative. ``float`` alone would take ``nan``, with which no comparison holds."""
    try:
        seconds = float(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a number of seconds.") from error
    if not math.isfinite(seconds) or seconds < 0:
        raise click.BadParameter(f"{value!r} is not a duration.")
    return seconds


def _size(value: str) -> int:
    """Bytes: a number, or one with K, M, G or T for powers of 1024."""
    text = value.strip().upper().removesuffix("B").removesuffix("I")
    scale = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:], 0)
    try:
        size = float(text[:-1] if scale else text) * (1 << scale)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a size, such as 500M or 20G.") from error
    if not math.isfinite(size) or size < 0:
        raise click.BadParameter(f"{value!r} is not a size.")
    return int(size)


_Command = TypeVar("_Command", bound=Callable[..., Any])

_DRAIN_SECONDS = 300.0
_RIVAL_SECONDS = 30.0  # for a daemon that has the cache and is still starting


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Google Drive as a directory, on any Linux machine."""


def main() -> None:
    """The console script."""
    cli(prog_name="drivefs")


@cli.command()
def version() -> None:
    """Print the version."""
    from drivefs import __version__

    click.echo(f"drivefs {__version__}")


@cli.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def emulator(arguments: tuple[str, ...]) -> None:
    """Serve a Drive of your own, for trying things out. See: drivefs emulator --help"""
    import runpy

    sys.argv = ["drivefs emulator", *arguments]
    runpy.run_module("drivefs.emulator", run_name="__main__")


# Whose Drive, and how a daemon keeps and sends what is to be there.
_DAEMON_OPTIONS = (
    click.option("--embedded", is_flag=True, help="The local Drive kept under the data directory."),
    click.option("--credentials", metavar="FILE", help="A service-account key or an authorized-user file."),
    click.option("--api-root", metavar="URL", help="Another Drive v3 server; its token comes from DRIVEFS_ACCESS_TOKEN."),
    click.option("--cache-dir", metavar="DIR", help="Where file contents and unsent changes are kept."),
    click.option("--poll-interval", metavar="S", type=_seconds, help="Seconds between looks for changes made elsewhere."),
    click.option("--upload-delay", metavar="S", type=_seconds, help="Seconds a closed file waits before it is sent."),
    click.option("--cache-size", metavar="SIZE", type=_size, help="What the cache may hold, such as 20G. Default: see README."),
    click.option("--min-free", metavar="SIZE", type=_size, help="What the cache leaves free on its disk, such as 1G."),
    click.option("--io-timeout", metavar="S", type=_seconds, help="A call without progress for so long fails (default 20)."),
    click.option("--drain-timeout", metavar="S", type=_seconds, help="On SIGTERM: how long sending may take (default 300)."),
    click.option("--no-supervise", is_flag=True, help="Do not start the daemon again where it crashes."),
    click.option("--foreground", is_flag=True, help="Stay in this process and log to standard error."),
    click.option("-v", "--verbose", is_flag=True, help="Log every operation."),
)


def _daemon_options(command: _Command) -> _Command:
    for option in reversed(_DAEMON_OPTIONS):
        command = option(command)
    return command


@cli.command()
@click.argument("mountpoint")
@_daemon_options
@click.option("--read-only", is_flag=True, help="Refuse every change.")
@click.option("--fsync", type=click.Choice(["local", "remote"]), help="What fsync waits for: this disk (default), or Drive.")
@click.option("--open-file-snapshot", metavar="S", type=_seconds, help="Send a file that stays open so often; 0: at close only.")
def mount(mountpoint: str, foreground: bool, verbose: bool, no_supervise: bool, **flags: Any) -> None:
    """Mount Google Drive at MOUNTPOINT, and return once it answers."""
    from drivefs import launch
    from drivefs import mountpoint as places
    from drivefs.base.errors import MountpointUnusable
    from drivefs.settings import Flags, build_config, choose_account

    places.require_no_space(mountpoint)
    account = choose_account(Flags(mountpoint=mountpoint, **flags), os.environ)
    config = build_config(Flags(mountpoint=mountpoint, **flags), account, os.environ)
    # From here on it lives in config only: no child process and no traceback of the environment gets it.
    os.environ.pop("DRIVEFS_ACCESS_TOKEN", None)
    typed = os.path.expanduser(mountpoint)
    if launch.already_mounted(config, _say):
        if foreground:  # a service manager must learn that this process will not serve anything
            raise MountpointUnusable(f"Drive already mounted at {typed}, by another process. Unmount it first: drivefs unmount")
        quoted = shlex.quote(typed)
        _print(f"Drive already mounted at {typed}; to attempt to forcibly remount, call drivefs unmount {quoted} first.")
        return
    places.require_fuse()
    level = logging.DEBUG if verbose else logging.INFO

    def announce(unsent: int) -> None:
        _print(f"Mounted at {typed}")
        _say_unsent(unsent)

    with launch.prepared(config.mountpoint):
        if account.by_default:
            _say("No account is configured, so the embedded Drive on this machine is mounted (--embedded).")
        config = launch.with_server(config)
        if foreground:
            launch.in_foreground(config, announce, level)
        else:
            launch.in_background(config, announce, level, supervise=not no_supervise)


@cli.command()
@_daemon_options
@click.option("--json", "as_json", is_flag=True, help="Print what was started, or found, as one JSON object.")
def serve(foreground: bool, verbose: bool, no_supervise: bool, as_json: bool, **flags: Any) -> None:
    """Keep whole files on Drive for programs, without a mount, and return once it answers.

    Needs no FUSE. Programs reach it through drivefs.client by its PLACE, which is printed: the cache directory. A mount of the
    same account does all that and more: where there is one nothing is started, and one that comes later takes over.
    """
    from drivefs import launch
    from drivefs.base.errors import CacheUnusable, ExitCode
    from drivefs.client import ClientError
    from drivefs.settings import Flags, build_config, choose_account

    account = choose_account(Flags(mountpoint=None, **flags), os.environ)
    config = build_config(Flags(mountpoint=None, **flags), account, os.environ)
    os.environ.pop("DRIVEFS_ACCESS_TOKEN", None)  # as for a mount
    level = logging.DEBUG if verbose else logging.INFO

    def announce(unsent: int) -> None:
        _print_served(str(config.mountpoint), as_json=as_json)
        _say_unsent(unsent)

    if (state := launch.holder(config)) is not None:
        if foreground:
            raise CacheUnusable(f"{state['mountpoint']!r} serves this account already, by another process. End it first.")
        _print_served(state["mountpoint"], as_json=as_json, already=True, mounted=state.get("serves") != "socket")
        return
    if account.by_default:
        _say("No account is configured, so the embedded Drive on this machine is served (--embedded).")
    config = launch.with_server(config)
    if foreground:
        launch.in_foreground(config, announce, level)
        return
    try:
        launch.in_background(config, announce, level, supervise=not no_supervise)
    except ClientError as error:
        # Somebody else was starting at the same moment, and was faster.
        rival = error.exit_code in (ExitCode.CACHE_IN_USE, ExitCode.MOUNTPOINT)
        if not rival or (state := launch.holder(config, _RIVAL_SECONDS)) is None:
            raise
        _print_served(state["mountpoint"], as_json=as_json, already=True, mounted=state.get("serves") != "socket")


def _print_served(place: str, *, as_json: bool, already: bool = False, mounted: bool = False) -> None:
    import json

    if as_json:
        _print(json.dumps({"place": place, "mounted": mounted, "already": already}))
    elif already:
        _print(f"Already served by the {'mount at' if mounted else 'daemon of'} {place}")
    else:
        _print(f"Serving {place}")


def _say_unsent(unsent: int) -> None:
    if unsent:
        noun = "change" if unsent == 1 else "changes"
        _say(f"{unsent} {noun} of the last session still to be sent; sending now. See: drivefs status")


@cli.command()
@click.argument("mountpoint")
@click.option(
    "--timeout", metavar="S", type=_seconds, default=_DRAIN_SECONDS, show_default=True, help="How long sending may take."
)
@click.option("--release", is_flag=True, help="Also make a plain, writable directory of the mountpoint again.")
def unmount(mountpoint: str, timeout: float, release: bool) -> None:
    """Send everything to Drive, then unmount.

    MOUNTPOINT may also be the place of a daemon without a mount, which then ends.

    The directory stays closed to writers, so that no program writes to this disk believing that it writes to Drive.
    """
    from pathlib import Path

    from drivefs import gone, guard
    from drivefs.base.errors import ExitCode
    from drivefs.client import Client, ClientError

    client = Client(mountpoint)
    place = Path(client.mountpoint)
    try:
        unsent = client.unmount(timeout=timeout, progress=_progress_line())
    except ClientError as error:
        if error.exit_code != ExitCode.NOT_MOUNTED:
            raise
        if release and gone.is_bare(place) and guard.release(place):
            return
        raise gone.why_not_mounted(client.mountpoint, mountpoint) from error
    _require_sent(unsent, f"{mountpoint!r} stays mounted, nothing is lost: try again, or give a longer --timeout.")
    if release:
        guard.release(place)
    elif gone.is_bare(place) and guard.is_closed(place):
        quoted = shlex.quote(mountpoint)
        _say(
            f"{mountpoint!r} stays closed to writers until it is mounted again. "
            f"For a plain directory: drivefs unmount --release {quoted}"
        )


@cli.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option(
    "--timeout", metavar="S", type=_seconds, default=_DRAIN_SECONDS, show_default=True, help="How long sending may take."
)
def flush(paths: tuple[str, ...], timeout: float) -> None:
    """Wait until Drive has the bytes of PATH.

    Without PATH: of everything, in the mount that the current directory lies in, else in all mounts.
    """
    import time

    from drivefs.client import connect

    wanted: dict[str, tuple[Client, list[str]]] = {}
    for client, path in [(connect(path), path) for path in paths]:
        wanted.setdefault(client.mountpoint, (client, []))[1].append(path)
    if not paths:
        wanted = {client.mountpoint: (client, []) for client in _clients_here()}
    deadline = time.monotonic() + timeout
    unsent: list[dict[str, Any]] = []
    for client, inside in wanted.values():
        left = max(0.0, deadline - time.monotonic())
        unsent += client.flush(inside, timeout=left, progress=_progress_line())
    _require_sent(unsent, "Nothing is lost: it stays in the cache and is sent when possible. See: drivefs status")


@cli.command()
@click.argument("mountpoint", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print everything the daemon says, as one JSON object.")
def status(mountpoint: str | None, as_json: bool) -> None:
    """Say what is not on Drive yet, and how the mount is doing.

    Exit code 0: it is safe to power off.  3: something is not on Drive.
    """
    import json

    from drivefs import gone
    from drivefs.base.errors import ExitCode, NotMounted, UsageError
    from drivefs.client import ClientError, connect
    from drivefs.report import status_text

    try:
        states = [client.status() for client in ([connect(mountpoint)] if mountpoint is not None else _clients_here())]
    except (ClientError, NotMounted) as error:
        if error.exit_code != ExitCode.NOT_MOUNTED or not (states := gone.last_sessions(mountpoint)):
            raise
    else:
        states += gone.last_sessions(None) if mountpoint is None else []
    if as_json and len(states) > 1:
        names = ", ".join(repr(state["mountpoint"]) for state in states)
        raise UsageError(f"There are several mounts: {names}. Name the one you mean.")
    _print(json.dumps(states[0], indent=2) if as_json else "\n\n".join(map(status_text, states)))
    if any(state["pending_files"] != 0 for state in states):
        sys.exit(int(ExitCode.NOT_ON_DRIVE))


def _clients_here() -> Sequence[Client]:
    """The mount that the current directory lies in, else all of this user's."""
    from drivefs.base.errors import ExitCode, NotMounted
    from drivefs.client import ClientError, connect, running

    try:
        return [connect(".")]
    except ClientError as error:
        if error.exit_code != ExitCode.NOT_MOUNTED:
            raise
    clients = running()
    if not clients:
        raise NotMounted("Nothing is mounted by drivefs. Mount first: drivefs mount MOUNTPOINT")
    return clients


def _require_sent(unsent: Sequence[Mapping[str, Any]], advice: str) -> None:
    if not unsent:
        return
    from drivefs.base.errors import NotOnDrive
    from drivefs.report import unsent_line

    for entry in unsent:
        click.echo(unsent_line(entry), err=True)
    raise NotOnDrive(f"Not on Drive yet: {len(unsent)} {'file' if len(unsent) == 1 else 'files'}, listed above. {advice}")


def _progress_line() -> Callable[[Mapping[str, Any]], None] | None:
    """Rewrites one line of a terminal; None where nobody watches."""
    if not sys.stderr.isatty():
        return None
    from drivefs.report import progress_text

    def show(news: Mapping[str, Any]) -> None:
        click.echo(f"\r\x1b[K{progress_text(news)}", nl=False, err=True)

    return show


def _print(text: str) -> None:
    """To standard output, byte for byte: a path need not be valid text."""
    click.echo(os.fsencode(text))


def _say(text: str) -> None:
    """A path in the text is already escaped by whoever wrote the sentence."""
    click.echo(f"drivefs: {text}", err=True)
