"""Version 2 of the API, for clients that still speak it: each call is carried out as the call of version 3 that it means.

It adds what version 3 has not: ETags, and If-Match, which is compared when a request begins.
Source: https://developers.google.com/workspace/drive/api/reference/rest/v2
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drivefs.emulator.calls import read_body
from drivefs.emulator.connection import without_connection
from drivefs.emulator.errors import ApiError, bad_request, not_routed
from drivefs.emulator.fields import apply, parse
from drivefs.emulator.legacy_fields import etag_of, to_v2, to_v3, translate_order, translate_query
from drivefs.emulator.metadata import parse_json
from drivefs.emulator.multipart import boundary_of, read_related
from drivefs.emulator.store import Store

__all__ = ["Legacy"]

_FILES: Final = "/drive/v3/files"
_MULTIPART_LIMIT: Final = 64 << 20
_ROUTING: Final = ("path_params", "endpoint", "router", "root_path", "app_root_path")  # found out anew for the inner call
# Parameters by their name in version 2; the others are not handed on.
_PARAMETERS: Final = {
    **dict.fromkeys(("supportsAllDrives", "supportsTeamDrives"), "supportsAllDrives"),
    **dict.fromkeys(("includeItemsFromAllDrives", "includeTeamDriveItems"), "includeItemsFromAllDrives"),
    "pinned": "keepRevisionForever",
    "access_token": "access_token",
    "oauth_token": "oauth_token",
    "acknowledgeAbuse": "acknowledgeAbuse",
    "addParents": "addParents",
    "removeParents": "removeParents",
    "corpora": "corpora",
    "driveId": "driveId",
    "spaces": "spaces",
    "pageToken": "pageToken",
    "uploadType": "uploadType",
    "upload_id": "upload_id",
    "alt": "alt",
}
Convert = Callable[[dict[str, Any]], dict[str, Any]]


class Legacy:
    """``app`` answers the calls of version 3; it is set once it exists."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.app: ASGIApp | None = None

    def routes(self) -> list[Route]:
        one, upload = "/drive/v2/files/{file_id}", "/upload/drive/v2/files"
        return [
            Route("/drive/v2/about", self.about, methods=["GET"]),
            Route("/drive/v2/files", self.list, methods=["GET"]),
            Route("/drive/v2/files", self.insert, methods=["POST"]),
            Route("/drive/v2/files/trash", self.empty_trash, methods=["DELETE"]),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.update, methods=["PUT", "PATCH"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(one + "/copy", self.copy, methods=["POST"]),
            Route(one + "/trash", self.trash, methods=["POST"]),
            Route(one + "/untrash", self.untrash, methods=["POST"]),
            Route(upload, self.upload, methods=["POST", "PUT", "DELETE"]),
            Route(upload + "/{file_id}", self.upload, methods=["PUT", "POST", "DELETE"]),
        ]

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def about(self, request: Request) -> Response:
        def convert(about: dict[str, Any]) -> dict[str, Any]:
            quota, user = about["storageQuota"], about["user"]
            known = {"kind": "drive#about", "name": user["displayName"], "user": user, "rootFolderId": self._store.root_id}
            used = {"quotaBytesUsed": quota["usageInDrive"], "quotaBytesUsedInTrash": quota["usageInDriveTrash"]}
            limit = (
                {"quotaBytesTotal": quota["limit"], "quotaType": "LIMITED"} if "limit" in quota else {"quotaType": "UNLIMITED"}
            )
            return known | used | limit

        return _converted(request, await self._inner(request, "GET", "/drive/v3/about", {"fields": "*"}), convert)

    async def list(self, request: Request) -> Response:
        query = request.query_params
        wanted = {"fields": "nextPageToken,incompleteSearch,files", "pageSize": query.get("maxResults", "100")}
        wanted |= {"q": translate_query(query.get("q", "")), "orderBy": translate_order(query.get("orderBy", ""))}

        def convert(answer: dict[str, Any]) -> dict[str, Any]:
            items = [self._file(request, one) for one in answer.pop("files")]
            return {"kind": "drive#fileList", "selfLink": f"{request.base_url}drive/v2/files", "items": items} | answer

        return _converted(request, await self._inner(request, "GET", _FILES, wanted), convert)

    async def get(self, request: Request) -> Response:
        path = f"{_FILES}/{request.path_params['file_id']}"
        if request.query_params.get("alt") == "media":
            return _Forwarded(self._app, _inner_scope(request, "GET", path, {}))
        return self._one(request, await self._inner(request, "GET", path, {"fields": "*"}))

    async def insert(self, request: Request) -> Response:
        await self._match(request)
        body = to_v3(parse_json(await read_body(request)), creating=True, with_time=True)
        return self._one(request, await self._inner(request, "POST", _FILES, {"fields": "*"}, body))

    async def update(self, request: Request) -> Response:
        await self._match(request)
        return await self._patch(request, parse_json(await read_body(request)))

    async def _patch(self, request: Request, body: Mapping[str, Any]) -> Response:
        values, moves = self._changes(request, body)
        path = f"{_FILES}/{request.path_params['file_id']}"
        return self._one(request, await self._inner(request, "PATCH", path, {"fields": "*"} | moves, values))

    async def trash(self, request: Request) -> Response:
        return await self._patch(request, {"labels": {"trashed": True}})

    async def untrash(self, request: Request) -> Response:
        return await self._patch(request, {"labels": {"trashed": False}})

    async def copy(self, request: Request) -> Response:
        body = to_v3(parse_json(await read_body(request)), creating=True, with_time=True)
        path = f"{_FILES}/{request.path_params['file_id']}/copy"
        return self._one(request, await self._inner(request, "POST", path, {"fields": "*"}, body))

    async def delete(self, request: Request) -> Response:
        await self._match(request)
        return await self._inner(request, "DELETE", f"{_FILES}/{request.path_params['file_id']}", {})

    async def empty_trash(self, request: Request) -> Response:
        return await self._inner(request, "DELETE", f"{_FILES}/trash", {})

    async def upload(self, request: Request) -> Response:
        """Media, multipart and resumable requests; the address of a resumable upload stays one of version 2."""
        item = request.path_params.get("file_id")
        path, verb = f"/upload{_FILES}" + (f"/{item}" if item else ""), "PATCH" if item else "POST"
        if "upload_id" in request.query_params:
            return self._one(request, await self._inner(request, request.method, path, {}))
        if request.method != ("PUT" if item else "POST"):
            return await not_routed(request, Exception())
        await self._match(request)
        kind, query = request.query_params.get("uploadType"), {"fields": "*"}
        if kind == "media":
            return self._one(request, await self._inner(request, verb, path, query))
        if kind == "multipart":
            boundary, chunks = boundary_of(request.headers.get("content-type", "")), request.stream()
            content = bytearray()

            async def keep(piece: bytes) -> None:
                content.extend(piece)
                if len(content) > _MULTIPART_LIMIT:
                    raise ApiError(413, "uploadTooLarge", "Request Too Large")

            raw, part = await read_related(chunks, boundary, keep)
            values, moves = self._changes(request, parse_json(raw))
            body, headers = _related(values, part.content_type or "application/octet-stream", bytes(content))
            return self._one(request, await self._inner(request, verb, path, query | moves, body, headers))
        if kind != "resumable":
            raise bad_request(
                "uploadType must be one of media, multipart and resumable.", location="uploadType", reason="invalid"
            )
        values, moves = self._changes(request, parse_json(await read_body(request)))
        answer = await self._inner(request, verb, path, query | moves, values)
        if "location" in answer.headers:
            answer.headers["location"] = answer.headers["location"].replace("/drive/v3/", "/drive/v2/", 1)
        return answer

    # -- parts ---------------------------------------------------------------------------------------------------------

    @property
    def _app(self) -> ASGIApp:
        assert self.app is not None
        return self.app

    def _changes(self, request: Request, body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """A body's fields and, of an update, the move that its parents mean."""
        creating = "file_id" not in request.path_params
        with_time = creating or request.query_params.get("setModifiedDate", "").lower() == "true"
        values = to_v3(body, creating=creating, with_time=with_time)
        parents = [] if creating else values.pop("parents", [])
        return values, {"addParents": ",".join(parents)} if parents else {}

    async def _match(self, request: Request) -> None:
        """Raise 412 where the item is not the one that If-Match names; on create, where If-None-Match is sent."""
        item, wanted = request.path_params.get("file_id"), request.headers.get("if-match")
        failed = item is None and request.headers.get("if-none-match") is not None
        if item is not None and wanted not in (None, "*"):
            found = await self._inner(
                request, "GET", f"{_FILES}/{item}", {"fields": "id,version", "uploadType": "", "alt": "json"}, b""
            )
            failed = found.status_code == 200 and etag_of(json.loads(bytes(found.body))) != wanted
        if failed:
            raise ApiError(412, "conditionNotMet", "Precondition Failed", location="If-Match", location_type="header")

    def _file(self, request: Request, file: dict[str, Any]) -> dict[str, Any]:
        return to_v2(file, str(request.base_url), self._store.root_id)

    def _one(self, request: Request, answer: Response) -> Response:
        converted = _converted(request, answer, lambda file: self._file(request, file))
        if converted is not answer:
            converted.headers["etag"] = etag_of(json.loads(bytes(answer.body)))
        return converted

    async def _inner(
        self, request: Request, verb: str, path: str, query: Mapping[str, str], body: Any = None, headers: Any = ()
    ) -> Response:
        """The answer of version 3. body: bytes, a value to be sent as JSON, or None to hand on the request's own."""
        scope, receive = _inner_scope(request, verb, path, query), request.receive
        if body is not None:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            fixed = dict(headers) or ({} if isinstance(body, bytes) else {"content-type": "application/json"})
            receive = _with_body(scope, raw, fixed)
        started: list[Message] = []
        collected = bytearray()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(message)
            else:
                collected.extend(message.get("body", b""))

        await self._app(scope, receive, send)
        response = Response(bytes(collected), started[0]["status"])
        response.raw_headers = list(started[0]["headers"])
        return response


class _Forwarded(Response):
    """The answer of version 3 as it comes, piece by piece."""

    def __init__(self, app: ASGIApp, inner: Scope) -> None:
        super().__init__()
        self._app, self._inner = app, inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(self._inner, receive, send)


def _inner_scope(request: Request, verb: str, path: str, query: Mapping[str, str]) -> Scope:
    kept = {_PARAMETERS[name]: value for name, value in request.query_params.items() if name in _PARAMETERS}
    merged = {name: value for name, value in (kept | dict(query)).items() if value}
    scope = {name: value for name, value in without_connection(request.scope).items() if name not in _ROUTING}
    return scope | {"method": verb, "path": path, "raw_path": path.encode(), "query_string": urlencode(merged).encode()}


def _with_body(scope: Scope, body: bytes, headers: Mapping[str, str]) -> Receive:
    """Give the call another body."""
    replaced = {"content-length", "content-type", "transfer-encoding"}
    kept = [(name, value) for name, value in scope["headers"] if name.decode("latin-1") not in replaced]
    more = {"content-length": str(len(body))} | dict(headers)
    scope["headers"] = kept + [(name.encode(), value.encode("latin-1")) for name, value in more.items()]

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _related(values: dict[str, Any], content_type: str, content: bytes) -> tuple[bytes, dict[str, str]]:
    """A multipart/related body of metadata and content, under a boundary that the content does not hold."""
    number = 0
    while (mark := f"part-{number}".encode()) in content:
        number += 1
    head = b"--%b\r\ncontent-type: application/json\r\n\r\n%b\r\n" % (mark, json.dumps(values).encode())
    part = b"--%b\r\ncontent-type: %b\r\n\r\n%b\r\n--%b--\r\n" % (mark, content_type.encode("latin-1"), content, mark)
    return head + part, {"content-type": f"multipart/related; boundary={mark.decode()}"}


def _converted(request: Request, answer: Response, convert: Convert) -> Response:
    """A successful answer of version 3 in the words of version 2, as far as ``fields`` wants it; others as they are."""
    if answer.status_code != 200 or not answer.body:
        return answer
    value = convert(json.loads(bytes(answer.body)))
    if fields := request.query_params.get("fields", "").strip():
        value = apply(value, parse(fields, None))
    return Response(json.dumps(value, ensure_ascii=False), media_type="application/json; charset=UTF-8")
