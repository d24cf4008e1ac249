"""Every Drive method against the local Drive server, a process of its own that is reached by its address only."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import drivefs
from drivefs.base.errors import BadRequest, IdInUse, RangeNotSatisfiable, RemoteNotFound, SessionGone, SignInRefused
from drivefs.base.model import FOLDER_MIME, ItemPatch, Kind, NewItem, RemoteItem, UploadSession
from drivefs.base.stats import Stats
from drivefs.remote.auth import Credential, GoogleCredential, StaticToken
from drivefs.remote.drive import Drive
from drivefs.remote.http import Transport
from drivefs.remote.quota import Pacer
from drivefs.remote.upload import CHUNK_UNIT

CONTENT = os.urandom(3 * CHUNK_UNIT + 12_345)
MS = 1706870402874


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def emulator() -> Iterator[dict[str, Any]]:
    """What the server says when it is ready: url, pid, root_id."""
    root = Path(drivefs.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "drivefs.emulator"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()


@pytest.fixture
async def drive(emulator: dict[str, Any], transport: Transport) -> Drive:
    await transport.request("POST", f"{emulator['url']}/_emulator/reset", {}, b"")
    return make(emulator, transport, StaticToken("anything"))


def make(emulator: dict[str, Any], transport: Transport, credential: Credential) -> Drive:
    return Drive(transport, credential, emulator["url"], Stats(), pacer=Pacer(trio.current_time), patience=5.0)


async def new(drive: Drive, name: str, mime_type: str = "text/plain", parent: str | None = None) -> NewItem:
    (item_id,) = await drive.generate_ids(1)
    return NewItem(item_id, name, parent or (await drive.about())[0].root_id, mime_type, MS, {"mode": "644"})


async def download(drive: Drive, item: RemoteItem, start: int = 0, end: int | None = None, *, pinned: bool = True) -> bytes:
    assert item.size is not None
    kept = bytearray()

    def sink(offset: int, data: bytes) -> None:
        assert offset == start + len(kept)
        kept.extend(data)

    revision = item.revision if pinned else None
    await drive.download(item.id, start, item.size if end is None else end, sink, revision=revision, size=item.size)
    return bytes(kept)


async def upload(drive: Drive, session: UploadSession, content: bytes, chunk: int = CHUNK_UNIT) -> RemoteItem:
    state: UploadSession | RemoteItem = session
    while isinstance(state, UploadSession):
        state = await drive.send_chunk(state, memoryview(content)[state.offset : state.offset + chunk], len(content))
    return state


async def test_the_account(drive: Drive) -> None:
    """The root is the server's, and stored bytes show in the quota."""
    account, before = await drive.about()
    assert account.root_id == (await drive.get("root")).id
    assert "@" in account.email
    assert before.limit is not None
    await drive.create_with_content(await new(drive, "a"), CONTENT)
    assert (await drive.quota()).usage == before.usage + len(CONTENT)


async def test_folders_and_files_are_made_listed_and_read(drive: Drive) -> None:
    """What was created is what a listing, a get and a download say."""
    folder = await drive.create(await new(drive, "d", FOLDER_MIME))
    empty = await drive.create(await new(drive, "empty", parent=folder.id))
    small = await drive.create_with_content(await new(drive, "naïve 'name'\\/", parent=folder.id), CONTENT)
    assert (empty.size, empty.md5) == (0, md5(b""))
    assert (small.size, small.md5, small.modified_ms, small.app_properties) == (len(CONTENT), md5(CONTENT), MS, {"mode": "644"})
    listing = await drive.list_children(folder.id)
    assert listing.next_page_token is None
    assert sorted(listing.items, key=lambda item: item.name) == sorted([empty, small], key=lambda item: item.name)
    assert await drive.get(small.id) == small
    assert await download(drive, small) == CONTENT
    assert await download(drive, small, 100_000, 700_000) == CONTENT[100_000:700_000]
    assert await download(drive, small, 5, 6, pinned=False) == CONTENT[5:6]
    assert await download(drive, empty) == b""


@pytest.mark.slow
async def test_a_long_listing_comes_in_pages(drive: Drive) -> None:
    """1,005 children arrive once each, in more than one page of up to a thousand."""
    folder = await drive.create(await new(drive, "many", FOLDER_MIME))
    ids = [*await drive.generate_ids(1000), *await drive.generate_ids(5)]
    async with trio.open_nursery() as nursery:
        for chunk in (ids[n::16] for n in range(16)):

            async def fill(chunk: list[str] = chunk) -> None:
                for item_id in chunk:
                    await drive.create(NewItem(item_id, "same name", folder.id, "text/plain", MS))

            nursery.start_soon(fill)
    found, token, pages = [], None, 0
    while True:
        page = await drive.list_children(folder.id, token)
        found += [item.id for item in page.items]
        pages, token = pages + 1, page.next_page_token
        if token is None:
            break
    assert sorted(found) == sorted(ids)
    assert pages >= 2
    with pytest.raises(BadRequest):
        await drive.list_children(folder.id, "stale-token")


async def test_a_second_create_finds_the_id_in_use(drive: Drive) -> None:
    """A repeated create makes no twin, with content or without."""
    item = await new(drive, "once")
    await drive.create(item)
    with pytest.raises(IdInUse):
        await drive.create(item)
    with pytest.raises(IdInUse):
        await drive.create_with_content(item, b"x")
    assert len((await drive.list_children(item.parent)).items) == 1


async def test_updates(drive: Drive) -> None:
    """Rename, move, time, properties and trash, each alone and all in one call; a removed property is gone."""
    first = await drive.create(await new(drive, "d1", FOLDER_MIME))
    second = await drive.create(await new(drive, "d2", FOLDER_MIME))
    item = await drive.create(await new(drive, "a", parent=first.id))
    patch = ItemPatch(
        name="b", modified_ms=MS + 1, app_properties={"mode": None, "new": "1"}, add_parent=second.id, remove_parent=first.id
    )
    moved = await drive.update(item.id, patch)
    assert (moved.name, moved.modified_ms, moved.parents, moved.app_properties) == ("b", MS + 1, (second.id,), {"new": "1"})
    assert moved.version > item.version
    assert (await drive.update(item.id, ItemPatch(trashed=True))).trashed
    assert (await drive.list_children(second.id)).items == ()
    assert not (await drive.update(item.id, ItemPatch(trashed=False))).trashed


async def test_new_content_is_a_new_revision(drive: Drive) -> None:
    """The id stays, the revision changes, and a reader that pinned the old one still reads the old bytes."""
    old = await drive.create_with_content(await new(drive, "a"), CONTENT)
    now = await drive.update_with_content(old.id, ItemPatch(modified_ms=MS + 5), b"new bytes", "text/plain")
    assert (now.id, now.md5, now.modified_ms) == (old.id, md5(b"new bytes"), MS + 5)
    assert now.revision != old.revision
    assert await download(drive, old, 0, 1000) == CONTENT[:1000]
    assert await download(drive, now) == b"new bytes"
    with pytest.raises(RangeNotSatisfiable):
        await download(drive, old, 0, 1000, pinned=False)
    assert [(revision.id, revision.md5, revision.size) for revision in await drive.revisions(old.id)] == [
        (old.revision, old.md5, old.size),
        (now.revision, now.md5, now.size),
    ]


@pytest.mark.parametrize("size", [0, 1, CHUNK_UNIT, len(CONTENT)])
async def test_resumable_uploads(drive: Drive, size: int) -> None:
    """A new file in chunks, and new content into it, arrive with the right md5 under the promised id."""
    item = await new(drive, "big.bin", "application/x-big")
    made = await upload(drive, await drive.open_upload(item, None, None, size, item.mime_type), CONTENT[:size])
    assert (made.id, made.size, made.md5, made.modified_ms) == (item.id, size, md5(CONTENT[:size]), MS)
    assert made.kind is Kind.FILE
    again = CONTENT[::-1][:size]
    session = await drive.open_upload(None, made.id, ItemPatch(name="renamed"), size, "application/x-big")
    changed = await upload(drive, session, again, 2 * CHUNK_UNIT)
    assert (changed.id, changed.name, changed.md5) == (made.id, "renamed", md5(again))
    assert await download(drive, changed) == again


async def test_an_interrupted_upload_is_found_again(drive: Drive) -> None:
    """The probe tells what arrived, before, in the middle and at the end; a cancelled session is gone."""
    item = await new(drive, "big.bin")
    session = await drive.open_upload(item, None, None, len(CONTENT), item.mime_type)
    assert await drive.probe_upload(session, len(CONTENT)) == session
    state = await drive.send_chunk(session, CONTENT[:CHUNK_UNIT], len(CONTENT))
    assert state == UploadSession(session.uri, CHUNK_UNIT)
    assert await drive.probe_upload(session, len(CONTENT)) == state
    with pytest.raises(RemoteNotFound):
        await drive.get(item.id)
    assert isinstance(state, UploadSession)
    done = await upload(drive, state, CONTENT)
    assert await drive.probe_upload(session, len(CONTENT)) == done

    other = await drive.open_upload(await new(drive, "never"), None, None, len(CONTENT), "text/plain")
    await drive.cancel_upload(other)
    with pytest.raises(SessionGone):
        await drive.probe_upload(other, len(CONTENT))


async def test_the_feed_tells_of_everything(drive: Drive) -> None:
    """Creation, change and removal since a token, with parents; the new token then has nothing more to tell."""
    token = await drive.start_page_token()
    kept = await drive.create_with_content(await new(drive, "kept"), b"x")
    gone = await drive.create(await new(drive, "gone"))
    await drive.delete(gone.id)
    changes = {}
    while True:
        page = await drive.changes(token)
        changes.update({change.file_id: change.item for change in page.changes})
        token = page.next_token
        if page.finished:
            break
    assert changes[kept.id] == kept
    assert kept.parents
    assert changes[gone.id] is None
    page = await drive.changes(token)
    assert (page.changes, page.finished) == ((), True)


async def test_deleting(drive: Drive) -> None:
    """Gone for good, and gone already is as good."""
    item = await drive.create(await new(drive, "a"))
    await drive.delete(item.id)
    await drive.delete(item.id)
    with pytest.raises(RemoteNotFound):
        await drive.get(item.id)
    with pytest.raises(RemoteNotFound):
        await drive.revisions(item.id)


async def test_sixteen_at_once_share_the_connections(drive: Drive) -> None:
    """Parallel readers and a listing do not disturb each other."""
    item = await drive.create_with_content(await new(drive, "a"), CONTENT)
    results: list[bytes] = []

    async def read(start: int) -> None:
        results.append(await download(drive, item, start, start + 40_000))

    async with trio.open_nursery() as nursery:
        for n in range(16):
            nursery.start_soon(read, n * 40_000)
        nursery.start_soon(drive.list_children, item.parents[0])
    assert sorted(results) == sorted(CONTENT[n * 40_000 : (n + 1) * 40_000] for n in range(16))


# --- sign-in ---


async def test_google_auths_credentials_sign_in(emulator: dict[str, Any], transport: Transport, tmp_path: Path) -> None:
    """A service-account key and an authorized user both get tokens from the server, and survive their expiry mid-way."""
    robot = json.loads((await transport.request("POST", f"{emulator['url']}/_emulator/service-accounts", {}, b"{}")).body)
    user = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "1//0r"}
    for info in (robot, user):
        path = tmp_path / f"{info['type']}.json"
        path.touch(0o600)
        path.write_text(json.dumps({**info, "token_uri": f"{emulator['url']}/token"}))
        credential = GoogleCredential.from_file(path, transport)
        drive = make(emulator, transport, credential)
        assert (await drive.about())[0].root_id
        first = await credential.headers()
        await transport.request("POST", f"{emulator['url']}/_emulator/tokens/expire", {}, b"")
        assert (await drive.about())[0].root_id
        assert await credential.headers() != first


async def test_an_expired_static_token_is_refused(emulator: dict[str, Any], transport: Transport) -> None:
    """A token that the server issued and then let expire ends in SignInRefused with the next step."""
    form = b"grant_type=refresh_token&client_id=c&client_secret=s&refresh_token=1%2F%2F0r"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = await transport.request("POST", f"{emulator['url']}/token", headers, form)
    drive = make(emulator, transport, StaticToken(json.loads(answer.body)["access_token"]))
    assert (await drive.quota()).usage >= 0
    await transport.request("POST", f"{emulator['url']}/_emulator/tokens/expire", {}, b"")
    with pytest.raises(SignInRefused, match="DRIVEFS_ACCESS_TOKEN"):
        await drive.quota()
