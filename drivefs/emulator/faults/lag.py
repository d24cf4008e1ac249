"""Indexes that lag behind: what a listing, a search by property or the changes feed showed some time ago.

While a rule with a lag is in force, temporary triggers keep every item's former rows (an undo log, in memory). A statement then
reads ``items`` as of a moment in the past: rows changed since are replaced by the oldest image younger than that moment. What was
before the rule came into force cannot be told, so a lag never reaches further back than that. Get by id does not lag.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

from drivefs.emulator.faults.conditions import conditions

__all__ = ["feed", "feed_end", "forget", "keep_history", "listing"]

_PROPERTY_COLUMNS: Final = ("app_properties", "properties")
_RETAINED_MS: Final = 3600 * 1000


def _columns(connection: sqlite3.Connection) -> list[str]:
    return [row[1] for row in connection.execute("PRAGMA main.table_info(items)")]


def _kept(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_temp_master WHERE name = 'past'").fetchone() is not None


def keep_history(connection: sqlite3.Connection, clock: Callable[[], int], wanted: bool) -> None:
    """Begin to keep what items were, or stop and forget it."""
    if wanted == _kept(connection):
        return
    if not wanted:
        for kind in ("insert", "update", "delete"):
            connection.execute(f"DROP TRIGGER temp.past_{kind}")
        connection.execute("DROP TABLE temp.past")
        return
    connection.create_function("emulator_now", 0, clock)
    columns = _columns(connection)
    names, old = ", ".join(columns), ", ".join(f"OLD.{one}" for one in columns)
    connection.execute(
        f"CREATE TEMP TABLE past (entry INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER, existed INTEGER, {names})"
    )
    connection.execute("CREATE INDEX temp.past_id ON past(id, at_ms)")
    insert = f"INSERT INTO past (at_ms, existed, {names}) VALUES (emulator_now(), 1, {old})"
    for kind in ("update", "delete"):
        connection.execute(f"CREATE TEMP TRIGGER past_{kind} AFTER {kind} ON main.items BEGIN {insert}; END")
    connection.execute(
        "CREATE TEMP TRIGGER past_insert AFTER INSERT ON main.items BEGIN"
        " INSERT INTO past (at_ms, existed, id) VALUES (emulator_now(), 0, NEW.id); END"
    )


def forget(connection: sqlite3.Connection) -> None:
    """Nothing has been before."""
    if _kept(connection):
        connection.execute("DELETE FROM temp.past")


def _as_of(connection: sqlite3.Connection, moment_ms: int) -> str:
    """``items`` as of a moment, as a SELECT with the same columns."""
    names = ", ".join(_columns(connection))
    since = f"at_ms > {moment_ms}"
    return (
        f"SELECT {names} FROM main.items WHERE id NOT IN (SELECT id FROM temp.past WHERE {since})"
        f" UNION ALL SELECT {names} FROM temp.past AS one WHERE {since} AND existed AND NOT EXISTS"
        f" (SELECT 1 FROM temp.past AS older WHERE older.id = one.id AND older.{since} AND older.entry < one.entry)"
    )


def listing(connection: sqlite3.Connection, now_ms: int, statement: str) -> str:
    """A SELECT over ``items`` that serves files.list, as its indexes see it."""
    wrong = conditions()
    if not (wrong.listing_lag or wrong.property_lag) or not _kept(connection):
        return statement
    _drop_old(connection, now_ms)
    tables = []
    if wrong.property_lag:
        tables.append(f"property_index AS ({_as_of(connection, now_ms - wrong.property_lag)})")
        for column in _PROPERTY_COLUMNS:  # as compiled queries spell them; names and values of users are never in the text
            current, indexed = f"json_each(items.{column})", f"SELECT {column} FROM property_index WHERE id = items.id"
            statement = statement.replace(current, f"json_each(({indexed}))")
    if wrong.listing_lag:
        tables.append(f"items AS ({_as_of(connection, now_ms - wrong.listing_lag)})")
    return f"WITH {', '.join(tables)} {statement}"


def feed(connection: sqlite3.Connection, now_ms: int, statement: str) -> str:
    """A SELECT that serves changes.list, over items and what was removed, as far as the feed has come."""
    lag = conditions().changes_lag
    if not lag or not _kept(connection):
        return statement
    _drop_old(connection, now_ms)
    gone = [f"{one} AS (SELECT * FROM main.{one} WHERE change_ms <= {now_ms - lag})" for one in _removals(connection)]
    return f"WITH items AS ({_as_of(connection, now_ms - lag)}), {', '.join(gone)} {statement}"


def _removals(connection: sqlite3.Connection) -> list[str]:
    """The tables of what the feed reports as removed."""
    rows = connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table' AND name IN ('tombstones', 'losses')")
    return [row[0] for row in rows]


def feed_end(connection: sqlite3.Connection, now_ms: int, first: int, last: int) -> int:
    """The number of the change that will come next, as far as the feed has come. first, last: of this Drive so far."""
    if not conditions().changes_lag:
        return last + 1
    tables = ["items", *_removals(connection)]
    every = " UNION ALL ".join(f"SELECT change FROM {one}" for one in tables)
    known = connection.execute(feed(connection, now_ms, f"SELECT max(change) FROM ({every})")).fetchone()[0]
    return max(first, (known or 0) + 1)


def _drop_old(connection: sqlite3.Connection, now_ms: int) -> None:
    connection.execute("DELETE FROM temp.past WHERE at_ms < ?", (now_ms - _RETAINED_MS,))
