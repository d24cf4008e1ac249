"""What is new in a layer goes to the store: objects first, the manifest last, so that no manifest ever names what is not there.

A save takes the layer as it is, merges it with what other boxes saved meanwhile (``merge``; the common past is the layer's own
note, ``state``), and writes nothing where nothing changed. A kill at any point leaves the store with its former manifests and
some objects more, which the next save finds by their names and does not send again.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Final, Protocol

from drivefs_agent.packages import pack, recovery_texts
from drivefs_agent.packages.errors import StoreUnreachable
from drivefs_agent.packages.folder import Entry
from drivefs_agent.packages.history import Joined, Store, new_id
from drivefs_agent.packages.layer import Layer
from drivefs_agent.packages.merge import Merged, merge, same
from drivefs_agent.packages.model import Kind, Manifest, Object, Part, Target
from drivefs_agent.packages.more import More
from drivefs_agent.packages.scan import Changed, Found, Scan, scan
from drivefs_agent.packages.state import LayerState

__all__ = ["Saved", "Saver", "Watcher"]

_SMALL: Final = 3 << 20  # bytes, unpacked, below which a part shares an archive with others: creating a file on Drive takes long
_PACK: Final = 64 << 20  # bytes, unpacked, in one such archive
_COPY: Final = re.compile(r"(requirements|README) \(conflict [^()]*\)\.txt")  # as drivefs names what two have changed
_AT_ONCE: Final = 3  # archives being made or sent


@dataclass(frozen=True, slots=True)
class Saved:
    """manifest: the one written; None where nothing had changed.  sent: objects that went to the store, and their bytes."""

    manifest: Manifest | None
    sent: tuple[Object, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def bytes_sent(self) -> int:
        return sum(one.size for one in self.sent)


class Watcher(Protocol):
    """Is told how a save goes on."""

    def begin(self, total: int) -> None:
        """So many bytes, unpacked, are to be packed and sent."""

    def advance(self, size: int) -> None:
        """So many of them are in the store."""


class _Nobody:
    def begin(self, total: int) -> None:
        pass

    def advance(self, size: int) -> None:
        pass


class Saver:
    """Saves one layer into one store. more: what else is declared; asked for at a full save only."""

    def __init__(
        self,
        layer: Layer,
        store: Store,
        target: Target,
        *,
        box: str,
        more: Callable[[], More] = More,
        clock: Callable[[], float] = time.time,
        watcher: Watcher | None = None,
    ) -> None:
        self._layer = layer
        self._store = store
        self._target = target
        self._box = box
        self._more = more
        self._clock = clock
        self._watcher = watcher or _Nobody()

    def save(self, *, reason: str = "save", full: bool = True) -> Saved:
        """``full``: with what no distribution owns, and the declared directories; without, they stay as they were saved last."""
        self._store.require_trusted()
        with self._layer.locked(wait=True):
            self._layer.collect()
            try:
                return self._save(reason, full=full)
            except Changed as error:
                if not error.paths:
                    raise
                # A file is not what its RECORD says, and neither its time nor its size tells. Now it is read.
                return self._save(reason, full=full, suspects=error.paths)

    def _save(self, reason: str, *, full: bool, suspects: Collection[str] = ()) -> Saved:
        state = LayerState.from_json(self._layer.read_state())
        scanned = scan(self._layer.place, orphans=full, suspects=suspects)
        more = self._more() if full else More()
        ours = self._ours(scanned, more, state, full=full)
        joined = self._store.join(self._store.graph(self._target.line))
        warnings = scanned.warnings + more.warnings
        if not _news(state, ours, joined):
            return Saved(None, warnings=warnings)
        return replace(self._write(state, ours, joined, scanned, more, reason, full=full), warnings=warnings)

    def _ours(self, scanned: Scan, more: More, state: LayerState, *, full: bool) -> dict[str, Part]:
        ours = {found.part.name: found.part for found in (*scanned.found, *more.found)}
        unseen = [part for part in state.parts.values() if part.kind != Kind.DISTRIBUTION]
        if full:
            unseen = [part for part in unseen if part.kind == Kind.DIRECTORY and not more.speaks_of(part.name)]
        return ours | {part.name: part for part in unseen}

    def _write(
        self,
        state: LayerState,
        ours: dict[str, Part],
        joined: Joined | None,
        scanned: Scan,
        more: More,
        reason: str,
        *,
        full: bool,
    ) -> Saved:
        theirs = joined.merged.parts if joined else {}
        known = dict(state.objects) | (dict(joined.objects) if joined else {})
        located = {
            name: _located(part, (state.parts.get(name), theirs.get(name), state.elsewhere.get(name)), known)
            for name, part in ours.items()
        }
        merged = merge(state.parts, located, theirs)
        if joined is not None:
            merged = Merged(merged.parts, joined.merged.notes + merged.notes)
        stored = self._store.objects()
        here = {found.part.name: found for found in (*scanned.found, *more.found)}
        due = [here[name] for name, part in merged.parts.items() if _is_due(part, here.get(name), stored)]
        sent = self._send(due, stored)
        homes = {name: one for one, names, _ in sent for name in names}
        manifest = self._manifest(merged.parts, joined, known, homes, reason, more.apt if full and not more.blind else None)
        unwritten = self._write_texts(manifest)
        self._store.write(manifest)
        self._remember(state, ours, manifest, full=full)
        lost = _lost(manifest, stored, homes)
        return Saved(manifest, tuple(one for one, _, new in sent if new), merged.notes + lost + unwritten)

    # -- objects ---------------------------------------------------------------------------------------------------

    def _send(self, due: Sequence[Found], stored: Mapping[str, Entry]) -> list[tuple[Object, list[str], bool]]:
        """Each object with the names of its parts, and whether it had to be sent."""
        if not due:
            return []
        self._watcher.begin(sum(found.part.size for found in due))
        with self._workshop() as folder, ThreadPoolExecutor(_AT_ONCE) as pool:
            numbers = count()
            tasks = [pool.submit(self._send_one, group, folder / str(next(numbers)), stored) for group in _groups(due)]
            try:
                return [task.result() for task in tasks]
            finally:
                for task in tasks:
                    task.cancel()

    def _send_one(self, group: Sequence[Found], file: Path, stored: Mapping[str, Entry]) -> tuple[Object, list[str], bool]:
        made = pack.write(group, self._layer.place.python, file)
        new = not _holds(stored.get(made.name), made, file)
        if new:  # in the place of a damaged one, if need be: an older state may name it, so there is no moment without
            self._store.folder.put(f"objects/{made.name}", file)
        file.unlink()
        self._watcher.advance(sum(found.part.size for found in group))
        return made, [found.part.name for found in group], new

    @contextmanager
    def _workshop(self) -> Iterator[Path]:
        """Beside the layer, where there is room for packages; swept by the layer where a kill left one."""
        folder = Path(tempfile.mkdtemp(prefix="saving-", dir=self._layer.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    # -- the manifest ----------------------------------------------------------------------------------------------

    def _manifest(
        self,
        parts: Mapping[str, Part],
        joined: Joined | None,
        known: Mapping[str, Object],
        homes: Mapping[str, Object],
        reason: str,
        apt: tuple[str, ...] | None,
    ) -> Manifest:
        settled = [replace(part, object=homes[name].name) if name in homes else part for name, part in parts.items()]
        objects = {**known, **{one.name: one for one in homes.values()}}
        now = self._clock()
        if apt is None:
            apt = joined.newest.apt if joined else ()
        return Manifest(
            id=new_id(now, self._box),
            env=self._store.env,
            parents=tuple(head.id for head in joined.heads) if joined else (),
            time=now,
            box=self._box,
            target=self._target,
            parts=tuple(sorted(settled, key=lambda part: part.name)),
            objects={name: objects[name] for name in sorted({part.object for part in settled if part.object})},
            reason=reason,
            apt=apt,
        )

    def _write_texts(self, manifest: Manifest) -> tuple[str, ...]:
        """For people who have nothing but a browser. Before the manifest: what it does not name yet does no harm in a list.

        Another box may write its own at the same moment, and then Drive keeps both: what came second is written again, and if
        that fails, too, the next save writes what all have. Returns sentences about what could not be written.
        """
        folder = self._store.folder
        texts = {
            "requirements.txt": recovery_texts.requirements(manifest),
            "README.txt": recovery_texts.readme(folder.address),
        }
        notes: list[str] = []
        for name, text in texts.items():
            try:
                self._write_text(name, text.encode())
            except StoreUnreachable:
                try:
                    self._write_text(name, text.encode())
                except StoreUnreachable as error:
                    notes.append(f"{name} was not written: {error}")
                    self._tidied()
        return tuple(notes)

    def _write_text(self, name: str, content: bytes) -> None:
        if not self._reads(self._tidied().get(name), content):
            self._store.folder.put(name, content)

    def _tidied(self) -> dict[str, Entry]:
        """Files beside the objects, without the copies that are left of two boxes' writing one text at once."""
        entries = self._store.folder.files()
        copies = [entry for entry in entries if _COPY.fullmatch(entry.name) and entry.owned]
        for entry in copies:
            self._store.folder.trash(entry)
        return {entry.name: entry for entry in entries if entry not in copies}

    def _reads(self, entry: Entry | None, content: bytes) -> bool:
        if entry is None or entry.size != len(content):
            return False
        if entry.md5 is not None:
            return entry.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()
        with self._store.folder.open(entry) as chunks:
            return b"".join(chunks) == content

    def _remember(self, state: LayerState, ours: Mapping[str, Part], manifest: Manifest, *, full: bool) -> None:
        """The layer holds what it held, wherever the manifest has something else from another box."""
        saved = manifest.by_name()
        parts = {name: saved[name] if same(part, saved.get(name)) else part for name, part in ours.items()}
        objects = {part.object: manifest.objects[part.object] for part in parts.values() if part.object in manifest.objects}
        walked = self._clock() if full else state.walked
        self._layer.write_state(LayerState(manifest.id, parts, {}, objects, walked).to_json())


def _news(state: LayerState, ours: Mapping[str, Part], joined: Joined | None) -> bool:
    """Whether there is anything to write: for ourselves, or to bring together what several boxes wrote at once."""
    if joined is None:
        return bool(ours)
    changed = any(not same(state.parts.get(name), ours.get(name)) for name in {*state.parts, *ours})
    return changed or len(joined.heads) > 1


def _located(part: Part, others: Iterable[Part | None], known: Mapping[str, Object]) -> Part:
    """With the object that holds the same bytes already, if there is one."""
    for other in others:
        if other is not None and same(part, other) and other.object in known:
            return replace(part, object=other.object)
    return part


def _is_due(part: Part, here: Found | None, stored: Mapping[str, Entry]) -> bool:
    """It is to be packed: the store has not got it, and we have."""
    return here is not None and same(here.part, part) and not part.editable and part.object not in stored


def _lost(manifest: Manifest, stored: Mapping[str, Entry], homes: Mapping[str, Object]) -> tuple[str, ...]:
    present = {*stored, *(one.name for one in homes.values())}
    missing = sorted(part.name for part in manifest.parts if part.object and part.object not in present)
    if not missing:
        return ()
    return (f"The store does not list what holds {', '.join(missing)}, which other boxes saved: see drivefs-agent doctor",)


def _holds(entry: Entry | None, made: Object, file: Path) -> bool:
    """The store has these very bytes. A name tells the checksum, but not that the upload under it went well."""
    if entry is None or entry.size != made.size:
        return False
    if entry.md5 is None:
        return True
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return entry.md5 == digest.hexdigest()


def _groups(due: Iterable[Found]) -> list[list[Found]]:
    """Which parts share an archive: small ones do. The largest first, so that none is left for the end."""
    large = [[found] for found in due if found.part.size >= _SMALL]
    packs: list[list[Found]] = []
    room = 0
    for found in sorted((found for found in due if found.part.size < _SMALL), key=lambda found: found.part.name):
        if found.part.size > room or not packs:
            packs.append([])
            room = _PACK
        packs[-1].append(found)
        room -= found.part.size
    return sorted(large + packs, key=lambda group: -sum(found.part.size for found in group))
