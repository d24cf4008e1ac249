"""Looks at the box for everybody who asks, so that ten watchers cost what one does.

Once a second while somebody watches, else every 15 s to keep the curves; a single question gets a look that is at most a second
old. All of it runs on one asyncio loop; the looks themselves, which may block for a second or two, run in one thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from drivefs_agent.history import History
from drivefs_agent.inventory import Sampler, Specs
from drivefs_agent.state import State, StateError
from drivefs_agent.view import event, history_event

__all__ = ["Look", "Monitor", "NotLooking"]

logger = logging.getLogger(__name__)

_ANSWER: Final = 10.0  # seconds after which a look is taken to hang
_HISTORY: Final = 600


class NotLooking(Exception):
    """No look came about in time. Text: a sentence."""


@dataclass(frozen=True, slots=True)
class Look:
    """specs, and what the page is sent of it. at: by the monotonic clock."""

    specs: Specs
    guard: dict[str, object]
    event: bytes
    at: float


class Monitor:
    """``run`` it once; then ask it. ``watched`` and ``quiet``: seconds between looks with and without watchers."""

    def __init__(
        self, state: State, *, sampler: Callable[[], Sampler] = Sampler, watched: float = 1.0, quiet: float = 15.0
    ) -> None:
        self._state = state
        self._sampler = sampler
        self._watched, self._quiet = watched, quiet
        self._watchers = 0
        self._wanted = asyncio.Event()
        self._next: asyncio.Future[Look] | None = None
        self._history = History(_HISTORY)
        self._closed = False
        self.latest: Look | None = None
        self._begun = time.monotonic()

    @property
    def watchers(self) -> int:
        return self._watchers

    def history_event(self) -> bytes:
        """The last ten minutes, for a watcher that comes."""
        return history_event(self._history)

    @property
    def well(self) -> bool:
        """Whether looks still come about; the first is given the same time as the others."""
        last = self._begun if self.latest is None else self.latest.at
        return time.monotonic() - last < self._quiet + _ANSWER

    async def run(self) -> None:
        """Look until cancelled or closed."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "sampler") as thread, self._sampler() as sampler:
            while not self._closed:
                try:
                    specs = await loop.run_in_executor(thread, sampler.sample)
                    await self._publish(specs)
                except asyncio.CancelledError:
                    raise
                except Exception:  # the box is stranger than we knew: say so, and go on for what may come later
                    logger.exception("a look at the box failed")
                await self._pause()

    async def _publish(self, specs: Specs) -> None:
        guard = _session(self._state)
        self._history.add(specs)
        self.latest = Look(specs, guard, event(specs, guard), time.monotonic())
        if self._next is not None and not self._next.done():
            self._next.set_result(self.latest)
        self._next = None

    async def _pause(self) -> None:
        """Until the next look is due; sooner where somebody asks, but never more often than watchers are served."""
        self._wanted.clear()
        if self._next is None and not self._watchers:
            try:
                await asyncio.wait_for(self._wanted.wait(), max(0.0, self._quiet - self._watched))
            except asyncio.TimeoutError:
                return
        if self.latest is not None:
            await asyncio.sleep(max(0.0, self.latest.at + self._watched - time.monotonic()))
        else:
            await asyncio.sleep(self._watched)

    async def fresh(self) -> Look:
        """A look that is not older than what watchers get. NotLooking where none comes about."""
        if self.latest is not None and time.monotonic() - self.latest.at < self._watched:
            return self.latest
        return await self._coming()

    async def watch(self) -> AsyncGenerator[Look, None]:
        """Every look from now on; a reader who is slow misses some."""
        self._watchers += 1
        try:
            if self.latest is not None:
                yield self.latest
            while not self._closed:
                yield await self._coming()
        finally:
            self._watchers -= 1

    async def _coming(self) -> Look:
        if self._closed:
            raise NotLooking("The agent is ending.")
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        self._wanted.set()
        try:
            return await asyncio.wait_for(asyncio.shield(self._next), _ANSWER + self._watched)
        except asyncio.TimeoutError:
            raise NotLooking("No look at the box came about in time. See the agent's log.") from None

    def close(self) -> None:
        """End all watching, so that their connections end."""
        self._closed = True
        if self._next is not None and not self._next.done():
            self._next.set_exception(NotLooking("The agent is ending."))
            self._next.exception()  # nobody may wait: then it is no error that went unseen
        self._wanted.set()


def _session(state: State) -> dict[str, object]:
    """What the guard and the person in front of it have told."""
    try:
        session, report = state.session(), state.report()
    except StateError as error:
        return {"error": str(error), "hold_until": None, "lease_end": None, "report": None}
    return {"error": None, "hold_until": session.hold_until, "lease_end": session.lease_end, "report": report}
