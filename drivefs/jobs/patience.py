"""Waiting with a bound: a program's call gives up after so many seconds without progress, and leaves when its caller is to end.

What is waited for goes on, because others may wait for it too. Only here does an operation of the file system end before its
time, so that whatever does not call ``waiting`` is done whole or not at all. Who works for nobody in particular (uploads, a task
that serves all who wait) has no bound here: the calls to Drive have their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, Final, Protocol

import trio

from drivefs.base.errors import DriveFSError, Interrupted, TimedOut

__all__ = ["Operation", "Wait", "Waits", "allow", "begin", "end", "for_nobody", "waiting"]

_WORTH_TELLING: Final = 1.0  # seconds


class Operation(Protocol):
    """A program's call while it is being answered. name: as in ``read``.  timeout: seconds without progress that it may wait."""

    @property
    def name(self) -> str: ...

    timeout: float

    @property
    def waits(self) -> Waits:
        """Where its waiting is noted."""
        ...

    def subject(self) -> str:
        """The path that the call is about."""
        ...

    def asked_to_end(self) -> bool:
        """Whether its caller was sent a signal that ends it. Called from a thread."""
        ...


class Wait:
    """One operation that waits for ``what`` since ``since`` (trio's time)."""

    __slots__ = ("interrupted", "operation", "scope", "since", "timeout", "what")

    def __init__(self, operation: Operation, what: str, timeout: float) -> None:
        self.operation = operation
        self.timeout = timeout
        self.what = what
        self.since = trio.current_time()
        self.interrupted = False
        self.scope = trio.CancelScope(deadline=self.since + self.timeout)

    def moved(self) -> None:
        """What is waited for has come nearer: the time begins anew."""
        self.scope.deadline = trio.current_time() + self.timeout

    def interrupt(self) -> None:
        self.interrupted = True
        self.scope.cancel()


class Waits:
    """Everybody who waits. timeout: seconds without progress after which an operation gives up."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._open: dict[Wait, None] = {}
        self._begun = trio.Event()

    def add(self, wait: Wait) -> None:
        self._open[wait] = None
        self._begun.set()

    def remove(self, wait: Wait) -> None:
        del self._open[wait]

    async def any(self) -> None:
        """Return when somebody waits."""
        while not self._open:
            self._begun = trio.Event()
            await self._begun.wait()

    def longer_than(self, seconds: float) -> list[Wait]:
        """Those who wait for more than ``seconds``, the longest first."""
        now = trio.current_time()
        return [wait for wait in self._open if now - wait.since > seconds]

    def described(self) -> list[dict[str, Any]]:
        """Those who wait for more than a second, as plain JSON values: operation, path, seconds, what."""
        now = trio.current_time()
        return [
            {"operation": wait.operation.name, "path": wait.operation.subject(), "seconds": now - wait.since, "what": wait.what}
            for wait in self.longer_than(_WORTH_TELLING)
        ]


_SERVED: Final[ContextVar[Operation | None]] = ContextVar("_SERVED", default=None)


def begin(operation: Operation) -> Token[Operation | None]:
    """This task serves ``operation`` until ``end``."""
    return _SERVED.set(operation)


def end(token: Token[Operation | None]) -> None:
    _SERVED.reset(token)


def allow(seconds: float) -> None:
    """The operation that this task serves may wait for so long."""
    operation = _SERVED.get()
    if operation is not None:
        operation.timeout = seconds


def for_nobody() -> None:
    """This task was begun while an operation was served, and goes on for all who will want what it does."""
    _SERVED.set(None)


@contextmanager
def waiting(
    what: str, trouble: Callable[[], Exception | None] = lambda: None, *, bounded: bool = True
) -> Iterator[Callable[[], None]]:
    """The body waits for ``what`` on behalf of the operation that this task serves; call what it yields at each progress.

    Raises Interrupted where the operation's caller is to end, and TimedOut where nothing has moved for the time that it may wait:
    with text and errno of what ``trouble`` gives, where Drive has said something. Without an operation the body waits as long as
    it likes.  bounded: False where the body has a bound of its own.
    """
    operation = _SERVED.get()
    if operation is None:
        yield lambda: None
        return
    wait = Wait(operation, what, operation.timeout if bounded else math.inf)
    waits = operation.waits
    waits.add(wait)
    try:
        with wait.scope:
            yield wait.moved
    finally:
        waits.remove(wait)
    if wait.scope.cancelled_caught:
        if wait.interrupted:
            raise Interrupted("The program was asked to end while it waited. Run it again.")
        raise _timed_out(wait, trouble())


def _timed_out(wait: Wait, trouble: Exception | None) -> TimedOut:
    if trouble is None:
        return TimedOut(
            f"Drive sent nothing for {wait.timeout:.3g} s ({wait.what}). Check the network connection, then try again."
        )
    error = TimedOut(str(trouble))
    error.errno = trouble.errno if isinstance(trouble, DriveFSError) else error.errno
    return error
