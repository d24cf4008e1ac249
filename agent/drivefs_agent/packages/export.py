"""One state of a store as one file: a tar of a whole store in a directory, for a box that reaches no Drive.

    my_env/README.txt, requirements.txt, drivefs-agent.toml     as in the store
    my_env/objects/…                                            the archives that the state names
    my_env/envs/ENV/LINE/ID.json                                the state, which comes after none

It is not compressed, because the archives are. Its owner is root in name, so that it belongs to whoever unpacks it.

Invariant: under its name the file is whole, and every archive in it has the checksum that its manifest says, or it is not there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import stat
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from drivefs_agent.packages import extras, recovery_texts
from drivefs_agent.packages.candidate import Candidate, choose
from drivefs_agent.packages.errors import Conflict, StoreDamaged, Untrusted
from drivefs_agent.packages.files import ASIDE, remove_asides, sync_folder
from drivefs_agent.packages.folder import Entry
from drivefs_agent.packages.history import Store, new_id
from drivefs_agent.packages.model import Manifest, Object, Target
from drivefs_agent.packages.save import Watcher

__all__ = ["FOLDER", "Exported", "export"]

FOLDER: Final = "my_env"  # the folder that it unpacks to


@dataclass(frozen=True, slots=True)
class Exported:
    """manifest: the only state in the file.  size: bytes of the file.  notes: sentences."""

    manifest: Manifest
    size: int
    notes: tuple[str, ...]


def export(
    store: Store,
    here: Target,
    target: Path,
    *,
    state: str | None = None,
    force: bool = False,
    box: str,
    watcher: Watcher | None = None,
) -> Exported:
    """Write the newest state that is for ``here``, or ``state``, into the file ``target``. force: in place of what is there.

    box: the host's name.  NothingFits where there is no such state; StoreDamaged where an archive is missing or is not what was
    saved; Conflict where ``target`` is there. Then, and at any other error, ``target`` is what it was.
    """
    _require_free(target, force=force)
    candidate = choose(store, here, state)
    manifest = _manifest(candidate, store.env, box)
    stored = store.objects()
    if missing := sorted(name for name in manifest.objects if name not in stored):
        raise StoreDamaged(
            f"{store.folder.address} lacks {len(missing)} of the state's archives ({missing[0]}). Save once more on a box that "
            "has the packages, or export an earlier state: drivefs-agent packages history"
        )
    if watcher is not None:
        watcher.begin(sum(one.size for one in manifest.objects.values()))
    with _written_aside(target) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _Writing(archive, store, manifest, watcher).write(stored)
    return Exported(manifest, target.stat().st_size, candidate.notes)


def _manifest(candidate: Candidate, env: str, box: str) -> Manifest:
    """A state of its own: it has no parents, and the one that it was made from may have."""
    now = time.time()
    named = {part.object for part in candidate.parts.values() if part.object}
    return Manifest(
        id=new_id(now, box),
        env=env,
        parents=(),
        time=now,
        box=box,
        target=candidate.made_for,
        parts=tuple(part for _, part in sorted(candidate.parts.items())),
        objects={name: candidate.objects[name] for name in sorted(named)},
        reason=f"export of {', '.join(state[-12:] for state in candidate.states)}",
        apt=candidate.apt,
    )


# -- the file ----------------------------------------------------------------------------------------------------------


def _require_free(target: Path, *, force: bool) -> None:
    if not os.path.lexists(target):
        return
    if not stat.S_ISREG(target.lstat().st_mode):
        raise Conflict(f"{str(target)!r} is there and is no file. Name another.")
    if not force:
        raise Conflict(f"{str(target)!r} is there already. Name another file, or replace it: --force")


@contextmanager
def _written_aside(target: Path) -> Iterator[BinaryIO]:
    remove_asides([target])  # a kill may have left gigabytes
    aside = target.with_name(f".{target.name}.{ASIDE}-{secrets.token_hex(4)}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
        aside.replace(target)
    except BaseException:
        with suppress(FileNotFoundError):
            aside.unlink()
        raise
    sync_folder(target.parent)


class _Writing:
    """Writes one archive; the manifest last, as in a store."""

    def __init__(self, archive: tarfile.TarFile, store: Store, manifest: Manifest, watcher: Watcher | None) -> None:
        self._archive = archive
        self._store = store
        self._manifest = manifest
        self._watcher = watcher

    def write(self, stored: dict[str, Entry]) -> None:
        manifest = self._manifest
        states = f"envs/{manifest.env}/{manifest.target.line}"
        for folder in ("", "objects", "envs", f"envs/{manifest.env}", states):
            self._add(folder, None)
        self._add("README.txt", recovery_texts.readme(f"{FOLDER}, exported from {self._store.folder.address}").encode())
        self._add("requirements.txt", recovery_texts.requirements(manifest).encode())
        if (declared := self._declared()) is not None:
            self._add(extras.FILE, declared)
        for name, one in sorted(manifest.objects.items()):
            self._add_object(one, stored[name])
        self._add(f"{states}/{manifest.id}.json", json.dumps(manifest.to_json(), indent=1).encode() + b"\n")

    def _declared(self) -> bytes | None:
        """Which directories are restored besides packages, and where to."""
        folder = self._store.folder
        entry = next((entry for entry in folder.files() if entry.name == extras.FILE), None)
        if entry is None:
            return None
        if not entry.owned and not self._store.trusts:
            raise Untrusted(f"{extras.FILE} in {folder.address} belongs to somebody else. Remove it, or use --trust.")
        with folder.open(entry) as chunks:
            return b"".join(chunks)

    def _add(self, path: str, content: bytes | None) -> None:
        """``content``: None for a folder."""
        member = self._member(path, 0 if content is None else len(content))
        if content is None:
            member.type, member.mode = tarfile.DIRTYPE, 0o700
        self._archive.addfile(member, io.BytesIO(content or b""))

    def _add_object(self, one: Object, entry: Entry) -> None:
        with self._store.folder.open(entry, self._passed) as chunks:
            verified = _Verified(one, chunks)
            self._archive.addfile(self._member(f"objects/{one.name}", one.size), verified)
            verified.finish()

    def _member(self, path: str, size: int) -> tarfile.TarInfo:
        member = tarfile.TarInfo(f"{FOLDER}/{path}".rstrip("/"))
        member.size, member.mode, member.mtime = size, 0o600, int(self._manifest.time)
        return member

    def _passed(self, size: int) -> None:
        if self._watcher is not None:
            self._watcher.advance(size)


class _Verified(io.RawIOBase):
    """An object's bytes, for ``tarfile`` to read. StoreDamaged as soon as they cannot be those that were saved."""

    def __init__(self, one: Object, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._object = one
        self._chunks = chunks
        self._digest = hashlib.sha256()
        self._left = one.size
        self._waiting = b""

    def read(self, size: int = -1, /) -> bytes:
        """So many bytes, and never fewer: what is too short is damaged."""
        pieces: list[bytes] = []
        missing = self._left if size < 0 else min(size, self._left)
        while missing:
            piece = self._waiting or next(self._chunks, b"")
            if not piece:
                raise self._damaged()
            pieces.append(piece[:missing])
            self._waiting = piece[missing:]
            missing -= len(pieces[-1])
        content = b"".join(pieces)
        self._digest.update(content)
        self._left -= len(content)
        return content

    def finish(self) -> None:
        """There is nothing more, and the checksum is right."""
        if self._waiting or any(self._chunks) or self._digest.hexdigest() != self._object.sha256:
            raise self._damaged()

    def _damaged(self) -> StoreDamaged:
        return StoreDamaged(
            f"The archive {self._object.name} in the store is not what was saved. Remove it there, and save once more on a box "
            "that has the packages."
        )
