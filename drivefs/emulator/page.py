"""The operator's page at ``/``: what this Drive holds and what is asked of it, as one HTML page that needs no script.

Everything that came from outside is escaped, and the page's policy lets a browser load nothing and run nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sqlite3
from collections.abc import Callable, Iterable
from html import escape
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from drivefs.emulator.store import Store
from drivefs.emulator.values import FOLDER, format_time
from drivefs.emulator.wire import Traffic

__all__ = ["Page"]

_ROWS: Final = 200  # of each table; the rest is counted
_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; max-width: 84rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; }
caption { text-align: left; color: GrayText; padding-bottom: .25rem; }
th, td { text-align: left; padding: .3rem 1.5rem .3rem 0; vertical-align: top; overflow-wrap: anywhere;
  border-bottom: 1px solid color-mix(in srgb, currentColor 15%, transparent); }
th, .short { white-space: nowrap; }
th { font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:first-child { min-width: 12rem; }
.key { font: 12px/1.9 ui-monospace, monospace; white-space: nowrap; }
code { font: 13px ui-monospace, monospace; }
p.note { color: GrayText; margin: .25rem 0; }
"""
_KEY: Final = re.compile(r"[\w-]{19,44}", re.ASCII)
_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'"
)


def _size(count: int | None) -> str:
    if count is None:
        return ""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{count} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def _time(milliseconds: int) -> str:
    return format_time(milliseconds).replace("T", " ").partition(".")[0]


def _cell(value: Any) -> str:
    number = isinstance(value, int)
    # Invisible and direction-changing characters could make one name look like another.
    text = "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in str(value))
    if number:
        return f"<td class=number>{value:,}</td>"
    # Sizes and times, digests and ids stay on one line; names may be long.
    kind = " class=key" if _KEY.fullmatch(text) else " class=short" if len(text) < 32 and "/" not in text else ""
    return f"<td{kind}>{escape(text)}</td>"


def _table(title: str, heads: Iterable[str], rows: list[tuple[Any, ...]], total: int | None = None) -> str:
    """A section with one table; ``total`` where more rows exist than are shown."""
    if not rows:
        return f"<h2>{escape(title)}</h2><p class=note>None.</p>"
    caption = f"<caption>{len(rows):,} of {total:,}</caption>" if total is not None and total > len(rows) else ""
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<h2>{escape(title)}</h2><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class Page:
    """faults: what is in force, as data; it is shown as it comes."""

    def __init__(self, store: Store, traffic: Traffic, faults: Callable[[], Any] | None = None) -> None:
        self._store, self._traffic, self._faults = store, traffic, faults

    def routes(self) -> list[Route]:
        return [Route("/", self.show, methods=["GET"])]

    async def show(self, _request: Request) -> Response:
        parts = [self._summary(), self._files(), self._uploads(), self._requests(), self._faults_in_force(), self._people()]
        page = (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Embedded Drive</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>"
        )
        headers = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer", "cache-control": "no-store"}
        return Response(page, headers=headers, media_type="text/html; charset=utf-8")

    def _count(self, condition: str) -> int:
        return int(self._store.connection.execute(f"SELECT count(*) FROM items WHERE {condition}").fetchone()[0])

    def _summary(self) -> str:
        used, _ = self._store.usage()
        limit = _size(self._store.storage_limit) if self._store.storage_limit is not None else "no limit"
        return (
            f"<h1>Embedded Drive</h1><p>{self._count('NOT trashed AND parent IS NOT NULL'):,} items,"
            f" {self._count('trashed'):,} in the trash; {_size(used)} used of {limit}.</p>"
            "<p class=note>Reload to see what changed. The same as data: <code>/_emulator/tree</code>,"
            " <code>/_emulator/requests</code>, <code>/_emulator/faults</code>.</p>"
        )

    def _path(self, row: sqlite3.Row) -> str:
        names, here = [row["name"]], row["parent"]
        while here is not None and len(names) < 100:
            above = self._store.connection.execute("SELECT name, parent FROM items WHERE id = ?", (here,)).fetchone()
            if above is None or above["parent"] is None:
                break
            names.append(above["name"])
            here = above["parent"]
        return "/".join(reversed(names))

    def _files(self) -> str:
        """Those changed last. Names go in as they are, and are escaped when the table is written."""
        query = "SELECT * FROM items WHERE parent IS NOT NULL ORDER BY change DESC LIMIT ?"
        rows = [
            (
                self._path(row) + ("/" if row["mime_type"] == FOLDER else ""),
                _size(row["size"]),
                _time(row["modified_ms"]),
                "in the trash" if row["trashed"] else "",
                row["md5"] or "",
                row["id"],
            )
            for row in self._store.connection.execute(query, (_ROWS,))
        ]
        heads = ("Name", "Size", "Modified (UTC)", "State", "MD5", "Id")
        return _table("Files, last changed first", heads, rows, self._count("parent IS NOT NULL"))

    def _uploads(self) -> str:
        query = (
            "SELECT id, item, body, total, created_ms FROM sessions WHERE finished_item IS NULL ORDER BY created_ms DESC LIMIT ?"
        )
        rows = []
        for row in self._store.connection.execute(query, (_ROWS,)).fetchall():
            target = str(json.loads(row["body"]).get("name", row["item"] or "Untitled"))
            spool = self._store.content.uploads / row["id"]
            received = spool.stat().st_size if spool.exists() else 0
            rows.append((target, _size(received), _size(row["total"]) or "unknown", _time(row["created_ms"])))
        return _table("Uploads under way", ("File", "Received", "Of", "Begun (UTC)"), rows)

    def _requests(self) -> str:
        seen = self._traffic.snapshot()
        rows = sorted(seen["by_method"].items(), key=lambda one: (-one[1], one[0]))
        told = _table("Requests", ("Method", "Count"), rows)
        return f"{told}<p class=note>{_size(seen['bytes_in'])} received, {_size(seen['bytes_out'])} sent.</p>"

    def _faults_in_force(self) -> str:
        """One row per rule; whatever else is in force (latency, quota) below."""
        told = dict(self._faults()) if self._faults else {}
        rows = [
            (
                one["id"],
                one["source"],
                ", ".join(f"{name} = {value}" for name, value in one["rule"].items()),
                one["seen"],
                one["hits"],
            )
            for one in told.pop("rules", [])
        ]
        others = "; ".join(f"{name}: {value}" for name, value in told.items() if value not in (None, ""))
        return _table("Faults in force", ("Rule", "From", "Does", "Seen", "Hits"), rows) + f"<p class=note>{escape(others)}</p>"

    def _people(self) -> str:
        users = [(one.name, one.email, one.root_id) for one in self._store.users()]
        drives = [
            (row["name"], "shared drive", row["id"])
            for row in self._store.connection.execute("SELECT name, id FROM items WHERE id = drive ORDER BY name")
        ]
        return _table("Accounts and shared drives", ("Name", "Address", "Root"), users + drives)
