"""``drivefs-agent enable``, ``disable`` and ``doctor``: the layer that pip installs into.

Exit codes: 0 done, 1 an error (doctor: something does not work), 2 wrong usage.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from drivefs_agent.cli_packages import Choice, choosing, errors_as_sentences, start_watcher

if TYPE_CHECKING:
    from drivefs_agent.packages.activation import Enabled
    from drivefs_agent.packages.doctor import Finding
    from drivefs_agent.packages.layer import Layer

__all__ = ["disable_command", "doctor_command", "enable_command", "status_command"]

_PYTHON = click.option(
    "--python",
    metavar="P",
    envvar="DRIVEFS_PYTHON",
    help="The image's Python. Default: that of Jupyter's kernel python3, else the first python3 on PATH.",
)


@click.command("enable")
@choosing
@click.option("--no-watch", is_flag=True, help="Do not save in the background what pip installs.")
def enable_command(choice: Choice, no_watch: bool) -> None:
    """Have pip install into a layer above the image's own packages, which is saved and comes back.

    A few small files are put into the image; disable takes them away again. Nothing else in it is changed, then or later.
    """
    from drivefs_agent.packages.activation import enable

    with errors_as_sentences():
        layer = choice.layer()
        _tell_enabled(layer, enable(layer))
        if not no_watch:
            click.echo(start_watcher(choice, layer))


def _tell_enabled(layer: Layer, enabled: Enabled) -> None:
    executable = layer.interpreter.executable
    click.echo(f"What pip installs with {executable} goes into the layer {str(layer.root)!r}{' (new)' if enabled.made else ''}.")
    if enabled.pip is not None:
        click.echo(f"The image had no pip that can do that; pip {enabled.pip} is in the layer now.")
    if enabled.protected:
        names = ", ".join(enabled.protected)
        click.echo(
            f"The image's own stay in place: {names}. With uv, to install another all the same: UV_EXCLUDE= uv pip install …"
        )
    for note in enabled.notes:
        click.echo(note)
    click.echo("Restart notebooks and shells of Python that run already: they look for packages as they did before.")


@click.command("disable")
@_PYTHON
def disable_command(python: str | None) -> None:
    """Give the image back as it was. The layer, with what is in it, stays."""
    from drivefs_agent.packages.activation import disable
    from drivefs_agent.packages.layer import find
    from drivefs_agent.packages.watch import stop

    with errors_as_sentences():
        layer = find(python)
        if not stop(layer):
            click.echo("The background saver is still at work; it ends by itself when it has saved.", err=True)
        done = disable(layer)
        executable = layer.interpreter.executable
        click.echo(
            f"The image of {executable} is as it was." if done.removed else f"Nothing of ours was in the image of {executable}."
        )
        for note in done.notes:
            click.echo(note)
        if layer.exists():
            click.echo(f"The layer {str(layer.root)!r} stays: drivefs-agent enable uses it again.")


@click.command("doctor")
@_PYTHON
@click.option("--json", "as_json", is_flag=True, help="The findings as a JSON list.")
def doctor_command(python: str | None, as_json: bool) -> None:
    """Check that pip installs into the layer and that Python finds it there. Exit code 1 where something does not work."""
    from drivefs_agent.packages.doctor import examine
    from drivefs_agent.packages.layer import find

    with errors_as_sentences():
        layer = find(python)
        findings = [*examine(layer), *_of_saving(layer)]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _tell(findings)
    sys.exit(1 if any(finding.level == "bad" for finding in findings) else 0)


def _of_saving(layer: Layer) -> Iterator[Finding]:
    """Whether what is in the layer would come back on the next box."""
    from drivefs_agent.packages.doctor import Finding
    from drivefs_agent.packages.overview import look

    found = look(layer)
    if not found.exists:
        return
    if found.watcher is None:
        advice = "Start it: drivefs-agent packages watch --background"
        yield Finding("warn", "Nothing saves in the background what pip installs.", advice)
    elif found.report is not None and found.report.error is not None:
        yield Finding(
            "bad", f"The background saver fails: {found.report.error}", "Then save once more: drivefs-agent packages save"
        )
    if found.unsaved:
        yield Finding("warn", f"Not saved yet: {', '.join(found.unsaved)}.", "Save now: drivefs-agent packages save")


@click.command("status")
@choosing
@click.option("--json", "as_json", is_flag=True)
def status_command(choice: Choice, as_json: bool) -> None:
    """Say what the layer holds, what of it is not saved, and how the background saver is doing. Exit code 3: some is unsaved."""
    from drivefs_agent.packages.overview import look

    with errors_as_sentences():
        found = look(choice.layer())
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else "\n".join(found.lines()))
    sys.exit(3 if found.unsaved else 0)


def _tell(findings: Iterable[Finding]) -> None:
    from drivefs_agent import text

    for finding in findings:
        click.echo(text.printable(f"{finding.level:<5} {finding.text}"))
        if finding.advice:
            click.echo(text.printable(f"      → {finding.advice}"))
