"""The agent's small web server: the status page, JSON, Colab's report and Prometheus's metrics.

Of its own it does nothing but answer; ``Monitor`` looks at the box, ``Access`` decides who may ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from importlib import resources
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from drivefs_agent import colab, metrics
from drivefs_agent.access import Access, Keys
from drivefs_agent.monitor import Monitor, NotLooking

__all__ = ["CannotListen", "application", "listen", "serve"]

logger = logging.getLogger(__name__)

_MOST_CONNECTIONS: Final = 200
_MOST_WATCHERS: Final = 50
_PATIENCE: Final = 10.0  # seconds for a connection to say what it wants, and between two requests
_GRACE: Final = 2
_COLABS_PREFIX: Final = ")]}'\n"  # keeps the answer from being run as a script
_FILES: Final = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css"),
                 "/page.js": ("page.js", "text/javascript"), "/icon.svg": ("icon.svg", "image/svg+xml")}  # fmt: skip


class CannotListen(Exception):
    """A sentence for people."""


def application(monitor: Monitor, keys: Keys, hosts: Iterable[str] = ()) -> Access:
    """All routes, behind ``Access``."""
    routes = [Route(path, _page_file(name, kind, keys)) for path, (name, kind) in _FILES.items()]
    handlers: dict[str, Callable[[Request], Any]] = {
        "/api/specs": _specs, "/api/colab/resources": _colab, "/api/events": _events, "/metrics": _metrics, "/healthz": _healthz,
    }  # fmt: skip
    routes += [Route(path, handler) for path, handler in handlers.items()]
    app = Starlette(routes=routes, exception_handlers={NotLooking: _not_looking})
    app.state.monitor = monitor
    # Around the whole of it, and not among its middleware, so that no answer of its own escapes.
    return Access(app, keys, hosts)


def _page_file(name: str, kind: str, keys: Keys) -> Callable[[Request], Any]:
    content = resources.files("drivefs_agent").joinpath("page").joinpath(name).read_bytes()

    async def answer(request: Request) -> Response:
        response = Response(content, media_type=kind)
        if name == "index.html" and keys.fit_query(request.scope["query_string"]):
            # The page then takes the token out of the address bar, and goes on with this.
            response.set_cookie(keys.cookie_name, keys.cookie, httponly=True, samesite="strict", path="/")
        return response

    return answer


def _monitor(request: Request) -> Monitor:
    monitor: Monitor = request.app.state.monitor
    return monitor


async def _specs(request: Request) -> Response:
    look = await _monitor(request).fresh()
    return JSONResponse(look.specs.to_json())


async def _colab(request: Request) -> Response:
    look = await _monitor(request).fresh()
    return Response(_COLABS_PREFIX + json.dumps(colab.resources(look.specs)), media_type="application/json")


async def _metrics(request: Request) -> Response:
    look = await _monitor(request).fresh()
    return Response(metrics.render(look.specs, look.guard), headers={"Content-Type": metrics.CONTENT_TYPE})


async def _healthz(request: Request) -> Response:
    if _monitor(request).well:
        return PlainTextResponse("ok\n")
    return PlainTextResponse("No look at the box has come about lately. See the agent's log.\n", 503)


async def _events(request: Request) -> Response:
    monitor = _monitor(request)
    if monitor.watchers >= _MOST_WATCHERS:
        return PlainTextResponse("Too many pages are open. Close one.\n", 503)

    async def stream() -> AsyncIterator[bytes]:
        yield monitor.history_event()
        with contextlib.suppress(NotLooking):  # then the stream ends, and the page comes again
            async with contextlib.aclosing(monitor.watch()) as looks:
                async for look in looks:
                    yield look.event

    return StreamingResponse(stream(), media_type="text/event-stream")


async def _not_looking(_request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 503)


class _Connection(HttpToolsProtocol):
    """uvicorn's, with two limits it lacks: how many there may be, and how long one may take to say what it wants."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()
            return
        self._deadline = self.loop.call_later(_PATIENCE, transport.abort)

    def on_headers_complete(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._deadline = self.loop.call_later(_PATIENCE, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """Tells when it listens; lets the watchers go first when it ends, because they would stay for ever."""

    def __init__(self, config: uvicorn.Config, monitor: Monitor, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._monitor, self._ready = monitor, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._monitor.close()
        await super().shutdown(sockets)


def listen(bind: str, port: int) -> socket.socket:
    """A listening socket; port 0: any. CannotListen where that address is taken or not ours."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    try:
        return socket.create_server((bind, port), family=family, backlog=128)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotListen(f"Nobody can listen on {bind} port {port}: {reason}. Choose another --port or --bind.") from error


def serve(listener: socket.socket, monitor: Monitor, keys: Keys, hosts: Iterable[str], ready: Callable[[], None]) -> None:
    """Answer until SIGTERM or SIGINT. ``ready`` is called once questions are answered."""
    config = uvicorn.Config(
        application(monitor, keys, hosts),
        http=_Connection,
        ws="none",
        lifespan="off",
        access_log=False,  # addresses with tokens do not belong into logs
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(_PATIENCE),
        timeout_graceful_shutdown=_GRACE,
        loop="asyncio",
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn ends at either, and then sends the signal once more to whoever it found: being asked to end is no failure.
        signal.signal(number, lambda _number, _frame: None)
    asyncio.run(_serve(_Server(config, monitor, ready), listener, monitor))


async def _serve(server: _Server, listener: socket.socket, monitor: Monitor) -> None:
    looking = asyncio.create_task(monitor.run())
    try:
        await server.serve(sockets=[listener])
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
