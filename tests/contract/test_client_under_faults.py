"""drivefs's own client while things go wrong: one effect for each call, and every byte right."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
import trio

from drivefs.base.errors import DriveFull, IdInUse, RateLimited, RemoteUnreachable, SessionGone, SignInRefused
from drivefs.base.model import FOLDER_MIME, ItemPatch, NewItem, RemoteItem, UploadSession
from drivefs.base.stats import Stats
from drivefs.remote.auth import StaticToken
from drivefs.remote.drive import Drive as Client
from drivefs.remote.http import Transport
from drivefs.remote.quota import Pacer

if TYPE_CHECKING:
    from tests.contract.conftest import Drive

# Each waits for a real back-off or two.
pytestmark = pytest.mark.slow

UNIT = 256 * 1024
CONTENT = random.Random(11).randbytes(5 * UNIT + 4321)
MD5 = hashlib.md5(CONTENT).hexdigest()
MS = 1706870402874


class Renewing:
    """A sign-in whose tokens can be renewed. refused: those that the server no longer wanted."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    async def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer token-{len(self.refused)}"}

    async def refresh(self, stale: str) -> None:
        self.refused.append(stale)

    def identity(self) -> str:
        return "renewing"


class World:
    """The client under test, and the server as a raw client sees it."""

    def __init__(self, drive: Drive, transport: Transport) -> None:
        self.drive = drive
        self.transport = transport
        self.root = drive.send("POST", "/_emulator/reset", token=None).json()["root_id"]
        self.stats = Stats()
        self.client = self.make()

    def make(self, credential: Any = None, **options: Any) -> Client:
        options = {"patience": 10.0, "bulk_patience": 20.0, "stall": 20.0, "rng": random.Random(1), **options}
        pacer = Pacer(trio.current_time)
        return Client(self.transport, credential or StaticToken("anything"), self.drive.url, self.stats, pacer=pacer, **options)

    async def new(self, name: str, mime_type: str = "application/octet-stream") -> NewItem:
        (item_id,) = await self.client.generate_ids(1)
        return NewItem(item_id, name, self.root, mime_type, MS)

    async def upload(self, session: UploadSession, chunk: int = 2 * UNIT) -> RemoteItem:
        """Send chunk after chunk, from wherever the server stands; where the client gives a chunk up, ask and go on."""
        state: UploadSession | RemoteItem = session
        while isinstance(state, UploadSession):
            session, at = state, state.offset
            try:
                state = await self.client.send_chunk(session, memoryview(CONTENT)[at : at + chunk], len(CONTENT))
            except RemoteUnreachable:
                state = await self.client.probe_upload(session, len(CONTENT))
        return state

    async def download(self, item: RemoteItem, start: int = 0, *, client: Client | None = None) -> bytes:
        assert item.size is not None
        kept = bytearray()

        def sink(offset: int, data: bytes) -> None:
            assert offset == start + len(kept)
            kept.extend(data)

        await (client or self.client).download(item.id, start, item.size, sink, revision=item.revision, size=item.size)
        return bytes(kept)


@pytest.fixture
async def world(drive: Drive) -> AsyncIterator[World]:
    transport = Transport(connect_timeout=5.0)
    yield World(drive, transport)
    transport.close()


# --- one effect ---

AMBIGUOUS = [
    {"reset": "before"},
    {"reset": "after"},
    {"status": 503, "applied": True},
    {"status": 502, "body": "html"},
    {"status": 500, "body": "empty", "applied": True},
    {"cut_response": 20},
    {"cut_response": {"at": 0, "how": "reset"}},
]


@pytest.mark.parametrize("fault", AMBIGUOUS, ids=str)
@pytest.mark.parametrize("size", [None, 100_000])
async def test_a_create_takes_effect_once(world: World, fault: dict[str, Any], size: int | None) -> None:
    """Whatever became of the first try, there is one item in the end; that it was made before, the id tells."""
    rule = world.drive.strike(method="files.create", nth=1, **fault)
    wanted = await world.new("x", FOLDER_MIME if size is None else "text/plain")
    applied = fault.get("applied") or fault.get("reset") == "after" or "cut_response" in fault
    try:
        if size is None:
            made = await world.client.create(wanted)
        else:
            made = await world.client.create_with_content(wanted, CONTENT[:size])
        assert not applied
    except IdInUse:
        assert applied
        made = await world.client.get(wanted.id)
    (item,) = world.drive.tree()
    assert (item["id"], item["name"], made.id) == (wanted.id, "x", wanted.id)
    assert item["md5"] == (None if size is None else hashlib.md5(CONTENT[:size]).hexdigest())
    assert world.drive.faults()[rule] == (2, 1)


@pytest.mark.parametrize("fault", AMBIGUOUS, ids=str)
async def test_a_change_and_a_deletion_are_repeated_in_peace(world: World, fault: dict[str, Any]) -> None:
    """A PATCH done twice is done once; what a DELETE finds gone was deleted."""
    item = world.drive.upload("x", b"1")["id"]
    world.drive.strike(method="files.update", nth=1, **fault)
    world.drive.strike(method="files.delete", nth=1, **fault)
    assert (await world.client.update(item, ItemPatch(name="y"))).name == "y"
    assert [one["name"] for one in world.drive.tree()] == ["y"]
    await world.client.delete(item)
    assert world.drive.tree() == []


# --- content up ---


@pytest.mark.parametrize(
    "fault",
    [
        {"method": "upload.chunk", "keep_chunk": UNIT, "times": 3},
        {"method": "upload.chunk", "keep_chunk": 0, "nth": 2},
        {"method": "upload.chunk", "reset": "before", "every": 2, "times": 3},
        {"method": "upload.chunk", "reset": "after", "every": 2, "times": 3},
        {"method": "upload.chunk", "status": 503, "body": "html", "every": 2, "times": 3},
        {"method": "upload.chunk", "status": 503, "body": "text", "applied": True, "every": 3},
        {"method": "upload.chunk", "cut_request": UNIT + 999, "every": 2, "times": 3},
        {"method": "upload.chunk", "cut_response": 10},
        {"method": "upload.probe", "status": 500, "nth": 1},
        {"method": "upload.chunk", "status": 429, "retry_after": 1, "nth": 2},
        {"method": "upload.open", "reset": "after", "nth": 1},
    ],
    ids=str,
)
async def test_a_resumable_upload_comes_through(world: World, fault: dict[str, Any]) -> None:
    """One file with the right md5, whatever happens to chunks, their answers, and the questions about them."""
    world.drive.strike(**fault)
    wanted = await world.new("big")
    session = await world.client.open_upload(wanted, None, None, len(CONTENT), "application/octet-stream")
    made = await world.upload(session)
    assert (made.id, made.md5) == (wanted.id, MD5)
    assert [(one["id"], one["md5"]) for one in world.drive.tree()] == [(wanted.id, MD5)]


@pytest.mark.parametrize("seed", [1, 2])
async def test_an_upload_in_bad_weather(world: World, seed: int) -> None:
    """Several faults at once, each with its own chance: still the right bytes, once."""
    faults: list[dict[str, Any]] = [{"keep_chunk": UNIT}, {"reset": "after"}, {"status": 503}, {"cut_request": UNIT // 2}]
    for number, fault in enumerate(faults):
        world.drive.strike(method="upload.chunk", probability=0.25, seed=seed * 10 + number, times=2, **fault)
    wanted = await world.new("big")
    made = await world.upload(await world.client.open_upload(wanted, None, None, len(CONTENT), "a/b"), UNIT)
    assert (made.id, made.md5) == (wanted.id, MD5)
    assert sum(hits for _, hits in world.drive.faults().values()) > 0
    assert len(world.drive.tree()) == 1


@pytest.mark.parametrize("status", [404, 410])
async def test_a_session_that_is_lost(world: World, status: int) -> None:
    """The client says so, and a new session with the same id succeeds."""
    world.drive.strike(method="upload.chunk", session_gone=status, nth=2)
    wanted = await world.new("big")
    with pytest.raises(SessionGone):
        await world.upload(await world.client.open_upload(wanted, None, None, len(CONTENT), "a/b"))
    assert world.drive.tree() == []
    made = await world.upload(await world.client.open_upload(wanted, None, None, len(CONTENT), "a/b"))
    assert (made.id, made.md5) == (wanted.id, MD5)


# --- content down ---


@pytest.mark.parametrize(
    "fault",
    [
        {"cut_response": 700_001, "times": 2},
        {"cut_response": {"at": 300_000, "how": "reset"}, "nth": 1},
        {"cut_response": 0, "nth": 1},
        {"ignore_range": True},
        {"status": 503, "body": "html", "nth": 1},
        {"reset": "before", "nth": 1},
        {"bandwidth": {"down": 5e6}},
    ],
    ids=str,
)
@pytest.mark.parametrize("start", [0, 100_000])
async def test_a_download_comes_through(world: World, fault: dict[str, Any], start: int) -> None:
    """Every byte once, in order, right; a broken answer is continued from where it broke."""
    item = await world.client.get(world.drive.upload("x", CONTENT)["id"])
    world.drive.strike(method="revisions.get_media", **fault)
    assert await world.download(item, start) == CONTENT[start:]


async def test_a_download_that_falls_silent(world: World) -> None:
    """A connection on which nothing comes is given up, and the rest is fetched on another."""
    item = await world.client.get(world.drive.upload("x", CONTENT)["id"])
    world.drive.strike(method="revisions.get_media", stall={"seconds": 30, "at": 400_000}, nth=1)
    with trio.fail_after(15):
        assert await world.download(item, client=world.make(stall=0.5)) == CONTENT


async def test_a_flipped_bit_shows_in_the_checksum_only(world: World) -> None:
    """HTTP does not tell: the client passes it on, and comparing with md5Checksum finds it."""
    item = await world.client.get(world.drive.upload("x", CONTENT)["id"])
    world.drive.strike(method="revisions.get_media", flip=777, nth=1)
    altered = await world.download(item)
    assert len(altered) == item.size
    assert hashlib.md5(altered).hexdigest() != item.md5 == MD5
    assert hashlib.md5(await world.download(item)).hexdigest() == MD5


# --- limits and sign-in ---


async def test_throttling_is_waited_out(world: World) -> None:
    """Both spellings of the reason; Retry-After is a lower bound."""
    world.drive.strike(method="files.get", reason="userRateLimitExceeded", nth=1, retry_after=1)
    world.drive.strike(method="files.list", status=429, body="details", nth=1)
    started = trio.current_time()
    assert (await world.client.get("root")).id == world.root
    assert (await world.client.list_children(world.root)).items == ()
    assert trio.current_time() - started >= 2.0
    assert world.stats.api_retries == 2


async def test_the_day_s_bytes_are_used_up(world: World) -> None:
    """Reason and message are those of the 750 GB limit; nothing was made."""
    message = "User rate limit exceeded."
    world.drive.strike(method="upload.multipart", reason="userRateLimitExceeded", message=message)
    with pytest.raises(RateLimited) as caught:
        await world.make(patience=1.0, bulk_patience=1.0).create_with_content(await world.new("x"), b"1")
    assert caught.value.reason == "userRateLimitExceeded"
    assert message in str(caught.value)
    assert world.drive.tree() == []


async def test_a_full_drive_is_told_at_once(world: World) -> None:
    """DriveFull, without another try; when there is room again the upload succeeds."""
    world.drive.strike(quota_full=True)
    wanted = await world.new("x")
    with pytest.raises(DriveFull):
        await world.client.create_with_content(wanted, b"1")
    with pytest.raises(DriveFull):
        await world.client.open_upload(wanted, None, None, len(CONTENT), "a/b")
    assert world.stats.api_retries == 0
    quota = await world.client.quota()
    assert quota.limit == quota.usage
    world.drive.calm()
    assert (await world.client.create_with_content(wanted, b"1")).size == 1


async def test_an_expired_token_is_renewed(world: World) -> None:
    """One renewal, then the call succeeds; a sign-in that cannot be renewed says so."""
    world.drive.strike(method="files.get", token_expired=True, every=2)
    credential = Renewing()
    client = world.make(credential)
    for _ in range(3):
        assert (await client.get("root")).id == world.root
    assert credential.refused == ["Bearer token-0", "Bearer token-1"]
    with pytest.raises(SignInRefused):
        await world.client.get("root")


async def test_offline_and_back(world: World) -> None:
    """Offline the call gives up within its patience; online again it succeeds on a fresh connection."""
    await world.client.get("root")
    world.drive.strike(offline="reset")
    started = trio.current_time()
    with pytest.raises(RemoteUnreachable):
        await world.make(patience=1.5).get("root")
    assert trio.current_time() - started < 5.0
    world.drive.calm()
    assert (await world.client.get("root")).id == world.root


# --- indexes that lag ---


async def test_a_listing_may_be_older_than_a_get(world: World) -> None:
    """What the client made it finds by id at once, in a listing only later: whoever lists must keep own writes on top."""
    world.drive.strike(listing_lag=600.0, changes_lag=600.0)
    token = await world.client.start_page_token()
    made = await world.client.create(await world.new("x"))
    assert (await world.client.get(made.id)).name == "x"
    assert (await world.client.list_children(world.root)).items == ()
    assert (await world.client.changes(token)).changes == ()
    world.drive.calm()
    assert [item.id for item in (await world.client.list_children(world.root)).items] == [made.id]
    assert [change.file_id for change in (await world.client.changes(token)).changes] == [made.id]
