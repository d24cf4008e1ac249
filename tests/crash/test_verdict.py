"""The verdict itself: each kind of damage is seen, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from .history import Finding, History, Kind, Seen, digest

A, B, C = [[1, 200]], [[2, 200]], [[3, 200]]
Entry = dict[str, Any]


def done(*begin: str, **after: Any) -> list[Entry]:
    return [{"begin": list(begin), "after": after}, {"done": list(begin)}]


def history(*, durably: bool = False) -> History:
    """a was made, then appended to and renamed to b; gone was made and removed. Up to the append all was synced."""
    made = History(durably=durably)
    synced: list[Entry] = [{"durable": []}]
    grown = [*A, *B]
    made.read([*done("create", "a", a=A), *synced, *done("append", "a", a=grown), *synced])
    made.read([*done("rename", "a", "b", b=grown), *done("create", "gone", b=grown, gone=C), *synced])
    made.read([*done("unlink", "gone", b=grown), *synced])
    return made


AFTER = digest([*A, *B])
DAMAGE: list[tuple[Kind | None, Seen]] = [
    (None, {"b": AFTER}),
    (Kind.LOST, {}),
    (Kind.TORN, {"b": digest([[1, 200, 100]])}),
    (Kind.RESURRECTED, {"b": AFTER, "a": AFTER}),
    (Kind.RESURRECTED, {"b": AFTER, "gone": digest(C)}),
    (Kind.GHOST, {"b": AFTER, "stranger": digest(C)}),
]


@pytest.mark.parametrize(("kind", "found"), DAMAGE)
def test_after_a_kill(kind: Kind | None, found: Seen) -> None:
    """Everything acknowledged must be there, exactly."""
    findings, _ = history().judge(found, {})
    assert [finding.kind for finding in findings] == ([] if kind is None else [kind])


ROLLED_BACK: list[tuple[Kind | None, Seen]] = [
    (None, {"b": AFTER}),
    (None, {"a": AFTER}),  # the renaming was not synced
    (Kind.LOST, {}),
    (Kind.STALE, {"a": digest(A)}),  # the append was
    (Kind.TORN, {"a": digest([[1, 200], [2, 200, 7]])}),
    (Kind.RESURRECTED, {"a": AFTER, "gone": digest(C)}),
]


@pytest.mark.parametrize(("kind", "found"), ROLLED_BACK)
def test_after_a_power_cut(kind: Kind | None, found: Seen) -> None:
    """What was synced must be there; what was not may be as it was before."""
    findings, _ = history(durably=True).judge(found, {})
    assert [finding.kind for finding in findings] == ([] if kind is None else [kind])


def test_an_older_content_is_stale() -> None:
    """A whole content that the file no longer had."""
    made = History()
    made.read([*done("create", "a", a=A), *done("overwrite", "a", a=B)])
    assert made.judge({"a": digest(A)}, {})[0] == [Finding(Kind.STALE, "a")]


def test_things_that_look_alike() -> None:
    """A renaming over another empty file was in flight and did not take place: both are there, and neither is a finding."""
    made = History()
    made.read([*done("create", "a", a=[[1, 0]]), *done("create", "b", a=[[1, 0]], b=[[2, 0]])])
    made.begin({"begin": ["replace", "a", "b"], "after": {"b": [[1, 0]]}})
    empty = digest([[1, 0]])
    possible: list[Seen] = [{"a": empty, "b": empty}, {"b": empty}]
    for found in possible:
        findings, state = made.judge(found, {})
        assert (findings, state.keys()) == ([], found.keys())
    assert [finding.kind for finding in made.judge({}, {})[0]] == [Kind.LOST]


def test_midway_on_the_server() -> None:
    """A file that was on the server is lost when neither its old nor its new name is there, and not while either is."""
    made = history()
    known = {AFTER}
    assert made.judge_midway([("a", AFTER)], known) == []
    assert made.judge_midway([("a", AFTER), ("b", AFTER)], known) == []
    assert [finding.kind for finding in made.judge_midway([], known)] == [Kind.LOST]
    assert [finding.kind for finding in made.judge_midway([("b", digest([[9, 9]]))], known)] == [Kind.TORN, Kind.LOST]
