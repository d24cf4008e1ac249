"""Asking what may never answer: a mount whose server is gone, a daemon that is stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

__all__ = ["Patience"]

T = TypeVar("T")


class _Question(Generic[T]):
    def __init__(self, ask: Callable[[], T]) -> None:
        self.answer: list[T] = []
        # A daemon thread: one that never returns must not keep the interpreter from ending.
        self.thread = threading.Thread(target=lambda: self.answer.append(ask()), daemon=True)
        self.thread.start()


class Patience(Generic[T]):
    """Asks each question in a thread of its own and waits ``timeout`` seconds for all together.

    A question that still owes its answer from an earlier time is neither asked again nor waited for: else every look of a long
    life would leave one more thread behind. An answer that comes too late is thrown away as out of date.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._owed: dict[str, _Question[T]] = {}

    def ask(self, questions: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """The answers that came in time, by the questions' names."""
        self._owed = {name: question for name, question in self._owed.items() if question.thread.is_alive()}
        asked = {name: _Question(ask) for name, ask in questions.items() if name not in self._owed}
        deadline = time.monotonic() + self.timeout
        for question in asked.values():
            question.thread.join(max(0.0, deadline - time.monotonic()))
        answered = {name: question.answer[0] for name, question in asked.items() if question.answer}
        self._owed.update((name, question) for name, question in asked.items() if name not in answered)
        return answered
