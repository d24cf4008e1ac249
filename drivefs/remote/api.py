"""Drive v3's requests and answers, by googleapiclient, of which this is the only importer: building and parsing, no sending.

A request object gives its address, method, headers and body, and takes the answer in ``postproc``. The discovery document is the
packaged one, pointed at the configured server, so building needs no network.
Source: https://developers.google.com/workspace/drive/api/reference/rest/v3
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import urlsplit

from googleapiclient.discovery import build_from_document
from googleapiclient.discovery_cache import get_static_doc
from googleapiclient.http import MAX_URI_LENGTH

from drivefs import __version__
from drivefs.base.errors import RemoteError
from drivefs.remote.caller import Call, not_json
from drivefs.remote.http import Response
from drivefs.remote.quota import Lane

__all__ = ["USER_AGENT", "Api", "headers_of", "name_of", "parse"]

_DROPPED_HEADERS: Final = frozenset({"accept-encoding", "user-agent", "content-length"})  # the transport's business
USER_AGENT: Final = f"drivefs/{__version__} (gzip)"  # Google compresses only for agents that say so here, too


class _NoNetwork:
    """Stands where googleapiclient wants an HTTP client, and proves by failing that it is never used."""

    def request(self, *_args: object, **_options: object) -> None:
        raise AssertionError("googleapiclient must not send requests itself")


def _discovery_document(api_root: str) -> dict[str, Any]:
    text = get_static_doc("drive", "v3")
    if text is None:
        raise RemoteError("google-api-python-client lacks its description of Drive v3. Install drivefs again.")
    document: dict[str, Any] = json.loads(text)
    root = f"{api_root}/"
    document.update(rootUrl=root, mtlsRootUrl=root, baseUrl=root + document["servicePath"])
    return document


class Api:
    """The service at ``root``. Resources are kept: making one costs a millisecond, a request from it 15 microseconds."""

    def __init__(self, root: str) -> None:
        document = _discovery_document(root)
        service = build_from_document(document, http=_NoNetwork())
        self.files, self.about = service.files(), service.about()
        self.changes, self.revisions = service.changes(), service.revisions()
        self._base: str = document["baseUrl"]
        self._upload_base = f"{root}/upload/{document['servicePath']}"

    def call(self, request: Any, cost: int, lane: Lane) -> Call:
        """A small call, ready to be carried."""
        method, url, headers, body = request.method, request.uri, headers_of(request), request.body
        if method == "GET" and len(url) > MAX_URI_LENGTH:
            # As googleapiclient itself does: Google's front end refuses longer addresses.
            parts = urlsplit(url)
            method, url, body = "POST", parts._replace(query="").geturl(), parts.query
            headers |= {"x-http-method-override": "GET", "content-type": "application/x-www-form-urlencoded"}
        return Call(name_of(request), method, url, headers, body.encode() if body else None, cost, lane)

    def upload_url(self, request: Any, upload_type: str) -> str:
        """A metadata request's address, moved to the upload service."""
        return f"{self._upload_base}{request.uri.removeprefix(self._base)}&uploadType={upload_type}"


def name_of(request: Any) -> str:
    """The method's name as counted in Stats, as in ``files.list``."""
    return str(request.methodId).removeprefix("drive.")


def headers_of(request: Any) -> dict[str, str]:
    """What the request itself needs; how bytes are encoded and framed is left to the transport."""
    kept = {name: value for name, value in request.headers.items() if name not in _DROPPED_HEADERS}
    return {**kept, "user-agent": USER_AGENT}


def parse(request: Any, response: Response) -> dict[str, Any]:
    """A successful answer's JSON object. Raises ServerFault where it is anything else."""
    try:
        data = request.postproc(response, response.body)
    except ValueError:
        raise not_json(name_of(request)) from None
    if not isinstance(data, dict):
        raise not_json(name_of(request))
    return data
