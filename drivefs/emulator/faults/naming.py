"""Which call a request is, told from its line and headers alone, before any handler sees it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from urllib.parse import parse_qsl

from starlette.types import Scope

__all__ = ["Call", "call_of"]

_API: Final = "/drive/v3/"
_UPLOADS: Final = ("/upload/drive/v3/files", "/resumable/upload/drive/v3/files")
_ON_COLLECTION: Final = {"GET": "list", "POST": "create"}
_ON_ITEM: Final = {"GET": "get", "HEAD": "get", "PATCH": "update", "PUT": "update", "POST": "create", "DELETE": "delete"}
# Words that stand where an id would.
_SPECIAL: Final = {
    "/drive/v3/about": "about.get",
    "/drive/v3/files/generateIds": "files.generateIds",
    "/drive/v3/files/trash": "files.emptyTrash",
    "/drive/v3/changes/startPageToken": "changes.getStartPageToken",
    "/drive/v3/changes/watch": "changes.watch",
    "/token": "oauth2.token",
    "/o/oauth2/auth": "oauth2.auth",
    "/o/oauth2/v2/auth": "oauth2.auth",
    "/device/code": "oauth2.device",
    "/revoke": "oauth2.revoke",
    "/tokeninfo": "oauth2.tokeninfo",
    "/batch": "batch",
    "/batch/drive/v3": "batch",
    "/discovery/v1/apis/drive/v3/rest": "discovery.getRest",
    "/$discovery/rest": "discovery.getRest",
}
_COLLECTIONS: Final = frozenset(
    {"about", "accessproposals", "apps", "approvals", "changes", "channels", "comments", "drives", "files", "operations"}
    | {"permissions", "replies", "revisions", "teamdrives"}
)


@dataclass(frozen=True, slots=True)
class Call:
    """A request. names: what rules may call it, the name under which it is counted first.

    route: the path with ids replaced, as ``/drive/v3/files/{file_id}``.  upload_id: of a resumable session's request.
    """

    names: tuple[str, ...]
    verb: str
    path: str
    route: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    file_id: str | None = None
    upload_id: str | None = None

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def is_upload(self) -> bool:
        """Whether the body carries content."""
        return self.route.startswith(_UPLOADS) and self.query.get("uploadType", "resumable") in (
            "media",
            "multipart",
            "resumable",
        )


def _api_call(verb: str, path: str, query: Mapping[str, str]) -> tuple[str, str, str | None]:
    """(name, route, file id) of a call below /drive/v3/: collections and ids take turns, a verb may end the path."""
    segments = path.removeprefix(_API).strip("/").split("/")
    resource, route, file_id = segments[0], [segments[0]], None
    for above, one in pairwise(segments):
        if above in _COLLECTIONS and len(route) % 2:
            route.append("{" + above.removesuffix("s") + "_id}")
            file_id = one if above == "files" else file_id
        else:
            route.append(one)
            resource = one if one in _COLLECTIONS else resource
    if segments[-1] not in _COLLECTIONS and len(segments) % 2:
        action = segments[-1]
    elif len(segments) % 2:
        action = _ON_COLLECTION.get(verb, verb.lower())
    else:
        action = _ON_ITEM.get(verb, verb.lower())
    suffix = "_media" if action == "get" and query.get("alt") == "media" else ""
    return f"{resource}.{action}{suffix}", _API + "/".join(route), file_id


def _upload_call(
    verb: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
) -> tuple[tuple[str, ...], str, str | None]:
    prefix = next(one for one in _UPLOADS if path.startswith(one))
    file_id = path.removeprefix(prefix).strip("/") or None
    route = prefix + ("/{file_id}" if file_id else "")
    if "upload_id" in query:
        if verb == "DELETE":
            return ("upload.cancel",), route, file_id
        probe = headers.get("content-range", "").startswith("bytes */")
        return (("upload.probe" if probe else "upload.chunk"),), route, file_id
    kind = {"resumable": "open"}.get(query.get("uploadType", ""), query.get("uploadType", "media"))
    return ("files.update" if file_id else "files.create", f"upload.{kind}"), route, file_id


def call_of(scope: Scope) -> Call:
    """The call that an ASGI request is. Unknown paths are named ``http``."""
    verb, path = scope["method"], scope["path"]
    query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    if path in _SPECIAL:
        return Call((_SPECIAL[path],), verb, path, path, headers, query)
    if path.startswith(_UPLOADS):
        names, route, file_id = _upload_call(verb, path, query, headers)
        return Call(names, verb, path, route, headers, query, file_id, query.get("upload_id"))
    if path.startswith(_API):
        name, route, file_id = _api_call(verb, path, query)
        return Call((name,), verb, path, route, headers, query, file_id)
    return Call(("http",), verb, path, path, headers, query)
