"""A rule: which calls it is about, which of those it strikes, and what it does to them. Parsed strictly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, Final

from drivefs.emulator.faults.naming import Call
from drivefs.emulator.faults.timing import Bandwidth, Spread

__all__ = ["RANDOM_PLACE", "Cut", "Effects", "Rule", "RuleError", "Stall", "Status", "parse_rule"]

RANDOM_PLACE: Final = -1  # of a flipped byte
_BODIES: Final = ("json", "details", "html", "text", "empty")


class RuleError(Exception):
    """A rule that cannot be used: one sentence, naming the key at fault."""


@dataclass(frozen=True, slots=True)
class Status:
    """An answer in place of the right one. code 0: the one that usually goes with the reason."""

    code: int = 0
    reason: str = ""
    message: str = ""
    body: str = "json"
    retry_after: str = ""
    applied: bool = False  # carry the request out all the same


@dataclass(frozen=True, slots=True)
class Cut:
    """End the answer after ``at`` bytes of its body. how: ``close`` (short of Content-Length) or ``reset``."""

    at: int
    how: str = "close"


@dataclass(frozen=True, slots=True)
class Stall:
    """Say nothing for so many seconds after ``at`` bytes of the answer's body."""

    seconds: float
    at: int = 0


@dataclass(frozen=True, slots=True)
class Effects:
    """What happens to a call; None = nothing of that kind."""

    latency: Spread | None = None
    bandwidth: Bandwidth | None = None
    answer: Status | None = None
    reset: str | None = None
    cut_request: int | None = None
    cut_response: Cut | None = None
    flip: int | None = None
    stall: Stall | None = None
    ignore_range: bool | None = None
    keep_chunk: int | None = None
    session_gone: int | None = None
    token_expired: bool | None = None
    listing_lag: Spread | None = None
    changes_lag: Spread | None = None
    property_lag: Spread | None = None
    quota_full: bool | None = None
    offline: str | None = None

    def concern(self, call: Call) -> bool:
        """Whether any of the effects can be seen on such a call: a rule strikes and counts only those."""
        particular = [
            (self.session_gone, call.upload_id is not None),
            (self.keep_chunk, call.name == "upload.chunk"),
            (self.ignore_range, "range" in call.headers),
            (self.listing_lag, call.name == "files.list"),
            (self.property_lag, call.name == "files.list"),
            (self.changes_lag, call.name in ("changes.list", "changes.getStartPageToken")),
        ]
        given = [shows for effect, shows in particular if effect is not None]
        return any(given) if given else True


@dataclass(frozen=True, slots=True)
class Rule:
    """Patterns are shell globs (fnmatch), upper and lower case distinguished. Counts are of matching calls, from 1."""

    spec: Mapping[str, Any]
    effects: Effects
    method: str = "*"
    verb: str = "*"
    route: str = "*"
    name: str | None = None
    nth: int | None = None
    every: int | None = None
    after: int = 0
    times: int | None = None
    probability: float = 1.0
    seed: int | None = None

    def matches(self, call: Call, names: tuple[str, ...]) -> bool:
        return (
            any(fnmatchcase(one, self.method) for one in call.names)
            and fnmatchcase(call.verb, self.verb)
            and (fnmatchcase(call.path, self.route) or call.route == self.route)
            and (self.name is None or any(fnmatchcase(one, self.name) for one in names))
            and self.effects.concern(call)
        )

    def is_due(self, count: int) -> bool:
        """Whether the ``count``-th matching call is one of those to strike, chance aside."""
        if self.nth is not None and count != self.nth:
            return False
        return count > self.after and (self.every is None or (count - self.after) % self.every == 0)


def _refuse(key: str, wanted: str) -> RuleError:
    return RuleError(f"{key!r} must be {wanted}.")


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _refuse(key, "a text")
    return value


def _flag(key: str, value: Any) -> bool:
    if value is not True:
        raise _refuse(key, "true, or absent")
    return True


def _whole(least: int, most: int = 1 << 50) -> Callable[[str, Any], int]:
    def parse(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _refuse(key, f"a whole number from {least} to {most}")
        return value

    return parse


def _number(key: str, value: Any, least: float = 0.0, most: float = 1e15) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise _refuse(key, f"a number from {least:g} to {most:g}")
    return float(value)


def _one_of(*words: str) -> Callable[[str, Any], str]:
    def parse(key: str, value: Any) -> str:
        if value not in words:
            raise _refuse(key, "one of " + ", ".join(words))
        return str(value)

    return parse


def _keys(key: str, value: Any, *, required: set[str], optional: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    if not isinstance(value, dict) or not required <= set(value) <= required | optional:
        raise _refuse(key, f"a table with {', '.join(sorted(required | optional))}")
    return value


def _spread(key: str, value: Any) -> Spread:
    if not isinstance(value, dict):
        return Spread.fixed(_number(key, value))
    if set(value) == {"uniform"} and isinstance(value["uniform"], list) and len(value["uniform"]) == 2:
        low, high = (_number(key, one) for one in value["uniform"])
        if low <= high:
            return Spread("uniform", low, high)
    if set(value) == {"median", "p90"}:
        median, p90 = _number(key, value["median"]), _number(key, value["p90"])
        if 0 < median < p90:
            return Spread.lognormal(median, p90)
    raise _refuse(key, "seconds, {uniform = [low, high]}, or {median = m, p90 = more}")


def _bandwidth(key: str, value: Any) -> Bandwidth:
    given = _keys(key, value, required=set(), optional={field.name for field in fields(Bandwidth)})
    if not given:
        raise _refuse(key, "a table with down, up, total_down or total_up, in bytes a second")
    return Bandwidth(**{name: _number(f"{key}.{name}", rate, 1.0) for name, rate in given.items()})


def _cut(key: str, value: Any) -> Cut:
    if not isinstance(value, dict):
        return Cut(_whole(0)(key, value))
    given = _keys(key, value, required={"at"}, optional={"how"})
    return Cut(_whole(0)(f"{key}.at", given["at"]), _one_of("close", "reset")(f"{key}.how", given.get("how", "close")))


def _stall(key: str, value: Any) -> Stall:
    if not isinstance(value, dict):
        return Stall(_number(key, value))
    given = _keys(key, value, required={"seconds"}, optional={"at"})
    return Stall(_number(f"{key}.seconds", given["seconds"]), _whole(0)(f"{key}.at", given.get("at", 0)))


def _flip(key: str, value: Any) -> int:
    return RANDOM_PLACE if value == "random" else _whole(0)(key, value)


_EFFECTS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "latency": _spread,
    "bandwidth": _bandwidth,
    "reset": _one_of("before", "after"),
    "cut_request": _whole(0),
    "cut_response": _cut,
    "flip": _flip,
    "stall": _stall,
    "ignore_range": _flag,
    "keep_chunk": _whole(0),
    "session_gone": _whole(404, 410),
    "token_expired": _flag,
    "listing_lag": _spread,
    "changes_lag": _spread,
    "property_lag": _spread,
    "quota_full": _flag,
    "offline": _one_of("reset", "hang"),
}
_MATCH: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "method": _text,
    "verb": _text,
    "route": _text,
    "name": _text,
    "nth": _whole(1),
    "every": _whole(1),
    "after": _whole(0),
    "times": _whole(1),
    "probability": lambda key, value: _number(key, value, 0.0, 1.0),
    "seed": _whole(-(1 << 50)),
}
_ANSWER: Final = {"status", "reason", "message", "body", "retry_after", "applied"}


def _answer(spec: Mapping[str, Any]) -> Status | None:
    if not _ANSWER & set(spec):
        return None
    if not {"status", "reason"} & set(spec):
        raise RuleError("An answer needs 'status' or 'reason'.")
    retry_after = spec.get("retry_after", "")
    if not isinstance(retry_after, str):
        retry_after = f"{_number('retry_after', retry_after):g}"
    return Status(
        code=_whole(200, 599)("status", spec["status"]) if "status" in spec else 0,
        reason=_text("reason", spec["reason"]) if "reason" in spec else "",
        message=_text("message", spec["message"]) if "message" in spec else "",
        body=_one_of(*_BODIES)("body", spec.get("body", "json")),
        retry_after=retry_after,
        applied=_flag("applied", spec["applied"]) if "applied" in spec else False,
    )


def parse_rule(spec: Any) -> Rule:
    """Raises RuleError."""
    if not isinstance(spec, dict):
        raise RuleError("A rule must be a table of keys and values.")
    if unknown := set(spec) - set(_EFFECTS) - set(_MATCH) - _ANSWER:
        raise RuleError(f"There is no key {min(unknown)!r} in rules; docs/emulator.md lists all.")
    effects = {key: parse(key, spec[key]) for key, parse in _EFFECTS.items() if key in spec}
    if (answer := _answer(spec)) is not None:
        effects["answer"] = answer
    if not effects:
        raise RuleError("A rule must do something, such as status = 503.")
    if effects.get("session_gone", 404) not in (404, 410):
        raise _refuse("session_gone", "404 or 410")
    return Rule(spec, Effects(**effects), **{key: parse(key, spec[key]) for key, parse in _MATCH.items() if key in spec})
