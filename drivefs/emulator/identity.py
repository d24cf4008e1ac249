"""From a request to its caller: which account a token stands for, and what else of a request decides what exists for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from starlette.requests import Request

from drivefs.emulator.caller import Caller, User, current, enter
from drivefs.emulator.store import Store

__all__ = ["FLAGGED", "IN_SCOPE", "carried_out_for", "dump_caller", "identify", "resume", "token_of"]

# For these, items of shared drives exist only with supportsAllDrives=true. The others do not know that parameter.
FLAGGED: Final = frozenset(
    {f"files.{verb}" for verb in ("get", "update", "copy", "create", "delete")}
    | {f"permissions.{verb}" for verb in ("list", "get", "create", "update", "delete")}
)
IN_SCOPE: Final = "emulator.user"  # set by /_emulator/as: on whose behalf the request is carried out, without a token


def carried_out_for(request: Request) -> bool:
    """The request is a control call's: neither counted nor asked for a token."""
    return IN_SCOPE in request.scope


def token_of(request: Request) -> str:
    """The bearer token, from the header or from the query; empty where there is none."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return request.query_params.get("access_token", "") or request.query_params.get("oauth_token", "")


def _user(store: Store, request: Request) -> User | None:
    if carried_out_for(request):
        user: User = request.scope[IN_SCOPE]
        return user
    query = "SELECT users.id, email, name, root_id FROM user_tokens JOIN users ON users.id = user WHERE token = ?"
    row = store.connection.execute(query, (token_of(request),)).fetchone()
    return None if row is None else User(*row)


def _flag(query: Mapping[str, str]) -> bool:
    return any(query.get(name, "").lower() == "true" for name in ("supportsAllDrives", "supportsTeamDrives"))


def identify(store: Store, request: Request, *, flagged: bool = True) -> None:
    """Make the request's account the caller. Its token must have been checked."""
    if not store.several:
        enter(Caller(base_url=str(request.base_url)))
        return
    keys = request.headers.get("x-goog-drive-resource-keys", "")
    enter(
        Caller(
            _user(store, request),
            not flagged or _flag(request.query_params),
            frozenset(one.strip() for one in keys.split(",") if one.strip()),
            str(request.base_url),
        )
    )


def dump_caller() -> str:
    """The caller, to be kept with an upload session: its requests bring no token."""
    caller = current()
    asker = {"user": caller.user.id if caller.user else None, "all_drives": caller.all_drives, "keys": sorted(caller.keys)}
    return json.dumps(asker | {"base_url": caller.base_url})


def resume(store: Store, dumped: str) -> None:
    """Make a kept caller the caller again."""
    kept = json.loads(dumped)
    user = store.user(kept["user"]) if kept.get("user") else None
    enter(Caller(user, kept.get("all_drives", True), frozenset(kept.get("keys", ())), kept.get("base_url", "")))
