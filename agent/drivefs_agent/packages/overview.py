"""How a layer is doing, without asking the store: what is unsaved, what hides the image's own, and whether anybody saves it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from drivefs_agent import text
from drivefs_agent.packages import watch
from drivefs_agent.packages.layer import Layer
from drivefs_agent.packages.model import Kind
from drivefs_agent.packages.scan import distributions
from drivefs_agent.packages.state import LayerState

__all__ = ["Overview", "look"]


@dataclass(frozen=True, slots=True)
class Overview:
    """unsaved: "+name version", "-name version" or "~name old -> new" against the last save.  stored: parts in that save.

    watcher: the process that saves in the background.  manifest: the last state saved or restored here; saved: when (Unix time).
    """

    python: str
    layer: str
    exists: bool
    distributions: Mapping[str, str]
    unsaved: tuple[str, ...] = ()
    stored: int = 0
    bytes: int = 0
    manifest: str | None = None
    watcher: int | None = None
    report: watch.Told | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "unsaved": list(self.unsaved)}

    def lines(self) -> Iterator[str]:
        for line in self._lines():
            yield text.printable(line)

    def _lines(self) -> Iterator[str]:
        yield f"Python    {self.python}"
        if not self.exists:
            yield "Layer     none; make one with: drivefs-agent enable"
            return
        count = len(self.distributions)
        yield f"Layer     {self.layer}: {count} distribution{'' if count == 1 else 's'} above the image's own"
        if self.manifest is None:
            yield "Saved     never; save now with: drivefs-agent packages save"
        else:
            yield f"Saved     {self.stored} parts ({text.size(self.bytes)}), state {self.manifest[-12:]}"
        if self.unsaved:
            yield f"Unsaved   {', '.join(self.unsaved)}"
        yield f"Watcher   {self._watcher()}"

    def _watcher(self) -> str:
        if self.watcher is None:
            return "none: what pip installs is not saved by itself. Start one: drivefs-agent packages watch --background"
        if self.report is not None and self.report.error is not None:
            return f"process {self.watcher}; its last save failed: {self.report.error}"
        last = self.report.saved if self.report is not None else None
        looked = "" if last is None else f", in step {text.duration(max(0.0, time.time() - last))} ago"
        return f"process {self.watcher}{looked}"


def look(layer: Layer) -> Overview:
    """Versions only: files that were changed by hand are found by a save."""
    if not layer.exists():
        return Overview(layer.interpreter.executable, str(layer.root), exists=False, distributions={})
    state = LayerState.from_json(layer.read_state())
    here = distributions(layer.site)
    known = {name: part.version for name, part in state.parts.items() if part.kind == Kind.DISTRIBUTION}
    return Overview(
        python=layer.interpreter.executable,
        layer=str(layer.root),
        exists=True,
        distributions=here,
        unsaved=tuple(_unsaved(known, here)),
        stored=len(state.parts),
        bytes=sum(part.size for part in state.parts.values()),
        manifest=state.manifest,
        watcher=watch.watcher_of(layer),
        report=watch.read_report(layer),
    )


def _unsaved(known: Mapping[str, str], here: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*known, *here}):
        old, new = known.get(name), here.get(name)
        if old != new:
            yield f"+{name} {new}" if old is None else f"-{name} {old}" if new is None else f"~{name} {old} -> {new}"
