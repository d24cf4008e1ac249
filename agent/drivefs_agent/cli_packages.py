"""``drivefs-agent packages …``: what pip installed, kept on Drive and brought back.

Exit codes: 0 done, 1 an error, 2 wrong usage, 3 the store could not be reached or took not everything, 4 nothing fits, 5 a
conflict that a person must settle. Answers go to standard output, everything said besides to standard error.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from drivefs_agent.packages.history import Graph, Joined, Store
    from drivefs_agent.packages.layer import Layer
    from drivefs_agent.packages.model import Part
    from drivefs_agent.packages.save import Saved, Saver

__all__ = ["Choice", "choosing", "errors_as_sentences", "packages_group", "progress_bar", "save_now", "start_watcher"]

_STORE = "A folder on Drive, or a directory: /some/where"

Command = TypeVar("Command", bound=Callable[..., Any])


class errors_as_sentences:  # noqa: N801  # a context manager reads like a verb
    """Ends the command with an error's sentence and its exit code; only a defect of ours shows a traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        from drivefs_agent.packages.errors import PackagesError
        from drivefs_agent.state import StateError

        if isinstance(error, PackagesError):
            click.echo(str(error), err=True)
            sys.exit(error.exit_code)
        if isinstance(error, (StateError, OSError)) and not isinstance(error, BrokenPipeError):
            click.echo(_sentence(error), err=True)
            sys.exit(1)


def _sentence(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    where = f"{error.filename!r}: " if error.filename else ""
    return f"{where}{error.strerror or error}. Nothing was changed; mend that, then run this again."


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        with errors_as_sentences():
            return super().invoke(ctx)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which Python, which store, which account: the options that all commands share."""

    python: str | None
    env: str
    store: str
    mount: str | None
    credentials: str | None
    api_root: str | None
    embedded: bool
    trust: bool

    @classmethod
    def of(cls, values: dict[str, Any]) -> Choice:
        """From a command's options. What is relative is so to this process's directory, which another one does not share."""
        for name in ("credentials", "store"):
            if (value := values[name]) and (name == "credentials" or value.startswith((".", "~"))):
                values[name] = os.path.abspath(os.path.expanduser(value))
        return cls(**values)

    def layer(self) -> Layer:
        from drivefs_agent.packages.layer import find

        return find(self.python)

    def made_layer(self) -> Layer:
        from drivefs_agent.packages.errors import LayerUnusable

        layer = self.layer()
        if not layer.exists():
            raise LayerUnusable(f"{layer.interpreter.executable} has no layer for packages yet. Make one: drivefs-agent enable")
        return layer

    def open_store(self) -> Store:
        from drivefs_agent.packages.history import Store
        from drivefs_agent.packages.location import Location
        from drivefs_agent.state import state_folder

        folder = Location(self.store, self.mount, self.credentials, self.api_root, self.embedded).open()
        return Store(folder, self.env, cache=state_folder() / "manifests", trust=self.trust)

    def arguments(self) -> list[str]:
        """The same choice, for a process that is started for it."""
        values = {"--python": self.python, "--env": self.env, "--store": self.store, "--mount": self.mount}
        values |= {"--credentials": self.credentials, "--api-root": self.api_root}
        words = [word for name, value in values.items() if value is not None for word in (name, value)]
        return words + ["--embedded"] * self.embedded + ["--trust"] * self.trust


def choosing(command: Command) -> Command:
    """Gives the command a ``choice``."""
    from functools import wraps

    from drivefs_agent.packages.location import DEFAULT_STORE

    @wraps(command)
    def choose(**values: Any) -> Any:
        names = ("python", "env", "store", "mount", "credentials", "api_root", "embedded", "trust")
        chosen = Choice.of({name: values.pop(name) for name in names})
        return command(choice=chosen, **values)

    options = (
        click.option(
            "--python", metavar="P", envvar="DRIVEFS_PYTHON", help="The image's Python. Default: Jupyter's, else python3."
        ),
        click.option(
            "--env", metavar="NAME", envvar="DRIVEFS_ENV", default="default", show_default=True, help="Which environment."
        ),
        click.option("--store", metavar="PATH", envvar="DRIVEFS_STORE", default=DEFAULT_STORE, show_default=True, help=_STORE),
        click.option("--mount", metavar="PATH", help="The mount whose account is used, where several run."),
        click.option("--credentials", metavar="FILE", envvar="DRIVEFS_CREDENTIALS", help="The account, as for drivefs mount."),
        click.option("--api-root", metavar="URL", help="Another Drive v3 server; its token comes from DRIVEFS_ACCESS_TOKEN."),
        click.option("--embedded", is_flag=True, help="The embedded Drive of this machine."),
        click.option("--trust", is_flag=True, help="Also use what belongs to other people. Their packages run as you."),
    )
    wrapped: Any = choose
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]  # click's decorators keep the type of what they decorate


@click.group("packages", cls=_Group)
def packages_group() -> None:
    """What pip installed: saved to Drive, and brought back on the next box."""


# -- saving ------------------------------------------------------------------------------------------------------------


@packages_group.command("save")
@choosing
def save_command(choice: Choice) -> None:
    """Send what is new in the layer to the store. Writes nothing where nothing changed."""
    save_now(choice, choice.made_layer())


def save_now(choice: Choice, layer: Layer) -> None:
    """Save the layer, and say so."""
    with progress_bar("Saving") as bar:
        saved = _saver(choice, layer, choice.open_store(), bar).save()
    _tell_saved(saved)


def _saver(choice: Choice, layer: Layer, store: Store, watcher: Any = None) -> Saver:
    from drivefs_agent.packages.more import more_of
    from drivefs_agent.packages.save import Saver
    from drivefs_agent.packages.target import read_target

    target = read_target(layer.interpreter)
    return Saver(layer, store, target, box=os.uname().nodename, more=lambda: more_of(store, layer), watcher=watcher)


def _tell_saved(saved: Saved) -> None:
    from drivefs_agent import text

    for sentence in (*saved.notes, *saved.warnings):
        click.echo(text.printable(sentence), err=True)
    if saved.manifest is None:
        click.echo("Nothing has changed since the last save.")
        return
    count = len(saved.manifest.parts)
    sent = f"{len(saved.sent)} new archive{'' if len(saved.sent) == 1 else 's'} ({text.size(saved.bytes_sent)}) sent"
    click.echo(f"Saved {count} part{'' if count == 1 else 's'} as {saved.manifest.id}; {sent}.")


@packages_group.command("watch")
@choosing
@click.option("--background", is_flag=True, help="Return at once; the watcher goes on by itself.")
def watch_command(choice: Choice, background: bool) -> None:
    """Save after each run of pip, until SIGTERM. One watcher serves a layer; a second one ends at once."""
    layer = choice.made_layer()
    if background:
        click.echo(start_watcher(choice, layer))
        return
    from drivefs_agent.packages import watch

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    store = choice.open_store()
    with watch.only_watcher(layer):
        watch.Watch(
            layer,
            lambda full: _saver(choice, layer, store).save(reason="pip", full=full),
            ended.wait,
            busy=lambda: any(True for _ in watch.installers()),
        ).run()


def start_watcher(choice: Choice, layer: Layer) -> str:
    """Start the background saver of a layer unless one runs. Returns a sentence that says so."""
    import subprocess

    from drivefs_agent.packages import watch
    from drivefs_agent.state import State

    if watch.watcher_of(layer) is not None:
        return "What pip installs is being saved in the background already."
    state = State()
    with state.log("packages.log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "drivefs_agent", "packages", "watch", *choice.arguments()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    deadline = time.monotonic() + 30
    while watch.watcher_of(layer) is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if watch.watcher_of(layer) is None and process.returncode:
        return f"The background saver has not started; {str(state.folder / 'packages.log')!r} says why."
    return f"What pip installs is saved in the background (log: {state.folder / 'packages.log'})."


# -- restoring -----------------------------------------------------------------------------------------------------------


@packages_group.command("restore")
@choosing
@click.argument("state", required=False)
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object.")
@click.option("--no-resolve", is_flag=True, help="Leave out what does not fit here, rather than install it anew from the index.")
@click.option("--no-enable", is_flag=True, help="Do not have the image's Python see the layer.")
@click.option("--no-watch", is_flag=True, help="Do not save in the background what pip installs from now on.")
@click.option("--no-compile", is_flag=True, help="Do not compile modules in the background.")
def restore_command(
    choice: Choice, state: str | None, as_json: bool, no_resolve: bool, no_enable: bool, no_watch: bool, no_compile: bool
) -> None:
    """Make the layer what the store has: the newest state that fits this Python, or STATE.

    What is in the layer and not in the store stays. Nothing changes unless everything has arrived and was verified.
    """
    layer = choice.layer()
    store = choice.open_store()
    with progress_bar("Restoring") as bar:
        report = _restorer(layer, store, bar, resolving=not no_resolve).restore(state)
    if not no_enable:
        from drivefs_agent.packages.activation import enable

        enable(layer)
    if not no_compile:
        compile_in_background(layer)
    _tell_report(report, as_json=as_json)
    if not no_watch and not no_enable:
        click.echo(start_watcher(choice, layer), err=True)


def compile_in_background(layer: Layer) -> None:
    """Python would compile each module at its first import; now it is done before, at the lowest priority."""
    import subprocess

    command = [str(layer.python), "-I", "-m", "compileall", "-q", str(layer.site)]
    null = subprocess.DEVNULL
    subprocess.Popen(["nice", "-n", "19", *command], stdin=null, stdout=null, stderr=null, cwd="/", start_new_session=True)


def _restorer(layer: Layer, store: Store, watcher: Any, *, resolving: bool = True) -> Any:
    from drivefs_agent.packages.restore import Restorer
    from drivefs_agent.packages.target import read_target

    return Restorer(layer, store, read_target(layer.interpreter), resolving=resolving, watcher=watcher)


def _tell_report(report: Any, *, as_json: bool = False) -> None:
    from drivefs_agent import text

    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
        return
    for line in report.lines():
        click.echo(text.printable(line))


@packages_group.command("rollback")
@choosing
@click.argument("state")
def rollback_command(choice: Choice, state: str) -> None:
    """Make layer and store what they were at STATE. What is there now is saved first, so this can be rolled back, too."""
    layer = choice.made_layer()
    store = choice.open_store()
    saver = _saver(choice, layer, store)
    _tell_saved(saver.save(reason="before rollback"))
    with progress_bar("Restoring") as bar:
        report = _restorer(layer, store, bar).restore(state, exact=True)
    _tell_report(report)
    _tell_saved(saver.save(reason=f"rollback to {state}"))


# -- looking -------------------------------------------------------------------------------------------------------------


@packages_group.command("list")
@choosing
@click.option("--json", "as_json", is_flag=True)
def list_command(choice: Choice, as_json: bool) -> None:
    """List what the newest state in the store has, and what of it this layer has."""
    from drivefs_agent.packages.merge import same

    layer = choice.layer()
    stored = _newest(choice, layer)
    theirs = stored.merged.parts if stored else {}
    ours = _here(layer)
    rows: list[dict[str, Any]] = []
    for name in sorted({*theirs, *ours}):
        there, here = theirs.get(name), ours.get(name)
        where = (
            "both" if same(there, here) else "store only" if here is None else "not saved" if there is None else "differs here"
        )
        shown = there or here
        assert shown is not None
        rows.append({"name": name, "version": shown.version, "bytes": shown.size, "where": where, "here": here and here.version})
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from drivefs_agent import text

    for row in rows:
        note = f" ({row['here']} here)" if row["where"] == "differs here" else ""
        click.echo(
            text.printable(f"{row['name']:<32} {row['version']:<16} {text.size(int(row['bytes'])):>10}  {row['where']}{note}")
        )


@packages_group.command("history")
@choosing
@click.option("--json", "as_json", is_flag=True)
@click.option("-n", "count", type=click.IntRange(1), default=20, show_default=True, help="So many of the newest.")
def history_command(choice: Choice, as_json: bool, count: int) -> None:
    """List the states in the store, the newest first, and what each changed."""
    store = choice.open_store()
    line = _line(choice)
    graph = store.graph(line)
    commits = graph.newest_first()[:count]
    heads = {head.id for head in graph.heads()}
    rows = [_row(store, graph, commit, head=commit.id in heads) for commit in commits]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(f"Nothing is stored for {line} in {store.folder.address}.")
    from drivefs_agent import text

    for row in rows:
        mark = "*" if row["head"] else " "
        changes = "; ".join(row["changes"][:5]) + ("; …" if len(row["changes"]) > 5 else "")
        click.echo(text.printable(f"{mark} {row['id'][-12:]}  {row['time']}  {row['box']:<16} {row['reason']:<16} {changes}"))


def _row(store: Store, graph: Graph, commit: Any, *, head: bool) -> dict[str, Any]:
    manifest = store.read(commit)
    parents = [each for each in graph.newest_first() if each.hex in commit.parents]
    before = store.read(parents[0]).by_name() if parents else {}
    return {
        "id": commit.id,
        "time": commit.time.strftime("%Y-%m-%d %H:%M"),
        "box": commit.box,
        "reason": manifest.reason,
        "head": head,
        "parents": list(manifest.parents),
        "parts": len(manifest.parts),
        "changes": list(_differences(before, manifest.by_name())),
    }


@packages_group.command("diff")
@choosing
@click.argument("first")
@click.argument("second", required=False)
def diff_command(choice: Choice, first: str, second: str | None) -> None:
    """Say what changed from state FIRST to SECOND, or to this layer. Exit code 1 where anything did."""
    store = choice.open_store()
    graph = store.graph(_line(choice))
    before = store.read(graph.find(first)).by_name()
    after = store.read(graph.find(second)).by_name() if second else _here(choice.made_layer())
    lines = list(_differences(before, after))
    for line in lines:
        click.echo(line)
    sys.exit(1 if lines else 0)


def _differences(before: Mapping[str, Part], after: Mapping[str, Part]) -> Iterator[str]:
    from drivefs_agent.packages.merge import same

    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if same(old, new):
            continue
        if old is None or new is None:
            sign, part = ("+", new) if old is None else ("-", old)
            assert part is not None
            yield f"{sign}{name} {part.version}".rstrip()
        elif old.version == new.version:
            yield f"~{name} {new.version} (other files)".replace("  ", " ")
        else:
            yield f"~{name} {old.version} -> {new.version}"


# -- changing ------------------------------------------------------------------------------------------------------------


@packages_group.command("gc")
@choosing
@click.option(
    "--keep", type=click.IntRange(1), default=10, show_default=True, help="States of each Python that stay whatever their age."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def gc_command(choice: Choice, keep: int, dry_run: bool) -> None:
    """Put old states, and archives that no state names, into the trash. All of the last 30 days stays."""
    from drivefs_agent import text
    from drivefs_agent.packages.gc import sweep

    swept = sweep(choice.open_store(), keep=keep, dry_run=dry_run)
    for name in (*swept.states, *swept.objects):
        click.echo(name)
    verb = "would go" if dry_run else "went"
    click.echo(
        f"{len(swept.states)} states and {len(swept.objects)} archives ({text.size(swept.bytes)}) {verb} to the trash.", err=True
    )


# -- shared --------------------------------------------------------------------------------------------------------------


def _line(choice: Choice) -> str:
    from drivefs_agent.packages.target import read_target

    return read_target(choice.layer().interpreter).line


def _newest(choice: Choice, layer: Layer) -> Joined | None:
    from drivefs_agent.packages.target import read_target

    store = choice.open_store()
    store.require_trusted()
    return store.join(store.graph(read_target(layer.interpreter).line))


def _here(layer: Layer) -> dict[str, Part]:
    from drivefs_agent.packages.scan import scan

    return {found.part.name: found.part for found in scan(layer.place).found} if layer.exists() else {}


class _Bar:
    """A progress bar that several threads advance; nothing where nobody watches."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._lock = threading.Lock()
        self._bar: Any = None

    def begin(self, total: int) -> None:
        if sys.stderr.isatty():
            self._bar = click.progressbar(length=total, label=self._label, file=sys.stderr, show_pos=False)
            self._bar.__enter__()

    def advance(self, size: int) -> None:
        if self._bar is not None:
            with self._lock:
                self._bar.update(size)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)


@contextmanager
def progress_bar(label: str) -> Iterator[_Bar]:
    """For what has a ``watcher``."""
    bar = _Bar(label)
    try:
        yield bar
    finally:
        bar.end()
