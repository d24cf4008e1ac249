"""The resumable protocol: the offset is the server's word, whatever happens to the answers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from drivefs.base.errors import BadRequest, RemoteError, RemoteUnreachable, ServerFault, SessionGone
from drivefs.base.model import ItemPatch, NewItem, RemoteItem, UploadSession
from drivefs.base.stats import Stats
from drivefs.remote.drive import Drive
from drivefs.remote.upload import CHUNK_UNIT

if TYPE_CHECKING:
    from tests.unit.remote.conftest import MakeDrive, Script

NEW = NewItem("new1", "a.bin", "folder1", "application/x-a", 1706870402874)
TOTAL = 2 * CHUNK_UNIT + 10
CHUNK = bytes(range(256)) * (CHUNK_UNIT // 256)
PATH = "/upload/drive/v3/files"
SESSION = f"{PATH}?uploadType=resumable&upload_id=s3cret"


@pytest.fixture
def drive(make_drive: MakeDrive) -> Drive:
    return make_drive()


@pytest.fixture
def session(server: Script) -> UploadSession:
    return UploadSession(server.url + SESSION, 0)


def kept(offset: int) -> dict[str, str]:
    return {"Range": f"bytes=0-{offset - 1}"}


async def test_a_whole_upload(make_drive: MakeDrive, server: Script) -> None:
    """Opened with metadata and size, sent in two chunks, finished with the item; the bytes are counted once."""
    stats = Stats()
    drive = make_drive(stats=stats)
    server.will(
        server.answer(200, headers={"Location": SESSION}),
        server.answer(308, headers=kept(CHUNK_UNIT * 2)),
        server.json(server.item(id="new1", size=str(TOTAL))),
    )
    session = await drive.open_upload(NEW, None, None, TOTAL, "application/x-a")
    assert session == UploadSession(server.url + SESSION, 0)
    middle = await drive.send_chunk(session, CHUNK + CHUNK, TOTAL)
    assert isinstance(middle, UploadSession)
    assert middle.offset == CHUNK_UNIT * 2
    item = await drive.send_chunk(middle, memoryview(b"0123456789"), TOTAL)
    assert isinstance(item, RemoteItem)
    assert item.size == TOTAL

    opened, first, last = server.seen
    assert (opened.method, opened.path, opened.query["uploadType"]) == ("POST", PATH, "resumable")
    assert (opened.headers["x-upload-content-type"], opened.headers["x-upload-content-length"]) == ("application/x-a", str(TOTAL))
    assert json.loads(opened.body)["id"] == "new1"
    assert "md5Checksum" in opened.query["fields"]  # the final answer is cut to the fields of the opening request
    assert (first.method, first.headers["content-range"]) == ("PUT", f"bytes 0-{CHUNK_UNIT * 2 - 1}/{TOTAL}")
    assert (last.body, last.headers["content-range"]) == (b"0123456789", f"bytes {CHUNK_UNIT * 2}-{TOTAL - 1}/{TOTAL}")
    assert stats.bytes_up == TOTAL
    assert stats.api_requests == {"uploads.open": 1, "uploads.send": 2}


async def test_new_bytes_for_an_existing_file(drive: Drive, server: Script) -> None:
    """An update opens with PATCH, metadata and a move along with it."""
    server.will(server.answer(200, headers={"Location": SESSION}))
    await drive.open_upload(None, "file1", ItemPatch(modified_ms=1, add_parent="p2", remove_parent="p1"), 5, "text/plain")
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("PATCH", f"{PATH}/file1")
    assert (seen.query["addParents"], json.loads(seen.body)) == ("p2", {"modifiedTime": "1970-01-01T00:00:00.001Z"})


async def test_what_is_opened_must_be_clear(drive: Drive) -> None:
    """Either a new item or an existing one."""
    with pytest.raises(ValueError, match="either a new item"):
        await drive.open_upload(NEW, "file1", None, 5, "text/plain")
    with pytest.raises(ValueError, match="either a new item"):
        await drive.open_upload(None, None, None, 5, "text/plain")


async def test_an_empty_file_is_an_empty_put(drive: Drive, server: Script, session: UploadSession) -> None:
    """No bytes have no Content-Range."""
    server.will(server.json(server.item(size="0")))
    item = await drive.send_chunk(session, b"", 0)
    assert isinstance(item, RemoteItem)
    (seen,) = server.seen
    assert seen.headers["content-length"] == "0"
    assert "content-range" not in seen.headers


async def test_the_server_may_keep_less(drive: Drive, server: Script, session: UploadSession) -> None:
    """Half of a chunk confirmed: the session stands there, and only that counts as sent."""
    server.will(server.answer(308, headers=kept(CHUNK_UNIT)))
    state = await drive.send_chunk(session, CHUNK + CHUNK, TOTAL)
    assert state == UploadSession(session.uri, CHUNK_UNIT)


async def test_the_server_may_forget(drive: Drive, server: Script, session: UploadSession) -> None:
    """Without a Range nothing is stored, even what was confirmed before: start over within the session."""
    server.will(server.answer(308))
    assert await drive.send_chunk(UploadSession(session.uri, CHUNK_UNIT), CHUNK, TOTAL) == session


async def test_a_server_that_keeps_nothing_is_not_hammered(make_drive: MakeDrive, server: Script, session: UploadSession) -> None:
    """A chunk of which nothing is kept is tried a few times with pauses, then given back to the caller as a fault."""
    server.will(*[server.answer(308)] * 10)
    with pytest.raises(ServerFault, match="kept nothing"):
        await make_drive(bulk_patience=0.5).send_chunk(session, CHUNK, TOTAL)
    assert len(server.seen) <= 3


async def test_more_than_was_sent_is_not_believed(drive: Drive, server: Script, session: UploadSession) -> None:
    """A confirmation beyond our bytes would leave a hole."""
    server.will(server.answer(308, headers=kept(TOTAL - 1)))
    with pytest.raises(RemoteError, match="more bytes than were sent"):
        await drive.send_chunk(session, CHUNK, TOTAL)


async def test_a_lost_answer_is_asked_for(drive: Drive, server: Script, session: UploadSession) -> None:
    """The connection breaks after the last chunk: the probe learns that the upload is complete; nothing is sent twice."""
    last = UploadSession(session.uri, 2 * CHUNK_UNIT)
    server.will(server.hang_up, server.json(server.item(size=str(TOTAL))))
    item = await drive.send_chunk(last, b"0123456789", TOTAL)
    assert isinstance(item, RemoteItem)
    sent, probe = server.seen
    assert (sent.body, probe.body) == (b"0123456789", b"")
    assert probe.headers["content-range"] == f"bytes */{TOTAL}"


async def test_a_fault_asks_before_it_sends_again(drive: Drive, server: Script, session: UploadSession) -> None:
    """After a 503 the offset is asked for; as nothing arrived, the same chunk goes out again."""
    server.will(server.answer(503), server.answer(308), server.answer(308, headers=kept(CHUNK_UNIT)))
    state = await drive.send_chunk(session, CHUNK, TOTAL)
    assert state == UploadSession(session.uri, CHUNK_UNIT)
    assert [len(seen.body) for seen in server.seen] == [CHUNK_UNIT, 0, CHUNK_UNIT]


async def test_a_failed_probe_is_repeated_before_anything_is_sent(drive: Drive, server: Script, session: UploadSession) -> None:
    """While nobody knows what arrived, no byte is sent again."""
    server.will(server.hang_up, server.answer(503), server.answer(308, headers=kept(CHUNK_UNIT)))
    assert await drive.send_chunk(session, CHUNK, TOTAL) == UploadSession(session.uri, CHUNK_UNIT)
    assert [len(seen.body) for seen in server.seen] == [CHUNK_UNIT, 0, 0]


async def test_a_throttled_chunk_is_simply_repeated(drive: Drive, server: Script, session: UploadSession) -> None:
    """A rate limit means that nothing happened: no probe."""
    limited = server.error(403, "userRateLimitExceeded")
    server.will(limited, server.answer(308, headers=kept(CHUNK_UNIT)))
    await drive.send_chunk(session, CHUNK, TOTAL)
    assert [len(seen.body) for seen in server.seen] == [CHUNK_UNIT, CHUNK_UNIT]


@pytest.mark.parametrize("status", [404, 410])
async def test_a_lost_session_is_said_so(drive: Drive, server: Script, session: UploadSession, status: int) -> None:
    """404 and 410, with or without Drive's JSON, mean that the upload begins anew."""
    server.will(server.answer(status, b"gone"), server.error(status, "notFound"))
    with pytest.raises(SessionGone):
        await drive.send_chunk(session, CHUNK, TOTAL)
    with pytest.raises(SessionGone):
        await drive.probe_upload(session, TOTAL)


async def test_a_plain_refusal_is_not_repeated(drive: Drive, server: Script, session: UploadSession) -> None:
    """The upload server refuses in plain text; sending the same again is useless."""
    server.will(server.answer(400, b"Failed to parse Content-Range header."))
    with pytest.raises(BadRequest):
        await drive.send_chunk(session, CHUNK, TOTAL)
    assert len(server.seen) == 1


async def test_probe(drive: Drive, server: Script, session: UploadSession) -> None:
    """How far it came, or the finished item; a fault on the way is ridden out."""
    server.will(server.answer(503), server.answer(308, headers=kept(CHUNK_UNIT)), server.json(server.item(), 201))
    assert await drive.probe_upload(session, TOTAL) == UploadSession(session.uri, CHUNK_UNIT)
    assert isinstance(await drive.probe_upload(session, TOTAL), RemoteItem)


@pytest.mark.parametrize("status", [499, 204, 200, 404, 410])
async def test_cancelling_is_done_however_it_is_confirmed(
    drive: Drive, server: Script, session: UploadSession, status: int
) -> None:
    """Drive answers 499 to a cancelled upload; one that is gone is cancelled, too."""
    server.will(server.answer(status))
    await drive.cancel_upload(session)
    assert server.seen[0].method == "DELETE"


async def test_a_session_may_move(drive: Drive, server: Script, session: UploadSession) -> None:
    """A 308 may give a new address, relative or not; the next chunk goes there."""
    moved = f"{PATH}?upload_id=moved"
    server.will(server.answer(308, headers={**kept(CHUNK_UNIT), "Location": moved}), server.json(server.item()))
    state = await drive.send_chunk(session, CHUNK, CHUNK_UNIT + 1)
    assert state == UploadSession(server.url + moved, CHUNK_UNIT)
    assert isinstance(state, UploadSession)
    await drive.send_chunk(state, b"x", CHUNK_UNIT + 1)
    assert server.seen[1].query["upload_id"] == "moved"


@pytest.mark.parametrize("when", ["at the opening", "in the middle", "from an old record"])
async def test_a_session_at_a_stranger_is_refused(
    drive: Drive, server: Script, other_server: Script, session: UploadSession, when: str
) -> None:
    """Wherever a foreign address comes from, neither the token nor a byte of content goes there."""
    foreign = {"Location": f"{other_server.url}{SESSION}"}
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "at the opening": lambda: drive.open_upload(NEW, None, None, TOTAL, "text/plain"),
        "in the middle": lambda: drive.send_chunk(session, CHUNK, TOTAL),
        "from an old record": lambda: drive.send_chunk(UploadSession(foreign["Location"], 0), CHUNK, TOTAL),
    }
    server.will(server.answer(200 if when == "at the opening" else 308, headers={**kept(CHUNK_UNIT), **foreign}))
    with pytest.raises(RemoteError, match="must not see the sign-in"):
        await calls[when]()
    assert not other_server.seen


async def test_an_opening_without_an_address_is_a_fault(make_drive: MakeDrive, server: Script) -> None:
    """A 200 that names no session is not one of Drive's answers."""
    server.will(server.answer(200))
    with pytest.raises(ServerFault):
        await make_drive(bulk_patience=0.1).open_upload(NEW, None, None, TOTAL, "text/plain")


@pytest.mark.parametrize(("size", "total"), [(CHUNK_UNIT + 1, TOTAL), (0, TOTAL), (CHUNK_UNIT, CHUNK_UNIT - 1)])
async def test_chunks_are_whole_units(drive: Drive, server: Script, session: UploadSession, size: int, total: int) -> None:
    """The granularity is the caller's to keep; Drive would answer 400 after all the bytes were sent."""
    with pytest.raises(ValueError, match="a chunk of"):
        await drive.send_chunk(session, bytes(size), total)
    assert not server.seen


async def test_a_server_that_is_gone_is_told_after_a_few_tries(
    make_drive: MakeDrive, server: Script, session: UploadSession
) -> None:
    """The uploader has its own patience: a chunk gives up soon, and the error does not quote the session's address."""
    server.close()
    with pytest.raises(RemoteUnreachable) as caught:
        await make_drive(bulk_patience=0.5).send_chunk(session, CHUNK, TOTAL)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(session)
