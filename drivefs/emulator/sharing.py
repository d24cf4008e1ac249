"""The methods that concern others, as short handlers: permissions, shared drives, and exports of documents."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from drivefs.emulator import drives, permissions
from drivefs.emulator.calls import Calls, json_body, json_response
from drivefs.emulator.documents import exported
from drivefs.emulator.errors import invalid_value
from drivefs.emulator.fields import apply, sub
from drivefs.emulator.paging import Parameters, open_token, seal_token

__all__ = ["Sharing"]

_PERMISSION: Final = "kind,id,type,role"


class Sharing:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._store = calls.store

    def routes(self) -> list[Route]:
        route = self._calls.route
        shared, files = "/drive/v3/drives", "/drive/v3/files/{file_id}"
        given = files + "/permissions"
        return [
            route("GET", shared, "drives.list", self.list_drives),
            route("POST", shared, "drives.create", self.create_drive),
            route("GET", shared + "/{drive_id}", "drives.get", self.get_drive),
            route("PATCH", shared + "/{drive_id}", "drives.update", self.update_drive),
            route("DELETE", shared + "/{drive_id}", "drives.delete", self.delete_drive),
            route("GET", given, "permissions.list", self.list_permissions),
            route("POST", given, "permissions.create", self.create_permission),
            route("GET", given + "/{permission_id}", "permissions.get", self.get_permission),
            route("PATCH", given + "/{permission_id}", "permissions.update", self.update_permission),
            route("DELETE", given + "/{permission_id}", "permissions.delete", self.delete_permission),
            route("GET", files + "/export", "files.export", self.export),
            # Where exportLinks lead: as export, without its cap.
            route("GET", "/feeds/download/export", "exportLinks", self.export_link),
        ]

    # -- shared drives ---------------------------------------------------------------------------------------------

    async def list_drives(self, _request: Request, parameters: Parameters) -> Response:
        mask = parameters.mask("DriveList", f"kind,nextPageToken,drives({drives.DEFAULT_DRIVE})")
        size, token = parameters.page_size(10, 100), parameters.text("pageToken")
        after = open_token(self._store, "drives.list", parameters, token) if token else 0
        rows = drives.listed(self._store, after, size + 1)
        answer: dict[str, Any] = {"kind": "drive#driveList"}
        if len(rows) > size:
            answer["nextPageToken"] = seal_token(self._store, "drives.list", parameters, rows[size - 1]["seq"])
        answer = apply(answer, mask)
        if (below := sub(mask, "drives")) is not None:
            answer["drives"] = [drives.resource(self._store, row, below) for row in rows[:size]]
        return json_response(answer, parameters)

    def _drive(self, row: Any, parameters: Parameters) -> Response:
        mask = parameters.mask("Drive", drives.DEFAULT_DRIVE)
        return json_response(drives.resource(self._store, row, mask), parameters)

    async def create_drive(self, request: Request, parameters: Parameters) -> Response:
        request_id, body = parameters.required("requestId"), await json_body(request)
        if set(body) - {"name", "kind"}:
            raise invalid_value("name", "Only the name of a shared drive can be set here.")
        return self._drive(drives.create(self._store, request_id, body.get("name")), parameters)

    async def get_drive(self, request: Request, parameters: Parameters) -> Response:
        return self._drive(drives.find(self._store, request.path_params["drive_id"]), parameters)

    async def update_drive(self, request: Request, parameters: Parameters) -> Response:
        body = await json_body(request)
        if set(body) - {"name", "kind"}:
            raise invalid_value("name", "Only the name of a shared drive can be set here.")
        return self._drive(drives.rename(self._store, request.path_params["drive_id"], body.get("name")), parameters)

    async def delete_drive(self, request: Request, _parameters: Parameters) -> Response:
        drives.delete(self._store, request.path_params["drive_id"])
        return Response(status_code=204)

    # -- permissions -----------------------------------------------------------------------------------------------

    def _permission(self, permission_id: str, role: str, parameters: Parameters) -> Response:
        mask = parameters.mask("Permission", _PERMISSION)
        return json_response(apply(permissions.resource(self._store, permission_id, role), mask), parameters)

    async def list_permissions(self, request: Request, parameters: Parameters) -> Response:
        """All on one page: there are never many here."""
        mask = parameters.mask("PermissionList", f"kind,nextPageToken,permissions({_PERMISSION})")
        parameters.page_size(100, 100)
        item = permissions.listable(self._store, request.path_params["file_id"])
        found = permissions.effective(self._store, item)
        answer = {
            "kind": "drive#permissionList",
            "permissions": [permissions.resource(self._store, one, role) for one, role in found.items()],
        }
        return json_response(apply(answer, mask), parameters)

    async def create_permission(self, request: Request, parameters: Parameters) -> Response:
        parameters.mask("Permission", _PERMISSION)
        body, item = await json_body(request), self._store.item(request.path_params["file_id"])
        made = permissions.create(self._store, item, body, transfer=parameters.boolean("transferOwnership"))
        return self._permission(*made, parameters)

    async def get_permission(self, request: Request, parameters: Parameters) -> Response:
        permission_id = request.path_params["permission_id"]
        item = permissions.listable(self._store, request.path_params["file_id"])
        return self._permission(permission_id, permissions.find(self._store, item, permission_id), parameters)

    async def update_permission(self, request: Request, parameters: Parameters) -> Response:
        parameters.mask("Permission", _PERMISSION)
        permission_id = request.path_params["permission_id"]
        body, item = await json_body(request), self._store.item(request.path_params["file_id"])
        transfer = parameters.boolean("transferOwnership")
        role = permissions.update(self._store, item, permission_id, body, transfer=transfer)
        return self._permission(permission_id, role, parameters)

    async def delete_permission(self, request: Request, _parameters: Parameters) -> Response:
        item = self._store.item(request.path_params["file_id"])
        permissions.delete(self._store, item, request.path_params["permission_id"])
        return Response(status_code=204)

    # -- documents -------------------------------------------------------------------------------------------------

    async def export(self, request: Request, parameters: Parameters) -> Response:
        row, target = self._store.item(request.path_params["file_id"]), parameters.required("mimeType")
        return Response(exported(self._store, row, target), media_type=target)

    async def export_link(self, _request: Request, parameters: Parameters) -> Response:
        row, target = self._store.item(parameters.required("id")), parameters.required("mimeType")
        return Response(exported(self._store, row, target, capped=False), media_type=target)
