"""Typed Drive v3 calls: ``api`` builds the requests, ``caller`` carries them, ``wire`` makes values of the answers.

Source: https://developers.google.com/workspace/drive/api/reference/rest/v3
"""

from __future__ import annotations

import copy
import json
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from drivefs.base.config import GOOGLE_API_ROOT, validate_api_root
from drivefs.base.errors import RemoteNotFound
from drivefs.base.model import Account, ChangePage, ItemPatch, Listing, NewItem, RemoteItem, Revision, StorageQuota, UploadSession
from drivefs.base.stats import Stats
from drivefs.remote import wire
from drivefs.remote.api import USER_AGENT, Api, headers_of, name_of, parse
from drivefs.remote.auth import Credential
from drivefs.remote.caller import Call, Caller, Persistence, not_json
from drivefs.remote.http import Transport
from drivefs.remote.media import Complete, Cursor
from drivefs.remote.quota import COST_DOWNLOAD, COST_EDIT, COST_GET, COST_LIST, Lane, Pacer
from drivefs.remote.upload import Uploads

__all__ = ["Drive"]

PAGE: Final = 1000  # the most the API gives
_STALL: Final = 60.0  # seconds


class Drive:
    """One account's Drive.

    api_root: as in ``https://www.googleapis.com``.  patience: seconds after which a call that someone waits for gives up, a
    download counted from the last byte that came; bulk_patience: the same for uploads.  stall: seconds without a byte after
    which a connection that carries content counts as dead; None for a minute, and for downloads half of their patience, so
    that another connection gets its chance.  All methods raise RemoteError's subclasses, and BadRequest for an id that cannot
    be one.
    Make it inside trio.run: the pacer's clock is trio's.
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
        stall: float | None = None,
        rng: random.Random | None = None,
    ) -> None:
        root = validate_api_root(api_root)
        self._api = Api(root)
        self._stats = stats or Stats()
        self._caller = Caller(
            transport,
            credential,
            root,
            self._stats,
            pacer or Pacer(trio.current_time),
            stall=_STALL if stall is None else stall,
            rng=rng or random.Random(),
        )
        self._lane = Lane.INTERACTIVE
        self._patient = Persistence(patience)
        self._download_stall = min(_STALL, patience / 2) if stall is None else stall
        self._uploads = Uploads(self._caller, Persistence(bulk_patience, attempts=4))

    def with_patience(self, patience: float) -> Drive:
        """The same Drive for a caller who waits for another time, in seconds."""
        twin = copy.copy(self)
        twin._patient = Persistence(patience)
        return twin

    def for_uploads(self) -> Drive:
        """The same Drive for what nobody waits for and nobody gives up: its calls are paced and repeated as uploads are."""
        twin = self.in_lane(Lane.UPLOAD)
        twin._patient = self._uploads.persistence
        return twin

    def in_lane(self, lane: Lane) -> Drive:
        """The same Drive for calls that come before or after others: see ``Lane``. Content that is sent is always UPLOAD's."""
        twin = copy.copy(self)
        twin._lane = lane
        return twin

    # --- account ---

    async def about(self) -> tuple[Account, StorageQuota]:
        """Who we are signed in as, the account's storage, and the id of My Drive."""
        data = await self._json(self._api.about.get(fields="user,storageQuota"), COST_GET)
        root = await self._json(self._api.files.get(fileId="root", fields="id"), COST_GET)
        user = data.get("user", {})
        try:
            account = Account(user.get("emailAddress", ""), user.get("permissionId", ""), root["id"])
        except KeyError:
            raise not_json("files.get") from None
        if account.permission_id:
            self._caller.belongs_to(account.permission_id)
        return account, _parse_quota(data)

    async def quota(self) -> StorageQuota:
        return _parse_quota(await self._json(self._api.about.get(fields="storageQuota"), COST_GET))

    # --- metadata ---

    async def get(self, file_id: str) -> RemoteItem:
        request = self._api.files.get(fileId=wire.valid_id(file_id), fields=wire.ITEM_FIELDS, supportsAllDrives=True)
        return wire.parse_item(await self._json(request, COST_GET))

    async def list_children(self, folder_id: str, page_token: str | None = None) -> Listing:
        """One page of a folder's untrashed children. The index behind it lags behind writes by seconds, at times minutes.

        A token that Drive no longer knows raises BadRequest: begin again without one.
        """
        request = self._api.files.list(
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
        data = await self._json(self._api.changes.getStartPageToken(supportsAllDrives=True), COST_GET)
        return _token(data, "startPageToken", "changes.getStartPageToken")

    async def changes(self, page_token: str) -> ChangePage:
        request = self._api.changes.list(
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
        data = await self._json(self._api.files.generateIds(count=count, space="drive", type="files"), COST_GET)
        ids = data.get("ids")
        if not isinstance(ids, list) or not ids:
            raise not_json("files.generateIds")
        return [wire.valid_id(str(each)) for each in ids]

    async def revisions(self, file_id: str) -> list[Revision]:
        """The contents that a file has and had, oldest first. Drive keeps old ones for 30 days, and a hundred of them."""
        found: list[Revision] = []
        token: str | None = None
        while True:
            request = self._api.revisions.list(
                fileId=wire.valid_id(file_id),
                fields="nextPageToken,revisions(id,md5Checksum,size,modifiedTime)",
                pageSize=PAGE,
                pageToken=token,
            )
            data = await self._json(request, COST_GET)
            try:
                found += [wire.parse_revision(entry) for entry in data.get("revisions", ())]
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
        request = self._api.files.delete(fileId=wire.valid_id(file_id), supportsAllDrives=True)
        try:
            await self._caller.call(self._api.call(request, COST_EDIT, self._lane), self._patient, lambda _response: None)
        except RemoteNotFound:
            return

    def _create_request(self, item: NewItem) -> Any:
        return self._api.files.create(body=wire.new_item_body(item), fields=wire.ITEM_FIELDS, supportsAllDrives=True)

    def _update_request(self, file_id: str, patch: ItemPatch) -> Any:
        return self._api.files.update(
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
            name_of(request),
            request.method,
            self._api.upload_url(request, "multipart"),
            {**headers_of(request), "content-type": content_type},
            body,
            COST_EDIT,
            Lane.UPLOAD,
            timeout=None,
        )
        data = await self._caller.call(call, self._uploads.persistence, lambda response: parse(request, response))
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
            request.method,
            self._api.upload_url(request, "resumable"),
            headers_of(request),
            request.body.encode(),
            size,
            mime_type,
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
        go: threading.Event | None = None,
    ) -> None:
        """Give the bytes [start, end) of content of ``size`` bytes to ``sink(offset, data)``, in order, on the trio loop.

        revision: read that revision, so that an overwrite meanwhile cannot mix two contents.  go: cleared by a sink that wants no
        more for now, and set again when it does; a piece or two may still come.  A broken transfer is continued from
        the byte reached. Raises RangeNotSatisfiable where the content has another size by now.
        """
        if not 0 <= start <= end <= size:
            raise ValueError(f"bytes {start} to {end} of {size}")
        if start == end:
            return
        if revision is None:
            request = self._api.files.get_media(fileId=wire.valid_id(file_id), supportsAllDrives=True)
        else:
            request = self._api.revisions.get_media(fileId=wire.valid_id(file_id), revisionId=wire.valid_revision(revision))
        name = "files.download" if revision is None else "revisions.download"
        cursor = Cursor(name, start, end, size, sink)
        await self._caller.persist(
            name,
            lambda: self._download_from(name, request.uri, cursor, go),
            self._patient,
            progress=lambda: cursor.at,
            lane=self._lane,
        )

    async def _download_from(self, name: str, url: str, cursor: Cursor, go: threading.Event | None) -> None:
        call = Call(
            name,
            "GET",
            url,
            {"user-agent": USER_AGENT, **cursor.request_headers()},
            cost=COST_DOWNLOAD,
            lane=self._lane,
            timeout=None,
            stall=self._download_stall,
            sink=cursor.on_body,
            go=go,
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
        return await self._caller.call(
            self._api.call(request, cost, self._lane), self._patient, lambda response: parse(request, response)
        )


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
