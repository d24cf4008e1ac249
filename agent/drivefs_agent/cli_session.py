"""``drivefs-agent guard``, ``idle``, ``hold`` and ``lease``: what a rented box costs, and what must not be lost with it."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from drivefs_agent import durations

if TYPE_CHECKING:
    from drivefs_agent.activity import Activity
    from drivefs_agent.notice import Notices
    from drivefs_agent.state import Session, State

__all__ = ["guard_command", "hold_command", "idle_command", "lease_command"]

_NOT_ON_DRIVE = 3  # the exit code that the command drivefs has for it
_PROBES = ("gpu", "cpu", "jupyter", "terminals", "network", "drive", "hold")
_LOOKS = 4
_PAUSE = 0.5

Command = TypeVar("Command", bound=Callable[..., Any])


class _Span(click.ParamType):  # type: ignore[type-arg]  # generic in the newest stubs only
    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        try:
            return durations.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_SPAN = _Span()


def _thresholds(command: Command) -> Command:
    """What idle means; the same for the guard and for who asks."""
    for option in (
        click.option("--gpu", default=0.05, show_default=True, help="A GPU that is busier than this ratio keeps the box."),
        click.option("--cpu", default=0.5, show_default=True, help="So do so many cores in use."),
        click.option("--network", default=100_000.0, show_default=True, help="So do so many bytes a second."),
        click.option("--terminals", type=_SPAN, default="5m", show_default=True, help="So does a key struck more lately."),
        click.option("--without", multiple=True, type=click.Choice(_PROBES), help="Leave this probe out. Repeatable."),
    ):
        command = option(command)
    return command


@click.command("guard")
@click.option("--idle", type=_SPAN, metavar="SPAN", help="Stop the box when it has been idle for so long (30m). Default: never.")
@click.option(
    "--stop-command",
    metavar="COMMAND",
    envvar="DRIVEFS_STOP_COMMAND",
    show_envvar=True,
    help="What stops the box, for example: systemctl poweroff",
)
@click.option(
    "--warn", type=_SPAN, default="5m", show_default=True, metavar="SPAN", help="Between announcing a stop and doing it."
)
@click.option("--flush", type=_SPAN, default="5m", show_default=True, metavar="SPAN", help="What Drive may take at most.")
@click.option(
    "--cloud",
    type=click.Choice(["auto", "aws", "gcp", "azure", "none"]),
    default="auto",
    show_default=True,
    help="Whose notices of preemption to look for; auto: of the cloud that the firmware names.",
)
@click.option("--metadata-url", metavar="URL", help="The cloud's metadata server, if not the usual one.")
@_thresholds
def guard_command(
    idle: float | None, stop_command: str | None, warn: float, flush: float, cloud: str, metadata_url: str | None, **idleness: Any
) -> None:
    """Watch over the box until SIGTERM: flush before it goes, and stop it when it is idle.

    It is never stopped while a file is not on Drive, or while it is not known whether one is. At SIGTERM, at a notice of
    preemption and ten minutes before the end of a lease everything is sent; exit code 3 where something could not be.
    """
    from drivefs_agent.guard import Guard, Plan
    from drivefs_agent.inventory import Sampler
    from drivefs_agent.state import State

    if (idle is None) != (stop_command is None):
        raise click.UsageError("--idle and --stop-command belong together: one says when, the other how.")
    if stop_command is not None and not _words(stop_command):
        raise click.UsageError("--stop-command is empty, or its quotes do not match.")
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    with Sampler() as sampler:
        state = State()
        notices = _notices(cloud, metadata_url, lambda: sampler.sample().place.cloud)
        plan = Plan(idle, warn, flush, stop_command)
        left = Guard(plan, state, _activity(state, idleness), sampler.sample, ended.wait, notices).run()
    sys.exit(_NOT_ON_DRIVE if left else 0)


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _notices(cloud: str, url: str | None, detect: Callable[[], str | None]) -> Notices | None:
    from drivefs_agent.metadata import DEFAULT_ENDPOINT, Endpoint
    from drivefs_agent.notice import CLOUDS, Notices

    chosen = detect() if cloud == "auto" else cloud
    if chosen not in CLOUDS:
        return None
    try:
        return Notices(chosen, Endpoint(url or DEFAULT_ENDPOINT, timeout=2.0))
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _activity(state: State, idleness: dict[str, Any]) -> Activity:
    from drivefs_agent.activity import Activity, Thresholds

    without = idleness.pop("without")
    return Activity(state, Thresholds(**idleness), without)


@click.command("idle")
@click.option("--explain", is_flag=True, help="What each probe says.")
@_thresholds
def idle_command(explain: bool, **idleness: Any) -> None:
    """Say whether anything keeps the box busy. Exit code 0: idle; 1: busy, or not known. Takes two seconds."""
    from drivefs_agent import text
    from drivefs_agent.inventory import Sampler
    from drivefs_agent.state import State, StateError

    state = State()
    activity = _activity(state, idleness)
    with Sampler() as sampler:
        sampler.sample()  # loads are differences: the first look only begins them
        for _ in range(_LOOKS):
            time.sleep(_PAUSE)
            findings = activity.findings(sampler.sample())
    idle = all(finding.idle is True for finding in findings)
    if explain:
        words = {True: "idle", False: "busy", None: "not known, so busy"}
        click.echo("\n".join(text.printable(f"{one.probe:<10} {words[one.idle]}: {one.text}") for one in findings))
        try:
            _tell_guard(state)
        except StateError as error:
            click.echo(str(error), err=True)
    else:
        busy = "; ".join(f"{one.probe}: {one.text}" for one in findings if one.idle is not True)
        click.echo(text.printable("idle" if idle else f"busy: {busy}"))
    sys.exit(0 if idle else 1)


def _tell_guard(state: State) -> None:
    from drivefs_agent import text

    report = state.report()
    if report is None or report["age_seconds"] > 90:
        click.echo("No guard is running, so nothing will stop this box.")
    elif report["stop_at"] is not None:
        click.echo(f"The guard stops the box in {text.duration(report['stop_at'] - time.time())}.")
    elif report["idle_after"] is None:
        click.echo("The guard sends what is written, but was not told to stop the box.")
    else:
        idle = 0 if report["idle_seconds"] is None else report["idle_seconds"]
        click.echo(f"The guard has seen it idle for {text.duration(idle)} of {text.duration(report['idle_after'])}.")


@click.command("hold")
@click.argument("span", type=_SPAN, required=False)
@click.option("--release", is_flag=True, help="Hold no longer.")
def hold_command(span: float | None, release: bool) -> None:
    """Keep the guard from stopping the box for SPAN (3h, 90m, 1d). Without SPAN: say for how long it is held."""
    _mark("hold_until", span, release, "held for another {}", "not held")


@click.command("lease")
@click.argument("span", type=_SPAN, required=False)
@click.option("--release", is_flag=True, help="Forget the lease.")
def lease_command(span: float | None, release: bool) -> None:
    """Say that the box is rented for another SPAN. The guard warns before its end, and sends everything. Stops nothing."""
    _mark("lease_end", span, release, "the lease ends in {}", "no lease is known")


def _mark(name: str, span: float | None, release: bool, some: str, none: str) -> None:
    """Set, forget or show one of the session's times."""
    from dataclasses import asdict

    from drivefs_agent import text
    from drivefs_agent.state import State, StateError

    if release and span is not None:
        raise click.UsageError("Give a span of time or --release, not both.")
    state = State()
    try:
        marks = asdict(_session(state, mend=release))
        if span is not None or release:
            marks[name] = None if span is None else time.time() + span
            state.tell(**marks)
    except StateError as error:
        _fail(str(error))
    until = marks[name]
    click.echo(some.format(text.duration(until - time.time())) if until is not None and until > time.time() else none)


def _session(state: State, *, mend: bool) -> Session:
    """Where it is damaged, forgetting is the way to mend it."""
    from drivefs_agent.state import Session, StateError

    try:
        return state.session()
    except StateError:
        if not mend:
            raise
        return Session()


def _fail(sentence: str) -> NoReturn:
    click.echo(sentence, err=True)
    sys.exit(1)
