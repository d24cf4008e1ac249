"""The command ``drivefs-agent``. Heavy imports happen inside the commands, so that --help is instant.

Exit codes: 0 done, 2 wrong usage. What a box lacks (a GPU, a driver, a limit) is an answer, not a failure.
"""

from __future__ import annotations

import json

import click

from drivefs_agent import __version__

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="drivefs-agent")
def main() -> None:
    """What this box is, and how it is doing: GPUs, CPU, memory, disks, limits."""


@main.command("specs")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, schema drivefs.specs/1.")
def specs_command(as_json: bool) -> None:
    """Show the box's specs, with the limits of a container beside the host's totals."""
    from drivefs_agent import specs

    inventory = specs.collect()
    click.echo(json.dumps(specs.to_json(inventory), indent=2) if as_json else specs.render(inventory))
