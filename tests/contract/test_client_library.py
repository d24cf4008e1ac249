"""google-api-python-client, used as its users use it, against the served discovery document."""

from __future__ import annotations

import hashlib
import io
import random
from typing import TYPE_CHECKING, Any

import pytest
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError
from googleapiclient.http import MediaFileUpload, MediaIoBaseDownload, MediaIoBaseUpload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.conftest import Drive

pytestmark = pytest.mark.emulator
FOLDER = "application/vnd.google-apps.folder"


@pytest.fixture
def service(drive: Drive) -> Iterator[Any]:
    credentials = Credentials("a-token")  # type: ignore[no-untyped-call]
    discovery = f"{drive.url}/discovery/v1/apis/{{api}}/{{apiVersion}}/rest"
    made = build("drive", "v3", credentials=credentials, discoveryServiceUrl=discovery, static_discovery=False)
    yield made
    made.close()


def _download(request: Any, piece: int) -> bytes:
    sink = io.BytesIO()
    downloader, done = MediaIoBaseDownload(sink, request, chunksize=piece), False
    while not done:
        _, done = downloader.next_chunk()
    return sink.getvalue()


def test_a_whole_cycle(service: Any, tmp_path: Path) -> None:
    """The client library: create, resumable upload from a file, list, update, download, delete, all led here by one document."""
    content = random.Random(1).randbytes(3 * 1024 * 1024 + 17)
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    files = service.files()
    folder = files.create(body={"name": "runs", "mimeType": FOLDER}, fields="id").execute()
    media = MediaFileUpload(str(path), mimetype="application/octet-stream", chunksize=1024 * 1024, resumable=True)
    with media.stream():
        request = files.create(
            body={"name": "model.bin", "parents": [folder["id"]]}, media_body=media, fields="id,size,md5Checksum"
        )
        progress, made = [], None
        while made is None:
            status, made = request.next_chunk()
            progress += [status.resumable_progress] if status else []
    assert progress == [1 << 20, 2 << 20, 3 << 20]
    assert made == {"id": made["id"], "size": str(len(content)), "md5Checksum": hashlib.md5(content).hexdigest()}
    listed = files.list(q=f"'{folder['id']}' in parents and trashed = false", fields="files(id,name)").execute()
    assert listed == {"files": [{"id": made["id"], "name": "model.bin"}]}
    assert files.update(fileId=made["id"], body={"name": "best.bin"}).execute()["name"] == "best.bin"
    assert _download(files.get_media(fileId=made["id"]), 1 << 20) == content
    files.delete(fileId=made["id"]).execute()
    with pytest.raises(HttpError) as caught:
        files.get(fileId=made["id"]).execute()
    assert caught.value.status_code == 404


def test_small_media_upload_keeps_every_byte(service: Any) -> None:
    """Simple upload: the client's LF multipart body; content that ends in CR, LF or looks like a delimiter survives."""
    files = service.files()
    for content in (b"", b"\r", b"\n", b"\r\n", b"a\r\n--", b"\n\n--===", bytes(range(256))):
        media = MediaIoBaseUpload(io.BytesIO(content), mimetype="text/plain")
        made = files.create(body={"name": "x"}, media_body=media, fields="id,mimeType").execute()
        assert made["mimeType"] == "text/plain"
        assert files.get_media(fileId=made["id"]).execute() == content


def test_an_empty_resumable_upload_and_an_empty_download(service: Any) -> None:
    """Download, resumable upload: the empty file is one PUT without Content-Range; downloading it meets 416 with ``*/0``."""
    media = MediaIoBaseUpload(io.BytesIO(b""), mimetype="text/plain", resumable=True)
    made = service.files().create(body={"name": "empty"}, media_body=media, fields="id,size").execute()
    assert made["size"] == "0"
    assert _download(service.files().get_media(fileId=made["id"]), 1024) == b""


def test_a_batch(service: Any) -> None:
    """Batch: answers are matched by id although they come in another order; an error inside stays inside."""
    files = service.files()
    ids = files.generateIds(count=20).execute()["ids"]
    answers: dict[str, Any] = {}

    def note(request_id: str, response: Any, error: Any) -> None:
        answers[request_id] = response if error is None else error.status_code

    batch = service.new_batch_http_request(callback=note)
    for index, one in enumerate(ids):
        batch.add(files.create(body={"name": f"file {index}", "id": one}), request_id=f"r{index}")
    batch.add(files.get(fileId="no-such-file"), request_id="missing")
    batch.execute()
    assert answers.pop("missing") == 404
    assert {name: made["id"] for name, made in answers.items()} == {f"r{index}": one for index, one in enumerate(ids)}


def test_a_long_query_is_sent_as_post(service: Any, drive: Drive) -> None:
    """HTTP: a URL above 2048 characters arrives as POST with x-http-method-override and the query in the body."""
    parents = [service.files().create(body={"name": str(n), "mimeType": FOLDER}, fields="id").execute()["id"] for n in range(50)]
    service.files().create(body={"name": "found", "parents": [parents[31]]}).execute()
    query = " or ".join(f"'{one}' in parents" for one in parents)
    assert [one["name"] for one in service.files().list(q=query).execute()["files"]] == ["found"]
    assert drive.send("GET", "/_emulator/requests").json()["by_method"]["files.list"] == 1


def test_list_next_walks_all_pages(service: Any) -> None:
    """files.list: list_next repeats the other parameters, to which the token is bound."""
    for number in range(7):
        service.files().create(body={"name": f"n{number}"}).execute()
    request, seen = service.files().list(pageSize=3, orderBy="name"), []
    while request is not None:
        page = request.execute()
        seen += [one["name"] for one in page["files"]]
        request = service.files().list_next(request, page)
    assert seen == [f"n{number}" for number in range(7)]
