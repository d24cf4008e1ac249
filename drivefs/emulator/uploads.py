"""The upload side of the API: media, multipart and resumable requests.

Content is atomic: readers see the old or the new bytes. A media or multipart request that breaks off leaves nothing; a resumable
one leaves whole multiples of 256 KiB to go on from.
Source: https://developers.google.com/workspace/drive/api/guides/manage-uploads
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from drivefs.emulator import items, resources
from drivefs.emulator.calls import Calls, json_response, read_body
from drivefs.emulator.content import Landed
from drivefs.emulator.discovery import fields_of
from drivefs.emulator.errors import ApiError, PlainError, bad_request, not_routed
from drivefs.emulator.identity import carried_out_for, identify, resume
from drivefs.emulator.metadata import parse_json, parse_metadata
from drivefs.emulator.multipart import boundary_of, read_related
from drivefs.emulator.paging import Parameters
from drivefs.emulator.sessions import GRANULE, Session, Sessions

__all__ = ["Uploads"]

_PREFIXES: Final = ("/upload/drive/v3/files", "/resumable/upload/drive/v3/files")
_ENDLESS: Final = 1 << 62
_CONTENT_RANGE: Final = re.compile(r"bytes (?:(\d{1,15})-(\d{1,15})|\*)/(\d{1,15}|\*)", re.ASCII)


def _bare_type(content_type: str | None) -> str | None:
    """A media type without its parameters; None where there is none."""
    return (content_type or "").partition(";")[0].strip().lower() or None


async def _stream(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


def _declared(request: Request, header: str) -> int | None:
    raw = request.headers.get(header)
    if raw is None:
        return None
    if not (raw.isascii() and raw.isdigit() and len(raw) <= 15):
        raise bad_request(f"Invalid value in header {header}.", reason="invalid")
    return int(raw)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What Content-Range says. start is None for a probe (``bytes */N``); total is None for ``*``; end is exclusive."""

    start: int | None
    end: int
    total: int | None


def _parse_content_range(raw: str) -> _Chunk:
    match = _CONTENT_RANGE.fullmatch(raw.strip())
    if match is None:
        raise PlainError(400, "Failed to parse Content-Range header.")
    total = None if match[3] == "*" else int(match[3])
    if match[1] is None:
        return _Chunk(None, 0, total)
    start, end = int(match[1]), int(match[2]) + 1
    if start >= end or (total is not None and end > total):
        raise PlainError(400, "Failed to parse Content-Range header.")
    return _Chunk(start, end, total)


class Uploads:
    """Handlers under /upload."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._store = calls.store
        self.sessions = Sessions(calls.store)

    def routes(self) -> list[Route]:
        routes = []
        for prefix in _PREFIXES:
            for path in (prefix, prefix + "/{file_id}"):
                routes.append(Route(path, self._dispatch(path), methods=["POST", "PUT", "PATCH", "DELETE"]))
        return routes

    def _dispatch(self, path: str) -> Any:
        async def endpoint(request: Request) -> Response:
            if "upload_id" in request.query_params:
                return await self._session_request(request, path)
            creating = request.method == "POST" and "file_id" not in request.path_params
            updating = request.method == "PATCH" and "file_id" in request.path_params
            if not creating and not updating:
                return await not_routed(request, Exception())
            if not carried_out_for(request):
                self._calls.traffic.count("files.create" if creating else "files.update", f"{request.method} {path}")
                self._calls.gate.check(request)
            identify(self._store, request)
            return await self._begin(request, Parameters(request.query_params))

        return endpoint

    async def _begin(self, request: Request, parameters: Parameters) -> Response:
        kinds = {"media": self._media, "multipart": self._multipart, "resumable": self._open_session}
        kind = parameters.text("uploadType")
        if kind not in kinds:
            raise bad_request(
                "uploadType must be one of media, multipart and resumable.", location="uploadType", reason="invalid"
            )
        parameters.mask("File", resources.DEFAULT_FILE)  # a bad mask is refused before any byte is taken
        return await kinds[kind](request, parameters)

    async def _media(self, request: Request, parameters: Parameters) -> Response:
        item_id = request.path_params.get("file_id")
        content_type = _bare_type(request.headers.get("content-type"))
        self._check(item_id, {}, content_type, _declared(request, "content-length"))
        spool = self._store.content.new_spool()
        try:
            async for chunk in _stream(request):
                await spool.write(chunk)
            row = await self._commit(item_id, {}, parameters, await spool.land(), content_type)
        finally:
            spool.discard()
        return self._answer(row, parameters)

    async def _multipart(self, request: Request, parameters: Parameters) -> Response:
        item_id = request.path_params.get("file_id")
        boundary = boundary_of(request.headers.get("content-type", ""))
        spool = self._store.content.new_spool()
        try:
            raw, part = await read_related(_stream(request), boundary, spool.write)
            content_type = _bare_type(part.content_type)
            row = await self._commit(item_id, parse_json(raw), parameters, await spool.land(), content_type)
        finally:
            spool.discard()
        return self._answer(row, parameters)

    def _values(self, item_id: str | None, body: Mapping[str, Any]) -> dict[str, Any]:
        return parse_metadata(body, fields_of("File"), creating=item_id is None)

    def _check(self, item_id: str | None, body: Mapping[str, Any], content_type: str | None, size: int | None) -> None:
        """Refuse early what would be refused at commit."""
        values = self._values(item_id, body)
        if item_id is None:
            items.check_create(self._store, values, media_type=content_type or "application/octet-stream", media_size=size)
        else:
            items.check_update(self._store, item_id, values, media=True, media_size=size, media_type=content_type)

    async def _commit(
        self, item_id: str | None, body: Mapping[str, Any], parameters: Parameters, landed: Landed, content_type: str | None
    ) -> sqlite3.Row:
        """Bytes first (as a blob of their own), then the rows in one transaction."""
        values, keep = self._values(item_id, body), parameters.boolean("keepRevisionForever")
        blob = await self._store.content.adopt(landed)
        content = items.NewContent(blob, landed, content_type, keep)
        try:
            if item_id is None:
                return items.create(self._store, values, content)
            add, remove = parameters.id_list("addParents"), parameters.id_list("removeParents")
            return items.update(self._store, item_id, values, add_parents=add, remove_parents=remove, content=content)
        except BaseException:
            self._store.unlink_unused([blob])
            raise

    def _answer(self, row: sqlite3.Row, parameters: Parameters) -> Response:
        return json_response(resources.file(self._store, row, parameters.mask("File", resources.DEFAULT_FILE)), parameters)

    async def _open_session(self, request: Request, parameters: Parameters) -> Response:
        item_id = request.path_params.get("file_id")
        body, total = parse_json(await read_body(request)), _declared(request, "x-upload-content-length")
        content_type = _bare_type(request.headers.get("x-upload-content-type"))
        self._check(item_id, body, content_type, total)
        session_id = self.sessions.open(
            item_id=item_id, body=body, query=request.query_params, content_type=content_type, total=total
        )
        location = f"{request.url.replace(query='')}?uploadType=resumable&upload_id={session_id}"
        return Response(b"", 200, {"location": location, "x-guploader-uploadid": session_id})

    async def _session_request(self, request: Request, path: str) -> Response:
        session = self.sessions.find(request.query_params["upload_id"])
        resume(self._store, session.asker)
        if request.method == "DELETE":
            self._calls.traffic.count("upload.cancel", f"DELETE {path}")
            await self.sessions.cancel(session)
            return Response(b"", 499)
        if request.method == "PATCH":
            raise PlainError(400, "A session takes PUT or POST.")
        raw = request.headers.get("content-range")
        chunk = _parse_content_range(raw) if raw is not None else None
        probe = chunk is not None and chunk.start is None
        self._calls.traffic.count("upload.probe" if probe else "upload.chunk", f"{request.method} {path}")
        if session.finished_item is not None:
            return self._answer(self._store.item(session.finished_item), Parameters(session.query))
        if chunk is None:
            return await self._whole(request, session)
        return await self._probe(session, chunk) if probe else await self._chunk(request, session, chunk)

    def _agree_on_total(self, session: Session, total: int | None) -> None:
        if total is None:
            return
        if session.total is not None and session.total != total:
            raise PlainError(400, f"The total of {total} bytes differs from the {session.total} bytes declared before.")
        if session.total is None:
            self._check(session.item_id, session.body, session.content_type, total)
            self.sessions.set_total(session, total)

    async def _whole(self, request: Request, session: Session) -> Response:
        """A request without Content-Range carries all bytes, from the first; an empty body makes an empty file."""
        length = _declared(request, "content-length")
        self._agree_on_total(session, length)
        total = length if length is not None else session.total
        size = await self._take(request, session, _Chunk(0, total if total is not None else _ENDLESS, total), restart=True)
        if total is None:
            self._agree_on_total(session, size)
        elif size != total:
            raise PlainError(400, "The body is shorter than announced.")
        return await self._finish(session)

    async def _probe(self, session: Session, chunk: _Chunk) -> Response:
        self._agree_on_total(session, chunk.total)
        received = self.sessions.received(session)
        total = chunk.total if chunk.total is not None else session.total
        if total is not None and received == total:  # all bytes came before their number was known
            return await self._finish(session)
        return self._incomplete(received)

    async def _chunk(self, request: Request, session: Session, chunk: _Chunk) -> Response:
        assert chunk.start is not None
        total = chunk.total if chunk.total is not None else session.total
        length = _declared(request, "content-length")
        if length is not None and length != chunk.end - chunk.start:
            raise PlainError(400, "Content-Length does not match the Content-Range header.")
        if total is not None and chunk.end > total:
            raise PlainError(400, f"The chunk reaches beyond the {total} bytes declared before.")
        if chunk.end != total and chunk.end % GRANULE:
            raise PlainError(400, f"Every chunk but the last must end at a multiple of {GRANULE} bytes.")
        self._agree_on_total(session, chunk.total)
        size = await self._take(request, session, chunk, restart=False)
        return await self._finish(session) if size == total else self._incomplete(size)

    async def _take(self, request: Request, session: Session, chunk: _Chunk, *, restart: bool) -> int:
        """Take the bytes of a chunk; those held already are skipped. Returns how many the session then holds."""
        live, start = self.sessions.live(session), chunk.start or 0
        mark = await live.take(restart=restart)
        held = live.spool.size
        if start > held:
            raise PlainError(
                503,
                f"Invalid request. According to the Content-Range header, the upload offset is {start} byte(s),"
                f" which exceeds already uploaded size of {held} byte(s).",
            )
        if chunk.total is not None and held > chunk.total:
            raise PlainError(400, f"The {held} bytes received so far are more than the total of {chunk.total}.")
        position = start
        try:
            async for piece in _stream(request):
                if position + len(piece) > chunk.end:
                    raise PlainError(400, "The body is longer than announced.")
                fresh = piece[max(0, held - position) :]
                position += len(piece)
                if fresh:
                    await live.write(mark, fresh)
        finally:
            await live.flush(mark)  # also when the connection broke: whole granules are kept
        if position != chunk.end and chunk.end != _ENDLESS:
            raise PlainError(400, "The body is shorter than announced.")
        return live.spool.size

    async def _finish(self, session: Session) -> Response:
        live = self.sessions.live(session)
        async with live.lock:
            landed = await live.spool.land()
            current = self.sessions.find(session.id)
            if current.finished_item is None:
                parameters = Parameters(session.query)
                try:
                    row = await self._commit(session.item_id, session.body, parameters, landed, session.content_type)
                except ApiError:
                    self.sessions.abandon(session)  # what is refused now would be refused again: the client begins anew
                    raise
                self.sessions.finish(session, row["id"])
                return self._answer(row, parameters)
        assert current.finished_item is not None
        return self._answer(self._store.item(current.finished_item), Parameters(session.query))

    @staticmethod
    def _incomplete(received: int) -> Response:
        """308 Resume Incomplete. No Range header at all where nothing is held."""
        headers = {"range": f"bytes=0-{received - 1}"} if received else {}
        return Response(b"", 308, headers)
