"""What is in a layer: its distributions, what no distribution owns, and what declared directories hold.

Files are named by *scheme paths*, which do not depend on where a layer lies or which minor version its Python has:
"purelib/<below site-packages>", "scripts/<below bin>", "data/<below the root>". What a virtual environment has from its making is
nobody's, and so is what Python compiles anew (``__pycache__``).

RECORD is believed where the file is not newer and has the size that RECORD gives; other files are read. A lie that neither tells
comes out when the file is packed: ``Changed`` names it, and ``suspects`` has it read from then on.

Invariants: the key of a part is over the bytes that an archive of it would hold; a scan during which packages came or went is
none (``Changed``).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from drivefs_agent.packages import record
from drivefs_agent.packages.declared import scan_directory
from drivefs_agent.packages.found import Changed, File, Found, Place, Scan, content_of, inner_identity, key_of
from drivefs_agent.packages.looking import Look
from drivefs_agent.packages.metadata import About, about, name_and_version
from drivefs_agent.packages.model import Kind, Part
from drivefs_agent.packages.schemes import PURELIB, Schemes, is_of_the_environment, path_in_record

__all__ = [
    "Changed",
    "File",
    "Found",
    "Place",
    "Scan",
    "content_of",
    "distributions",
    "inner_identity",
    "key_of",
    "scan",
    "scan_directory",
]

_SHARED_LIBRARY: Final = re.compile(r"\.(so(\.\d+)*|pyd|dylib|pyc)$")


def scan(
    place: Place,
    *,
    orphans: bool = True,
    suspects: Collection[str] = (),
    only: Collection[str] | None = None,
    strangers: Collection[str] = (),
) -> Scan:
    """``orphans``: also what no distribution owns.  suspects: scheme paths of files whose RECORD is not believed.

    only: the distributions that are looked at, by their normalised names; then there are no orphans, because what the others own
    is not known.  strangers: what lies directly in site-packages and is no orphan either.
    Changed where packages are installed or removed meanwhile. OSError where the place cannot be read.
    """
    return _Scanner(place, frozenset(suspects), only, frozenset(strangers)).scan(orphans=orphans and only is None)


def distributions(site: Path) -> dict[str, str]:
    """Normalised names and versions of what is installed, told from the names in the directory alone."""
    return dict(sorted(name_and_version(name) for name in _infos(site)))


def _infos(site: Path) -> list[str]:
    """Names of metadata directories. "~x" is what pip has begun to remove; with the last package it removes ``site`` itself."""
    try:
        return sorted(name for name in os.listdir(site) if name.endswith((".dist-info", ".egg-info")) and name[0] != "~")
    except FileNotFoundError:
        return []


class _Scanner:
    """One scan. Gathers what is owned on the way, so that the rest can be told."""

    def __init__(self, place: Place, suspects: frozenset[str], only: Collection[str] | None, strangers: frozenset[str]) -> None:
        self._place = place
        self._suspects = suspects
        self._only = only
        self._strangers = strangers
        self._schemes = Schemes(place)
        self._owned: set[str] = set()
        self._requires: set[str] = set()
        self._requested_by_uv: set[str] = set()
        self._warnings: list[str] = []

    def scan(self, *, orphans: bool) -> Scan:
        before = self._state()
        names = [name for name in _infos(self._place.site) if self._only is None or name_and_version(name)[0] in self._only]
        found = self._newest([each for name in names if (each := self._distribution(name)) is not None])
        if orphans and (rest := self._orphans()) is not None:
            found.append(rest)
        if self._state() != before:
            raise Changed("Packages are being installed or removed right now. Try again when pip is done.")
        return Scan(tuple(self._asked_for(each) for each in found), tuple(self._warnings))

    def _asked_for(self, found: Found) -> Found:
        """uv says of everything that a person asked for it. Of what another package depends on, that is not to be believed."""
        part = found.part
        if part.name not in self._requested_by_uv or part.name not in self._requires:
            return found
        return replace(found, part=replace(part, requested=False))

    def _state(self) -> list[tuple[str, int]]:
        """Tells that pip or uv was at work: RECORD comes last, and goes with the directory."""
        site = self._place.site
        return [(name, _modified(site / name / "RECORD")) for name in _infos(site)]

    # -- distributions -------------------------------------------------------------------------------------------------

    def _distribution(self, name: str) -> Found | None:
        """None where nothing says which files it owns: they count as nobody's then."""
        folder = self._place.site / name
        rows, since = _rows(folder)
        if rows is None:
            return None
        known = about(folder)
        self._requires.update(known.requires)
        if known.requested and known.installer == "uv":
            self._requested_by_uv.add(known.name)
        reader = _Reader(self._place, self._schemes, known, self._suspects, since)
        files = reader.read(rows)
        self._owned |= reader.owned
        installed = (_modified(folder / "INSTALLER") or since) / 1e9
        if known.editable is not None:
            self._warnings.append(
                f"{known.name} is installed from its source in {known.editable} (editable), which is not saved: "
                "keep the source on Drive or in git, and install it again on the next box."
            )
            key = key_of([], also=f"editable {known.editable}")
            return Found(_part(known, key, installed, editable=known.editable), ())
        self._warnings += reader.warnings()
        files = sorted([*files, *_record_of(name, folder, files, reader.rows)], key=lambda file: file.scheme)
        return Found(
            replace(
                _part(known, _key(files), installed),
                size=sum(file.size for file in files),
                files=len(files),
                native=reader.native or any(not tag.endswith("-any") for tag in known.tags),
                modified=tuple(sorted(reader.modified)),
            ),
            tuple(files),
        )

    def _newest(self, found: list[Found]) -> list[Found]:
        """Two metadata directories of one distribution are left where pip installed over an older one (--target --upgrade).

        The files are the newer one's then, so the RECORD that does not hold is the older one's: a copy of such a directory has
        other times.
        """
        by_name: dict[str, Found] = {}
        for each in sorted(found, key=lambda each: (not each.part.modified, each.part.installed)):
            if (older := by_name.get(each.part.name)) is not None:
                self._warnings.append(
                    f"{each.part.name} is there twice, as {older.part.version} and {each.part.version}: the one installed last, "
                    f"{each.part.version}, is saved."
                )
            by_name[each.part.name] = each
        return [each for _, each in sorted(by_name.items())]

    # -- what nobody owns ----------------------------------------------------------------------------------------------

    def _orphans(self) -> Found | None:
        walker = _Walker(self._place, self._schemes, self._owned, self._strangers)
        files = sorted(walker.files(), key=lambda file: file.scheme)
        self._warnings += walker.warnings()
        if not files:
            return None
        part = Part("_orphans", "", _key(files), Kind.ORPHANS, installed=max(walker.newest, 0) / 1e9, native=walker.native)
        return Found(replace(part, size=sum(file.size for file in files), files=len(files)), tuple(files))


def _part(known: About, key: str, installed: float, editable: str | None = None) -> Part:
    return Part(
        known.name,
        known.version,
        key,
        tags=known.tags,
        needs=known.needs,
        requested=known.requested,
        direct_url=known.direct_url,
        editable=editable,
        installed=installed,
    )


def _key(files: Iterable[File]) -> str:
    return key_of((file.scheme, file.sha256 or "", file.size) for file in files)


def _rows(folder: Path) -> tuple[list[record.Row] | None, int]:
    """What the distribution owns, relative to site-packages, and when that was written. None where nothing says it."""
    try:
        path = folder / "RECORD"
        if path.exists():
            return list(record.read(path.read_bytes())), _modified(path)
        path = folder / "installed-files.txt"  # of setup.py install; relative to its own directory
        if path.exists():
            lines = [*path.read_text().splitlines(), path.name]
            return [record.Row(os.path.normpath(f"{folder.name}/{line}"), "", "") for line in lines if line], 0
    except (ValueError, NotADirectoryError):
        return None, 0
    return None, 0


def _record_of(name: str, folder: Path, files: Iterable[File], known: dict[str, record.Row]) -> Iterator[File]:
    """RECORD as it is stored: of the files that are stored. ``known``: rows to keep as they are, by scheme path."""
    if not name.endswith(".dist-info"):
        return
    scheme = f"{PURELIB}{name}/RECORD"
    rows = [known.get(file.scheme) or _row(file) for file in files]
    content = record.write([*rows, record.Row(path_in_record(scheme), "", "")])
    yield File(str(folder / "RECORD"), scheme, len(content), 0o644, hashlib.sha256(content).hexdigest(), content=content)


def _row(file: File) -> record.Row:
    return record.Row(path_in_record(file.scheme), record.claim(file.sha256 or ""), str(file.size))


class _Reader:
    """Reads the files of one distribution.

    owned: paths that it has.  rows: what RECORD says, by scheme path; modified: the scheme paths of which that is not so.
    native: it holds compiled code.
    """

    def __init__(self, place: Place, schemes: Schemes, known: About, suspects: frozenset[str], since: int) -> None:
        self._schemes = schemes
        self._known = known
        self._suspects = suspects
        self._since = since
        self._files = Look(place)
        self.owned: set[str] = set()
        self.rows: dict[str, record.Row] = {}
        self.modified: set[str] = set()

    @property
    def native(self) -> bool:
        return self._files.native

    def warnings(self) -> list[str]:
        return self._files.trouble.sentences(f"{self._known.name} {self._known.version}".strip())

    def read(self, rows: Iterable[record.Row]) -> list[File]:
        """All but RECORD, each once."""
        files: dict[str, File] = {}
        for row in rows:
            if _is_compiled_anew(row):
                continue
            if (named := self._schemes.of_row(row.path)) is None:
                self._files.trouble.add("files outside the environment are not saved", row.path)
                continue
            scheme, path = named
            self.owned.add(path)
            if scheme in files or is_of_the_environment(scheme) or scheme.endswith(".dist-info/RECORD"):
                continue
            if (file := self._file(row, scheme, path)) is not None:
                files[scheme] = file
        return list(files.values())

    def _file(self, row: record.Row, scheme: str, path: str) -> File | None:
        looked = self._files.look(path, scheme)
        if looked is None:
            return None
        source, found = looked
        claimed = record.sha256_of(row.checksum)
        believed = (
            claimed is not None
            and row.size == str(found.st_size)
            and found.st_mtime_ns <= self._since
            and source == path
            and scheme not in self._suspects
        )
        self._files.native = self._files.native or _SHARED_LIBRARY.search(scheme) is not None
        file = self._files.of(source, scheme, found, claimed if believed else None)
        if file is None or file.content is not None or claimed is None:
            return file
        if not believed and (claimed, row.size) != (file.sha256, str(file.size)):
            self.modified.add(scheme)
        path = path_in_record(scheme)
        self.rows[scheme] = row if row.path == path else record.Row(path, row.checksum, row.size)
        return file


def _is_compiled_anew(row: record.Row) -> bool:
    """What pip compiled after installing. A module that comes compiled only has a checksum."""
    return "__pycache__/" in row.path or (row.path.endswith(".pyc") and not row.checksum)


class _Walker:
    """Finds the files that no distribution owns. newest: the latest change of one, in ns.  native: some are compiled code."""

    def __init__(self, place: Place, schemes: Schemes, owned: set[str], strangers: frozenset[str]) -> None:
        self._place = place
        self._schemes = schemes
        self._owned = owned
        self._site = os.path.normpath(place.site)
        self._strangers = strangers
        self._files = Look(place)
        self.newest = 0

    @property
    def native(self) -> bool:
        return self._files.native

    def warnings(self) -> list[str]:
        return self._files.trouble.sentences("Files that no package owns")

    def files(self) -> Iterator[File]:
        seen: set[str] = set()
        for top in dict.fromkeys(os.path.normpath(each) for each in (self._place.site, self._place.scripts, self._place.data)):
            for path in self._walk(top, seen) if top not in seen else ():
                scheme = self._schemes.of_path(path)
                assert scheme is not None, "it lies below one of the three"
                if not is_of_the_environment(scheme) and (file := self._file(path, scheme)) is not None:
                    yield file

    def _walk(self, folder: str, seen: set[str]) -> Iterator[str]:
        """Paths of what is no directory, each once: one place may lie within another."""
        seen.add(folder)
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name in self._strangers and folder == self._site:
                continue
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__" and entry.path not in seen and not self._is_half_removed(entry):
                    yield from self._walk(entry.path, seen)
            elif entry.path not in self._owned and not entry.name.endswith(".pyc"):
                yield entry.path

    def _is_half_removed(self, entry: os.DirEntry[str]) -> bool:
        return entry.name[0] == "~" and os.path.dirname(entry.path) == self._site

    def _file(self, path: str, scheme: str) -> File | None:
        looked = self._files.look(path, scheme)
        if looked is None:
            return None
        source, found = looked
        self.newest = max(self.newest, found.st_mtime_ns)
        self._files.native = self._files.native or _SHARED_LIBRARY.search(scheme) is not None
        return self._files.of(source, scheme, found, None)


def _modified(path: Path) -> int:
    """When it was changed last, in ns; 0 where it is not there."""
    try:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0
