"""``drivefs-agent packages import``, ``adopt``, ``prune`` and ``export``: ways into and out of the layer besides pip.

Exit codes are those of ``cli_packages``. The layer's new state is saved at the end; where that fails, the layer has changed all
the same, and the sentence is the save's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from drivefs_agent.cli_packages import Choice, choosing, progress_bar, save_now

if TYPE_CHECKING:
    from drivefs_agent.packages.layer import Layer
    from drivefs_agent.packages.model import Part
    from drivefs_agent.packages.moving import Moved

__all__ = ["CONVERTING", "adopt_command", "export_command", "import_command", "prune_command"]

_no_save = click.option("--no-save", is_flag=True, help="Change the layer only; the next save sends it.")
_replace = click.option("--replace", "replacing", is_flag=True, help="Also where the layer has another version.")


@click.command("import")
@choosing
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_replace
@click.option("--packages-only", is_flag=True, help="Leave files there that no package owns, as modules of your own.")
@_no_save
def import_command(choice: Choice, directory: Path, replacing: bool, packages_only: bool, no_save: bool) -> None:
    """Copy what pip install --target DIR has installed into the layer. DIR is not changed.

    What the layer has already stays as it is there. Packages that were compiled for another Python are named and left.
    """
    from drivefs_agent.packages.convert import import_directory
    from drivefs_agent.packages.target import read_target

    layer = choice.made_layer()
    here = read_target(layer.interpreter)
    with progress_bar("Importing") as bar:
        moved = import_directory(layer, directory, here, replacing=replacing, orphans=not packages_only, watcher=bar)
    _tell(moved, "Imported", "Nothing was imported.")
    _tell_shadowing(layer, moved)
    _save(choice, layer, moved, no_save=no_save)


@click.command("adopt")
@choosing
@click.argument("names", metavar="[NAME]...", nargs=-1)
@_replace
@_no_save
def adopt_command(choice: Choice, names: tuple[str, ...], replacing: bool, no_save: bool) -> None:
    """Copy into the layer what was installed into the image since enable, as by: uv pip install --system

    With NAME, only that, whenever it came into the image. The image is not changed.
    """
    from drivefs_agent.packages.convert import adopt
    from drivefs_agent.packages.target import read_target

    layer = choice.made_layer()
    here = read_target(layer.interpreter)
    with progress_bar("Adopting") as bar:
        moved = adopt(layer, here, names, replacing=replacing, watcher=bar)
    _tell(moved, "Adopted", "Nothing was adopted.")
    if moved.taken:
        click.echo(f"The image has it still. To remove it there: {_removal(layer, moved.taken)}")
    _save(choice, layer, moved, no_save=no_save)


@click.command("prune")
@choosing
@click.option("--shadowed", is_flag=True, help="What the image has in the same or a newer version.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@_no_save
def prune_command(choice: Choice, shadowed: bool, dry_run: bool, no_save: bool) -> None:
    """Remove packages from the layer that only hide the image's own: --shadowed"""
    from drivefs_agent.packages.convert import prune_shadowed

    if not shadowed:
        raise click.UsageError("Say what is to go: --shadowed")
    layer = choice.made_layer()
    moved = prune_shadowed(layer, dry_run=dry_run)
    if dry_run:
        _tell(moved, "Would remove", "Nothing would be removed.")
        return
    _tell(moved, "Removed", "Nothing was removed.")
    _save(choice, layer, moved, no_save=no_save)


@click.command("export")
@choosing
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("state", required=False)
@click.option("--force", is_flag=True, help="Replace FILE where it is there.")
def export_command(choice: Choice, file: Path, state: str | None, force: bool) -> None:
    """Write the newest state in the store, or STATE, into one tar FILE, for a box that reaches no Drive."""
    from drivefs_agent import text
    from drivefs_agent.packages.export import FOLDER, export
    from drivefs_agent.packages.target import read_target

    here = read_target(choice.layer().interpreter)
    target = Path(os.path.abspath(file))
    with progress_bar("Exporting") as bar:
        done = export(choice.open_store(), here, target, state=state, force=force, box=os.uname().nodename, watcher=bar)
    for note in done.notes:
        click.echo(text.printable(note), err=True)
    click.echo(text.printable(f"Exported {_count(done.manifest.parts, 'part')} ({text.size(done.size)}) to {str(target)!r}."))
    click.echo("On the other box:")
    click.echo(
        text.printable(f"    tar xf {target.name} && drivefs-agent packages restore --env {choice.env} --store ./{FOLDER}")
    )


CONVERTING = (import_command, adopt_command, prune_command, export_command)


# -- shared ------------------------------------------------------------------------------------------------------------


def _tell(moved: Moved, verb: str, nothing: str) -> None:
    """What was done on standard output, one package a line; what was not, and why, besides."""
    from drivefs_agent import text

    reasons: dict[str, list[str]] = {}
    for one in moved.left:
        reasons.setdefault(one.reason, []).append(_title(one.part))
    for sentence in (*moved.warnings, *(f"{', '.join(titles)}: {reason}" for reason, titles in reasons.items())):
        click.echo(text.printable(sentence), err=True)
    changed = moved.taken or moved.gone
    for part in changed:
        click.echo(text.printable(_line(part, moved.gone if moved.taken else ())))
    size = text.size(sum(part.size for part in changed))
    click.echo(f"{verb} {_count(changed, 'part')} ({size})." if changed else nothing)


def _line(part: Part, gone: Iterable[Part]) -> str:
    former = next((one.version for one in gone if one.name == part.name), None)
    return _title(part) + (f" (in place of {former})" if former is not None else "")


def _title(part: Part) -> str:
    from drivefs_agent.packages.model import Kind

    return "files that no package owns" if part.kind == Kind.ORPHANS else f"{part.name} {part.version}".rstrip()


def _count(parts: Iterable[Part], what: str) -> str:
    number = len(tuple(parts))
    return f"{number} {what}{'' if number == 1 else 's'}"


def _tell_shadowing(layer: Layer, moved: Moved) -> None:
    from drivefs_agent.packages.convert import shadowing

    if hiding := shadowing(layer, moved.taken):
        click.echo(
            f"The image has {', '.join(hiding)} as new or newer. To use the image's own: drivefs-agent packages prune --shadowed",
            err=True,
        )


def _removal(layer: Layer, parts: Iterable[Part]) -> str:
    """The command that removes from the image, whose pip otherwise works on the layer."""
    import shlex

    interpreter = layer.interpreter
    python, names = shlex.quote(interpreter.executable), " ".join(part.name for part in parts)
    insisting = " --break-system-packages" if interpreter.externally_managed else ""
    if interpreter.pip is None:
        return f"uv pip uninstall --python {python}{insisting} {names}"
    return f"DRIVEFS_LAYER=0 PIP_PYTHON={python} {python} -m pip uninstall{insisting} {names}"


def _save(choice: Choice, layer: Layer, moved: Moved, *, no_save: bool) -> None:
    if not no_save and (moved.taken or moved.gone):
        save_now(choice, layer)
