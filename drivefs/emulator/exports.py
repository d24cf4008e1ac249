"""Docs editors files: what they say, in the formats they can be exported to. Made by hand, small, and valid.

A document is plain text here; a spreadsheet is rows of cells (as CSV). There is no editor: their content comes by import, that is
by an upload of text/plain or text/csv to an item of such a type. Source:
https://developers.google.com/workspace/drive/api/guides/ref-export-formats
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Mapping
from html import escape
from typing import Final, TypeAlias
from xml.sax.saxutils import escape as xml_escape

__all__ = ["FORMATS", "IMPORTS", "export", "targets"]

_DOCS: Final = "application/vnd.google-apps."
_OFFICE: Final = "application/vnd.openxmlformats-officedocument."
_Writer: TypeAlias = Callable[[str], bytes]
_LINES_ON_A_PAGE: Final = 60
_COLUMNS_ON_A_PAGE: Final = 90

# What an upload may become.
IMPORTS: Final[Mapping[str, tuple[str, ...]]] = {
    "text/plain": (_DOCS + "document",),
    "text/csv": (_DOCS + "spreadsheet",),
    "text/tab-separated-values": (_DOCS + "spreadsheet",),
}


def _text(text: str) -> bytes:
    """With a byte order mark and CRLF, as Drive exports plain text."""
    return b"\xef\xbb\xbf" + "\r\n".join(text.splitlines()).encode()


def _html(text: str) -> bytes:
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in text.splitlines())
    head = '<head><meta content="text/html; charset=UTF-8" http-equiv="content-type"></head>'
    return f"<html>{head}<body>{paragraphs}</body></html>".encode()


def _pdf_pages(text: str) -> list[list[str]]:
    width = _COLUMNS_ON_A_PAGE
    lines = [line[at : at + width] for line in text.splitlines() for at in range(0, max(1, len(line)), width)] or [""]
    return [lines[at : at + _LINES_ON_A_PAGE] for at in range(0, len(lines), _LINES_ON_A_PAGE)]


def _pdf(text: str) -> bytes:
    """PDF 1.4 in Courier (ISO 32000-1, 7.5). Characters outside Latin-1 become question marks: no font is embedded."""
    objects: list[bytes] = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding >>")
    kids = []
    for page in _pdf_pages(text):
        safe = (line.translate({ord("\\"): "\\\\", ord("("): "\\(", ord(")"): "\\)"}) for line in page)
        drawn = "BT /F1 10 Tf 12 TL 40 790 Td " + " ".join(f"({line}) Tj T*" for line in safe) + " ET"
        stream = drawn.encode("latin-1", "replace")
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        font = b"<< /Font << /F1 3 0 R >> >>"
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources %s /Contents %d 0 R >>" % (font, len(objects))
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    return _pdf_file(objects)


def _pdf_file(objects: list[bytes]) -> bytes:
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size, start = len(objects) + 1, len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        size,
        table,
        size,
        start,
    )
    return bytes(out)


def _package(parts: Mapping[str, str]) -> bytes:
    """An Open Packaging Conventions file (ISO/IEC 29500-2). Entries have a fixed time, so that equal content is equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in parts.items():
            archive.writestr(zipfile.ZipInfo(name), '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>' + body)
    return buffer.getvalue()


def _office(main: str, content_type: str, parts: Mapping[str, str], overrides: str = "") -> bytes:
    schemas = "http://schemas.openxmlformats.org/"
    types = (
        f'<Types xmlns="{schemas}package/2006/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/{main}" ContentType="{content_type}"/>{overrides}</Types>'
    )
    relations = (
        f'<Relationships xmlns="{schemas}package/2006/relationships"><Relationship Id="r1" '
        f'Type="{schemas}officeDocument/2006/relationships/officeDocument" Target="{main}"/></Relationships>'
    )
    return _package({"[Content_Types].xml": types, "_rels/.rels": relations, **parts})


def _xml_text(text: str) -> str:
    """Escaped, without the control characters that XML 1.0 cannot hold."""
    return xml_escape("".join(one for one in text if one >= " " or one == "\t"))


def _docx(text: str) -> bytes:
    space = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    paragraphs = "".join(
        f'<w:p><w:r><w:t xml:space="preserve">{_xml_text(line)}</w:t></w:r></w:p>' for line in text.splitlines() or [""]
    )
    body = f'<w:document xmlns:w="{space}"><w:body>{paragraphs}</w:body></w:document>'
    return _office("word/document.xml", _OFFICE + "wordprocessingml.document.main+xml", {"word/document.xml": body})


def _rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def _csv(text: str) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(_rows(text))
    return out.getvalue().encode()


def _tsv(text: str) -> bytes:
    return "\r\n".join("\t".join(" ".join(cell.split()) for cell in row) for row in _rows(text)).encode()


def _xlsx(text: str) -> bytes:
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    rows = "".join(
        "<row>" + "".join(f'<c t="inlineStr"><is><t>{_xml_text(cell)}</t></is></c>' for cell in row) + "</row>"
        for row in _rows(text)
    )
    sheets = '<sheets><sheet name="Sheet1" sheetId="1" r:id="r1"/></sheets>'
    book = f'<workbook xmlns="{space}" xmlns:r="{relations}">{sheets}</workbook>'
    links = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        f'<Relationship Id="r1" Type="{relations}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>'
    )
    parts = {
        "xl/workbook.xml": book,
        "xl/_rels/workbook.xml.rels": links,
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{space}"><sheetData>{rows}</sheetData></worksheet>',
    }
    sheet = f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_OFFICE}spreadsheetml.worksheet+xml"/>'
    return _office("xl/workbook.xml", _OFFICE + "spreadsheetml.sheet.main+xml", parts, sheet)


def _svg(text: str) -> bytes:
    lines = "".join(f'<tspan x="10" dy="1.2em">{_xml_text(line)}</tspan>' for line in text.splitlines())
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="960" height="720"><text>{lines}</text></svg>'.encode()


_EXPORTS: Final[Mapping[str, Mapping[str, _Writer]]] = {
    _DOCS + "document": {
        "text/plain": _text,
        "text/html": _html,
        "application/pdf": _pdf,
        _OFFICE + "wordprocessingml.document": _docx,
    },
    _DOCS + "spreadsheet": {
        "text/csv": _csv,
        "text/tab-separated-values": _tsv,
        "application/pdf": _pdf,
        _OFFICE + "spreadsheetml.sheet": _xlsx,
    },
    _DOCS + "presentation": {"text/plain": _text, "application/pdf": _pdf},
    _DOCS + "drawing": {"image/svg+xml": _svg, "application/pdf": _pdf},
}
FORMATS: Final[Mapping[str, tuple[str, ...]]] = {source: tuple(made) for source, made in _EXPORTS.items()}


def targets(mime_type: str) -> tuple[str, ...]:
    """The types that items of a type can be exported to; none for items with bytes of their own."""
    return FORMATS.get(mime_type, ())


def export(mime_type: str, target: str, text: str) -> bytes:
    """A document's content in another format. KeyError where that is not on offer."""
    return _EXPORTS[mime_type][target](text)
