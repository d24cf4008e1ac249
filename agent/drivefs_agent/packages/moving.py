"""Packages that are elsewhere on this box become the layer's, and packages of the layer go.

Either way a new generation is built beside the one in use and takes its place by one rename: what is killed in between has
changed nothing. Where packages come from is only read. They land as those of a store do (``landing``, ``extract.finish``):
verified, with scripts that name the layer's Python, and RECORD last.

Invariant: what pip or uv put into the layer while the new generation was being built is not lost: then nothing is switched.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from drivefs_agent.packages import fit
from drivefs_agent.packages.arrival import Destination
from drivefs_agent.packages.clone import clone
from drivefs_agent.packages.extract import Arrived, finish
from drivefs_agent.packages.fit import Judged
from drivefs_agent.packages.landing import Landing, Site, Writer, layer_schemes, write_all
from drivefs_agent.packages.layer import Layer
from drivefs_agent.packages.model import Kind, Part, Target
from drivefs_agent.packages.save import Watcher
from drivefs_agent.packages.scan import Changed, File, Found, Scan, content_of, key_of
from drivefs_agent.packages.scripts import to_real
from drivefs_agent.packages.tags import loadable

__all__ = ["Chosen", "Moved", "choose", "rebuild"]

_INFO: Final = re.compile(r"(?P<folder>purelib/[^/]+\.(dist|egg)-info)/(?P<name>.*)")
_NAMED: Final = 3  # how many files a warning names


@dataclass(frozen=True, slots=True)
class Moved:
    """taken: what the layer has now and had not.  gone: what it had and has no more.

    left: what stays where it is, or stays in the layer, each with the reason.  warnings: sentences.
    """

    taken: tuple[Part, ...] = ()
    gone: tuple[Part, ...] = ()
    left: tuple[Judged, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """found: what is to come into the layer.  gone: names of what goes for it.  left: what does not come, and why."""

    found: tuple[Found, ...]
    gone: frozenset[str]
    left: tuple[Judged, ...]
    warnings: tuple[str, ...]


# -- what comes --------------------------------------------------------------------------------------------------------


def choose(there: Scan, ours: Scan, made_for: Target, here: Target, *, replacing: bool = False) -> Chosen:
    """What of ``there`` may come into a layer that holds ``ours``. Pure.

    made_for: what is known of the box that it was installed on.  replacing: in place of another version, too.
    """
    present = {found.part.name: found for found in ours.found}
    wanted = [found for found in there.found if found.part.kind == Kind.DISTRIBUTION]
    planned = fit.plan((found.part for found in wanted), made_for, here)
    reasons = {one.part.name: one.reason for one in (*planned.anew, *planned.left_out)}
    left: list[Judged] = []
    coming: list[Found] = []
    for found in wanted:
        part, old = found.part, present.get(found.part.name)
        if old is not None and old.part.version == part.version:
            reason = "The layer has it already."
        elif old is not None and old.part.editable is not None:
            reason = f"The layer has it from its source in {old.part.editable}. To have this one: pip uninstall {part.name}"
        elif reason := _foreign(part, here) or reasons.get(part.name, ""):
            pass
        elif old is not None and not replacing:
            reason = f"The layer has {old.part.version}, which stays. To have this one instead: --replace"
        if reason:
            left.append(Judged(part, reason))
        else:
            coming.append(found)
    gone = frozenset(found.part.name for found in coming if found.part.name in present)
    warnings = [*there.warnings, *planned.notes, *(sentence for found in coming for sentence in _modified(found.part))]
    for found in there.found:
        if found.part.kind == Kind.ORPHANS:
            rest, differing = _without(found, ours, gone)
            coming += [rest] if rest.files else []
            warnings += [f"The layer has other files of these names, which stay: {_listed(differing)}."] if differing else []
    return Chosen(tuple(coming), gone, tuple(left), tuple(warnings))


def _foreign(part: Part, here: Target) -> str:
    """Why this Python cannot load it, by what its wheel said; "" where it can."""
    anew = f"Install it anew: pip install {part.name}=={part.version}"
    python = f"this Python is {here.line} with {here.libc}"
    if part.tags and not loadable(part.tags, here, local=True):
        return f"It is made for {', '.join(part.tags)}, and {python}. {anew}"
    if part.native and not part.tags:
        return f"It is compiled, nothing says for which Python, and {python}. {anew}"
    return ""


def _modified(part: Part) -> Iterator[str]:
    if part.modified:
        paths = [scheme.partition("/")[2] for scheme in part.modified]
        yield f"{part.name} {part.version} has been changed since it was installed, and comes as it is: {_listed(paths)}."


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more


def _without(orphans: Found, ours: Scan, gone: Collection[str]) -> tuple[Found, list[str]]:
    """Files that nobody owns, without those that the layer has; and which of these are others than the layer's.

    What lies in a distribution's metadata and is nobody's stays, too: alone it would look like that distribution.
    """
    held = {file.scheme: file for found in ours.found if found.part.name not in gone for file in found.files}
    whole = {file.scheme.rpartition("/")[0] for file in orphans.files if file.scheme.endswith(("/METADATA", "/PKG-INFO"))}
    loose = [file for file in orphans.files if (info := _INFO.match(file.scheme)) is None or info["folder"] in whole]
    files = tuple(file for file in loose if file.scheme not in held)
    both = [file for file in loose if file.scheme in held]
    differing = [file.scheme.partition("/")[2] for file in both if file.sha256 != held[file.scheme].sha256]
    key = key_of((file.scheme, file.sha256 or "", file.size) for file in files)
    part = replace(orphans.part, key=key, size=sum(file.size for file in files), files=len(files))
    return Found(part, files), differing


# -- the new generation ------------------------------------------------------------------------------------------------


def rebuild(
    layer: Layer, ours: Scan, gone: Collection[str], coming: Sequence[Found] = (), watcher: Watcher | None = None
) -> None:
    """The layer becomes ``ours`` without what is named in ``gone``, and with ``coming``. The caller holds the lock.

    ours: with what no distribution owns, where anything is coming.
    Changed, and nothing is switched, where a file is not what it was when it was scanned, or where pip was at work meanwhile.
    """
    if not gone and not coming:
        return
    before = layer.marks()
    stay = [found for found in ours.found if found.part.name not in gone]
    with layer.new_generation() as generation:
        clone(layer.current, generation, ours.found, {found.part.name for found in stay})
        if coming:
            destination = Destination(generation, layer_schemes(layer.interpreter.layer_site), str(layer.python), stay)
            _land(coming, destination, watcher)
        if (state := layer.read_state()) is not None:
            layer.write_state(state, generation)
        if layer.marks() != before:
            raise Changed("pip has installed or removed something meanwhile, so nothing was changed here. Run this again.")
        layer.switch(generation)


def _land(coming: Sequence[Found], destination: Destination, watcher: Watcher | None) -> None:
    if watcher is not None:
        watcher.begin(sum(found.part.size for found in coming))
    with Landing() as landing, Writer(landing) as writer:
        destination.expect(landing, [found.part for found in coming])
        copying = _Copying(landing, writer, watcher)
        arrived = [copying.take(found) for found in coming]
        if copying.changed:
            raise Changed(f"Not what RECORD says: {_listed(sorted(copying.changed))}.", copying.changed)
        finish(landing, arrived)


class _Copying:
    """Copies parts to where they are expected. changed: scheme paths of files that are not what the scan took them for."""

    def __init__(self, landing: Landing, writer: Writer, watcher: Watcher | None) -> None:
        self._landing = landing
        self._writer = writer
        self._watcher = watcher
        self.changed: set[str] = set()

    def take(self, found: Found) -> Arrived:
        """All but RECORD, which ``extract.finish`` writes when everything is there."""
        site = self._landing.site(found.part.folder)
        assert site is not None, "it was announced"
        arrived = Arrived(found.part)
        for file in found.files:
            arrived.files[file.scheme] = (file.sha256 or "", file.size)
            try:
                self._take(site, arrived, file)
            except Changed as error:
                self.changed |= error.paths
            if self._watcher is not None:
                self._watcher.advance(file.size)
        return arrived

    def _take(self, site: Site, arrived: Arrived, file: File) -> None:
        path, info = site.path(file.scheme), _INFO.fullmatch(file.scheme)
        name = info["name"] if info is not None and arrived.part.kind == Kind.DISTRIBUTION else ""
        if name in ("RECORD", "INSTALLER"):
            self._landing.claim_alone(site, path)
            content = b"".join(content_of(file))
            if name == "RECORD":
                arrived.record = (path, content)
            else:  # its time tells when the package was installed (``scan``)
                self._writer.write(site.root, path, content, 0o644, arrived.part.installed)
        elif (claimed := self._landing.claim(site, path)) is None:
            arrived.lost.add(file.scheme)
        else:
            self._write(site, claimed, self._pieces(arrived, site, file), file.mode)

    def _pieces(self, arrived: Arrived, site: Site, file: File) -> Iterable[bytes]:
        if file.content is None:
            return content_of(file)
        real = to_real(file.content, site.python)
        arrived.scripts[file.scheme] = real
        return [real]

    def _write(self, site: Site, path: str, pieces: Iterable[bytes], mode: int) -> None:
        with self._writer.create(site.root, path, site.mode(mode)) as fd:
            for piece in pieces:
                write_all(fd, piece, site.root.path)
