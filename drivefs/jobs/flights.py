"""Single flight: work that several callers want is done once, in a task of its own, and its outcome goes to all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

__all__ = ["Flights"]

Key = TypeVar("Key")


class _Flight:
    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: Exception | None = None


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

    async def join(self, key: Key, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the work under ``key``, beginning it where it is not under way; raise what it raised."""
        flight = self._running.get(key)
        if flight is None:
            if self._nursery is None:
                raise RuntimeError("flights are not being served")
            flight = self._running[key] = _Flight()
            self._nursery.start_soon(self._fly, key, flight, work)
        await flight.done.wait()
        if flight.error is not None:
            raise flight.error

    async def _fly(self, key: Key, flight: _Flight, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - not swallowed: it is raised in every caller that waits
            flight.error = error
        finally:
            del self._running[key]
            flight.done.set()
