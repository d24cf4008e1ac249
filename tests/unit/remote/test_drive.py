"""Each Drive method on the wire: what it asks for, and what it makes of the answer."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest
import trio

from drivefs.base.errors import (
    AccessDenied,
    BadRequest,
    IdInUse,
    RangeNotSatisfiable,
    RemoteError,
    RemoteNotFound,
    RemoteUnreachable,
    ServerFault,
    SignInRefused,
)
from drivefs.base.model import FOLDER_MIME, Account, Change, ItemPatch, NewItem, Revision, StorageQuota
from drivefs.base.stats import Stats
from drivefs.remote.drive import Drive

if TYPE_CHECKING:
    from tests.unit.remote.conftest import MakeDrive, Script

NEW = NewItem("new1", "näme.txt", "folder1", "text/plain", 1706870402874, {"k": "v"})
CONTENT = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture
def drive(make_drive: MakeDrive) -> Drive:
    return make_drive()


async def test_about_names_the_account_and_its_root(drive: Drive, server: Script) -> None:
    """Account and quota come from about.get with a field mask, the root's id from files.get('root')."""
    user = {"emailAddress": "a@example.org", "permissionId": "p1"}
    server.will(server.json({"user": user, "storageQuota": {"limit": "100", "usage": "7"}}), server.json({"id": "0AROOT"}))
    assert await drive.about() == (Account("a@example.org", "p1", "0AROOT"), StorageQuota(100, 7))
    assert [(seen.path, seen.query["fields"]) for seen in server.seen] == [
        ("/drive/v3/about", "user,storageQuota"),
        ("/drive/v3/files/root", "id"),
    ]


async def test_an_unlimited_account_has_no_limit(drive: Drive, server: Script) -> None:
    """No limit in the answer is no limit, not zero."""
    server.will(server.json({"storageQuota": {"usage": "7"}}))
    assert await drive.quota() == StorageQuota(None, 7)


async def test_get(drive: Drive, server: Script) -> None:
    """One item, with the token, all-drives support and our mask; and googleapiclient sends nothing by itself."""
    server.will(server.json(server.item()))
    assert (await drive.get("file1")).name == "a.txt"
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.query["supportsAllDrives"]) == ("GET", "/drive/v3/files/file1", "true")
    assert seen.headers["authorization"] == "Bearer ya29.test"
    assert seen.headers["user-agent"].startswith("drivefs/")
    assert {"headRevisionId", "md5Checksum", "parents"} <= set(seen.query["fields"].split(","))


async def test_gzipped_json_is_read(drive: Drive, server: Script) -> None:
    """The real Drive compresses its JSON."""
    body = gzip.compress(json.dumps(server.item(name="ñ")).encode())
    server.will(server.answer(200, body, {"Content-Encoding": "gzip"}))
    assert (await drive.get("file1")).name == "ñ"


@pytest.mark.parametrize("bad", ["trash", "generateIds", "a/../b", "a?x=y", ""])
async def test_no_request_is_made_for_what_is_no_id(drive: Drive, server: Script, bad: str) -> None:
    """DELETE files/trash would empty the trash: such ids never reach the wire, in any method."""
    calls: list[Callable[[], object]] = [
        lambda: drive.get(bad),
        lambda: drive.delete(bad),
        lambda: drive.list_children(bad),
        lambda: drive.revisions(bad),
        lambda: drive.update(bad, ItemPatch(name="x")),
        lambda: drive.update("ok", ItemPatch(add_parent=bad or "/")),
        lambda: drive.create(NewItem(bad, "n", "p", "text/plain", 0)),
        lambda: drive.create(NewItem("ok", "n", bad, "text/plain", 0)),
        lambda: drive.download(bad, 0, 1, lambda *_: None, size=1),
        lambda: drive.download("ok", 0, 1, lambda *_: None, size=1, revision=bad.replace("trash", "").replace("generateIds", "")),
        lambda: drive.open_upload(None, bad, None, 1, "text/plain"),
    ]
    for call in calls:
        with pytest.raises(BadRequest):
            await call()  # type: ignore[misc]
    assert not server.seen


async def test_a_listing_page(drive: Drive, server: Script) -> None:
    """Children come with their parent filled in, since asking for parents would make pages smaller."""
    server.will(
        server.json({"files": [server.item(parents=None), server.item(id="file2")], "nextPageToken": "t2"}),
        server.json({"files": []}),
    )
    page = await drive.list_children("folder1")
    assert [item.parents for item in page.items] == [("folder1",), ("folder1",)]
    assert page.next_page_token == "t2"
    last = await drive.list_children("folder1", "t2")
    assert (last.items, last.next_page_token) == ((), None)
    first, second = (seen.query for seen in server.seen)
    assert first["q"] == "'folder1' in parents and trashed=false"
    assert (first["pageSize"], first["supportsAllDrives"], first["includeItemsFromAllDrives"]) == ("1000", "true", "true")
    assert "parents" not in first["fields"]
    assert "pageToken" not in first
    assert second["pageToken"] == "t2"


async def test_a_long_address_becomes_a_post(drive: Drive, server: Script) -> None:
    """Google refuses addresses of more than 2048 characters; the same query travels in the body then."""
    token = "t" * 3000
    server.will(server.json({"files": []}))
    await drive.list_children("folder1", token)
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.query) == ("POST", "/drive/v3/files", {})
    assert seen.headers["x-http-method-override"] == "GET"
    assert seen.headers["content-type"] == "application/x-www-form-urlencoded"
    assert f"pageToken={token}".encode() in seen.body


async def test_the_changes_feed(drive: Drive, server: Script) -> None:
    """Removals, changes and the two kinds of token; entries that are no files are left out."""
    server.will(
        server.json({"startPageToken": "10"}),
        server.json({"changes": [{"fileId": "gone1", "removed": True}, {"changeType": "drive"}], "nextPageToken": "11"}),
        server.json({"changes": [{"fileId": "file1", "file": server.item()}], "newStartPageToken": "12"}),
    )
    assert await drive.start_page_token() == "10"
    page = await drive.changes("10")
    assert (page.changes, page.next_token, page.finished) == ((Change("gone1", None),), "11", False)
    page = await drive.changes("11")
    assert page.changes[0].item is not None
    assert page.changes[0].item.parents == ("folder1",)
    assert (page.next_token, page.finished) == ("12", True)
    query = server.seen[1].query
    assert (query["includeRemoved"], query["supportsAllDrives"], query["includeItemsFromAllDrives"]) == ("true", "true", "true")


async def test_a_feed_without_a_token_is_no_answer(make_drive: MakeDrive, server: Script) -> None:
    """Going on without a token would lose changes: it is a fault, asked again, then raised."""
    drive = make_drive(patience=0.2)
    server.will(server.json({"changes": []}))
    with pytest.raises(ServerFault):
        await drive.changes("10")


async def test_generated_ids(drive: Drive, server: Script) -> None:
    """Ids for files, in the number asked for."""
    server.will(server.json({"ids": ["a1", "a2"]}))
    assert await drive.generate_ids(2) == ["a1", "a2"]
    assert server.seen[0].query["count"] == "2"


async def test_create_states_everything(drive: Drive, server: Script) -> None:
    """A folder is one POST with our id and our time."""
    server.will(server.json(server.item(id="new1", mimeType=FOLDER_MIME)))
    item = await drive.create(NewItem("new1", "d", "folder1", FOLDER_MIME, 1706870402874))
    assert item.mime_type == FOLDER_MIME
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/drive/v3/files")
    assert json.loads(seen.body) == {
        "id": "new1",
        "name": "d",
        "parents": ["folder1"],
        "mimeType": FOLDER_MIME,
        "modifiedTime": "2024-02-02T10:40:02.874Z",
    }


async def test_a_create_whose_answer_was_lost_says_so(drive: Drive, server: Script) -> None:
    """The server hangs up after the POST; the repeat finds the id in use, which is news for the caller, not a second item."""
    server.will(server.hang_up, server.error(409, "fileIdInUse"))
    with pytest.raises(IdInUse):
        await drive.create(NEW)
    assert [seen.method for seen in server.seen] == ["POST", "POST"]


async def test_update_moves_by_parameters(drive: Drive, server: Script) -> None:
    """A move is addParents and removeParents; the body holds only what changes otherwise."""
    server.will(server.json(server.item(name="b")))
    await drive.update("file1", ItemPatch(name="b", add_parent="p2", remove_parent="p1"))
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("PATCH", "/drive/v3/files/file1")
    assert (seen.query["addParents"], seen.query["removeParents"]) == ("p2", "p1")
    assert json.loads(seen.body) == {"name": "b"}


async def test_delete(drive: Drive, server: Script) -> None:
    """204 is done, and so is a 404 of Drive's own; a 404 of somebody else's is not."""
    server.will(server.answer(204), server.error(404, "notFound"), server.answer(404, b"<html>"), server.answer(204))
    await drive.delete("file1")
    await drive.delete("file1")
    await drive.delete("file1")
    assert [seen.method for seen in server.seen] == ["DELETE"] * 4


@pytest.mark.parametrize("update", [False, True])
async def test_small_content_travels_with_its_metadata(make_drive: MakeDrive, server: Script, update: bool) -> None:
    """Metadata and bytes are one multipart/related request to the upload address, and what went up is counted."""
    stats = Stats()
    drive = make_drive(stats=stats)
    server.will(server.json(server.item()))
    content = b"--boundary\r\n\0binary\n"
    if update:
        await drive.update_with_content("file1", ItemPatch(modified_ms=0), content, "text/plain")
    else:
        await drive.create_with_content(NEW, content)
    (seen,) = server.seen
    expected = ("PATCH", "/upload/drive/v3/files/file1") if update else ("POST", "/upload/drive/v3/files")
    assert (seen.method, seen.path) == expected
    assert (seen.query["uploadType"], seen.query["supportsAllDrives"]) == ("multipart", "true")
    boundary = seen.headers["content-type"].removeprefix("multipart/related; boundary=").encode()
    _, metadata, media, rest = seen.body.split(b"--" + boundary)
    assert json.loads(metadata.partition(b"\r\n\r\n")[2])["modifiedTime"]
    assert media == b"\r\nContent-Type: text/plain\r\n\r\n" + content + b"\r\n"
    assert rest == b"--\r\n"
    assert stats.bytes_up == len(content)


async def test_revisions_over_pages(drive: Drive, server: Script) -> None:
    """All pages, oldest first; a revision without a checksum has none."""
    first = {"id": "r1", "md5Checksum": "m1", "size": "7", "modifiedTime": "1970-01-01T00:00:01Z"}
    server.will(
        server.json({"revisions": [first], "nextPageToken": "t"}),
        server.json({"revisions": [{"id": "r2", "modifiedTime": "1970-01-01T00:00:02Z"}]}),
    )
    assert await drive.revisions("file1") == [Revision("r1", "m1", 7, 1000), Revision("r2", None, 0, 2000)]


async def test_an_html_page_for_json_is_trouble_on_the_way(make_drive: MakeDrive, server: Script) -> None:
    """A captive portal answers 200 with a page; that is a fault of the way, and says nothing about the file."""
    drive = make_drive(patience=0.2)
    server.will(server.answer(200, b"<html>Welcome to the hotel</html>"))
    with pytest.raises(ServerFault, match="not one of Drive's"):
        await drive.get("file1")


async def test_an_error_page_of_the_front_end_is_ridden_out(drive: Drive, server: Script) -> None:
    """A 502 in HTML, then the answer."""
    server.will(server.answer(502, b"<html>Bad Gateway</html>"), server.json(server.item()))
    assert (await drive.get("file1")).id == "file1"


async def test_errors_arrive_by_their_reason(drive: Drive, server: Script) -> None:
    """404 and 403 of Drive's are told apart, and name the call."""
    server.will(server.error(404, "notFound"), server.error(403, "insufficientFilePermissions"))
    with pytest.raises(RemoteNotFound, match=r"^files\.get failed \(HTTP 404 notFound, 'said so'\)"):
        await drive.get("file1")
    with pytest.raises(AccessDenied):
        await drive.update("file1", ItemPatch(name="x"))


async def test_a_static_token_that_expired_is_said_so(drive: Drive, server: Script) -> None:
    """One request, and the next step in the text: there is nothing to renew."""
    server.will(server.error(401, "authError"))
    with pytest.raises(SignInRefused, match="DRIVEFS_ACCESS_TOKEN") as caught:
        await drive.get("file1")
    assert "ya29" not in str(caught.value)
    assert len(server.seen) == 1


async def test_the_token_never_reaches_a_stranger(drive: Drive, server: Script, other_server: Script) -> None:
    """A download redirected to another origin stops there; the other server sees no request at all."""
    server.will(server.answer(302, headers={"Location": f"{other_server.url}/steal"}))
    with pytest.raises(RemoteError, match="must not see the sign-in"):
        await drive.download("file1", 0, 5, lambda *_: None, size=5)
    assert not other_server.seen


async def test_a_server_that_is_down_is_told_within_patience(make_drive: MakeDrive, server: Script) -> None:
    """Nobody listens: the call fails within its patience with the text that says what to check."""
    drive = make_drive(patience=0.5)
    server.close()
    started = trio.current_time()
    with pytest.raises(RemoteUnreachable, match="server runs"):
        await drive.get("file1")
    assert trio.current_time() - started < 2.0


# --- downloads ---


class Kept:
    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.data = bytearray()

    def __call__(self, offset: int, data: bytes) -> None:
        assert offset == self.start + len(self.data)
        self.data += data


def part(server: Script, start: int, end: int, *, sent: int | None = None) -> Callable[[BaseHTTPRequestHandler], None]:
    """A 206 for CONTENT[start:end] of which ``sent`` bytes arrive."""
    body = CONTENT[start:end]
    headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(CONTENT)}"}
    if sent is None:
        return server.answer(206, body, headers)
    return server.answer(206, body[:sent], headers, length=len(body))


async def test_a_range(make_drive: MakeDrive, server: Script) -> None:
    """A range is asked for as a range, uncompressed, and arrives whole; bytes and calls are counted."""
    stats = Stats()
    kept = Kept(1000)
    server.will(part(server, 1000, 700_000))
    await make_drive(stats=stats).download("file1", 1000, 700_000, kept, size=len(CONTENT))
    assert bytes(kept.data) == CONTENT[1000:700_000]
    (seen,) = server.seen
    assert (seen.path, seen.query["alt"]) == ("/drive/v3/files/file1", "media")
    assert (seen.headers["range"], seen.headers["accept-encoding"]) == ("bytes=1000-699999", "identity")
    assert (stats.bytes_down, stats.api_requests) == (699_000, {"files.download": 1})


async def test_a_revision_is_pinned(drive: Drive, server: Script) -> None:
    """With a revision its own address is read, so that an overwrite cannot mix in."""
    server.will(server.answer(200, CONTENT))
    kept = Kept()
    await drive.download("file1", 0, len(CONTENT), kept, revision="0Brev=", size=len(CONTENT))
    assert bytes(kept.data) == CONTENT
    assert server.seen[0].path == "/drive/v3/files/file1/revisions/0Brev%3D"
    assert "range" not in server.seen[0].headers


async def test_an_empty_range_asks_nobody(drive: Drive, server: Script) -> None:
    """Drive answers any range of an empty file with 416."""
    await drive.download("file1", 0, 0, lambda *_: None, size=0)
    assert not server.seen


@pytest.mark.parametrize(("start", "end", "size"), [(-1, 1, 5), (2, 1, 5), (0, 6, 5)])
async def test_a_range_that_cannot_be_is_a_mistake_of_ours(drive: Drive, start: int, end: int, size: int) -> None:
    """The caller knows the size."""
    with pytest.raises(ValueError, match="of 5"):
        await drive.download("file1", start, end, lambda *_: None, size=size)


async def test_a_broken_transfer_continues_where_it_broke(drive: Drive, server: Script) -> None:
    """After two breaks the third request asks for what is missing only, and no byte arrives twice."""
    kept = Kept(100)
    server.will(part(server, 100, len(CONTENT), sent=600_000), server.answer(503, b""))

    server.will(part(server, 600_100, len(CONTENT)))
    await drive.download("file1", 100, len(CONTENT), kept, size=len(CONTENT))
    assert bytes(kept.data) == CONTENT[100:]
    asked = [int(seen.headers["range"].removeprefix("bytes=").split("-")[0]) for seen in server.seen]
    assert asked == [100, 600_100, 600_100]


async def test_a_whole_file_instead_of_a_range_is_clipped(drive: Drive, server: Script) -> None:
    """A 200 to a range request: what was not asked for is skipped, and the rest is not waited for."""
    kept = Kept(1_000_000)

    def never_ending(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT[:1_600_000])
        handler.wfile.flush()
        server.released.wait(30)

    server.will(never_ending)
    with trio.fail_after(5):
        await drive.download("file1", 1_000_000, 1_100_000, kept, size=len(CONTENT))
    assert bytes(kept.data) == CONTENT[1_000_000:1_100_000]


async def test_other_bytes_than_asked_for_are_refused(make_drive: MakeDrive, server: Script) -> None:
    """A 206 of another place never reaches the sink; it is asked again."""
    kept = Kept(10)
    server.will(part(server, 0, 10), part(server, 10, 20))
    await make_drive().download("file1", 10, 20, kept, size=len(CONTENT))
    assert bytes(kept.data) == CONTENT[10:20]


async def test_content_that_changed_its_size_is_told(drive: Drive, server: Script) -> None:
    """416, or another total, means that what we know is old: no retry, no mixed bytes."""
    server.will(server.error(416, "requestedRangeNotSatisfiable"))
    with pytest.raises(RangeNotSatisfiable):
        await drive.download("file1", 10, 20, Kept(10), size=len(CONTENT))
    server.will(server.answer(200, b"short"))
    with pytest.raises(RangeNotSatisfiable):
        await drive.download("file1", 0, len(CONTENT), Kept(), size=len(CONTENT))
    assert len(server.seen) == 2


async def test_a_sink_that_fails_ends_the_download(drive: Drive, server: Script) -> None:
    """No room on the local disk is not the server's fault: no retry, the sink's own error."""
    server.will(server.answer(200, CONTENT))

    def full(_offset: int, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        await drive.download("file1", 0, len(CONTENT), full, size=len(CONTENT))
    assert len(server.seen) == 1


async def test_a_stalled_download_goes_on_over_a_new_connection(make_drive: MakeDrive, server: Script) -> None:
    """A connection that goes silent in the middle is given up after the stall limit, and the rest fetched anew."""
    kept = Kept()
    server.will(server.hang(part(server, 0, 1_000_000, sent=700_000)))
    server.will(part(server, 700_000, 1_000_000))
    await make_drive(stall=1.0).download("file1", 0, 1_000_000, kept, size=len(CONTENT))
    assert bytes(kept.data) == CONTENT[:1_000_000]


async def test_cancelling_a_download_is_prompt(drive: Drive, server: Script) -> None:
    """A reader that goes away does not wait for the network, and its sink is not called any more."""
    kept = Kept()
    server.will(server.hang(part(server, 0, len(CONTENT), sent=300_000)))
    with trio.move_on_after(0.3) as scope:
        await drive.download("file1", 0, len(CONTENT), kept, size=len(CONTENT))
    assert scope.cancelled_caught
    assert trio.current_time() - scope.deadline < 1.0
    before = len(kept.data)
    await trio.sleep(0.1)
    assert len(kept.data) == before
