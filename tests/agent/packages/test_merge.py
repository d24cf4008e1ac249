"""Three-way merging of what two boxes have, part by part."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drivefs_agent.packages.merge import merge, same
from drivefs_agent.packages.model import Part

from .states import part

VERSIONS = st.sampled_from(["1.0", "2.0", "3.0"])
SIDES = st.dictionaries(st.sampled_from("abc"), st.tuples(VERSIONS, st.integers(0, 3))).map(
    lambda found: {name: part(name, version, installed=float(when)) for name, (version, when) in found.items()}
)


def versions(parts: dict[str, Part] | object) -> dict[str, str]:
    assert isinstance(parts, dict)
    return {name: each.version for name, each in parts.items()}


def test_each_side_keeps_what_it_alone_changed() -> None:
    """One box installs, another upgrades and removes: the merging has all three."""
    base = {"a": part("a"), "b": part("b"), "c": part("c")}
    ours = {**base, "new": part("new")}
    theirs = {"a": part("a", "2.0"), "b": part("b")}
    merged = merge(base, ours, theirs)
    assert (versions(dict(merged.parts)), merged.notes) == ({"a": "2.0", "b": "1.0", "new": "1.0"}, ())


def test_of_two_versions_the_one_installed_later_wins_and_it_is_said() -> None:
    """By the time of installation, not by the number."""
    base = {"a": part("a", "1.0")}
    merged = merge(base, {"a": part("a", "2.0", installed=9000)}, {"a": part("a", "3.0", installed=5000)})
    assert versions(dict(merged.parts)) == {"a": "2.0"}
    assert merged.notes == ("a: 2.0, installed later (1970-01-01 02:30 UTC), replaces 3.0 of another box.",)


def test_what_one_removed_and_the_other_changed_stays() -> None:
    """Nothing that somebody has just installed disappears because another box had cleaned up."""
    merged = merge({"a": part("a")}, {}, {"a": part("a", "2.0")})
    assert (versions(dict(merged.parts)), len(merged.notes)) == ({"a": "2.0"}, 1)


def test_without_a_common_past_nothing_is_lost() -> None:
    """A fresh layer joins a store: what either has is kept."""
    assert set(merge({}, {"mine": part("mine")}, {"theirs": part("theirs")}).parts) == {"mine", "theirs"}


def test_the_side_that_is_stored_is_taken_of_two_equal_ones() -> None:
    """So that nothing is sent again."""
    merged = merge({}, {"a": part("a", stored=False)}, {"a": part("a")})
    assert merged.parts["a"].object


@given(SIDES, SIDES, SIDES)
def test_merging_is_fair_and_settles(base: dict[str, Part], ours: dict[str, Part], theirs: dict[str, Part]) -> None:
    """Both boxes come to the same, whoever merges; merging again changes nothing; what neither touched stays."""
    here, there = merge(base, ours, theirs), merge(base, theirs, ours)
    assert versions(dict(here.parts)) == versions(dict(there.parts))
    assert versions(dict(merge(ours, ours, here.parts).parts)) == versions(dict(here.parts))
    for name, before in base.items():
        if same(ours.get(name), before) and same(theirs.get(name), before):
            assert same(here.parts.get(name), before)
