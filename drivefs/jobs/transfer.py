"""One file's content to Drive, by the way its size asks for, and held against Drive's checksum afterwards.

What is sent is a snapshot: the content is frozen when the transfer begins, and a change afterwards gives it a new generation and
lowers ``Content.intact``, which is looked at after the bytes were read and before the request that would commit them: what was
frozen may still be committed where the file was only appended to, and a mixture of two states of it never is. A private copy of
the frozen bytes may be sent in their place; nobody can change that.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from drivefs.base.crashpoints import crash_point
from drivefs.base.errors import RemoteError, SessionGone, UploadSuperseded
from drivefs.base.model import ItemPatch, NewItem, RemoteItem, UploadSession
from drivefs.remote.drive import Drive
from drivefs.store.content import Content
from drivefs.store.tree import Tree

__all__ = ["Sent", "Transfer", "mime_type_of"]

_MIB: Final = 1 << 20
# Google documents multipart uploads for up to 5 MB; one request is cheaper than three.
_MULTIPART_LIMIT: Final = 5_000_000
# A multiple of 256 KiB, as the protocol demands; large, because each chunk costs a round trip.
_CHUNK: Final = 16 * _MIB
_INLINE_READ: Final = 256 << 10
_CHANGED: Final = "the file changed while it was being uploaded"


@dataclass(frozen=True, slots=True)
class Sent:
    """Drive's answer, and the checksum of what we sent."""

    item: RemoteItem
    md5: str


def mime_type_of(name: str) -> str:
    return mimetypes.guess_type(name, strict=False)[0] or "application/octet-stream"


class Transfer:
    """One upload of ``content`` as the generation it has now, to ``file_id``: as the item ``new``, or over what is there.

    durable: awaited between noting what will be committed and the request that commits it.
    copy: descriptor of a private copy of the content, which is sent in its place and stays the caller's.
    """

    def __init__(
        self,
        drive: Drive,
        tree: Tree,
        content: Content,
        durable: Callable[[], Awaitable[None]],
        *,
        new: NewItem | None,
        file_id: str,
        patch: ItemPatch,
        mime_type: str,
    ) -> None:
        self._drive = drive
        self._tree = tree
        self._content = content
        self._durable = durable
        self._new = new
        self._file_id = file_id
        self._patch = patch
        self._mime_type = mime_type
        self.generation = tree.get(content.inode).generation
        self.size = content.size
        self.copy: int | None = None

    async def run(self) -> Sent:
        """Send everything. UploadSuperseded where the file changed meanwhile; then nothing was committed."""
        self._check_consistent()
        return await self._send_in_chunks() if self.large else await self._send_at_once()

    @property
    def large(self) -> bool:
        """Whether it takes several requests."""
        return self.size > _MULTIPART_LIMIT

    @property
    def current(self) -> bool:
        """Whether the file is still what it was when the transfer began."""
        node = self._tree.find(self._content.inode)
        return node is not None and node.generation == self.generation and node.content == self._content.id

    @property
    def _wanted(self) -> bool:
        """Whether the item is still to have this file's content; of another generation, perhaps."""
        node = self._tree.find(self._content.inode)
        if node is None or node.remote_id != self._file_id or node.local_trashed:
            return False
        return bool(node.content_dirty) or not node.remote_exists  # a crash may leave a new file without content of its own

    @property
    def _consistent(self) -> bool:
        """Whether the bytes are one state of the file: those that were frozen are unchanged, whatever was added beyond them."""
        return self._wanted and (self.copy is not None or self._content.intact >= self.size)

    def _check_consistent(self) -> None:
        if not self._consistent:
            raise UploadSuperseded(_CHANGED)

    async def _send_at_once(self) -> Sent:
        data = await self._read(0, self.size)
        self._check_consistent()
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        await self._remember(md5)
        if not self._wanted:
            raise UploadSuperseded(_CHANGED)
        if self._new is not None:
            item = await self._drive.create_with_content(self._new, data)
        else:
            item = await self._drive.update_with_content(self._file_id, self._patch, data, self._mime_type)
        return Sent(item, md5)

    async def _send_in_chunks(self) -> Sent:
        digest = _Digest(self._fd)
        progress: UploadSession | RemoteItem = await self._resume() or await self._open()
        while isinstance(progress, UploadSession):
            data = await self._read(progress.offset, min(progress.offset + _CHUNK, self.size))
            await digest.add(progress.offset, data)
            if not self._consistent:
                await self._abandon(progress)
            if progress.offset + len(data) == self.size:
                await self._remember(digest.hexdigest())
                if not self._wanted:  # what was changed meanwhile comes after ``data``, but the item may be another's by now
                    await self._abandon(progress)
            progress = await self._send(progress, data)
            crash_point("chunk-answered")
        self._forget_session()
        return Sent(progress, await self._final_md5(digest))

    async def _final_md5(self, digest: _Digest) -> str:
        """Of a session that an earlier run had completed, nothing was hashed yet; empty where the file has changed since."""
        try:
            await digest.catch_up(self.size)
        except UploadSuperseded:
            return ""
        return digest.hexdigest()

    async def _remember(self, md5: str) -> None:
        """Written down before the commit: should its answer be lost, this revision is known to be ours and no stranger's."""
        self._tree.update(self._content.inode, sent_md5=md5)
        crash_point("checksum-noted")
        await self._durable()

    async def _send(self, session: UploadSession, data: bytes) -> UploadSession | RemoteItem:
        """One chunk; where its answer was lost, the server is asked what it has."""
        try:
            return await self._drive.send_chunk(session, data, self.size)
        except SessionGone:
            self._forget_session()
            raise
        except RemoteError as error:
            if not error.may_have_applied:
                raise
        return await self._probe(session)

    async def _resume(self) -> UploadSession | RemoteItem | None:
        """The session of an earlier attempt, where there is one that carries just this generation."""
        node = self._tree.get(self._content.inode)
        if node.session_uri is None or node.session_generation != self.generation or self.copy is not None:
            return None
        try:
            return await self._probe(UploadSession(node.session_uri, 0))
        except SessionGone:
            return None

    async def _probe(self, session: UploadSession) -> UploadSession | RemoteItem:
        try:
            return await self._drive.probe_upload(session, self.size)
        except SessionGone:
            self._forget_session()
            raise

    async def _open(self) -> UploadSession:
        target, patch = (None, None) if self._new is not None else (self._file_id, self._patch)
        session = await self._drive.open_upload(self._new, target, patch, self.size, self._mime_type)
        crash_point("session-opened")
        self._check_consistent()
        if (
            self.current and self.copy is None
        ):  # a later attempt sends the file, which is no longer what this session was opened for
            self._tree.update(self._content.inode, session_uri=session.uri, session_generation=self.generation)
            crash_point("session-noted")
        return session

    async def _abandon(self, session: UploadSession) -> None:
        self._forget_session()
        try:
            await self._drive.cancel_upload(session)
        except RemoteError:
            pass  # the server drops an unfinished session by itself after a week
        raise UploadSuperseded(_CHANGED)

    def _forget_session(self) -> None:
        self._tree.update(self._content.inode, session_uri=None, session_generation=None)

    async def _read(self, start: int, end: int) -> bytes:
        if end - start <= _INLINE_READ:
            return _pread(self._fd, start, end)
        return await trio.to_thread.run_sync(_pread, self._fd, start, end)

    @property
    def _fd(self) -> int:
        return self._content.fd if self.copy is None else self.copy


class _Digest:
    """MD5 of a file that is sent in order, or from somewhere in the middle on after a restart; no byte is hashed twice."""

    def __init__(self, fd: int) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._fd = fd
        self._reached = 0

    async def add(self, offset: int, data: bytes) -> None:
        """``data`` lies at ``offset``; what lies before it and was not hashed yet is read."""
        await self.catch_up(offset)
        fresh = memoryview(data)[self._reached - offset :]
        if fresh:
            await trio.to_thread.run_sync(self._md5.update, fresh)
            self._reached += len(fresh)

    async def catch_up(self, offset: int) -> None:
        while self._reached < offset:
            data = await trio.to_thread.run_sync(_pread, self._fd, self._reached, min(offset, self._reached + _CHUNK))
            self._md5.update(data)
            self._reached += len(data)

    def hexdigest(self) -> str:
        return self._md5.hexdigest()


def _pread(fd: int, start: int, end: int) -> bytes:
    pieces = []
    while start < end:
        piece = os.pread(fd, end - start, start)
        if not piece:
            raise UploadSuperseded("the file became shorter while it was being uploaded")
        pieces.append(piece)
        start += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
