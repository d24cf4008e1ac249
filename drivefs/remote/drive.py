"""Typed Drive v3 calls. The only importer of googleapiclient, which builds requests and parses answers; ``caller`` carries them.

googleapiclient's own transport is never used: a request object gives its address, method, headers and body, and takes the answer
in ``postproc``. The discovery document is the packaged one, pointed at the configured server, so building needs no network.
Source: https://developers.google.com/workspace/drive/api/reference/rest/v3
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import trio
from googleapiclient.discovery import build_from_document
from googleapiclient.discovery_cache import get_static_doc
from googleapiclient.http import MAX_URI_LENGTH

from drivefs import __version__
from drivefs.base.config import GOOGLE_API_ROOT, validate_api_root
from drivefs.base.errors import RemoteError, RemoteNotFound
from drivefs.base.model import Account, ChangePage, ItemPatch, Listing, NewItem, RemoteItem, StorageQuota, UploadSession
from drivefs.base.stats import Stats
from drivefs.remote import wire
from drivefs.remote.auth import Credential
from drivefs.remote.caller import Call, Caller, Persistence, not_json
from drivefs.remote.http import Response, Transport
from drivefs.remote.media import Complete, Cursor
from drivefs.remote.quota import COST_DOWNLOAD, COST_EDIT, COST_GET, COST_LIST, Lane, Pacer
from drivefs.remote.upload import Uploads

__all__ = ["Drive"]

PAGE: Final = 1000  # the most the API gives
_DROPPED_HEADERS: Final = frozenset({"accept-encoding", "user-agent", "content-length"})  # the transport's business
_USER_AGENT: Final = f"drivefs/{__version__} (gzip)"  # Google compresses only for agents that say so here, too


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


class Drive:
    """One account's Drive.

    api_root: as in ``https://www.googleapis.com``.  patience: seconds after which a call that someone waits for gives up;
    bulk_patience: the same for content, counted from the last byte that moved.  stall: seconds without a byte after which a
    connection counts as dead.  All methods raise RemoteError's subclasses, and BadRequest for an id that cannot be one.
    """

    def __init__(
        self,
        transport: Transport,
        credential: Credential,
        api_root: str = GOOGLE_API_ROOT,
        stats: Stats | None = None,
        *,
        pacer: Pacer | None = None,
        patience: float = 20.0,
        bulk_patience: float = 120.0,
        stall: float = 60.0,
        rng: random.Random | None = None,
    ) -> None:
        root = validate_api_root(api_root)
        document = _discovery_document(root)
        service = build_from_document(document, http=_NoNetwork())
        # Kept, for making a resource object costs a millisecond and a request from it 15 microseconds.
        self._files, self._about = service.files(), service.about()
        self._changes, self._revisions = service.changes(), service.revisions()
        self._base: str = document["baseUrl"]
        self._upload_base = f"{root}/upload/{document['servicePath']}"
        self._stats = stats or Stats()
        self._caller = Caller(
            transport,
            credential,
            root,
            self._stats,
            pacer or Pacer(trio.current_time),
            stall=stall,
            rng=rng or random.Random(),
        )
        self._patient = Persistence(patience)
        self._bulk = Persistence(bulk_patience)
        self._uploads = Uploads(self._caller, Persistence(bulk_patience, attempts=4))

    # --- account ---

    async def about(self) -> tuple[Account, StorageQuota]:
        """Who we are signed in as, the account's storage, and the id of My Drive."""
        data = await self._json(self._about.get(fields="user,storageQuota"), COST_GET)
        root = await self._json(self._files.get(fileId="root", fields="id"), COST_GET)
        user = data.get("user", {})
        try:
            account = Account(user.get("emailAddress", ""), user.get("permissionId", ""), root["id"])
        except KeyError:
            raise not_json("files.get") from None
        return account, _parse_quota(data)

    async def quota(self) -> StorageQuota:
        return _parse_quota(await self._json(self._about.get(fields="storageQuota"), COST_GET))

    # --- metadata ---

    async def get(self, file_id: str) -> RemoteItem:
        request = self._files.get(fileId=wire.valid_id(file_id), fields=wire.ITEM_FIELDS, supportsAllDrives=True)
        return wire.parse_item(await self._json(request, COST_GET))

    async def list_children(self, folder_id: str, page_token: str | None = None) -> Listing:
        """One page of a folder's untrashed children. The index behind it lags behind writes by seconds, at times minutes.

        A token that Drive no longer knows raises BadRequest: begin again without one.
        """
        request = self._files.list(
            q=f"'{wire.valid_id(folder_id)}' in parents and trashed=false",
            fields=f"nextPageToken,files({wire.CHILD_FIELDS})",
            pageSize=PAGE,
            pageToken=page_token,
            spaces="drive",
            supportsAllDrives=True,
            includeItemsFromAllDrives=True,
        )
        data = await self._json(request, COST_LIST)
        items = tuple(wire.parse_item(entry, folder_id) for entry in data.get("files", ()))
        return Listing(items, data.get("nextPageToken"))

    async def start_page_token(self) -> str:
        """The changes feed's present end. Take it before the first listing, so that nothing falls between them."""
        data = await self._json(self._changes.getStartPageToken(supportsAllDrives=True), COST_GET)
        return _token(data, "startPageToken", "changes.getStartPageToken")

    async def changes(self, page_token: str) -> ChangePage:
        request = self._changes.list(
            pageToken=page_token,
            fields=f"nextPageToken,newStartPageToken,changes(fileId,removed,changeType,file({wire.ITEM_FIELDS}))",
            pageSize=PAGE,
            spaces="drive",
            includeRemoved=True,
            supportsAllDrives=True,
            includeItemsFromAllDrives=True,
        )
        data = await self._json(request, COST_LIST)
        parsed = (wire.parse_change(entry) for entry in data.get("changes", ()))
        finished = "nextPageToken" not in data
        token = _token(data, "newStartPageToken" if finished else "nextPageToken", "changes.list")
        return ChangePage(tuple(change for change in parsed if change is not None), token, finished)

    async def generate_ids(self, count: int) -> list[str]:
        """``count`` (1 to 1000) ids for items to be created; they do not expire."""
        data = await self._json(self._files.generateIds(count=count, space="drive", type="files"), COST_GET)
        ids = data.get("ids")
        if not isinstance(ids, list) or not ids:
            raise not_json("files.generateIds")
        return [wire.valid_id(str(each)) for each in ids]

    async def revisions(self, file_id: str) -> list[tuple[str, str | None, int]]:
        """(id, md5, modified_ms) of each revision of a file's content, oldest first."""
        found: list[tuple[str, str | None, int]] = []
        token: str | None = None
        while True:
            request = self._revisions.list(
                fileId=wire.valid_id(file_id),
                fields="nextPageToken,revisions(id,md5Checksum,modifiedTime)",
                pageSize=PAGE,
                pageToken=token,
            )
            data = await self._json(request, COST_GET)
            try:
                found += [(r["id"], r.get("md5Checksum"), wire.to_ms(r["modifiedTime"])) for r in data.get("revisions", ())]
            except (KeyError, ValueError, TypeError):
                raise not_json("revisions.list") from None
            token = data.get("nextPageToken")
            if token is None:
                return found

    # --- changing metadata ---

    async def create(self, item: NewItem) -> RemoteItem:
        """A folder, or a file of no bytes. IdInUse: it exists already, most likely from a try whose answer was lost."""
        return wire.parse_item(await self._json(self._create_request(item), COST_EDIT))

    async def update(self, file_id: str, patch: ItemPatch) -> RemoteItem:
        """Change fields, rename, move, trash or untrash, all in one atomic call."""
        return wire.parse_item(await self._json(self._update_request(file_id, patch), COST_EDIT))

    async def delete(self, file_id: str) -> None:
        """Delete for good, a folder with all below it. An item that is not there counts as deleted."""
        request = self._files.delete(fileId=wire.valid_id(file_id), supportsAllDrives=True)
        try:
            await self._caller.call(self._call(request, COST_EDIT), self._patient, lambda _response: None)
        except RemoteNotFound:
            return

    def _create_request(self, item: NewItem) -> Any:
        return self._files.create(body=wire.new_item_body(item), fields=wire.ITEM_FIELDS, supportsAllDrives=True)

    def _update_request(self, file_id: str, patch: ItemPatch) -> Any:
        return self._files.update(
            fileId=wire.valid_id(file_id),
            body=wire.patch_body(patch),
            fields=wire.ITEM_FIELDS,
            addParents=patch.add_parent and wire.valid_id(patch.add_parent),
            removeParents=patch.remove_parent and wire.valid_id(patch.remove_parent),
            supportsAllDrives=True,
        )

    # --- content up ---

    async def create_with_content(self, item: NewItem, content: bytes) -> RemoteItem:
        """A file with its bytes in one call (documented for up to 5 MB)."""
        return await self._send_related(self._create_request(item), content, item.mime_type)

    async def update_with_content(self, file_id: str, patch: ItemPatch, content: bytes, mime_type: str) -> RemoteItem:
        """New bytes, and metadata with them, for an existing file in one call (documented for up to 5 MB)."""
        return await self._send_related(self._update_request(file_id, patch), content, mime_type)

    async def _send_related(self, request: Any, content: bytes, mime_type: str) -> RemoteItem:
        content_type, body = wire.related_body(json.loads(request.body), content, mime_type)
        call = Call(
            _name(request),
            request.method,
            self._media_url(request, "multipart"),
            {**_headers(request), "content-type": content_type},
            body,
            COST_EDIT,
            Lane.BULK,
            timeout=None,
        )
        data = await self._caller.call(call, self._uploads.persistence, lambda response: _parse(request, response))
        self._stats.count_bytes(up=len(content))
        return wire.parse_item(data)

    async def open_upload(
        self, new: NewItem | None, file_id: str | None, patch: ItemPatch | None, size: int, mime_type: str
    ) -> UploadSession:
        """Begin a resumable upload of ``size`` bytes: of a new item, or into ``file_id`` with ``patch``. Nothing exists or
        changes before its last byte has arrived."""
        if new is not None and file_id is None and patch is None:
            request = self._create_request(new)
        elif new is None and file_id is not None:
            request = self._update_request(file_id, patch or ItemPatch())
        else:
            raise ValueError("either a new item, or a file id with or without a patch")
        return await self._uploads.open(
            request.method, self._media_url(request, "resumable"), _headers(request), request.body.encode(), size, mime_type
        )

    async def send_chunk(self, session: UploadSession, data: bytes | memoryview, total: int) -> UploadSession | RemoteItem:
        """Send the bytes from ``session.offset`` on; all chunks but the last are multiples of 262,144 bytes.

        Returns the item when the upload is complete, else the session with what the server has confirmed, which may be less than
        was sent: continue there. Raises SessionGone where the session is lost; the item may exist even so, if an answer was.
        """
        return await self._uploads.send(session, data, total)

    async def probe_upload(self, session: UploadSession, total: int) -> UploadSession | RemoteItem:
        """How far an interrupted upload has come. Returns and raises as ``send_chunk``."""
        return await self._uploads.probe(session, total)

    async def cancel_upload(self, session: UploadSession) -> None:
        """Drop an upload. One that is gone already is dropped."""
        await self._uploads.cancel(session)

    # --- content down ---

    async def download(
        self,
        file_id: str,
        start: int,
        end: int,
        sink: Callable[[int, bytes], None],
        *,
        revision: str | None = None,
        size: int,
    ) -> None:
        """Give the bytes [start, end) of content of ``size`` bytes to ``sink(offset, data)``, in order, on the trio loop.

        revision: read that revision, so that an overwrite meanwhile cannot mix two contents. A broken transfer is continued from
        the byte reached. Raises RangeNotSatisfiable where the content has another size by now.
        """
        if not 0 <= start <= end <= size:
            raise ValueError(f"bytes {start} to {end} of {size}")
        if start == end:
            return
        if revision is None:
            request = self._files.get_media(fileId=wire.valid_id(file_id), supportsAllDrives=True)
        else:
            request = self._revisions.get_media(fileId=wire.valid_id(file_id), revisionId=wire.valid_id(revision))
        name = "files.download" if revision is None else "revisions.download"
        cursor = Cursor(name, start, end, size, sink)
        await self._caller.persist(
            name, lambda: self._download_from(name, request.uri, cursor), self._bulk, progress=lambda: cursor.at
        )

    async def _download_from(self, name: str, url: str, cursor: Cursor) -> None:
        call = Call(
            name,
            "GET",
            url,
            {"user-agent": _USER_AGENT, **cursor.request_headers()},
            cost=COST_DOWNLOAD,
            lane=Lane.BULK,
            timeout=None,
            sink=cursor.on_body,
            on_head=cursor.on_head,
        )
        before = cursor.at
        try:
            await self._caller.once(call)
            cursor.end_of_answer()
        except Complete:
            pass
        finally:
            self._stats.count_bytes(down=cursor.at - before)

    # --- requests and answers ---

    async def _json(self, request: Any, cost: int) -> dict[str, Any]:
        """Make a small call and return its JSON object. All of them are safe to repeat: creates carry their id."""
        return await self._caller.call(self._call(request, cost), self._patient, lambda response: _parse(request, response))

    def _call(self, request: Any, cost: int) -> Call:
        method, url, headers, body = request.method, request.uri, _headers(request), request.body
        if method == "GET" and len(url) > MAX_URI_LENGTH:
            # As googleapiclient itself does: Google's front end refuses longer addresses.
            parts = urlsplit(url)
            method, url, body = "POST", parts._replace(query="").geturl(), parts.query
            headers |= {"x-http-method-override": "GET", "content-type": "application/x-www-form-urlencoded"}
        return Call(_name(request), method, url, headers, body.encode() if body else None, cost)

    def _media_url(self, request: Any, upload_type: str) -> str:
        """A metadata request's address, moved to the upload service."""
        return f"{self._upload_base}{request.uri.removeprefix(self._base)}&uploadType={upload_type}"


def _name(request: Any) -> str:
    return str(request.methodId).removeprefix("drive.")


def _headers(request: Any) -> dict[str, str]:
    kept = {name: value for name, value in request.headers.items() if name not in _DROPPED_HEADERS}
    return {**kept, "user-agent": _USER_AGENT}


def _parse(request: Any, response: Response) -> dict[str, Any]:
    try:
        data = request.postproc(response, response.body)
    except ValueError:
        raise not_json(_name(request)) from None
    if not isinstance(data, dict):
        raise not_json(_name(request))
    return data


def _token(data: Mapping[str, Any], key: str, name: str) -> str:
    token = data.get(key)
    if not isinstance(token, str) or not token:
        raise not_json(name)
    return token


def _parse_quota(data: Mapping[str, Any]) -> StorageQuota:
    quota = data.get("storageQuota", {})
    try:
        return StorageQuota(int(quota["limit"]) if "limit" in quota else None, int(quota.get("usage", 0)))
    except (ValueError, TypeError):
        raise not_json("about.get") from None
