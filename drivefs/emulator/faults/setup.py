"""Puts the parts together: what the command line asks for, over one Drive."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from drivefs.emulator.auth import Gate
from drivefs.emulator.errors import PlainError
from drivefs.emulator.faults.book import Book
from drivefs.emulator.faults.naming import Call
from drivefs.emulator.faults.profile import DriveProfile
from drivefs.emulator.faults.quota import MODELS, UPLOAD_BYTES_PER_DAY, Quota
from drivefs.emulator.faults.timing import Timer
from drivefs.emulator.faults.wire import FaultWire, Hooks, bearer
from drivefs.emulator.sessions import Sessions
from drivefs.emulator.store import Store
from drivefs.emulator.wire import Traffic

__all__ = ["FaultOptions", "fault_wire"]


@dataclass(frozen=True, slots=True)
class FaultOptions:
    """file: rules, read again when it changes.  latency: ``none`` or ``drive``.  quota: ``none`` or a key of ``MODELS``.

    quota_scale: multiplies its allowances.  upload_limit: bytes in 24 hours; None = 750 GB where there is a quota, else none.
    """

    file: Path | None = None
    seed: int = 0
    latency: str = "none"
    quota: str = "none"
    quota_scale: float = 1.0
    upload_limit: int | None = None

    def make_quota(self, timer: Timer) -> Quota | None:
        if self.quota == "none" and self.upload_limit is None:
            return None
        most = UPLOAD_BYTES_PER_DAY * self.quota_scale if self.upload_limit is None else self.upload_limit
        return Quota(MODELS.get(self.quota), most, timer.now, scale=self.quota_scale)


def fault_wire(app: ASGIApp, store: Store, traffic: Traffic, gate: Gate, sessions: Sessions, options: FaultOptions) -> FaultWire:
    """Raises RuleError for a file of rules that cannot be used."""
    timer = Timer()
    book = Book(options.file, options.seed, now=timer.now)
    profile = DriveProfile(options.seed, timer) if options.latency == "drive" else None

    async def drop_session(upload_id: str) -> None:
        try:
            session = sessions.find(upload_id)
        except PlainError:
            return  # it was gone before
        await sessions.cancel(session)

    hooks = Hooks(
        user=lambda call: _user(store, call),
        expire=gate.expire,
        drop_session=drop_session,
        names=lambda call: _names(store, call),
    )
    return FaultWire(app, store, traffic, book, hooks, quota=options.make_quota(timer), profile=profile, timer=timer)


def _user(store: Store, call: Call) -> str:
    """The account whose token a call brings. Requests of upload sessions may bring none: then the main one."""
    row = store.connection.execute("SELECT user FROM user_tokens WHERE token = ?", (bearer(call),)).fetchone()
    return str(row["user"]) if row else "me"


def _names(store: Store, call: Call) -> tuple[str, ...]:
    """What the file is called that a call is about, or the one that an upload session is to make."""
    item = call.file_id
    body = None
    if call.upload_id is not None:
        row = store.connection.execute("SELECT item, body FROM sessions WHERE id = ?", (call.upload_id,)).fetchone()
        if row is not None:
            item, body = row
    found = store.connection.execute("SELECT name FROM items WHERE id = ?", (item,)).fetchone()
    named = json.loads(body).get("name") if body else None
    return (*((found["name"],) if found else ()), *((named,) if isinstance(named, str) else ()))
