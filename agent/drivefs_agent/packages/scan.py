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
import io
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from drivefs_agent.packages import record
from drivefs_agent.packages.errors import Conflict
from drivefs_agent.packages.metadata import About, about, name_and_version
from drivefs_agent.packages.model import Kind, Part
from drivefs_agent.packages.scripts import to_placeholder

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

PURELIB: Final = "purelib/"
SCRIPTS: Final = "scripts/"
DATA: Final = "data/"
# What we make ourselves beside what we keep.
OURS: Final = ".drivefs-"
# Where site-packages lies in a virtual environment, seen the other way round: root/lib/pythonX.Y/site-packages.
_TO_ROOT: Final = "../../../"
# What an installer writes of itself, and of where it had the package from: not what the package is.
_NOT_IN_KEY: Final = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
_INFO: Final = re.compile(r"purelib/[^/]+\.(dist|egg)-info/(?P<name>[^/]+)")
_UNSOUND: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_SHARED_LIBRARY: Final = re.compile(r"\.(so(\.\d+)*|pyd|dylib|pyc)$")
_ELF: Final = b"\x7fELF"
# Made together with a virtual environment by venv, virtualenv or uv, and so made anew with the next one; or our own.
_OF_THE_ENVIRONMENT: Final = re.compile(
    r"(data/(pyvenv\.cfg|lib64|\.gitignore|CACHEDIR\.TAG|\.lock|\.drivefs[^/]*)"
    r"|scripts/((pypy|.?ython|python)w?[\d.]*t?|[aA]ctivate(_this)?(\.[^/]*)?|deactivate(\.[^/]*)?|pydoc\.bat)"
    r"|purelib/(_virtualenv\.(py|pth)|easy-install\.pth|[^/]*\.egg-link|~[^/]*))(/|$)"
)
# pip and uv put these beside the packages, where they install into a plain directory (--target).
_DATA_OF_A_TARGET: Final = re.compile(r"(share|etc|include|man)/")
_OURS: Final = ".drivefs"
_LARGEST_SCRIPT: Final = 16 << 20  # bytes; with a larger file in bin, the first line is no matter of ours
_CHUNK: Final = 1 << 20
_NAMED: Final = 3  # how many files a warning names
_PLAIN_CHILD: Final = re.compile(r"[A-Za-z0-9._ +-]{1,100}")


class Changed(Conflict):
    """Files are not what they were a moment ago, or not what RECORD says. paths: their scheme paths, where they are known."""

    def __init__(self, message: str, paths: Collection[str] = ()) -> None:
        super().__init__(message)
        self.paths = frozenset(paths)


@dataclass(frozen=True, slots=True)
class File:
    """A file as an archive holds it.

    path: where its bytes are (a text: there are tens of thousands).  scheme: its scheme path.  size, sha256 (hexadecimal): of the
    bytes as they are stored.  mode: permissions.  link: where it is a symbolic link, what it points to; it has no SHA-256.
    content: the bytes to store, where they are not those in the file.
    """

    path: str
    scheme: str
    size: int
    mode: int
    sha256: str | None
    link: str | None = None
    content: bytes | None = None

    @property
    def source(self) -> Path:
        return Path(self.path)


@dataclass(frozen=True, slots=True)
class Found:
    """A part, and its files sorted by scheme path."""

    part: Part
    files: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """warnings: sentences about what cannot be saved, or not as it is."""

    found: tuple[Found, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where packages lie: site-packages, bin, the root, and the Python that scripts name ("" for any).

    A tree of ``pip install --target DIR`` is ``Place(DIR, DIR / "bin", DIR, python)``.
    """

    site: Path
    scripts: Path
    data: Path
    python: str

    @property
    def is_target(self) -> bool:
        return self.site == self.data


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


def key_of(files: Iterable[tuple[str, str, int]], *, also: str = "") -> str:
    """The key of a part from the scheme paths, SHA-256 and sizes of its files. ``also``: what else tells it apart."""
    rows = sorted(f"{scheme}\0{sha256}\0{size}\n" for scheme, sha256, size in files if not _is_installers(scheme))
    return hashlib.sha256("".join([*rows, also]).encode()).hexdigest()


def inner_identity(mode: int, link: str | None, sha256: str | None) -> str:
    """What stands for a file's SHA-256 in the key of a declared directory: there, permissions and links count."""
    return f"{mode:o} {sha256 if link is None else f'-> {link}'}"


def content_of(file: File) -> Iterator[bytes]:
    """The bytes to store, in pieces. Changed where there are other bytes than ``size`` and ``sha256`` say."""
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(file):
        size += len(chunk)
        digest.update(chunk)
        if size > file.size:
            break
        yield chunk
    if size != file.size or digest.hexdigest() != file.sha256:
        raise Changed(f"{file.path} is changing, or is not what RECORD says. Save again.", [file.scheme])


def _chunks(file: File) -> Iterator[bytes]:
    if file.content is not None:
        yield file.content
        return
    try:
        with io.FileIO(file.path) as opened:
            while chunk := opened.read(_CHUNK):
                yield chunk
    except FileNotFoundError as error:
        raise Changed(f"{file.path} has just been removed. Save again.", [file.scheme]) from error


def _is_installers(scheme: str) -> bool:
    match = _INFO.fullmatch(scheme) if "-info/" in scheme else None
    return match is not None and match["name"] in _NOT_IN_KEY


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
        self._schemes = _Schemes(place)
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
    content = record.write([*rows, record.Row(_path_in_record(scheme), "", "")])
    yield File(str(folder / "RECORD"), scheme, len(content), 0o644, hashlib.sha256(content).hexdigest(), content=content)


def _path_in_record(scheme: str) -> str:
    kind, _, path = scheme.partition("/")
    return path if kind == "purelib" else f"{_TO_ROOT}bin/{path}" if kind == "scripts" else f"{_TO_ROOT}{path}"


def _row(file: File) -> record.Row:
    return record.Row(_path_in_record(file.scheme), record.claim(file.sha256 or ""), str(file.size))


class _Schemes:
    """Scheme paths from paths, as texts: a scan has tens of thousands."""

    def __init__(self, place: Place) -> None:
        self._site, self._scripts, self._data = (f"{os.path.normpath(each)}/" for each in (place.site, place.scripts, place.data))
        self._target = place.is_target

    def of_row(self, row: str) -> tuple[str, str] | None:
        """The scheme path and the path of what RECORD names; None where it is not in the place."""
        if self._target:
            # In a plain directory the rows are those of the environment that pip installed into first, and then moved.
            row = re.sub(r"^(\.\./)+", f"{self._data}", row)
        elif row[0] not in "./" and "/." not in row and "//" not in row:
            return f"{PURELIB}{row}", self._site + row
        path = os.path.normpath(row if row[0] == "/" else self._site + row)
        scheme = self.of_path(path)
        return None if scheme is None else (scheme, path)

    def of_path(self, path: str) -> str | None:
        """The scheme path of a path without dots; None where it is not in the place."""
        if path.startswith(self._scripts):
            return SCRIPTS + path[len(self._scripts) :]
        if path.startswith(self._site):
            below = path[len(self._site) :]
            return DATA + below if self._target and _DATA_OF_A_TARGET.match(below) else PURELIB + below
        return DATA + path[len(self._data) :] if path.startswith(self._data) else None


def _is_of_the_environment(scheme: str) -> bool:
    """It came with the virtual environment, or is compiled anew, or is half removed."""
    return "__pycache__/" in scheme or _OF_THE_ENVIRONMENT.match(scheme) is not None


class _Trouble:
    """Gathers what cannot be saved, to be told in few sentences."""

    def __init__(self) -> None:
        self._paths: dict[str, list[str]] = {}

    def add(self, what: str, path: str) -> None:
        self._paths.setdefault(what, []).append(path)

    def sentences(self, who: str) -> list[str]:
        return [f"{who}: {what}: {_listed(paths)}." for what, paths in self._paths.items()]


def _listed(paths: list[str]) -> str:
    shown = ", ".join(paths[:_NAMED]).encode("utf-8", "backslashreplace").decode()
    return shown if len(paths) <= _NAMED else f"{shown} and {len(paths) - _NAMED} more"


class _Files:
    """Makes a ``File`` of a path, whatever is there."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._inside = tuple(os.path.realpath(each) + os.sep for each in (place.site, place.scripts, place.data))
        self.trouble = _Trouble()
        self.native = False

    def look(self, path: str, scheme: str) -> tuple[str, os.stat_result] | None:
        """Where its bytes are, and their state; None where it cannot be saved."""
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            self.trouble.add("files are missing", path)
            return None
        is_link = stat.S_ISLNK(found.st_mode)
        if is_link:
            path, found = self._follow(path, found)
        if _UNSOUND.search(scheme):
            self.trouble.add("files are not saved, because their names hold control characters or are no UTF-8", path)
        elif stat.S_ISREG(found.st_mode):
            return path, found
        elif stat.S_ISLNK(found.st_mode):
            self.trouble.add("links are not saved, because they lead out of the environment or nowhere", path)
        elif is_link:
            self.trouble.add("links to directories are not saved", path)
        elif not stat.S_ISDIR(found.st_mode):
            self.trouble.add("these are not saved, because they are no files", path)
        return None

    def _follow(self, path: str, found: os.stat_result) -> tuple[str, os.stat_result]:
        """A link to a file inside is stored as that file."""
        real = os.path.realpath(path)
        try:
            return (real, os.lstat(real)) if real.startswith(self._inside) else (path, found)
        except FileNotFoundError:
            return path, found

    def of(self, path: str, scheme: str, found: os.stat_result, sha256: str | None) -> File | None:
        """``sha256``: of the bytes, where it is known already. None where it cannot be read."""
        try:
            return self._of(path, scheme, found, sha256)
        except PermissionError:
            self.trouble.add("these are not saved, because they cannot be read", path)
            return None

    def _of(self, path: str, scheme: str, found: os.stat_result, sha256: str | None) -> File:
        mode = 0o755 if found.st_mode & 0o100 else 0o644
        small = found.st_size <= _LARGEST_SCRIPT
        if scheme.startswith(SCRIPTS) and small and (content := self._script(path)) is not None:
            return File(path, scheme, len(content), mode, hashlib.sha256(content).hexdigest(), content=content)
        if sha256 is None:
            sha256, size = self._hash(path)
            return File(path, scheme, size, mode, sha256)
        return File(path, scheme, found.st_size, mode, sha256)

    def _script(self, path: str) -> bytes | None:
        """Its content with the placeholder; None where it is no script that names the layer's Python."""
        with _opened(path) as file:
            head = os.read(file.fileno(), 4)
            self.native = self.native or head == _ELF
            if head[:2] != b"#!":
                return None
            content = head + file.read()
        placed = to_placeholder(content, self._place.python)
        return None if placed == content else placed

    def _hash(self, path: str) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        with _opened(path) as file:
            while chunk := file.read(_CHUNK):
                self.native = self.native or (size == 0 and chunk.startswith(_ELF))
                digest.update(chunk)
                size += len(chunk)
        return digest.hexdigest(), size


def _opened(path: str) -> io.FileIO:
    try:
        return io.FileIO(path)
    except FileNotFoundError as error:
        raise Changed(f"{path} has just been removed. Try again when pip is done.") from error


class _Reader:
    """Reads the files of one distribution.

    owned: paths that it has.  rows: what RECORD says, by scheme path; modified: the scheme paths of which that is not so.
    native: it holds compiled code.
    """

    def __init__(self, place: Place, schemes: _Schemes, known: About, suspects: frozenset[str], since: int) -> None:
        self._schemes = schemes
        self._known = known
        self._suspects = suspects
        self._since = since
        self._files = _Files(place)
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
            if scheme in files or _is_of_the_environment(scheme) or scheme.endswith(".dist-info/RECORD"):
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
        self.rows[scheme] = record.Row(_path_in_record(scheme), row.checksum, row.size)
        return file


def _is_compiled_anew(row: record.Row) -> bool:
    """What pip compiled after installing. A module that comes compiled only has a checksum."""
    return "__pycache__/" in row.path or (row.path.endswith(".pyc") and not row.checksum)


class _Walker:
    """Finds the files that no distribution owns. newest: the latest change of one, in ns.  native: some are compiled code."""

    def __init__(self, place: Place, schemes: _Schemes, owned: set[str], strangers: frozenset[str]) -> None:
        self._place = place
        self._schemes = schemes
        self._owned = owned
        self._site = os.path.normpath(place.site)
        self._strangers = strangers
        self._files = _Files(place)
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
                if not _is_of_the_environment(scheme) and (file := self._file(path, scheme)) is not None:
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


# -- declared directories ----------------------------------------------------------------------------------------------


def scan_directory(name: str, directory: Path) -> Scan:
    """A declared directory: a part "dir/NAME/CHILD" for each child, whose scheme paths are "data/CHILD/…".

    Symbolic links are kept where they are relative, or can be, and stay inside the child. A directory that does not exist holds
    nothing.
    """
    trouble = _Trouble()
    found = []
    for child in sorted(os.listdir(directory)) if directory.is_dir() else []:
        if child.startswith(OURS):
            continue
        if child.startswith(_OURS):
            continue
        files = sorted(_tree(directory, child, trouble), key=lambda file: file.scheme)
        if files:
            found.append(_child(name, child, files))
    return Scan(tuple(found), tuple(trouble.sentences(f"The directory {directory}")))


def _child(name: str, child: str, files: list[File]) -> Found:
    plain = child if _PLAIN_CHILD.fullmatch(child) else ""
    if not plain:
        unlike = hashlib.sha256(os.fsencode(child)).hexdigest()[:8]
        plain = f"{re.sub('[^A-Za-z0-9._ +-]+', '_', child)[:80]}-{unlike}"
    key = key_of((file.scheme, inner_identity(file.mode, file.link, file.sha256), file.size) for file in files)
    installed = max(_changed(file.path) for file in files)
    size = sum(file.size for file in files)
    return Found(
        Part(f"dir/{name}/{plain}", "", key, Kind.DIRECTORY, size=size, files=len(files), installed=installed), tuple(files)
    )


def _changed(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except FileNotFoundError as error:
        raise Changed(f"{path} has just been removed. Try again.") from error


def _tree(directory: Path, child: str, trouble: _Trouble) -> Iterator[File]:
    waiting = [child]
    while waiting:
        below = waiting.pop()
        path = directory / below
        try:
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode):
                waiting += [f"{below}/{name}" for name in os.listdir(path)]
            elif (file := _kept(directory, below, found, trouble)) is not None:
                yield file
        except FileNotFoundError:
            trouble.add("files vanished while they were looked at", below)
        except PermissionError:
            trouble.add("these are not saved, because they cannot be read", below)


def _kept(directory: Path, below: str, found: os.stat_result, trouble: _Trouble) -> File | None:
    path = directory / below
    scheme = DATA + below
    if _UNSOUND.search(scheme):
        trouble.add("files are not saved, because their names hold control characters or are no UTF-8", below)
    elif stat.S_ISLNK(found.st_mode):
        if (link := _inner_link(directory, below)) is not None:
            return File(str(path), scheme, 0, 0o777, None, link=link)
        trouble.add("links are not saved, because they lead out of the directory", below)
    elif stat.S_ISREG(found.st_mode):
        return _hashed(path, scheme, found.st_mode & 0o755 | 0o600)
    else:
        trouble.add("these are not saved, because they are no files", below)
    return None


def _hashed(path: Path, scheme: str, mode: int) -> File:
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return File(str(path), scheme, size, mode, digest.hexdigest())


def _inner_link(directory: Path, below: str) -> str | None:
    """What the link points to, with dots at its beginning only; None where that is not inside the child of ``directory``."""
    path = directory / below
    folder = os.path.realpath(path.parent)
    top = os.path.realpath(directory / below.split("/")[0]) if "/" in below else ""
    target = os.readlink(path)
    lexical = os.path.normpath(os.path.join(folder, target))
    # Dots behind a name mean another place where that name is a link. Then the two differ.
    if not top or not (lexical + os.sep).startswith(top + os.sep) or _UNSOUND.search(target):
        return None
    if os.path.realpath(path) != os.path.realpath(lexical) or not (os.path.realpath(path) + os.sep).startswith(top + os.sep):
        return None
    return os.path.relpath(lexical, folder)
