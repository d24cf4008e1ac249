"""What a restore makes of each part."""

from __future__ import annotations

from dataclasses import replace

from drivefs_agent.packages.candidate import Candidate
from drivefs_agent.packages.decide import Decided, Mode, decide
from drivefs_agent.packages.model import Part
from tests.agent.packages.states import TARGET, object_of, part

ORIGIN = Candidate(("s",), TARGET, {}, {})


def decided(theirs: list[Part], past: list[Part], ours: list[Part], mode: str = Mode.MERGE, **changes: object) -> Decided:
    candidate = replace(ORIGIN, parts={each.name: each for each in theirs}, **changes)  # type: ignore[arg-type]  # Candidate's own
    stored = {object_of(each.name, each.version).name for each in [*theirs, *past, *ours]}
    return decide(candidate, {each.name: each for each in past}, {each.name: each for each in ours}, stored, TARGET, mode=mode)


def names(found: Decided) -> tuple[list[str], list[str], list[str], list[str]]:
    """held, kept, fetched, removed; each with its version."""
    tell = [f"{each.name} {each.version}" for each in (*found.held.values(), *found.kept.values(), *found.fetched)]
    assert len(set(tell)) == len(tell)
    return (
        [each.name for each in found.held.values()],
        [each.name for each in found.kept.values()],
        [each.name for each in found.fetched],
        sorted(found.removed),
    )


def test_a_fresh_box_takes_everything() -> None:
    """Nothing is known here, so nothing was removed here."""
    assert names(decided([part("a"), part("b")], [], [])) == ([], [], ["a", "b"], [])


def test_what_changed_here_stays_and_what_changed_there_comes() -> None:
    """Since the common past, part by part."""
    past = [part("a"), part("b"), part("gone")]
    found = decided([part("a", "2.0"), part("b"), part("gone"), part("new")], past, [part("a"), part("b", "3.0"), part("mine")])
    assert names(found) == ([], ["b", "mine"], ["a", "new"], ["gone"])
    assert "gone" in found.notes[-1]


def test_a_named_state_comes_as_it_is_beside_what_is_unsaved() -> None:
    """Also what was removed here; what was saved here and is not in that state goes."""
    past = [part("a", "2.0"), part("later")]
    found = decided([part("a"), part("gone")], past, [part("a", "2.0"), part("later"), part("mine")], Mode.NAMED)
    assert names(found) == ([], ["mine"], ["a", "gone"], [])


def test_exact_leaves_nothing_else() -> None:
    """As a rollback wants it, which has saved before."""
    assert names(decided([part("a")], [], [part("a"), part("mine")], Mode.EXACT)) == (["a"], [], [], [])


def test_installed_anew_once_is_not_installed_again() -> None:
    """Its bytes are not the store's, and cannot be: at the next restore it is held."""
    native = replace(part("flash-attn"), native=True, tags=("cp311-cp311-linux_x86_64",), needs=("torch",))
    here = replace(TARGET, image={"torch": "2.13.0"})
    made_for = replace(TARGET, image={"torch": "2.9.0"})
    candidate = replace(ORIGIN, made_for=made_for, parts={"flash-attn": native})
    first = decide(candidate, {}, {}, {native.object}, here)
    assert [one.part.name for one in first.anew] == ["flash-attn"]
    built = replace(native, key="0" * 64, object="")
    second = decide(candidate, {"flash-attn": built}, {"flash-attn": built}, {native.object}, here)
    assert (list(second.held), second.anew, second.changes({"flash-attn"})) == (["flash-attn"], (), False)


def test_for_another_python_what_is_here_is_right() -> None:
    """No past in common with that line's states, so nothing of them replaces what was installed for this one."""
    found = decided([part("a", "2.0"), part("b")], [], [part("a")], made_for=replace(TARGET, minor="3.10"))
    assert set(found.kept) == {"a"}


def test_without_its_archive_a_part_is_installed_anew() -> None:
    """Or left out, where that is not wanted."""
    candidate = replace(ORIGIN, parts={"a": part("a")})
    assert [one.part.name for one in decide(candidate, {}, {}, (), TARGET).anew] == ["a"]
    refused = decide(candidate, {}, {}, (), TARGET, resolving=False)
    assert (refused.anew, [one.part.name for one in refused.left_out]) == ((), ["a"])
