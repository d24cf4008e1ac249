"""The ASGI application: all routes over one store."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from drivefs.emulator.admin import Admin
from drivefs.emulator.batch import Batch
from drivefs.emulator.calls import Calls
from drivefs.emulator.errors import ApiError, PlainError, internal_error, not_routed, respond
from drivefs.emulator.faults.control import FaultControl
from drivefs.emulator.faults.setup import FaultOptions, fault_wire
from drivefs.emulator.legacy import Legacy
from drivefs.emulator.listing import natural_key
from drivefs.emulator.others import Others
from drivefs.emulator.page import Page
from drivefs.emulator.query import install_functions
from drivefs.emulator.sharing import Sharing
from drivefs.emulator.signin import SigningIn
from drivefs.emulator.store import Store
from drivefs.emulator.tokens import TOKEN_SECONDS
from drivefs.emulator.uploads import Uploads
from drivefs.emulator.wire import Traffic, Wire

__all__ = ["Emulator"]


class Emulator:
    """One emulated Drive behind an ASGI door (``wire``)."""

    def __init__(
        self,
        store: Store,
        tokens: frozenset[str] = frozenset(),
        faults: FaultOptions | None = None,
        token_seconds: int = TOKEN_SECONDS,
    ) -> None:
        install_functions(store.connection)
        store.connection.create_function("natural_key", 1, natural_key, deterministic=True)
        self.store = store
        self.traffic = Traffic()
        signing_in = SigningIn(store, self.traffic, tokens, token_seconds)
        gate = signing_in.gate
        calls = Calls(store, gate, self.traffic)
        self._uploads = Uploads(calls)
        admin = Admin(store, self.traffic, self._uploads.sessions, gate)
        batch = Batch(self.traffic)
        others, sharing, legacy = Others(store), Sharing(calls), Legacy(store)
        routes: list[BaseRoute] = [
            *calls.routes(),
            *self._uploads.routes(),
            *batch.routes(),
            *signing_in.routes(),
            *admin.routes(),
        ]
        routes += [*sharing.routes(), *others.routes(), *legacy.routes()]
        handlers = {ApiError: respond, PlainError: respond, 404: not_routed, 405: not_routed, Exception: internal_error}
        app = Starlette(routes=routes, exception_handlers=handlers)
        door = fault_wire(app, store, self.traffic, gate, self._uploads.sessions, faults or FaultOptions())
        faults_control = FaultControl(door)
        app.routes.extend([*faults_control.routes(), *Page(store, self.traffic, faults_control.describe).routes()])
        admin.on_reset = door.rewind
        batch.app, others.app, legacy.app = door, app, app
        self.faults, self.wire = door, Wire(door, self.traffic)

    def close(self) -> None:
        self._uploads.sessions.close()
        self.store.close()
