"""The server's side of a schedule: what is on Drive at the beginning, faults, its state, and what it must have in the end."""

from __future__ import annotations

import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from unittest import mock

from drivefs.base.errors import DriveFull, RateLimited, RemoteError, ServerFault, SessionGone, SignInRefused
from drivefs.base.model import FOLDER_MIME, Kind, RemoteItem
from drivefs.remote.drive import Drive
from drivefs.store.merging import LINK_PROPERTY, MODE_PROPERTY
from tests.model.reference import Entry, Model
from tests.support.fake_drive import ROOT_ID, FakeDrive, Lost, Refused

__all__ = ["FAR", "SHARED", "Fake", "File", "Server"]

# Folders in which somebody else works: where we only look, and where we work too.
FAR = "far"
SHARED = "shared"

_START = (("a", "", "a", 40), ("b", "", "b", 300), ("a", "d", "d/a", 40), ("a", "d/f", "d/f/a", 9))


_SIZES = {"WHOLE": 8, "SMALLEST_UNIT": 8, "LARGEST_UNIT": 16, "BLOCK": 16, "MULTIPART_LIMIT": 16, "CHUNK": 8}


@dataclass(frozen=True)
class File:
    """A file on Drive that is not in the trash."""

    id: str
    path: str
    content: bytes
    modified_ms: int


@contextmanager
def shrunk(**others: int) -> Iterator[None]:
    """Constants of sizes, wherever in jobs and store they are, so small that a few bytes take many calls."""
    with ExitStack() as stack:
        for name, size in {**_SIZES, **others}.items():
            homes = [m for m in list(sys.modules.values()) if m.__name__.startswith(("drivefs.jobs.", "drivefs.store."))]
            found = [(home, name_) for home in homes for name_ in (name, f"_{name}") if hasattr(home, name_)]
            assert found, f"{name} is no constant any more: give the new one here"
            for home, name_ in found:
                stack.enter_context(mock.patch.object(home, name_, size))
        yield


class Server(ABC):
    """faults: how probable one is in a call.  weather: None, ``offline``, ``full`` or ``signed out``; not while ``calm``."""

    def __init__(self, rng: random.Random, faults: float) -> None:
        self.rng = rng
        self.faults = faults
        self.calm = True
        self.weather: str | None = None
        # Somebody else does something, in the middle of a call.
        self.meddle: Callable[[], None] = lambda: None
        self.far_versions: set[bytes] = set()
        self.prepared: Model = {}

    def prepare(self) -> None:
        """What is there before we come."""
        ids = {"": None, "d": self.put_folder("d", None)}
        ids["d/f"] = self.put_folder("f", ids["d"])
        self.prepared = {"d": Entry(Kind.FOLDER), "d/f": Entry(Kind.FOLDER)}
        for name, parent, path, size in _START:
            data = self.rng.randbytes(size)
            self.put_file(name, data, ids[parent])
            self.prepared[path] = Entry(Kind.FILE, data)
        self.folders = {name: self.put_folder(name, None) for name in (FAR, SHARED)}
        for name in ("x", "y"):
            self.put_far(name)
        for name in ("s", "t"):
            self.put_file(name, self.rng.randbytes(30), self.folders[SHARED])

    def put_far(self, name: str) -> None:
        data = self.rng.randbytes(30)
        self.far_versions.add(data)
        self.put_file(name, data, self.folders[FAR])

    def files(self) -> list[File]:
        return [
            File(item.id, path, self.content(item.id), item.modified_ms)
            for path, items in self.tree().items()
            for item in items
            if item.mime_type != FOLDER_MIME
        ]

    def files_in(self, folder: str) -> list[File]:
        return [file for file in self.files() if file.path.split("/")[0] == folder]

    def compare(self, model: Model) -> None:
        """Raise AssertionError unless Drive has just that, and each name once."""
        tree = {path: items for path, items in self.tree().items() if path.split("/")[0] not in (FAR, SHARED)}
        assert sorted(tree) == sorted(model), f"Drive has {sorted(tree)} where {sorted(model)} were expected"
        for path, items in tree.items():
            assert len(items) == 1, f"{path} exists {len(items)} times on Drive"
            self._compare_one(path, items[0], model[path])

    def _compare_one(self, path: str, item: RemoteItem, expected: Entry) -> None:
        assert (item.mime_type == FOLDER_MIME) == expected.folder, path
        assert item.app_properties.get(MODE_PROPERTY) == (None if expected.mode is None else f"{expected.mode:o}"), path
        if expected.target is not None:
            assert item.app_properties.get(LINK_PROPERTY, expected.target) == expected.target, path
            assert self.content(item.id) == expected.target.encode(), path
        elif not expected.folder:
            assert self.content(item.id) == expected.data, path

    # -- what a kind of server brings ------------------------------------------------------------------------------

    @property
    @abstractmethod
    def drive(self) -> Drive:
        """As jobs see it. Made anew for each life."""

    @abstractmethod
    def served(self) -> AbstractContextManager[object]:
        """While a schedule runs: sizes so small that a few bytes take many calls."""

    @abstractmethod
    def kill_client(self) -> None:
        """The client is dead: its later calls never come; what was on the wire may still be applied."""

    @abstractmethod
    def revive(self) -> None:
        """Another client begins."""

    @abstractmethod
    async def settle(self) -> None:
        """Wait until what was done is seen in listings and in the feed."""

    @abstractmethod
    def put_folder(self, name: str, parent: str | None) -> str:
        """Returns the id. parent None: My Drive."""

    @abstractmethod
    def put_file(self, name: str, data: bytes, parent: str | None) -> None: ...

    @abstractmethod
    def edit(self, file_id: str, data: bytes | None = None, *, name: str | None = None, trashed: bool | None = None) -> None: ...

    @abstractmethod
    def destroy(self, file_id: str) -> None: ...

    @abstractmethod
    def tree(self) -> dict[str, list[RemoteItem]]:
        """Every live item by its path below My Drive; two of one name are two in the list."""

    @abstractmethod
    def content(self, file_id: str) -> bytes: ...

    @abstractmethod
    def revisions_of(self, file_id: str) -> set[bytes]:
        """All contents that the item has or had; none of an item that was destroyed."""


class Fake(Server):
    """The Drive in memory: cheap, so that thousands of schedules run."""

    _UPLOADS = frozenset({"create", "create_with_content", "update_with_content", "open_upload"})
    _SESSIONS = frozenset({"send_chunk", "probe_upload"})

    def __init__(self, rng: random.Random, faults: float) -> None:
        super().__init__(rng, faults)
        self._fake = FakeDrive()
        self.prepare()
        self._fake.fault = self._fault
        self._fake.delay = lambda _method: 0.0 if self.calm else rng.choice((0.0, 0.01, 0.3))
        self._fake.short_chunk = lambda size: size if self.calm else rng.randint(min(1, size), size)
        self._fake.arrives_after_death = lambda: rng.random() < 0.3

    def _fault(self, method: str) -> Lost | None:
        if self.calm:
            return None
        if self.rng.random() < 0.05:
            self.meddle()
        if self.weather == "offline":
            return Lost(applied=False)
        if self.weather == "signed out":
            return Refused(SignInRefused("sign in again", status=401))
        if self.weather == "full" and method in self._UPLOADS:
            return Refused(DriveFull("full", status=403))
        return self._accident(method) if self.rng.random() < self.faults else None

    def _accident(self, method: str) -> Lost:
        refusals: list[RemoteError] = [ServerFault("trouble", status=503), RateLimited("slower", status=429, retry_after=1.0)]
        if method in self._UPLOADS:
            refusals.append(DriveFull("full", status=403))
        if method in self._SESSIONS:
            refusals.append(SessionGone("gone", status=404))
        return self.rng.choice([Lost(applied=True), Lost(applied=False), *map(Refused, refusals)])

    @property
    def drive(self) -> Drive:
        return self._fake.drive

    def served(self) -> AbstractContextManager[object]:
        return shrunk()

    def kill_client(self) -> None:
        self._fake.dead = True

    def revive(self) -> None:
        self._fake.dead = False

    async def settle(self) -> None:
        return

    def put_folder(self, name: str, parent: str | None) -> str:
        return self._fake.put_folder(name, parent or ROOT_ID).id

    def put_file(self, name: str, data: bytes, parent: str | None) -> None:
        self._fake.put_file(name, data, parent or ROOT_ID)

    def edit(self, file_id: str, data: bytes | None = None, *, name: str | None = None, trashed: bool | None = None) -> None:
        self._fake.edit(file_id, data, name=name, trashed=trashed)

    def destroy(self, file_id: str) -> None:
        self._fake.destroy(file_id)

    def tree(self) -> dict[str, list[RemoteItem]]:
        return self._fake.tree()

    def content(self, file_id: str) -> bytes:
        return self._fake.content(file_id)

    def revisions_of(self, file_id: str) -> set[bytes]:
        entry = self._fake.items.get(file_id)
        return set() if entry is None else set(entry.revisions.values())
