"""The rules in force: those of a file, read again whenever it changes, then those that were posted.

Each rule counts for itself and draws from a generator of its own, seeded with the seed and the rule's place. So what happens to
the n-th call that a rule matches depends on nothing else: neither on other rules nor on calls that it does not match.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from drivefs.emulator.faults.naming import Call
from drivefs.emulator.faults.rules import RANDOM_PLACE, Effects, Rule, RuleError, parse_rule
from drivefs.emulator.faults.timing import Shaper, Spread

__all__ = ["NOTHING", "Book", "Plan", "parse_rules"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to one call, every draw made."""

    effects: Effects = field(default_factory=Effects)
    shaper: Shaper | None = None


NOTHING = Plan()


@dataclass
class _Live:
    """A rule and what became of it. seen: calls that matched.  hits: those that it struck."""

    id: str
    rule: Rule
    rng: random.Random
    shaper: Shaper | None
    seen: int = 0
    hits: int = 0

    def strikes(self) -> bool:
        """Count one matching call. The generator is asked each time, so that chance does not hang on the other conditions."""
        self.seen += 1
        lucky = self.rule.probability >= 1.0 or self.rng.random() < self.rule.probability
        spent = self.rule.times is not None and self.hits >= self.rule.times
        if spent or not lucky or not self.rule.is_due(self.seen):
            return False
        self.hits += 1
        return True

    def effects(self) -> Effects:
        """The rule's effects with every draw made; a negative ``flip`` is to be taken modulo the answer's length."""
        effects = self.rule.effects
        drawn: dict[str, Any] = {
            one.name: Spread.fixed(value.draw(self.rng))
            for one in fields(effects)
            if isinstance(value := getattr(effects, one.name), Spread)
        }
        if effects.flip == RANDOM_PLACE:
            drawn["flip"] = -1 - self.rng.randrange(1 << 40)
        return replace(effects, **drawn) if drawn else effects

    def describe(self) -> dict[str, Any]:
        source = self.id.partition("-")[0]
        return {"id": self.id, "source": source, "rule": dict(self.rule.spec), "seen": self.seen, "hits": self.hits}


def parse_rules(document: Any) -> list[Rule]:
    """The rules of ``{"rules": [...]}``. Raises RuleError, naming the rule at fault by its number."""
    if not isinstance(document, dict) or set(document) != {"rules"} or not isinstance(document["rules"], list):
        raise RuleError("Rules are given as a list named 'rules', and nothing else.")
    rules = []
    for number, spec in enumerate(document["rules"], 1):
        try:
            rules.append(parse_rule(spec))
        except RuleError as error:
            raise RuleError(f"Rule {number}: {error}") from None
    return rules


def _read(path: Path) -> list[Rule]:
    try:
        raw = path.read_bytes()
        return parse_rules(json.loads(raw) if path.suffix == ".json" else tomllib.loads(raw.decode()))
    except OSError as error:
        raise RuleError(f"{path} cannot be read ({error.strerror}). Check the path and its permissions.") from None
    except ValueError as error:
        raise RuleError(f"{path} is neither TOML nor, as .json, JSON ({error}). Correct it.") from None
    except RuleError as error:
        raise RuleError(f"{path}: {error}") from None


def _warn(sentence: str) -> None:
    sys.stderr.write(f"drivefs emulator: {sentence} The former rules stay in force.\n")
    sys.stderr.flush()


class Book:
    """All rules. ``now``: the clock of the lines that bandwidth makes. Raises RuleError for a file that cannot be used."""

    def __init__(
        self, file: Path | None = None, seed: int = 0, *, now: Callable[[], float], warn: Callable[[str], None] = _warn
    ) -> None:
        self.file, self.seed, self.problem = file, seed, ""
        self._now, self._warn = now, warn
        self._of_file: list[_Live] = []
        self._posted: list[_Live] = []
        self._count = 0
        self._stamp: tuple[int, int, int] | None = None
        if file is not None:
            self._stamp = self._look(file)
            self._take(_read(file))

    # --- what is in force ---

    @property
    def idle(self) -> bool:
        """Whether no rule can strike."""
        return not self._posted and self.file is None

    def _all(self) -> list[_Live]:
        return self._of_file + self._posted

    def any(self, wanted: Callable[[Rule], object]) -> bool:
        return any(wanted(live.rule) for live in self._all())

    def describe(self) -> dict[str, Any]:
        rules = [live.describe() for live in self._all()]
        return {"seed": self.seed, "file": str(self.file) if self.file else None, "problem": self.problem, "rules": rules}

    def decide(self, call: Call, names: tuple[str, ...]) -> Plan:
        """What happens to this call. Of several rules that strike it, the first one decides each kind of effect."""
        struck = [live for live in self._all() if live.rule.matches(call, names) and live.strikes()]
        if not struck:
            return NOTHING
        merged: dict[str, Any] = {}
        shaper = None
        for live in struck:
            effects = live.effects()
            given = {one.name: value for one in fields(effects) if (value := getattr(effects, one.name)) is not None}
            merged = given | merged
            shaper = shaper or live.shaper
        return Plan(Effects(**merged), shaper)

    # --- changes ---

    def _live(self, label: str, rule: Rule, place: int) -> _Live:
        seed = self.seed if rule.seed is None else rule.seed
        bandwidth = rule.effects.bandwidth
        shaper = Shaper(bandwidth, self._now) if bandwidth else None
        return _Live(label, rule, random.Random(f"{seed}:{place}"), shaper)

    def post(self, rules: list[Rule]) -> list[str]:
        """Add rules. Returns the names they are known by."""
        added = []
        for rule in rules:
            added.append(self._live(f"posted-{self._count}", rule, self._count))
            self._count += 1
        self._posted += added
        return [live.id for live in added]

    def clear(self) -> None:
        """Forget the posted rules."""
        self._posted, self._count = [], 0

    def rewind(self) -> None:
        """As at the start: no posted rules, and those of the file count from the beginning."""
        self.clear()
        rules, self._of_file = [live.rule for live in self._of_file], []
        self._take(rules)

    @staticmethod
    def _look(file: Path) -> tuple[int, int, int] | None:
        try:
            found = os.stat(file)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def refresh(self) -> bool:
        """Read the file again if it changed. Returns whether the rules are other ones now."""
        if self.file is None or (stamp := self._look(self.file)) == self._stamp:
            return False
        self._stamp = stamp
        try:
            rules = _read(self.file)
        except RuleError as error:
            self.problem = str(error)
            self._warn(self.problem)
            return False
        self.problem = ""
        self._take(rules)
        return True

    def _take(self, rules: list[Rule]) -> None:
        """Put the file's rules in force. One that stands there as before goes on counting where it was."""
        former = list(self._of_file)
        taken = []
        for place, rule in enumerate(rules):
            kept = next((live for live in former if live.rule.spec == rule.spec), None)
            if kept is not None:
                former.remove(kept)
                kept.id = f"file-{place}"
            taken.append(kept or self._live(f"file-{place}", rule, place))
        self._of_file = taken
