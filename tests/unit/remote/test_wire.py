"""Values to JSON and back."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from email.parser import BytesParser
from email.policy import HTTP
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefs.base.errors import BadRequest, RemoteError
from drivefs.base.model import FOLDER_MIME, Change, ItemPatch, Kind, NewItem
from drivefs.remote import wire

if TYPE_CHECKING:
    from tests.unit.remote.conftest import Script


@given(st.integers(-62135596800000, 253402300799999))
def test_times_survive_the_wire(ms: int) -> None:
    """Every millisecond of the years 1 to 9999 comes back as it went."""
    text = wire.from_ms(ms)
    assert wire.to_ms(text) == ms
    assert len(text) == len("2024-02-02T10:40:02.874Z")


@given(st.integers())
def test_any_mtime_has_a_time_on_drive(ms: int) -> None:
    """A file's time may lie beyond what RFC 3339 can say; then the nearest is sent, never an error."""
    assert wire.to_ms(wire.from_ms(ms)) == min(max(ms, -62135596800000), 253402300799999)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2024-02-02T10:40:02Z", 1706870402000),
        ("2024-02-02T10:40:02.8Z", 1706870402800),
        ("2024-02-02T10:40:02.874Z", 1706870402874),
        ("2024-02-02T10:40:02.874999999Z", 1706870402874),
        ("2024-02-02t12:40:02.874+02:00", 1706870402874),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_the_forms_of_a_time(text: str, ms: int) -> None:
    """Fractions of any length and zones are understood; digits below the millisecond are cut off."""
    assert wire.to_ms(text) == ms


@pytest.mark.parametrize("text", ["", "2024-02-02", "2024-02-02T10:40:02", "2024-13-02T10:40:02Z", "٢٠٢٤-02-02T10:40:02Z"])
def test_what_is_no_time(text: str) -> None:
    """Anything else is an error, not a guess."""
    with pytest.raises(ValueError):  # noqa: PT011 - the library's text varies
        wire.to_ms(text)


def test_a_file_in_full(server: Script) -> None:
    """Every field of a blob arrives where it belongs, int64 strings as numbers."""
    item = wire.parse_item(server.item(appProperties={"mode": "755"}, size="5497558138880"))
    assert (item.id, item.name, item.mime_type, item.parents) == ("file1", "a.txt", "text/plain", ("folder1",))
    assert (item.version, item.size, item.md5, item.revision) == (7, 5497558138880, "5d41402abc4b2a76b9719d911017c592", "rev1")
    assert (item.created_ms, item.modified_ms) == (1706870402874, 1706870402875)
    assert (item.trashed, item.owned_by_me, item.can_edit, item.app_properties) == (False, True, True, {"mode": "755"})
    assert item.kind is Kind.FILE


def test_absent_fields_have_their_meaning(server: Script) -> None:
    """What does not apply is absent: a folder has no bytes, a shared item may have no parent, and rights default to ours."""
    data = {key: server.item()[key] for key in ("id", "name", "version", "createdTime", "modifiedTime")}
    item = wire.parse_item({**data, "mimeType": FOLDER_MIME})
    assert (item.size, item.md5, item.revision, item.parents) == (None, None, None, ())
    assert (item.trashed, item.owned_by_me, item.can_edit) == (False, True, True)


def test_a_documents_size_is_no_size(server: Script) -> None:
    """Docs editors files state a meaningless size; believing it would show bytes that nobody can read."""
    item = wire.parse_item(server.item(mimeType="application/vnd.google-apps.document", size="1"))
    assert (item.kind, item.size) == (Kind.DOCUMENT, None)


def test_a_shortcut_names_its_target(server: Script) -> None:
    """shortcutDetails.targetId is kept."""
    data = server.item(mimeType="application/vnd.google-apps.shortcut", shortcutDetails={"targetId": "t"})
    assert wire.parse_item(data).shortcut_target == "t"


@pytest.mark.parametrize(
    "broken",
    [
        {"id": None},
        {"id": 5},
        {"name": None},
        {"version": "x"},
        {"modifiedTime": "yesterday"},
        {"mimeType": 5},
        {"size": []},
        {"capabilities": []},
    ],
)
def test_nonsense_is_our_error(server: Script, broken: dict[str, Any]) -> None:
    """An answer of the wrong shape becomes a RemoteError, never a KeyError in somebody's read()."""
    data = {**server.item(), **broken}
    with pytest.raises(RemoteError, match="does not describe an item"):
        wire.parse_item(data)


def test_changes_of_files_only(server: Script) -> None:
    """A removal has no item, a change of a shared drive itself is no news of a file."""
    assert wire.parse_change({"changeType": "file", "fileId": "a", "removed": True}) == Change("a", None)
    changed = wire.parse_change({"changeType": "file", "fileId": "file1", "removed": False, "file": server.item()})
    assert changed is not None
    assert changed.item is not None
    assert changed.item.name == "a.txt"
    assert wire.parse_change({"changeType": "drive", "driveId": "d"}) is None


@pytest.mark.parametrize("bad", ["", "trash", "generateIds", "a/b", "..", "a b", "a'b", "a\n", "ä", "x" * 129, "a?b", "%2e"])
def test_ids_cannot_break_out(bad: str) -> None:
    """An id that means something else in a path or a query is refused before a request is built."""
    with pytest.raises(BadRequest, match="not a Drive item's id"):
        wire.valid_id(bad)


def test_bodies_state_what_changes_and_nothing_else() -> None:
    """A patch of one field touches one field; None as a property's value removes it."""
    assert wire.patch_body(ItemPatch()) == {}
    assert wire.patch_body(ItemPatch(trashed=False, add_parent="p")) == {"trashed": False}
    assert wire.patch_body(ItemPatch(name="n", modified_ms=0, app_properties={"a": None})) == {
        "name": "n",
        "modifiedTime": "1970-01-01T00:00:00.000Z",
        "appProperties": {"a": None},
    }
    assert wire.new_item_body(NewItem("i", "n", "p", "text/plain", 1)) == {
        "id": "i",
        "name": "n",
        "parents": ["p"],
        "mimeType": "text/plain",
        "modifiedTime": "1970-01-01T00:00:00.001Z",
    }


@given(st.binary(max_size=300), st.text(max_size=50))
def test_multipart_is_what_a_mime_parser_reads(content: bytes, name: str) -> None:
    """Python's own MIME parser finds the metadata and the bytes again, line ends and dashes included."""
    content_type, body = wire.related_body({"name": name}, content, "application/x-test")
    assert body.endswith(b"--\r\n")
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    first, second = message.iter_parts()
    assert json.loads(first.get_content()) == {"name": name}
    assert second.get_content_type() == "application/x-test"
    boundary = content_type.partition("boundary=")[2].encode()
    assert body.split(b"Content-Type: application/x-test\r\n\r\n", 1)[1] == content + b"\r\n--" + boundary + b"--\r\n"


@pytest.mark.parametrize("bad", ["", "text", "text/plain\r\nX-Evil: 1", "text/plä", 'a/b; c="d\ne"', "a/b\0"])
def test_a_strange_type_neither_breaks_out_nor_blocks(bad: str) -> None:
    """Types are other programs' data: one that could end a header becomes the type of unknown bytes."""
    assert wire.usable_mime_type(bad) == "application/octet-stream"
    assert b"Evil" not in wire.related_body({}, b"", bad)[1]


@pytest.mark.parametrize(
    "good", ["text/plain", "application/vnd.google-apps.folder", "inode/symlink", "text/html; charset=utf-8"]
)
def test_ordinary_types_are_kept(good: str) -> None:
    """What is a type stays one."""
    assert wire.usable_mime_type(good) == good


def test_epoch_is_utc() -> None:
    """The machine's own time zone plays no part."""
    assert wire.to_ms("2024-07-01T00:00:00Z") == int(datetime(2024, 7, 1, tzinfo=timezone.utc).timestamp()) * 1000
