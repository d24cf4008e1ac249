"""Where faults happen: between the front door and the handlers, for every request but those of the control endpoints.

Order on each request: the rules decide; half the delay passes; what is to fail before being carried out fails; quotas are
charged; the handler runs, under the conditions that the rules ask for; the other half passes; the answer goes out, or what is
left of it.
A call within a batch meets only what does not concern its connection: refusals, conditions and quotas.

Costs nothing while nothing is in force: one look at ``quiet``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drivefs.emulator.connection import Connection, connection_of, disconnected, without_connection
from drivefs.emulator.faults import lag
from drivefs.emulator.faults.answers import Canned, canned
from drivefs.emulator.faults.body import Answer, Upload, keep_only, pause, peek, ranges_ignored
from drivefs.emulator.faults.book import Book, Plan
from drivefs.emulator.faults.conditions import NORMAL, Conditions, under
from drivefs.emulator.faults.naming import Call, call_of
from drivefs.emulator.faults.profile import DriveProfile
from drivefs.emulator.faults.quota import Quota
from drivefs.emulator.faults.rules import Effects, Rule, Status
from drivefs.emulator.faults.timing import Shaper, Spread, Timer
from drivefs.emulator.store import Store
from drivefs.emulator.wire import Traffic, is_control

__all__ = ["FaultWire", "Hooks", "bearer"]

_IN_BATCH: Final = "drivefs.in_batch"


@dataclass(frozen=True)
class Hooks:
    """What the wire needs of the rest. user: whose allowance a call takes.  expire: lets an access token end.

    drop_session: forgets a resumable upload.  names: of the item that a call is about, or of the file that a session is to make.
    """

    user: Callable[[Call], str]
    expire: Callable[[str], None]
    drop_session: Callable[[str], Awaitable[None]]
    names: Callable[[Call], tuple[str, ...]]


def _milliseconds(spread: Spread | None) -> int:
    return 0 if spread is None else round(spread.low * 1000)


def _conditions(effects: Effects) -> Conditions:
    return Conditions(
        listing_lag=_milliseconds(effects.listing_lag),
        changes_lag=_milliseconds(effects.changes_lag),
        property_lag=_milliseconds(effects.property_lag),
        full=bool(effects.quota_full),
    )


def bearer(call: Call) -> str:
    """The access token that a call brings, or nothing."""
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else call.query.get("access_token", "")


class FaultWire:
    """An ASGI application around the handlers."""

    def __init__(
        self,
        app: ASGIApp,
        store: Store,
        traffic: Traffic,
        book: Book,
        hooks: Hooks,
        *,
        quota: Quota | None = None,
        profile: DriveProfile | None = None,
        timer: Timer | None = None,
    ) -> None:
        self._app, self._store, self._traffic, self._hooks = app, store, traffic, hooks
        self.book, self.quota, self.profile = book, quota, profile
        self._timer = timer or Timer()
        self.rules_changed(None)

    @property
    def quiet(self) -> bool:
        return self.book.idle and self.quota is None and self.profile is None

    def rules_changed(self, scope: Scope | None) -> None:
        """Call when rules came or went: history is kept only while something lags, and going offline ends what is under way."""
        lags = self.book.any(lambda rule: rule.effects.listing_lag or rule.effects.changes_lag or rule.effects.property_lag)
        lag.keep_history(self._store.connection, self._store.clock, lags)
        self._peeks = self.book.any(lambda rule: rule.name is not None)
        connection = connection_of(scope) if scope is not None else None
        if connection is not None and self.book.any(_cuts_everything):
            for other in connection.others():
                other.reset()

    def rewind(self) -> None:
        """As at the start: for a Drive that was emptied."""
        self.book.rewind()
        lag.forget(self._store.connection)
        for one in (self.quota, self.profile):
            if one is not None:
                one.rewind()
        self.rules_changed(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.quiet or is_control(scope):
            with under(NORMAL):
                await self._app(scope, receive, send)
            return
        if self.book.refresh():
            self.rules_changed(scope)
        call = call_of(scope)
        names: tuple[str, ...] = ()
        if self._peeks:
            names, receive = await self._names(call, receive)
        plan = self.book.decide(call, names)
        if scope.get(_IN_BATCH):
            await self._plainly(scope, receive, send, call, plan)
        else:
            await self._fully({**scope, _IN_BATCH: True} if call.name == "batch" else scope, receive, send, call, plan)

    async def _names(self, call: Call, receive: Receive) -> tuple[tuple[str, ...], Receive]:
        stored = self._hooks.names(call)
        if call.verb in ("GET", "HEAD", "DELETE") or call.upload_id is not None:
            return stored, receive
        sent, receive = await peek(receive)
        return (*stored, *([sent] if sent is not None else [])), receive

    # --- a request of its own ---

    async def _fully(self, scope: Scope, receive: Receive, send: Send, call: Call, plan: Plan) -> None:
        effects, connection = plan.effects, connection_of(scope)
        assert connection is not None, "only connections of this server can be made to fail"
        if effects.offline == "hang":
            await disconnected(receive)
            return
        latency = self._latency(call, effects, connection) if effects.offline is None else 0.0
        await pause(self._timer, connection, latency / 2)
        if effects.offline == "reset" or effects.reset == "before":
            connection.reset()
            await disconnected(receive)
            return
        shaper = self._shaper(plan)
        answer = Answer(send, effects, connection, self._timer, hold=latency / 2, lines=shaper.down(connection) if shaper else [])
        refusal = await self._refusal(call, effects)
        if refusal is not None:
            await refusal.send(answer.send)
        else:
            await self._carry_out(scope, receive, answer, connection, call, plan)
        if effects.reset == "after":
            connection.reset()
        if effects.reset == "after" or answer.over:
            await disconnected(receive)

    async def _carry_out(
        self, scope: Scope, receive: Receive, answer: Answer, connection: Connection, call: Call, plan: Plan
    ) -> None:
        effects, kept = plan.effects, None
        if effects.ignore_range:
            scope = ranges_ignored(scope)
        if effects.keep_chunk is not None and call.name == "upload.chunk":
            scope, kept = keep_only(scope, call, effects.keep_chunk)
        shaper = self._shaper(plan)
        lines = shaper.up(connection) if shaper else []
        upload = Upload(receive, self._timer, kept=kept, cut=effects.cut_request, lines=lines)
        if kept == 0:  # the handler will see a question only, and answer before the chunk has been sent
            await upload.drain()
        unheard = _Unheard() if effects.reset == "after" or effects.answer is not None else None

        async def send(message: Message) -> None:
            if not upload.broken:
                await (unheard.send(message) if unheard else answer.send(message))

        try:
            with under(_conditions(effects)):
                await self._app(without_connection(scope), upload.receive, send)
        finally:
            if upload.broken:
                connection.reset()
                await disconnected(receive)
        if kept == 0:
            self._traffic.by_method.update({"upload.probe": -1, "upload.chunk": 1})  # for that is what was sent
        self._note_upload(call, upload.taken, unheard.status if unheard else answer.status)
        if effects.answer is not None and effects.reset is None:
            await canned(effects.answer).send(answer.send)

    def _latency(self, call: Call, effects: Effects, connection: Connection) -> float:
        if effects.latency is not None:
            return effects.latency.low
        return self.profile.latency(call, connection.served == 1) if self.profile else 0.0

    def _shaper(self, plan: Plan) -> Shaper | None:
        return plan.shaper or (self.profile.shaper if self.profile else None)

    # --- a call within a batch ---

    async def _plainly(self, scope: Scope, receive: Receive, send: Send, call: Call, plan: Plan) -> None:
        refusal = await self._refusal(call, plan.effects)
        if refusal is not None:
            await refusal.send(send)
            return
        unheard = _Unheard() if plan.effects.answer is not None else None
        with under(_conditions(plan.effects)):
            await self._app(scope, receive, unheard.send if unheard else send)
        if plan.effects.answer is not None:
            await canned(plan.effects.answer).send(send)

    # --- refusals and quotas ---

    async def _refusal(self, call: Call, effects: Effects) -> Canned | None:
        """The answer to a call that is not to be carried out. Counted like one that was."""
        refusal = await self._refused_by_rule(call, effects) or self._refused_by_quota(call)
        if refusal is not None:
            self._traffic.count(call.name, f"{call.verb} {call.route}")
        return refusal

    async def _refused_by_rule(self, call: Call, effects: Effects) -> Canned | None:
        if effects.token_expired:
            self._hooks.expire(bearer(call))
            return canned(Status(401, "authError"))
        if effects.session_gone is not None and call.upload_id is not None:
            await self._hooks.drop_session(call.upload_id)
            return canned(Status(effects.session_gone, body="text"))
        if effects.answer is not None and not effects.answer.applied:
            return canned(effects.answer)
        return None

    def _refused_by_quota(self, call: Call) -> Canned | None:
        if self.quota is None:
            return None
        user = self._hooks.user(call)
        if call.is_upload or call.name == "files.copy":
            refusal = self.quota.refuse_upload(user, self._announced(call))
            if refusal is not None:
                return refusal
        return self.quota.charge(call, user)

    def _announced(self, call: Call) -> int:
        """Bytes that the call is going to add, as far as it says."""
        if call.name == "files.copy":
            row = self._store.connection.execute("SELECT size FROM items WHERE id = ?", (call.file_id,)).fetchone()
            return row["size"] or 0 if row else 0
        length = call.headers.get("content-length", "")
        return int(length) if length.isdigit() else 0

    def _note_upload(self, call: Call, taken: int, status: int) -> None:
        if self.quota is None or not 200 <= status < 400:
            return
        if call.name == "files.copy":
            self.quota.uploaded(self._hooks.user(call), self._announced(call))
        elif call.is_upload and "upload.open" not in call.names:
            self.quota.uploaded(self._hooks.user(call), taken)


class _Unheard:
    """Takes an answer that the client will not get."""

    def __init__(self) -> None:
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]


def _cuts_everything(rule: Rule) -> bool:
    """Whether the rule is the plug being pulled: offline for all calls alike."""
    everywhere = (rule.method, rule.verb, rule.route, rule.name) == ("*", "*", "*", None)
    return rule.effects.offline == "reset" and everywhere and rule.probability >= 1.0 and rule.is_due(1)
