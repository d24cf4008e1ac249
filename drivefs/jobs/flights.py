"""Single flight: work that several callers want is done once, in a task of its own, and its outcome goes to all of them.

A caller waits as long as the work gets on (jobs/patience.py); the work goes on for the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from drivefs.jobs.patience import for_nobody, waiting
from drivefs.remote.caller import TROUBLE

__all__ = ["Flights"]

Key = TypeVar("Key")


class _Flight:
    __slots__ = ("done", "error", "news", "trouble")

    def __init__(self) -> None:
        self.done = False
        self.error: Exception | None = None
        # The last failure of a call that is being repeated; progress makes it a thing of the past.
        self.trouble: Exception | None = None
        self.news = trio.lowlevel.ParkingLot()

    def moved(self) -> None:
        self.trouble = None
        self.news.unpark_all()

    def met(self, trouble: Exception) -> None:
        self.trouble = trouble


class Flights(Generic[Key]):
    """Running work by key. A caller that is cancelled leaves; the work goes on for the others."""

    def __init__(self) -> None:
        self._running: dict[Key, _Flight] = {}
        self._nursery: trio.Nursery | None = None

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Owns the tasks; run it in a nursery for as long as ``join`` may be called."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def join(self, key: Key, what: str, work: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        """Wait for the work under ``key``, beginning it where it is not under way; raise what it raised.

        what: a word for people.  ``work`` is given a function to call at each progress. Raises as ``patience.waiting`` does.
        """
        flight = self._running.get(key)
        if flight is None:
            if self._nursery is None:
                raise RuntimeError("flights are not being served")
            flight = self._running[key] = _Flight()
            self._nursery.start_soon(self._fly, key, flight, work)
        with waiting(what, lambda: flight.trouble) as moved:
            while not flight.done:
                await flight.news.park()
                moved()
        if flight.error is not None:
            raise flight.error

    async def _fly(self, key: Key, flight: _Flight, work: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        for_nobody()
        TROUBLE.set(flight.met)
        try:
            await work(flight.moved)
        except Exception as error:  # noqa: BLE001 - not swallowed: it is raised in every caller that waits
            flight.error = error
        finally:
            del self._running[key]
            flight.done = True
            flight.news.unpark_all()
