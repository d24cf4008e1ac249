"""Control endpoints for everything that one account cannot do to itself: other people, limits, and a full Drive at once.

``/_emulator/as/{email}/...`` carries out any call of the API as that user ("me" is the main account), without a token and without
being counted: what somebody else, or the same account on another device, does meanwhile.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from drivefs.emulator import bulk
from drivefs.emulator.caller import User
from drivefs.emulator.calls import read_body
from drivefs.emulator.errors import ApiError, bad_request, not_found
from drivefs.emulator.identity import IN_SCOPE
from drivefs.emulator.metadata import parse_json
from drivefs.emulator.store import Store
from drivefs.emulator.values import FOLDER

__all__ = ["Others", "add_user"]

_ROUTING: Final = ("path_params", "endpoint", "router", "root_path", "app_root_path")  # found out anew for the call that is meant


def add_user(store: Store, email: str, name: str) -> tuple[User, str]:
    """A new account with an empty My Drive, and an access token for it. The token needs no listing and does not expire."""
    user_id = str(secrets.randbelow(9 * 10**19) + 10**19)
    user = User(user_id, email, name, "0A" + secrets.token_urlsafe(12) + "PVA")
    token, now = f"ya29.user-{secrets.token_urlsafe(24)}", store.clock()
    with store.transaction():
        query = "INSERT INTO users (id, email, name, root_id) VALUES (?, ?, ?, ?)"
        store.connection.execute(query, (user.id, email, name, user.root_id))
        store.connection.execute("INSERT INTO user_tokens (token, user) VALUES (?, ?)", (token, user.id))
        store.connection.execute(
            "INSERT INTO items (id, name, name_folded, mime_type, created_ms, modified_ms, owner, modified_by)"
            " VALUES (?, 'My Drive', 'my drive', ?, ?, ?, ?, ?)",
            (user.root_id, FOLDER, now, now, user.id, user.id),
        )
    store.look_around()
    return user, token


class Others:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.app: ASGIApp | None = None  # answers the calls made on behalf of users; set once it exists

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/_emulator/users", self.list_users, methods=["GET"]),
            Route("/_emulator/users", self.create_user, methods=["POST"]),
            Route("/_emulator/as/{email}/{path:path}", self.carry_out),
            Route("/_emulator/settings", self.settings, methods=["GET", "POST"]),
            Route("/_emulator/fill", self.fill, methods=["POST"]),
            Route("/_emulator/items/{file_id}/resource-key", self.resource_key, methods=["POST"]),
        ]

    def _described(self, user: User) -> dict[str, str]:
        return {"email": user.email, "name": user.name, "permissionId": user.id, "root_id": user.root_id}

    async def list_users(self, _request: Request) -> Response:
        """The main account first."""
        return JSONResponse([self._described(user) for user in self._store.users()])

    async def create_user(self, request: Request) -> Response:
        """``{"email": ..., "name": ...}`` → the account and its ``token``."""
        body = parse_json(await read_body(request))
        email, name = body.get("email"), body.get("name", "")
        if not isinstance(email, str) or email.count("@") != 1 or not isinstance(name, str):
            raise bad_request('Send {"email": "someone@example.com", "name": "Some One"}.', location="email")
        email = email.casefold()
        if any(user.email == email for user in self._store.users()):
            raise ApiError(409, "duplicate", f"There is an account {email} already.", location="email")
        user, token = add_user(self._store, email, name or email.partition("@")[0])
        return JSONResponse(self._described(user) | {"token": token})

    def _named(self, email: str) -> User:
        for user in self._store.users():
            if email.casefold() == user.email or (email == "me" and user.owner is None):
                return user
        raise not_found(email, "Account", "email")

    @property
    def carry_out(self) -> ASGIApp:
        """Any call, as somebody."""
        return _OnBehalf(self)

    def on_behalf(self, scope: Scope) -> Scope:
        """The scope of the call that is meant."""
        user, path = self._named(scope["path_params"]["email"]), "/" + scope["path_params"]["path"]
        if path.startswith("/_emulator"):
            raise bad_request("Only calls of the API are made on behalf of somebody.", location="path")
        kept = {
            name: value
            for name, value in scope.items()
            if name not in ("path_params", "endpoint", "router", "root_path", "app_root_path")
        }
        return kept | {"path": path, "raw_path": path.encode(), IN_SCOPE: user}

    async def settings(self, request: Request) -> Response:
        """GET: all of them. POST: change those that are sent."""
        if request.method == "POST":
            try:
                self._store.settings = self._store.settings.changed(parse_json(await read_body(request)))
            except ValueError as error:
                raise bad_request(str(error)) from None
        return JSONResponse(self._store.settings.as_dict())

    async def fill(self, request: Request) -> Response:
        """``{"folders": n, "files_per_folder": m, "size": bytes}``: so many folders in My Drive, each with so many files."""
        body: dict[str, Any] = {"folders": 1, "files_per_folder": 1000, "size": 0} | parse_json(await read_body(request))
        numbers = [body[name] for name in ("folders", "files_per_folder", "size")]
        if len(body) > 3 or any(not isinstance(one, int) or isinstance(one, bool) or one < 0 for one in numbers):
            raise bad_request('Send {"folders": 10, "files_per_folder": 1000, "size": 0}, whole numbers all.')
        return JSONResponse(await bulk.fill(self._store, *numbers))

    async def resource_key(self, request: Request) -> Response:
        """Protect an item's link with a key from now on. Returns the key."""
        key = f"0-{secrets.token_urlsafe(16)}"
        query = "UPDATE items SET resource_key = ? WHERE id = ?"
        if self._store.connection.execute(query, (key, request.path_params["file_id"])).rowcount == 0:
            raise not_found(request.path_params["file_id"])
        return JSONResponse({"resourceKey": key})


class _OnBehalf:
    def __init__(self, others: Others) -> None:
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._others.app is not None
        await self._others.app(self._others.on_behalf(scope), receive, send)
