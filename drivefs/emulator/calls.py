"""The JSON side of the API: each method of Drive v3 that is emulated, as one short handler."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from drivefs.emulator import access, changes, drives, items, placement, resources, revisions
from drivefs.emulator.auth import Gate
from drivefs.emulator.discovery import document_for, fields_of
from drivefs.emulator.errors import ApiError, bad_request, invalid_value
from drivefs.emulator.fields import apply, covers, sub
from drivefs.emulator.identity import FLAGGED, carried_out_for, identify
from drivefs.emulator.listing import list_files
from drivefs.emulator.media import media_response
from drivefs.emulator.metadata import parse_json, parse_metadata
from drivefs.emulator.paging import Parameters, open_token, seal_token
from drivefs.emulator.restrictions import may_download
from drivefs.emulator.store import Store
from drivefs.emulator.values import is_docs_type
from drivefs.emulator.wire import Traffic

__all__ = ["Calls", "Handler", "json_body", "json_response", "read_body"]

Handler: TypeAlias = Callable[[Request, Parameters], Awaitable[Response]]
_BODY_LIMIT: Final = 1 << 20
_DEFAULT_REVISION: Final = "kind,id,mimeType,modifiedTime"


def json_response(value: Any, parameters: Parameters) -> Response:
    """Compact, unless ``prettyPrint=true`` is asked for: indenting takes longer than everything else together."""
    if parameters.text("prettyPrint") == "true":
        body = json.dumps(value, ensure_ascii=False, indent=2)
    else:
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Response(body, media_type="application/json; charset=UTF-8")


async def read_body(request: Request, most: int = _BODY_LIMIT) -> bytes:
    """A request body of at most ``most`` bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise ApiError(413, "uploadTooLarge", "Request Too Large")
    return bytes(body)


async def json_body(request: Request) -> dict[str, Any]:
    raw = await read_body(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if raw and kind != "application/json":
        raise bad_request(f"Media type '{kind}' is not supported. Valid media types: [application/json]", reason="badContent")
    return parse_json(raw)


@dataclass(frozen=True)
class Calls:
    """Handlers over one store."""

    store: Store
    gate: Gate
    traffic: Traffic

    def route(self, verb: str, path: str, name: str, handler: Handler, *, needs_token: bool = True) -> Route:
        """A counted route. ``name`` is the method as the API's description calls it."""

        async def endpoint(request: Request) -> Response:
            parameters = Parameters(request.query_params)
            suffix = "_media" if parameters.wants_media and verb == "GET" else ""
            if not carried_out_for(request):
                self.traffic.count(name + suffix, f"{request.method} {path}")
                if needs_token:
                    self.gate.check(request)
            identify(self.store, request, flagged=name in FLAGGED)
            return await handler(request, parameters)

        return Route(path, endpoint, methods=[verb])

    def routes(self) -> list[Route]:
        files, route = "/drive/v3/files", self.route
        one = files + "/{file_id}"
        return [
            route("GET", "/drive/v3/about", "about.get", self.about),
            route("GET", "/drive/v3/changes/startPageToken", "changes.getStartPageToken", self.start_page_token),
            route("GET", "/drive/v3/changes", "changes.list", self.list_changes),
            route("GET", files, "files.list", self.list),
            route("POST", files, "files.create", self.create),
            route("GET", files + "/generateIds", "files.generateIds", self.generate_ids),
            route("DELETE", files + "/trash", "files.emptyTrash", self.empty_trash),
            route("GET", one, "files.get", self.get),
            route("PATCH", one, "files.update", self.update),
            route("DELETE", one, "files.delete", self.delete),
            route("POST", one + "/copy", "files.copy", self.copy),
            route("GET", one + "/revisions", "revisions.list", self.list_revisions),
            route("GET", one + "/revisions/{revision_id}", "revisions.get", self.get_revision),
            route("PATCH", one + "/revisions/{revision_id}", "revisions.update", self.update_revision),
            route("DELETE", one + "/revisions/{revision_id}", "revisions.delete", self.delete_revision),
            route("GET", "/discovery/v1/apis/drive/v3/rest", "discovery.getRest", self.discovery, needs_token=False),
            route("GET", "/$discovery/rest", "discovery.getRest", self.discovery, needs_token=False),
        ]

    async def discovery(self, request: Request, parameters: Parameters) -> Response:
        if request.url.path == "/$discovery/rest" and parameters.text("version", "v3") != "v3":
            raise ApiError(404, "notFound", "Only version v3 is served.", location="version")
        return json_response(document_for(str(request.base_url)), parameters)

    async def about(self, _request: Request, parameters: Parameters) -> Response:
        fields = parameters.text("fields").strip()
        if not fields or "." in fields:  # Drive answers to dotted selections as if none had been made
            message = "The 'fields' parameter is required for this method."
            raise bad_request(message, location="fields", reason="required")
        return json_response(resources.about(self.store, fields), parameters)

    async def start_page_token(self, _request: Request, parameters: Parameters) -> Response:
        return json_response(changes.start_token(self.store, parameters), parameters)

    async def list_changes(self, _request: Request, parameters: Parameters) -> Response:
        return json_response(changes.list_changes(self.store, parameters), parameters)

    async def list(self, _request: Request, parameters: Parameters) -> Response:
        return json_response(list_files(self.store, parameters), parameters)

    async def generate_ids(self, _request: Request, parameters: Parameters) -> Response:
        count, kind, space = (
            parameters.integer("count", 10, 1000),
            parameters.text("type", "files"),
            parameters.text("space", "drive"),
        )
        if kind not in ("files", "shortcuts"):
            raise invalid_value("type")
        if space not in ("drive", "appDataFolder"):
            raise invalid_value("space")
        answer = {"kind": "drive#generatedIds", "space": space, "ids": [self.store.ids.make(kind) for _ in range(count)]}
        return json_response(apply(answer, parameters.mask("GeneratedIds", "*")), parameters)

    async def get(self, request: Request, parameters: Parameters) -> Response:
        row = self.store.item(request.path_params["file_id"])
        if not parameters.wants_media:
            return json_response(resources.file(self.store, row, parameters.mask("File", resources.DEFAULT_FILE)), parameters)
        revision = self._content(row)
        return media_response(request, self.store.content, revision["blob"], revision["size"], row["mime_type"])

    def _content(self, row: Any, revision_id: str = "head") -> Any:
        if not may_download(self.store, row):
            raise ApiError(403, "cannotDownloadFile", "This file cannot be downloaded by the user.")
        if row["head_revision"] is None:
            export = " Use Export with Docs Editors files." if is_docs_type(row["mime_type"]) else ""
            message = f"Only files with binary content can be downloaded.{export}"
            raise ApiError(403, "fileNotDownloadable", message, location="alt")
        return revisions.find(self.store, row, revision_id)

    async def create(self, request: Request, parameters: Parameters) -> Response:
        mask = parameters.mask("File", resources.DEFAULT_FILE)
        values = parse_metadata(await json_body(request), fields_of("File"), creating=True)
        return json_response(resources.file(self.store, items.create(self.store, values), mask), parameters)

    async def update(self, request: Request, parameters: Parameters) -> Response:
        mask = parameters.mask("File", resources.DEFAULT_FILE)
        values = parse_metadata(await json_body(request), fields_of("File"), creating=False)
        add, remove = parameters.id_list("addParents"), parameters.id_list("removeParents")
        row = items.update(self.store, request.path_params["file_id"], values, add_parents=add, remove_parents=remove)
        return json_response(resources.file(self.store, row, mask), parameters)

    async def delete(self, request: Request, _parameters: Parameters) -> Response:
        placement.delete(self.store, request.path_params["file_id"])
        return Response(status_code=204)

    async def empty_trash(self, _request: Request, parameters: Parameters) -> Response:
        drive_id = parameters.text("driveId")
        if drive_id:
            access.demand(self.store, self.store.item(drives.find(self.store, drive_id)["id"]), access.ORGANIZER)
        placement.empty_trash(self.store, drive_id)
        return Response(status_code=204)

    async def copy(self, request: Request, parameters: Parameters) -> Response:
        mask = parameters.mask("File", resources.DEFAULT_FILE)
        values = parse_metadata(await json_body(request), fields_of("File"), creating=True)
        row = items.copy(self.store, request.path_params["file_id"], values, keep=parameters.boolean("keepRevisionForever"))
        return json_response(resources.file(self.store, row, mask), parameters)

    def _with_history(self, request: Request) -> Any:
        """The item of a request for revisions, which readers may not see."""
        row = self.store.item(request.path_params["file_id"])
        self._content(row)
        access.demand(self.store, row, access.WRITER)
        return row

    async def list_revisions(self, request: Request, parameters: Parameters) -> Response:
        mask = parameters.mask("RevisionList", f"kind,nextPageToken,revisions({_DEFAULT_REVISION})")
        row, size = self._with_history(request), parameters.page_size(200, 1000)
        call = f"revisions.list {row['id']}"
        token = parameters.text("pageToken")
        after = open_token(self.store, call, parameters, token) if token else 0
        rows = self.store.connection.execute(
            "SELECT * FROM revisions WHERE item = ? AND seq > ? ORDER BY seq LIMIT ?", (row["id"], after, size + 1)
        ).fetchall()
        answer: dict[str, Any] = {"kind": "drive#revisionList"}
        if len(rows) > size:
            answer["nextPageToken"] = seal_token(self.store, call, parameters, rows[size - 1]["seq"])
        answer = apply(answer, mask)
        if covers(mask, "revisions"):
            answer["revisions"] = [resources.revision(self.store, one, sub(mask, "revisions") or {}) for one in rows[:size]]
        return json_response(answer, parameters)

    async def get_revision(self, request: Request, parameters: Parameters) -> Response:
        row = self._with_history(request)
        revision = self._content(row, request.path_params["revision_id"])
        if parameters.wants_media:
            return media_response(request, self.store.content, revision["blob"], revision["size"], revision["mime_type"])
        return json_response(resources.revision(self.store, revision, parameters.mask("Revision", _DEFAULT_REVISION)), parameters)

    async def update_revision(self, request: Request, parameters: Parameters) -> Response:
        mask = parameters.mask("Revision", _DEFAULT_REVISION)
        body = await json_body(request)
        if set(body) - {"keepForever"} or not isinstance(body.get("keepForever", False), bool):
            raise invalid_value("keepForever")
        row = self._with_history(request)
        revision = self._content(row, request.path_params["revision_id"])
        with self.store.transaction():
            if "keepForever" in body:
                revisions.keep(self.store, row, revision, body["keepForever"])
                items.touch(self.store, row["id"])
        return json_response(resources.revision(self.store, self._content(row, revision["id"]), mask), parameters)

    async def delete_revision(self, request: Request, _parameters: Parameters) -> Response:
        row = self._with_history(request)
        revision = self._content(row, request.path_params["revision_id"])
        with self.store.transaction():
            blob = revisions.delete(self.store, row, revision)
            items.touch(self.store, row["id"])
        self.store.unlink_unused([blob])
        return Response(status_code=204)
