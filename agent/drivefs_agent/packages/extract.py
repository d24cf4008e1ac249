"""Unpacks archives as they arrive, and verifies what has come against the manifest and against RECORD.

    with Landing() as landing:
        landing.put(part, root, schemes, python)     for each part that is wanted; ``skip`` for its companions
        arrived = [extract(chunks, landing, ...)]    several at once, in threads
        finish(landing, arrived)                     only now is anything complete

An archive may come from a stranger, or be damaged. It is rejected (StoreDamaged, or Hostile where none of ours can be like that)
as soon as that shows; what has been written until then lies below the roots of the landing, and its owner throws those away.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Final

from drivefs_agent.packages import record
from drivefs_agent.packages.errors import Hostile, StoreDamaged
from drivefs_agent.packages.found import inner_identity, key_of
from drivefs_agent.packages.landing import Landing, Site, Writer, write_all
from drivefs_agent.packages.model import Kind, Object, Part
from drivefs_agent.packages.schemes import path_in_record, scheme_in_record
from drivefs_agent.packages.scripts import PLACEHOLDER, to_real, with_scripts
from drivefs_agent.packages.untar import Archive, Member

__all__ = ["Arrived", "Extracted", "Limits", "extract", "finish", "verify"]

_INFO: Final = re.compile(r"purelib/[^/]+\.dist-info/(?P<name>RECORD|INSTALLER)")
_LAST_OR_DATED: Final = ("/RECORD", "/INSTALLER")
_SMALL: Final = 1 << 20  # bytes; what is not larger is handled at once
_SCRIPT: Final = b"#!" + PLACEHOLDER
_LATEST: Final = float(1 << 32)  # Unix time; ext4 with small inodes ends in 2038, and the others after this


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may be at most; the manifest's own figures for each part are a limit besides.

    files: members.  depth: components of a path.  file, total: bytes of one, and of all, unpacked.  text: bytes of a RECORD or a
    script.  ratio: bytes unpacked for one packed, of what goes beyond ``ratio_from`` bytes: less than that is no bomb.
    """

    files: int = 2_000_000
    depth: int = 64
    file: int = 64 << 30
    total: int = 256 << 30
    text: int = 64 << 20
    ratio: int = 1_000
    ratio_from: int = 4 << 30


_DEFAULT: Final = Limits()


@dataclass(slots=True)
class Arrived:
    """What came of one part. files: SHA-256 (or what stands for it, see ``inner_identity``) and size, by scheme path.

    lost: those whose path another part kept.  scripts: what was written in place of the archive's bytes.  record: RECORD's path
    and content, which is not written yet.
    """

    part: Part
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    size: int = 0
    lost: set[str] = field(default_factory=set)
    scripts: dict[str, bytes] = field(default_factory=dict)
    record: tuple[str, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Extracted:
    """An archive that came completely. size, sha256: of its bytes, packed.  parts: the wanted ones in it."""

    size: int
    sha256: str
    parts: tuple[Arrived, ...]


def extract(chunks: Iterable[bytes], landing: Landing, limits: Limits = _DEFAULT, expected: Object | None = None) -> Extracted:
    """Unpack the archive that comes in ``chunks``. expected: what the manifest says of it.

    StoreDamaged and Hostile as above; LayerUnusable where it cannot be written here; whatever ``chunks`` raises.
    """
    archive = Archive(chunks, most=lambda packed: min(limits.total, limits.ratio_from + limits.ratio * packed))
    with Writer(landing) as writer:
        extraction = _Extraction(archive, landing, limits, writer)
        for member in archive.members():
            extraction.take(member)
    if expected is not None and (archive.size, archive.sha256) != (expected.size, expected.sha256):
        raise StoreDamaged(f"The archive {expected.name} is not what was saved: it has another checksum.")
    return Extracted(archive.size, archive.sha256, tuple(extraction.arrived.values()))


class _Extraction:
    """Takes the members of one archive."""

    def __init__(self, archive: Archive, landing: Landing, limits: Limits, writer: Writer) -> None:
        self._archive = archive
        self._landing = landing
        self._limits = limits
        self._writer = writer
        self._members = 0
        self._folder = ""
        self._site: Site | None = None
        self.arrived: dict[str, Arrived] = {}

    def take(self, member: Member) -> None:
        self._members += 1
        self._check(member)
        folder, _, scheme = member.name.partition("/")
        if folder != self._folder:
            self._site, self._folder = self._landing.site(folder), folder
        if self._site is None:
            self._pass_over(member)
            return
        arrived = self.arrived.get(folder) or self.arrived.setdefault(folder, Arrived(self._site.part))
        if member.kind == "directory":
            if scheme.count("/"):
                self._writer.folder(self._site.root, self._site.path(scheme))
            return
        self._count(arrived, member, scheme)
        if member.kind == "link":
            self._take_link(self._site, arrived, member, scheme)
        elif scheme.endswith(_LAST_OR_DATED) and (match := _INFO.fullmatch(scheme)):
            self._take_info(self._site, arrived, member, scheme, match["name"])
        elif scheme.startswith("scripts/") and self._site.python:
            self._take_script(self._site, arrived, member, scheme)
        else:
            self._take_file(self._site, arrived, member, scheme)

    def _check(self, member: Member) -> None:
        limits = self._limits
        if self._members > limits.files or member.name.count("/") >= limits.depth or member.size > limits.file:
            raise Hostile("The archive holds more files, deeper folders or larger files than any environment has.")

    def _count(self, arrived: Arrived, member: Member, scheme: str) -> None:
        """Before anything is written: the manifest says how much there is of a part."""
        arrived.size += member.size
        part = arrived.part
        if scheme in arrived.files:
            raise Hostile(f"The archive holds {member.name[:200]!r} twice.")
        if arrived.size > part.size or len(arrived.files) >= part.files:
            raise Hostile(f"The archive holds more of {part.name} than the manifest says that there is.")

    def _pass_over(self, member: Member) -> None:
        for _ in self._archive.content(member.size):
            pass

    def _take_file(self, site: Site, arrived: Arrived, member: Member, scheme: str) -> None:
        path = self._landing.claim(site, site.path(scheme))
        mode = site.mode(member.mode)
        if path is None:
            arrived.lost.add(scheme)
        if member.size <= _SMALL:
            content = self._archive.whole(member.size)
            digest = hashlib.sha256(content)
            if path is not None:
                self._writer.write(site.root, path, content, mode)
        else:
            digest = self._take_large(site, member, path, mode)
        arrived.files[scheme] = (_identity(arrived.part, mode, digest.hexdigest()), member.size)

    def _take_large(self, site: Site, member: Member, path: str | None, mode: int) -> hashlib._Hash:
        digest = hashlib.sha256()
        with nullcontext() if path is None else self._writer.create(site.root, path, mode) as fd:
            for piece in self._archive.content(member.size):
                digest.update(piece)
                if fd is not None:
                    write_all(fd, piece, site.root.path)
        return digest

    def _take_script(self, site: Site, arrived: Arrived, member: Member, scheme: str) -> None:
        if member.size > len(_SCRIPT) and self._archive.peek(len(_SCRIPT)) != _SCRIPT:
            self._take_file(site, arrived, member, scheme)
            return
        content = self._whole(member)
        arrived.files[scheme] = (
            _identity(arrived.part, site.mode(member.mode), hashlib.sha256(content).hexdigest()),
            member.size,
        )
        real = to_real(content, site.python)
        path = self._landing.claim(site, site.path(scheme))
        if path is None:
            arrived.lost.add(scheme)
            return
        arrived.scripts[scheme] = real
        self._writer.write(site.root, path, real, site.mode(member.mode))

    def _take_info(self, site: Site, arrived: Arrived, member: Member, scheme: str, name: str) -> None:
        """RECORD waits for the others. INSTALLER's time tells when the package was installed (``scan``)."""
        path = site.path(scheme)
        self._landing.claim_alone(site, path)
        content = self._whole(member)
        arrived.files[scheme] = (
            _identity(arrived.part, site.mode(member.mode), hashlib.sha256(content).hexdigest()),
            member.size,
        )
        if name == "INSTALLER":
            self._writer.write(site.root, path, content, 0o644, min(arrived.part.installed, _LATEST))
            return
        if arrived.record is not None:
            raise Hostile(f"The archive holds two RECORDs for {arrived.part.name}.")
        arrived.record = (path, content)

    def _whole(self, member: Member) -> bytes:
        if member.size > self._limits.text:
            raise Hostile(f"The archive holds {member.name[:200]!r} with {member.size} bytes, which none of its kind has.")
        return self._archive.whole(member.size)

    def _take_link(self, site: Site, arrived: Arrived, member: Member, scheme: str) -> None:
        path = site.path(scheme)
        if site.part.kind != Kind.DIRECTORY or not _stays_inside(path, member.link):
            raise Hostile(f"The archive holds a link {member.name[:200]!r}, which none of ours has.")
        self._landing.add_link(site, path, member.link)
        arrived.files[scheme] = (inner_identity(0o777, member.link, None), 0)


def _identity(part: Part, mode: int, sha256: str) -> str:
    return inner_identity(mode, None, sha256) if part.kind == Kind.DIRECTORY else sha256


def _stays_inside(path: str, target: str) -> bool:
    """The link at ``path`` leads into the declared directory's child that it lies in.

    Dots come first, where the kernel goes up from a directory that is none of ours by name only; behind a name, which may be a
    link, they could lead anywhere.
    """
    names = target.split("/")
    ups = next((number for number, name in enumerate(names) if name != ".."), len(names))
    sound = target == "." or all(name not in ("", ".", "..") for name in names[ups:])
    return sound and "\0" not in target and len(target) <= 4096 and ups <= path.count("/") - 1


# -- when everything has come ------------------------------------------------------------------------------------------


def finish(landing: Landing, arrived: Iterable[Arrived]) -> None:
    """All archives have been extracted: verify all parts, settle who has a path, and write what comes last.

    StoreDamaged where a part that was expected did not come, or is not what the manifest and its RECORD say.
    """
    by_name = {each.part.name: each for each in arrived}
    sites = landing.sites()
    for site in sites:
        came = by_name.get(site.part.name)
        if came is None:
            raise StoreDamaged(f"{site.part.name} {site.part.version} is not in the archive that the manifest names.")
        verify(came)
    landing.settle()
    with Writer(landing) as writer:
        for site in sites:
            _write_record(site, by_name[site.part.name], writer)


def _write_record(site: Site, arrived: Arrived, writer: Writer) -> None:
    """Last, so that it is not older than what it speaks of; only what it does not hold for is newer (``scan``)."""
    if arrived.record is None:
        return
    path, content = arrived.record
    scripts = {path_in_record(scheme): real for scheme, real in arrived.scripts.items()}
    writer.write(site.root, path, with_scripts(content, scripts) if scripts else content, 0o644)
    for scheme in site.part.modified:
        if scheme in arrived.files and scheme not in arrived.lost:
            writer.date(site.root, site.path(scheme), after=path)


def verify(arrived: Arrived) -> None:
    """What came of a part is what the manifest says (by its key), and what RECORD says, but for what was modified."""
    part = arrived.part
    key = key_of((scheme, sha256, size) for scheme, (sha256, size) in arrived.files.items())
    if key != part.key:
        raise StoreDamaged(f"The files of {part.name} {part.version} in the store are not those that were saved.")
    if arrived.record is None:
        return
    wrong = _wrong_rows(arrived.record[1], arrived.files, frozenset(part.modified))
    if wrong:
        raise StoreDamaged(
            f"{part.name} {part.version} is not what its RECORD says: {wrong[0][:200]} is not ({len(wrong)} of its files)."
        )


def _wrong_rows(content: bytes, files: Mapping[str, tuple[str, int]], modified: frozenset[str]) -> list[str]:
    try:
        rows = list(record.read(content))
    except ValueError as error:
        raise StoreDamaged(f"A package in the store has no usable RECORD: {error}.") from error
    named = {scheme_in_record(row.path): row for row in rows}
    wrong = [scheme for scheme in files if scheme not in named]
    for scheme, row in named.items():
        if not row.checksum or scheme in modified:
            continue
        sha256, size = files.get(scheme, ("", -1))
        if record.sha256_of(row.checksum) != sha256 or row.size != str(size):
            wrong.append(scheme)
    return sorted(wrong)
