"""A Drive in memory with the methods that jobs use of ``drivefs.remote.drive.Drive``: no HTTP, virtual time, faults by script.

Nastier than the real one where that is cheap: a trashed folder sends no news of its children, the feed echoes our own writes,
pages are short, every update of content makes a revision, sessions accept less than was sent, and an answer may be lost after
the call was applied.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import trio

from drivefs.base.errors import (
    BadRequest,
    IdInUse,
    RangeNotSatisfiable,
    RemoteError,
    RemoteNotFound,
    RemoteUnreachable,
    SessionGone,
)
from drivefs.base.model import (
    FOLDER_MIME,
    Account,
    Change,
    ChangePage,
    ItemPatch,
    Listing,
    NewItem,
    RemoteItem,
    Revision,
    StorageQuota,
    UploadSession,
)
from drivefs.remote.drive import Drive

__all__ = ["ROOT_ID", "FakeDrive", "Gate", "Lost", "Refused", "md5_of"]

ROOT_ID = "root0"
T = TypeVar("T")


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class Lost:
    """The connection broke; ``applied`` tells whether before or after the server did what was asked."""

    def __init__(self, *, applied: bool) -> None:
        self.applied = applied
        self.error: RemoteError = RemoteUnreachable("the connection broke", may_have_applied=True)


class Refused(Lost):
    """An answer that is an error; nothing was done."""

    def __init__(self, error: RemoteError) -> None:
        super().__init__(applied=False)
        self.error = error


class Gate:
    """Holds calls of one method: ``reached`` is set when one has come, and it goes on once ``open`` is set."""

    def __init__(self, *, after: bool) -> None:
        self.after = after
        self.reached = trio.Event()
        self.open = trio.Event()

    async def pass_through(self) -> None:
        self.reached.set()
        await self.open.wait()


@dataclass
class _Item:
    item: RemoteItem
    revisions: dict[str, bytes] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return self.revisions[self.item.revision or ""]


@dataclass
class _Session:
    new: NewItem | None
    file_id: str | None
    patch: ItemPatch | None
    size: int
    data: bytearray = field(default_factory=bytearray)
    done: RemoteItem | None = None


class FakeDrive:
    """fault: asked before each call for the fault it is to meet, or None.  delay: seconds (virtual) each call takes."""

    def __init__(self) -> None:
        self.items: dict[str, _Item] = {}
        self.calls: Counter[str] = Counter()
        self.log: list[tuple[str, str]] = []
        self.ranges: list[tuple[int, int]] = []
        self.fault: Callable[[str], Lost | None] = lambda _method: None
        self.delay: Callable[[str], float] = lambda _method: 0.01
        self.short_chunk: Callable[[int], int] = lambda size: size
        self.corrupt: Callable[[bytes], bytes] = lambda data: data
        self.page_size = 3
        self.limit: int | None = None
        # A killed client's later calls never come; what was on the wire when it died may still be applied.
        self.dead = False
        self.arrives_after_death: Callable[[], bool] = lambda: False
        self._script: dict[str, list[Lost]] = {}
        self._gates: dict[str, Gate] = {}
        self._sessions: dict[str, _Session] = {}
        self._feed: list[str] = []
        self._gone: set[str] = set()
        self._numbers = 0
        self._clock_ms = 1_700_000_000_000
        self._put(RemoteItem(ROOT_ID, "My Drive", FOLDER_MIME, (), 1, 0, 0))

    # -- for tests -------------------------------------------------------------------------------------------------

    @property
    def drive(self) -> Drive:
        """This, as what jobs take it for."""
        return cast(Drive, self)

    def fail(self, method: str, *faults: Lost | RemoteError) -> None:
        """The next calls of ``method`` meet these, one after the other."""
        self._script.setdefault(method, []).extend(f if isinstance(f, Lost) else Refused(f) for f in faults)

    def hold(self, method: str, *, after: bool = False) -> Gate:
        """Hold the next call of ``method``, before or after it is applied."""
        gate = self._gates[method] = Gate(after=after)
        return gate

    def drop_sessions(self) -> None:
        self._sessions.clear()

    def put_file(self, name: str, data: bytes, parent: str = ROOT_ID, *, mime: str = "text/plain") -> RemoteItem:
        """Somebody else makes a file."""
        new = NewItem(self._fresh_id(), name, parent, mime, self._now())
        return self._create(new, data)

    def put_folder(self, name: str, parent: str = ROOT_ID) -> RemoteItem:
        return self._create(NewItem(self._fresh_id(), name, parent, FOLDER_MIME, self._now()), None)

    def edit(self, file_id: str, data: bytes | None = None, **fields: object) -> RemoteItem:
        """Somebody else changes content and/or fields of an ItemPatch."""
        return self._update(file_id, ItemPatch(**fields), data)  # type: ignore[arg-type]

    def destroy(self, file_id: str) -> None:
        """Somebody else deletes for good, a folder with all below it."""
        for child in [i for i, entry in self.items.items() if file_id in entry.item.parents]:
            self.destroy(child)
        del self.items[file_id]
        self._gone.add(file_id)
        self._feed.append(file_id)

    def content(self, file_id: str) -> bytes:
        return self.items[file_id].content

    def tree(self) -> dict[str, list[RemoteItem]]:
        """Every live item by its path below My Drive; two of one name are two in the list."""
        found: dict[str, list[RemoteItem]] = {}
        for entry in self.items.values():
            path = self._path(entry.item)
            if path and not self._trashed(entry.item):
                found.setdefault(path, []).append(self._stated(entry.item))
        return found

    def files(self) -> dict[str, bytes]:
        """Content of every live file by path; fails where a path exists twice."""
        found: dict[str, bytes] = {}
        for path, items in self.tree().items():
            assert len(items) == 1, f"{path} exists {len(items)} times"
            if items[0].mime_type != FOLDER_MIME:
                found[path] = self.content(items[0].id)
        return found

    def now_ms(self) -> int:
        return self._now()

    # -- the API ---------------------------------------------------------------------------------------------------

    def with_patience(self, _patience: float) -> Drive:
        return self.drive

    def in_lane(self, _lane: object) -> Drive:
        return self.drive

    async def about(self) -> tuple[Account, StorageQuota]:
        return await self._carry("about", lambda: (Account("me@example.org", "me", ROOT_ID), StorageQuota(None, 0)))

    async def quota(self) -> StorageQuota:
        return await self._carry("quota", lambda: StorageQuota(self.limit, 0))

    async def get(self, file_id: str) -> RemoteItem:
        return await self._carry("get", lambda: self._stated(self._entry(file_id).item))

    async def list_children(self, folder_id: str, page_token: str | None = None) -> Listing:
        def page() -> Listing:
            start = int(page_token or 0)
            children = [e.item for e in self.items.values() if folder_id in e.item.parents and not self._trashed(e.item)]
            end = start + self.page_size
            return Listing(tuple(children[start:end]), str(end) if end < len(children) else None)

        return await self._carry("list_children", page)

    async def start_page_token(self) -> str:
        return await self._carry("start_page_token", lambda: str(len(self._feed)))

    async def changes(self, page_token: str) -> ChangePage:
        def page() -> ChangePage:
            start = int(page_token)
            end = min(start + self.page_size, len(self._feed))
            latest = dict.fromkeys(self._feed[start:end])
            entries = [Change(i, self._stated(self.items[i].item) if i in self.items else None) for i in latest]
            return ChangePage(tuple(entries), str(end), end >= len(self._feed))

        return await self._carry("changes", page)

    async def generate_ids(self, count: int) -> list[str]:
        return await self._carry("generate_ids", lambda: [self._fresh_id() for _ in range(count)])

    async def revisions(self, file_id: str) -> list[Revision]:
        def read() -> list[Revision]:
            return [Revision(r, md5_of(data), len(data), 0) for r, data in self._entry(file_id).revisions.items()]

        return await self._carry("revisions", read)

    async def create(self, item: NewItem) -> RemoteItem:
        content = None if item.mime_type == FOLDER_MIME else b""
        return await self._carry("create", lambda: self._create(item, content))

    async def update(self, file_id: str, patch: ItemPatch) -> RemoteItem:
        return await self._carry("update", lambda: self._update(file_id, patch, None))

    async def create_with_content(self, item: NewItem, content: bytes) -> RemoteItem:
        return await self._carry("create_with_content", lambda: self._create(item, bytes(content)))

    async def update_with_content(self, file_id: str, patch: ItemPatch, content: bytes, _mime_type: str) -> RemoteItem:
        return await self._carry("update_with_content", lambda: self._update(file_id, patch, bytes(content)))

    async def open_upload(
        self, new: NewItem | None, file_id: str | None, patch: ItemPatch | None, size: int, _mime_type: str
    ) -> UploadSession:
        def open_it() -> UploadSession:
            if new is not None:
                self._check_new(new)
            elif file_id is not None:
                self._entry(file_id)
            self._numbers += 1
            uri = f"session-{self._numbers}"
            self._sessions[uri] = _Session(new, file_id, patch, size)
            return UploadSession(uri, 0)

        return await self._carry("open_upload", open_it)

    async def send_chunk(self, session: UploadSession, data: bytes | memoryview, total: int) -> UploadSession | RemoteItem:
        def take() -> UploadSession | RemoteItem:
            state = self._session(session.uri)
            assert state.done is None, "a chunk was sent to a completed session"
            assert total == state.size, "the announced size changed"
            assert session.offset == len(state.data), "a chunk begins elsewhere than where the server is"
            state.data += data[: self.short_chunk(len(data))]
            return self._progress(session.uri, state)

        return await self._carry("send_chunk", take)

    async def probe_upload(self, session: UploadSession, _total: int) -> UploadSession | RemoteItem:
        return await self._carry("probe_upload", lambda: self._progress(session.uri, self._session(session.uri)))

    async def cancel_upload(self, session: UploadSession) -> None:
        await self._carry("cancel_upload", lambda: self._sessions.pop(session.uri, None))

    async def download(
        self,
        file_id: str,
        start: int,
        end: int,
        sink: Callable[[int, bytes], None],
        *,
        revision: str | None = None,
        size: int,
        go: threading.Event | None = None,
    ) -> None:
        def read() -> bytes:
            entry = self._entry(file_id)
            if revision is not None and revision not in entry.revisions:
                raise RemoteNotFound(f"no revision {revision} of {file_id}", status=404)
            data = entry.content if revision is None else entry.revisions[revision]
            if len(data) != size:
                raise RangeNotSatisfiable(f"{len(data)} bytes where {size} were expected", status=416)
            return self.corrupt(data)[start:end]

        assert 0 <= start <= end <= size
        self.ranges.append((start, end))
        data = await self._carry("download", read)
        pieces = 2 if go is None else 100  # the latter as a connection gives them that may be held up
        for n in range(pieces):
            low, high = len(data) * n // pieces, len(data) * (n + 1) // pieces
            if low < high:
                sink(start + low, data[low:high])
            await trio.lowlevel.checkpoint()
            while go is not None and not go.is_set():
                await trio.sleep(0.01)

    # -- private ---------------------------------------------------------------------------------------------------

    async def _carry(self, method: str, apply: Callable[[], T]) -> T:
        self.calls[method] += 1
        script = self._script.get(method)
        fault = script.pop(0) if script else self.fault(method)
        gate = self._gates.pop(method, None)
        if self.dead:
            await trio.sleep_forever()
        await trio.sleep(self.delay(method))
        if gate is not None and not gate.after:
            await gate.pass_through()
        if self.dead and not self.arrives_after_death():
            await trio.sleep_forever()
        if fault is not None and not fault.applied:
            raise fault.error
        result = apply()
        if self.dead:
            await trio.sleep_forever()
        await trio.sleep(self.delay(method))
        if gate is not None and gate.after:
            await gate.pass_through()
        if fault is not None:
            raise fault.error
        return result

    def _now(self) -> int:
        self._clock_ms += 1
        return self._clock_ms

    def _fresh_id(self) -> str:
        self._numbers += 1
        return f"id{self._numbers}"

    def _entry(self, file_id: str) -> _Item:
        try:
            return self.items[file_id]
        except KeyError:
            raise RemoteNotFound(f"no item {file_id}", status=404) from None

    def _session(self, uri: str) -> _Session:
        try:
            return self._sessions[uri]
        except KeyError:
            raise SessionGone("no such session", status=404) from None

    def _trashed(self, item: RemoteItem) -> bool:
        if item.trashed:
            return True
        return any(self._trashed(self.items[p].item) for p in item.parents if p in self.items)

    def _stated(self, item: RemoteItem) -> RemoteItem:
        return replace(item, trashed=self._trashed(item))

    def _path(self, item: RemoteItem) -> str:
        names: list[str] = []
        while item.id != ROOT_ID:
            names.append(item.name)
            if not item.parents or item.parents[0] not in self.items:
                return ""
            item = self.items[item.parents[0]].item
        return "/".join(reversed(names))

    def _put(self, item: RemoteItem) -> None:
        entry = self.items.setdefault(item.id, _Item(item))
        entry.item = item
        self._feed.append(item.id)

    def _next_version(self) -> int:
        self._numbers += 1
        return self._numbers

    def _check_new(self, new: NewItem) -> None:
        if new.id in self.items or new.id in self._gone:
            raise IdInUse(f"{new.id} exists", status=409)
        self._entry(new.parent)

    def _create(self, new: NewItem, content: bytes | None) -> RemoteItem:
        self._check_new(new)
        now = self._now()
        properties = dict(new.app_properties)
        item = RemoteItem(
            new.id,
            new.name,
            new.mime_type,
            (new.parent,),
            self._next_version(),
            now,
            new.modified_ms,
            app_properties=properties,
        )
        self._put(item)
        self.log.append(("create", new.name))
        if content is not None:
            self._write(item.id, content)
        return self._stated(self.items[item.id].item)

    def _write(self, file_id: str, content: bytes) -> None:
        entry = self.items[file_id]
        revision = f"r{self._next_version()}"
        entry.revisions[revision] = content
        entry.item = replace(entry.item, revision=revision, size=len(content), md5=md5_of(content))

    def _update(self, file_id: str, patch: ItemPatch, content: bytes | None) -> RemoteItem:
        item = self._entry(file_id).item
        changes: dict[str, object] = {"version": self._next_version(), "modified_ms": self._now()}
        if patch.add_parent is not None:
            changes["parents"] = self._moved(item, patch)
        if patch.name is not None:
            changes["name"] = patch.name
        if patch.modified_ms is not None:
            changes["modified_ms"] = patch.modified_ms
        if patch.trashed is not None:
            changes["trashed"] = patch.trashed
        if patch.app_properties is not None:
            merged = {**item.app_properties, **patch.app_properties}
            changes["app_properties"] = {key: value for key, value in merged.items() if value is not None}
        self._put(replace(item, **changes))  # type: ignore[arg-type]
        self.log.append(("trash" if patch.trashed else "update", patch.name or item.name))
        if content is not None:
            self._write(file_id, content)
        return self._stated(self.items[file_id].item)

    def _moved(self, item: RemoteItem, patch: ItemPatch) -> tuple[str, ...]:
        target = patch.add_parent or ""
        above = self._entry(target).item
        while True:
            if above.id == item.id:
                raise BadRequest("a folder cannot be put into itself", status=400)
            if not above.parents:
                break
            above = self.items[above.parents[0]].item
        if target not in item.parents and patch.remove_parent not in item.parents:
            raise BadRequest("an item has one parent; the old one must be named", status=400)
        return (target,)

    def _progress(self, uri: str, state: _Session) -> UploadSession | RemoteItem:
        if state.done is not None:
            return state.done
        if len(state.data) < state.size:
            return UploadSession(uri, len(state.data))
        if state.new is not None:
            state.done = self._create(state.new, bytes(state.data))
        else:
            state.done = self._update(state.file_id or "", state.patch or ItemPatch(), bytes(state.data))
        return state.done
