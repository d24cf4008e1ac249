"""What makes a call safe to repeat is on the disk before the call is made, so that a power cut cannot take it away."""

from __future__ import annotations

from typing import TypeVar

import pytest
from trio.testing import MockClock

from tests.support.fake_drive import FakeDrive, md5_of
from tests.support.world import World

T = TypeVar("T")


@pytest.mark.parametrize("chunked", [False, True])
async def test_ids_checksums_and_fields_are_durable_before_they_are_sent(
    world: World, fake: FakeDrive, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    """Rows as the last sync left them, looked at in the moment Drive applies each call that makes or changes something."""
    if chunked:
        monkeypatch.setattr("drivefs.jobs.transfer._MULTIPART_LIMIT", 4)
        monkeypatch.setattr("drivefs.jobs.transfer._CHUNK", 4)
    on_disk: dict[str, tuple[str | None, str]] = {}
    original = world.db.commit_durably

    def sync() -> None:
        original()
        rows = world.db.execute("SELECT remote_id, sent_md5, sent FROM node WHERE remote_id IS NOT NULL")
        on_disk.clear()
        on_disk.update({row["remote_id"]: (row["sent_md5"], row["sent"]) for row in rows})

    monkeypatch.setattr(world.db, "commit_durably", sync)
    applied: list[str] = []
    create, update, write = fake._create, fake._update, fake._write

    def checked_create(new: object, content: bytes | None) -> object:
        applied.append("create")
        assert new.id in on_disk  # type: ignore[attr-defined]
        return create(new, content)  # type: ignore[arg-type]

    def checked_update(file_id: str, patch: object, content: bytes | None) -> object:
        applied.append("update")
        if getattr(patch, "name", None) is not None:
            assert "name" in on_disk[file_id][1]
        return update(file_id, patch, content)  # type: ignore[arg-type]

    def checked_write(file_id: str, content: bytes) -> None:
        applied.append("write")
        assert on_disk[file_id][0] == md5_of(content)
        write(file_id, content)

    monkeypatch.setattr(fake, "_create", checked_create)
    monkeypatch.setattr(fake, "_update", checked_update)
    monkeypatch.setattr(fake, "_write", checked_write)
    await world.mkdir("d")
    await world.write("d/a", b"first content")
    await world.drain()
    await world.write("d/a", b"second content")
    await world.rename("d/a", "d/b")
    await world.drain()
    await world.rename("d/b", "d/c")
    await world.drain()
    assert applied == ["create", "create", "write", "update", "write", "update"]
    assert fake.files() == {"d/c": b"second content"}


async def test_what_a_flush_has_reported_stays_reported(world: World, autojump_clock: MockClock) -> None:
    """The rows that say so are on the disk too when it returns: a power cut makes nothing unsent again."""
    await world.write("a", b"sent")
    await world.uploader.drain(60)
    assert world.cache.fresh == set()
    assert world.cache.clean_bytes == 4
