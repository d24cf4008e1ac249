"""Docs editors files: what they say comes by import and goes by export."""

from __future__ import annotations

import io
import json
import re
import zipfile
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.etree import ElementTree

import pytest

if TYPE_CHECKING:
    from tests.contract.conftest import Answer, Drive

DOCUMENT = "application/vnd.google-apps.document"
SHEET = "application/vnd.google-apps.spreadsheet"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def imported(drive: Drive, text: str, media_type: str = "text/plain", mime_type: str = DOCUMENT) -> Any:
    metadata = json.dumps({"name": "doc", "mimeType": mime_type, "parents": [drive.root]}).encode()
    body = b"--XX\nContent-Type: application/json\n\n" + metadata
    body += f"\n--XX\nContent-Type: {media_type}\n\n".encode() + text.encode() + b"\n--XX--\n"
    headers = {"Content-Type": "multipart/related; boundary=XX"}
    answer = drive.send("POST", "/upload/drive/v3/files?uploadType=multipart&fields=*", body=body, headers=headers)
    assert answer.status == 200, answer.body
    return answer.json()


def export(drive: Drive, item_id: str, target: str) -> Answer:
    return drive.call("GET", f"files/{item_id}/export", mimeType=target)


def test_import_and_export_as_text(drive: Drive) -> None:
    """Export: an imported text comes back as text with a byte order mark and CRLF; the item has neither digest nor revision."""
    made = imported(drive, "Grüße\nzweite Zeile")
    assert made["mimeType"] == DOCUMENT
    assert not {"md5Checksum", "headRevisionId"} & set(made)
    answer = export(drive, made["id"], "text/plain")
    assert answer.status == 200
    assert answer.body.decode("utf-8-sig").split("\r\n")[:2] == ["Grüße", "zweite Zeile"]
    assert answer.body.startswith(b"\xef\xbb\xbf")


def test_what_may_be_exported_is_told(drive: Drive) -> None:
    """Export: about.exportFormats and exportLinks name the same formats, and each of them is served."""
    made = imported(drive, "one <b> & two")
    formats = drive.get("about", fields="exportFormats")["exportFormats"][DOCUMENT]
    assert sorted(made["exportLinks"]) == sorted(formats)
    for target in formats:
        assert export(drive, made["id"], target).status == 200, target


@pytest.mark.emulator
def test_exports_are_what_they_claim(drive: Drive) -> None:
    """Export: docx and xlsx are well-formed packages that hold the text, PDF has its objects where its table says."""
    document, sheet = imported(drive, "a < b\nsecond"), imported(drive, 'x,"y, z"\n1,2\n', "text/csv", SHEET)
    with zipfile.ZipFile(io.BytesIO(export(drive, document["id"], DOCX).body)) as package:
        assert package.testzip() is None
        assert "".join(ElementTree.fromstring(package.read("word/document.xml")).itertext()) == "a < bsecond"
    with zipfile.ZipFile(io.BytesIO(export(drive, sheet["id"], XLSX).body)) as package:
        cells = list(ElementTree.fromstring(package.read("xl/worksheets/sheet1.xml")).itertext())
        assert cells == ["x", "y, z", "1", "2"]
    assert export(drive, sheet["id"], "text/csv").body == b'x,"y, z"\r\n1,2\r\n'
    assert export(drive, sheet["id"], "text/tab-separated-values").body == b"x\ty, z\r\n1\t2"
    assert b"a &lt; b" in export(drive, document["id"], "text/html").body
    pdf = export(drive, document["id"], "application/pdf").body
    start = int(re.findall(rb"startxref\n(\d+)", pdf)[0])
    assert pdf[start:].startswith(b"xref")
    for number, place in enumerate(re.findall(rb"(\d{10}) 00000 n", pdf), start=1):
        assert pdf[int(place) :].startswith(b"%d 0 obj" % number)
    assert b"(a < b) Tj" in pdf


def test_exports_that_are_refused(drive: Drive) -> None:
    """Export: files with bytes have none, unknown targets are 400, documents have no media."""
    blob, document = drive.upload("b", b"x"), imported(drive, "t")
    answer = export(drive, blob["id"], "text/plain")
    assert (answer.status, answer.reason) == (403, "fileNotExportable")
    answer = export(drive, document["id"], "video/mp4")
    assert (answer.status, answer.location) == (400, "convertTo")
    assert drive.call("GET", f"files/{document['id']}/export").location == "mimeType"
    answer = drive.call("GET", f"files/{document['id']}", alt="media")
    assert (answer.status, answer.reason) == (403, "fileNotDownloadable")


@pytest.mark.emulator
def test_large_exports_need_the_link(drive: Drive, settings: Any) -> None:
    """Export: beyond the limit 403 exportSizeLimitExceeded; the export link has no limit, and asks for a token."""
    made = imported(drive, "x" * 1000)
    settings(export_limit=1000)
    answer = export(drive, made["id"], "text/plain")
    assert (answer.status, answer.reason) == (403, "exportSizeLimitExceeded")
    link = made["exportLinks"]["text/plain"]
    assert len(drive.send("GET", link).body) == 1003
    assert drive.send("GET", link, token=None).status == 401
    assert drive.send("GET", link.replace(quote(made["id"]), "missing")).status == 404


@pytest.mark.emulator
def test_documents_change_and_are_copied(drive: Drive) -> None:
    """Import: new text replaces the old under the same id; a copy says the same; other content is refused."""
    made = imported(drive, "old")
    target = f"/upload/drive/v3/files/{made['id']}?uploadType=media&fields=version"
    changed = drive.send("PATCH", target, body=b"new", headers={"Content-Type": "text/plain"})
    assert int(changed.json()["version"]) > int(made["version"])
    copied = drive.call("POST", f"files/{made['id']}/copy", {}).json()["id"]
    assert export(drive, copied, "text/plain").body == b"\xef\xbb\xbfnew"
    assert drive.send("PATCH", target, body=b"\x89PNG", headers={"Content-Type": "image/png"}).status == 400
