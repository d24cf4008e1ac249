"""The command ``drivefs-agent``. Heavy imports happen inside the commands, so that --help is instant.

Exit codes: 0 done, 1 what was checked is not so, 2 wrong usage, more where a command's own help says so. For ``specs``, what a
box lacks (a GPU, a driver, a limit) is an answer, not a failure.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import click

from drivefs_agent import __version__
from drivefs_agent.cli_convert import CONVERTING
from drivefs_agent.cli_layer import disable_command, doctor_command, enable_command, status_command
from drivefs_agent.cli_packages import packages_group
from drivefs_agent.cli_serve import serve_command, url_command
from drivefs_agent.cli_session import guard_command, hold_command, idle_command, lease_command

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="drivefs-agent")
def main() -> None:
    """What this box is, and how it is doing: GPUs, CPU, memory, disks, limits."""


@main.command("specs")
@click.option("--json", "form", flag_value="json", help="One JSON object, schema drivefs.specs/1.")
@click.option("--colab", "form", flag_value="colab", help="One JSON object with the keys of Colab's resource report.")
@click.option("--watch", "form", flag_value="watch", help="Live in the terminal until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(0.2), default=1.0, show_default=True, help="Seconds between looks of --watch.")
@click.option("--ask-cloud", is_flag=True, help="Also ask the cloud's metadata server (link-local network, half a second).")
def specs_command(form: str | None, interval: float, ask_cloud: bool) -> None:
    """Show the box's specs, with the limits of a container beside the host's totals."""
    if form == "watch":
        _watch(interval)
        return
    from drivefs_agent import colab, inventory

    found = inventory.collect()
    if ask_cloud:
        from drivefs_agent import metadata

        found = replace(found, instance=metadata.probe())
    if form is None:
        click.echo(str(found))
    else:
        click.echo(json.dumps(colab.resources(found) if form == "colab" else found.to_json(), indent=2))


def _watch(interval: float) -> None:
    from drivefs_agent.watch import watch

    try:
        watch(sys.stdout, interval=interval)
    except KeyboardInterrupt:
        pass  # the way to end it


@main.group("check")
def check_group() -> None:
    """Check that something works here."""


@check_group.command("gpu")
def check_gpu_command() -> None:
    """Ask TensorFlow, else PyTorch, else the driver for a GPU. Exit code 1 where there is none."""
    from drivefs_agent.check import check_gpu

    verdict = check_gpu()
    click.echo(verdict.text, err=verdict.device is None)
    sys.exit(0 if verdict.device is not None else 1)


@main.group("bench")
def bench_group() -> None:
    """Measure this box."""


@bench_group.command("gpu")
def bench_gpu_command() -> None:
    """Time a convolution on the processor and on the GPU, by TensorFlow or PyTorch."""
    from drivefs_agent.bench import BenchError, bench_gpu

    try:
        click.echo(bench_gpu().text)
    except BenchError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


SESSION = (serve_command, url_command, guard_command, idle_command, hold_command, lease_command)
PACKAGES = (enable_command, disable_command, status_command, doctor_command, packages_group)
for command in (*SESSION, *PACKAGES):
    main.add_command(command)
for command in (status_command, *CONVERTING):
    packages_group.add_command(command)
