"""How many calls Drive grants, and what it says when they are used up.

Windows slide: the last 60 seconds, the last 24 hours. Google's own may begin anew on the minute, which is kinder.
Source: https://developers.google.com/workspace/drive/api/guides/limits
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from drivefs.emulator.errors import ApiError
from drivefs.emulator.faults.answers import PROJECT_NUMBER, Canned, error_info, from_error
from drivefs.emulator.faults.naming import Call

__all__ = ["MODELS", "UPLOAD_BYTES_PER_DAY", "Quota", "Window", "units"]

UPLOAD_BYTES_PER_DAY: Final = 750_000_000_000
_DAY: Final = 86_400.0
_MINUTE: Final = 60.0
_READ, _LIST, _DOWNLOAD, _EDIT, _OTHER = 5, 100, 200, 50, 5
_EDITS: Final = frozenset({"create", "update", "delete", "copy", "emptyTrash", "modifyLabels"})
_UNCHARGED: Final = ("batch", "http", "oauth2.", "discovery.")  # beginnings of names


def units(call: Call) -> int:
    """What a call costs since 2026."""
    action = call.name.rpartition(".")[2]
    if action in ("get_media", "export", "download"):
        return _DOWNLOAD
    if action == "list":
        return _LIST
    if action in _EDITS:
        return _EDIT
    return _READ if action == "get" else _OTHER


@dataclass(frozen=True, slots=True)
class Model:
    """Allowances a minute. cost: of one call."""

    metric: str
    limit_name: str
    per_user: int
    per_project: int
    cost: Callable[[Call], int]


MODELS: Final = {
    "units-2026": Model("Quota units", "Quota units per minute", 325_000, 1_000_000, units),
    "queries-12000": Model("Queries", "Queries per minute", 12_000, 12_000, lambda _call: 1),
}


@dataclass
class Window:
    """An amount that may be spent within any ``span`` seconds.

    Kept in slots of a sixtieth of the span: [time of the last spending, amount, time of the first]. A slot is forgotten whole,
    when its last spending has left the window, so nothing is forgotten early.
    """

    limit: float
    span: float
    now: Callable[[], float]
    _slots: deque[list[float]] = field(default_factory=deque)
    _used: float = 0.0

    @property
    def used(self) -> float:
        oldest = self.now() - self.span
        while self._slots and self._slots[0][0] <= oldest:
            self._used -= self._slots.popleft()[1]
        return self._used

    def has_room(self, amount: float) -> bool:
        return self.used + amount <= self.limit

    def spend(self, amount: float) -> None:
        now = self.now()
        if self._slots and now - self._slots[-1][2] < self.span / 60:
            self._slots[-1][0] = now
            self._slots[-1][1] += amount
        else:
            self._slots.append([now, amount, now])
        self._used += amount


class Quota:
    """Counts calls and bytes sent for each user and for the project. scale: multiplies the allowances of calls."""

    def __init__(self, model: Model | None, upload_bytes: float, now: Callable[[], float], *, scale: float = 1.0) -> None:
        self.model, self.upload_bytes, self._now, self._scale = model, upload_bytes, now, scale
        self.rewind()

    def rewind(self) -> None:
        model = self.model
        per_user = model.per_user * self._scale if model else 0.0
        self._users: defaultdict[str, Window] = defaultdict(lambda: Window(per_user, _MINUTE, self._now))
        self._project = Window(model.per_project * self._scale if model else 0.0, _MINUTE, self._now)
        self._uploads: defaultdict[str, Window] = defaultdict(lambda: Window(self.upload_bytes, _DAY, self._now))

    def charge(self, call: Call, user: str) -> Canned | None:
        """Take a call's cost; the refusal where there is not enough left. What is refused costs nothing."""
        if self.model is None or call.name.startswith(_UNCHARGED):
            return None
        cost, mine = self.model.cost(call), self._users[user]
        if not mine.has_room(cost):
            return self._exceeded(
                403, "PERMISSION_DENIED", "defaultPerMinutePerUser", mine, "1/min/{project}/{user}", " per user"
            )
        if not self._project.has_room(cost):
            return self._exceeded(429, "RESOURCE_EXHAUSTED", "defaultPerMinutePerProject", self._project, "1/min/{project}", "")
        mine.spend(cost)
        self._project.spend(cost)
        return None

    def _exceeded(self, status: int, word: str, limit: str, window: Window, unit: str, whose: str) -> Canned:
        assert self.model is not None
        message = (
            f"Quota exceeded for quota metric '{self.model.metric}' and limit '{self.model.limit_name}{whose}' of service "
            f"'drive.googleapis.com' for consumer 'project_number:{PROJECT_NUMBER}'."
        )
        details = error_info(
            "RATE_LIMIT_EXCEEDED",
            quota_limit=limit,
            quota_limit_value=f"{window.limit:.0f}",
            quota_metric="drive.googleapis.com/default",
            quota_unit=unit,
        )
        error = ApiError(status, "rateLimitExceeded", message, domain="usageLimits")
        return from_error(error, status=word, details=[details])

    def refuse_upload(self, user: str, size: int) -> Canned | None:
        """The refusal where the day's bytes are used up, or ``size`` more would be too many. Told by its message only."""
        window = self._uploads[user]
        if window.used < window.limit and window.has_room(size):
            return None
        return from_error(ApiError(403, "userRateLimitExceeded", "User rate limit exceeded.", domain="usageLimits"))

    def uploaded(self, user: str, size: int) -> None:
        self._uploads[user].spend(size)

    def describe(self) -> dict[str, Any]:
        """What was spent in the windows that end now."""
        return {
            "users": {user: window.used for user, window in self._users.items()},
            "project": self._project.used,
            "uploaded": {user: window.used for user, window in self._uploads.items()},
        }
