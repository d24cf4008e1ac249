"""Resumable uploads: a session, chunks, and what the server says it has.

The server may confirm less than was sent, hand out a new address, or have finished although its answer was lost; so the offset is
always the server's word, and a chunk whose fate is unknown is never sent again before asking.
Source: https://developers.google.com/workspace/drive/api/guides/manage-uploads#resumable
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import urljoin

from drivefs.base.errors import RemoteError, RemoteUnreachable, ServerFault, SessionGone
from drivefs.base.model import RemoteItem, UploadSession
from drivefs.remote import wire
from drivefs.remote.caller import Call, Caller, Persistence, broken, not_json
from drivefs.remote.http import Response
from drivefs.remote.quota import COST_EDIT, COST_OTHER, Lane

__all__ = ["CHUNK_UNIT", "Uploads"]

CHUNK_UNIT: Final = 256 * 1024
_RANGE: Final = re.compile(r"bytes=0-(\d{1,18})", re.ASCII)
_GONE: Final = frozenset({404, 410})
_CANCELLED: Final = frozenset({404, 410, 499})


class Uploads:
    """The session protocol of one account. persistence: how long a chunk is tried before the caller is told."""

    def __init__(self, caller: Caller, persistence: Persistence) -> None:
        self._caller = caller
        self.persistence = persistence

    async def open(
        self, method: str, url: str, headers: Mapping[str, str], metadata: bytes, size: int, mime_type: str
    ) -> UploadSession:
        """Begin a session. Repeating this is harmless: a session that is never used vanishes."""
        about = {"x-upload-content-type": wire.usable_mime_type(mime_type), "x-upload-content-length": str(size)}
        call = Call("uploads.open", method, url, {**headers, **about}, metadata, COST_EDIT, Lane.UPLOAD)

        def parse(response: Response) -> UploadSession:
            location = response.headers.get("location")
            if not location:
                raise not_json(call.name)
            return UploadSession(self._followed(url, location), 0)

        return await self._caller.call(call, self.persistence, parse)

    async def send(self, session: UploadSession, data: bytes | memoryview, total: int) -> UploadSession | RemoteItem:
        end = session.offset + len(data)
        if end > total or (end < total and (not data or len(data) % CHUNK_UNIT)):
            raise ValueError(f"a chunk of {len(data)} bytes at {session.offset} of {total}")
        headers = {"content-range": f"bytes {session.offset}-{end - 1}/{total}"} if total else {}
        call = self._call("uploads.send", "PUT", session, headers, data)
        probe = self._probe(session, total)
        uncertain = False

        async def attempt() -> UploadSession | RemoteItem:
            nonlocal uncertain
            if uncertain:
                state = self._state(probe, session, await self._caller.once(probe), end)
                if state != session:
                    return state
                uncertain = False
            try:
                state = self._state(call, session, await self._caller.once(call), end)
            except (ServerFault, RemoteUnreachable):
                uncertain = True
                raise
            if state == session:  # asked again at once, it would most likely keep nothing again
                raise ServerFault("Drive kept nothing of what was sent. The upload is continued later.", status=308)
            return state

        result = await self._caller.persist(call.name, attempt, self.persistence, lane=call.lane)
        reached = total if isinstance(result, RemoteItem) else result.offset
        self._caller.stats.count_bytes(up=max(0, reached - session.offset))
        return result

    async def probe(self, session: UploadSession, total: int) -> UploadSession | RemoteItem:
        call = self._probe(session, total)
        return await self._caller.call(call, self.persistence, lambda response: self._state(call, session, response, total))

    def _probe(self, session: UploadSession, total: int) -> Call:
        call = self._call("uploads.probe", "PUT", session, {"content-range": f"bytes */{total}"}, b"")
        return replace(call, timeout=60.0)

    async def cancel(self, session: UploadSession) -> None:
        call = self._call("uploads.cancel", "DELETE", session, {}, None)
        await self._caller.call(replace(call, accept=_CANCELLED, timeout=60.0), self.persistence, lambda _response: None)

    def _call(
        self, name: str, method: str, session: UploadSession, headers: Mapping[str, str], body: bytes | memoryview | None
    ) -> Call:
        return Call(
            name,
            method,
            session.uri,
            headers,
            body,
            COST_OTHER,
            Lane.UPLOAD,
            accept=_GONE | {308},
            timeout=None,
            json_errors=False,
        )

    def _followed(self, base: str, location: str) -> str:
        """A session's address, checked before it is kept: chunks sent there carry the token."""
        uri = urljoin(base, location)
        self._caller.origins.check(uri)
        return uri

    def _state(self, call: Call, session: UploadSession, response: Response, sent_to: int) -> UploadSession | RemoteItem:
        """What an answer of the session's server says."""
        if response.status in _GONE:
            raise SessionGone("Drive no longer knows this upload. It begins anew.", status=response.status)
        if response.status == 308:
            return self._incomplete(call, session, response, sent_to)
        try:
            data = json.loads(response.body)
        except ValueError:
            raise not_json(call.name) from None
        if not isinstance(data, dict):
            raise not_json(call.name)
        return wire.parse_item(data)

    def _incomplete(self, call: Call, session: UploadSession, response: Response, sent_to: int) -> UploadSession:
        uri = self._followed(session.uri, response.headers.get("location", session.uri))
        stated = response.headers.get("range")
        if stated is None:
            return UploadSession(uri, 0)
        match = _RANGE.fullmatch(stated)
        if match is None:
            raise broken(call.name, "the server did not say which bytes it has")
        offset = int(match[1]) + 1
        if offset > sent_to:
            raise RemoteError("Drive confirms more bytes than were sent. The upload begins anew.")
        return UploadSession(uri, offset)
