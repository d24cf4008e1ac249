"""files.list: a query, an order and a page, as one indexed SELECT.

Pages continue after the last item's sort keys, not after a count, so that items that come or go meanwhile neither hide nor
repeat others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from drivefs.emulator import access, drives, resources, scopes
from drivefs.emulator.errors import ApiError, bad_request, invalid_value
from drivefs.emulator.faults import lag
from drivefs.emulator.fields import apply, covers, sub
from drivefs.emulator.paging import Parameters, open_token, seal_token
from drivefs.emulator.query import compile_query
from drivefs.emulator.store import Store
from drivefs.emulator.values import FOLDER

__all__ = ["list_files", "natural_key"]

DEFAULT_FIELDS: Final = f"kind,incompleteSearch,nextPageToken,files({resources.DEFAULT_FILE})"

_SORT_KEYS: Final = {
    "createdTime": "created_ms",
    "folder": f"(mime_type <> '{FOLDER}')",
    "modifiedByMeTime": "modified_ms",
    "modifiedTime": "modified_ms",
    "name": "name_folded",
    "name_natural": "natural_key(name_folded)",
    "quotaBytesUsed": "quota_bytes",
    "recency": "max(modified_ms, created_ms, ifnull(viewed_ms, modified_ms))",
    "sharedWithMeTime": "0",
    "starred": "starred",
    "viewedByMeTime": "ifnull(viewed_ms, 0)",
}


_PARENT: Final = re.compile(r"\bin\s+parents\b")


class _Key(NamedTuple):
    sql: str
    descending: bool


def natural_key(name: str) -> str:
    """Sorts "part 2" before "part 10": every run of digits is preceded by its length."""
    return re.sub(r"\d+", lambda run: f"{len(run[0].lstrip('0') or '0'):06d}{run[0].lstrip('0') or '0'}", name)


def _order(text: str) -> list[_Key]:
    keys = []
    for one in text.split(",") if text.strip() else ():
        name, _, direction = one.strip().partition(" ")
        if name not in _SORT_KEYS or direction.strip() not in ("", "asc", "desc"):
            raise invalid_value("orderBy")
        keys.append(_Key(_SORT_KEYS[name], direction.strip() == "desc"))
    # Newest first, where nothing else decides; the order without orderBy is not promised anyway.
    return [*keys, _Key("seq", True)]


def _after(keys: list[_Key], position: list[Any]) -> tuple[str, list[Any]]:
    """The condition "sorts after ``position``"."""
    if len(position) != len(keys):
        raise invalid_value("pageToken")
    clauses: list[str] = []
    values: list[Any] = []
    for index, key in enumerate(keys):
        equal = [f"{one.sql} = ?" for one in keys[:index]]
        clauses.append("(" + " AND ".join([*equal, f"{key.sql} {'<' if key.descending else '>'} ?"]) + ")")
        values += position[: index + 1]
    return "(" + " OR ".join(clauses) + ")", values


def _check_corpora(store: Store, parameters: Parameters) -> tuple[str, list[Any]]:
    """The condition on whose items they are."""
    corpora, drive_id = parameters.text("corpora", "user"), parameters.text("driveId")
    if corpora not in ("user", "domain", "drive", "allDrives"):
        raise invalid_value("corpora")
    everywhere = parameters.boolean("includeItemsFromAllDrives") and parameters.boolean("supportsAllDrives")
    if corpora in ("drive", "allDrives") and not everywhere:
        raise ApiError(
            403, "teamDrivesNotSupported", "supportsAllDrives and includeItemsFromAllDrives must be true.", location="corpora"
        )
    if (corpora == "drive") != bool(drive_id):
        raise bad_request("corpora=drive and driveId go together.", location="driveId", reason="invalid")
    if drive_id:
        drives.find(store, drive_id)
    return access.visible(store, drives=everywhere, drive_id=drive_id)


def _empty_page(store: Store) -> bool:
    """Whether this page is one of those that are empty although more follows."""
    store.pages += 1
    every = store.settings.empty_page_every
    return every > 0 and store.pages % every == 0


def _spaces(parameters: Parameters) -> set[str]:
    spaces = set(parameters.id_list("spaces")) or {"drive"}
    if spaces - {"drive", "appDataFolder"}:
        raise invalid_value("spaces")
    return spaces


def _conditions(store: Store, parameters: Parameters) -> Iterator[tuple[str, list[Any]]]:
    yield "id <> ?", [store.root_id]  # a listing never shows the root
    if "drive" not in _spaces(parameters):
        yield "0", []
    yield _check_corpora(store, parameters)
    yield scopes.confinement()
    if store.several:
        yield "items.id IS NOT items.drive", []  # nor those of shared drives
    if query := parameters.text("q").strip():
        compiled = compile_query(query, store.me, store.settings.query_terms)
        yield compiled.sql, list(compiled.parameters)
        if store.settings.empty_multi_parent and len(_PARENT.findall(query)) > 1:
            yield "0", []


def list_files(store: Store, parameters: Parameters) -> dict[str, Any]:
    """The answer to files.list."""
    mask = parameters.mask("FileList", DEFAULT_FIELDS)
    size = parameters.page_size(100, 1000, with_parents=covers(mask, "files", "parents"))
    keys = _order(parameters.text("orderBy"))
    conditions = list(_conditions(store, parameters))
    if token := parameters.text("pageToken"):
        position = open_token(store, "files.list", parameters, token)
        conditions += [_after(keys, position)] if position else []  # none: the first page was empty
    where = " AND ".join(sql for sql, _ in conditions)
    values = [value for _, some in conditions for value in some]
    order = ", ".join(f"{key.sql}{' DESC' if key.descending else ''}" for key in keys)
    columns = ", ".join(["items.*", *(f"{key.sql} AS key_{index}" for index, key in enumerate(keys))])
    select = f"SELECT {columns} FROM items WHERE {where} ORDER BY {order} LIMIT ?"
    rows = store.connection.execute(lag.listing(store.connection, store.clock(), select), (*values, size + 1)).fetchall()
    if rows and _empty_page(store):
        given = open_token(store, "files.list", parameters, token) if token else []
        empty: dict[str, Any] = apply({"nextPageToken": seal_token(store, "files.list", parameters, given), "files": []}, mask)
        return empty
    answer: dict[str, Any] = {}
    if len(rows) > size and sub(mask, "nextPageToken") is not None:
        position = [rows[size - 1][f"key_{index}"] for index in range(len(keys))]
        answer["nextPageToken"] = seal_token(store, "files.list", parameters, position)
    if sub(mask, "kind") is not None:
        answer["kind"] = "drive#fileList"
    if sub(mask, "incompleteSearch") is not None:
        everywhere = parameters.text("corpora") == "allDrives"
        answer["incompleteSearch"] = everywhere and bool(store.settings.incomplete_search)
    if (files_mask := sub(mask, "files")) is not None:
        answer["files"] = list(map(resources.builder(store, files_mask), rows[:size]))
    return answer
