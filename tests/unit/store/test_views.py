"""The merge of three views, by its properties."""

from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from drivefs.store.views import View, merge

_views = st.builds(
    View,
    parent=st.sampled_from([None, 20, 21]),
    name=st.sampled_from("ab"),
    mtime_ms=st.integers(1, 3),
    mode=st.sampled_from([None, 0o644]),
    trashed=st.booleans(),
)
_names = [field.name for field in fields(View)]
_sent = st.sets(st.sampled_from(_names))


@given(_views, _views, _views, _sent)
def test_untouched_fields_follow_and_touched_ones_stay(local: View, synced: View, remote: View, sent: set[str]) -> None:
    """A field is the user's where it differs from what was agreed on, or was sent and not answered; else it is the server's."""
    merged, _ = merge(local, synced, remote, sent)
    for name in _names:
        touched = getattr(local, name) != getattr(synced, name) or name in sent
        assert getattr(merged, name) == getattr(local if touched else remote, name)


@given(_views, _views, _views, _sent)
def test_a_statement_repeated_changes_nothing(local: View, synced: View, remote: View, sent: set[str]) -> None:
    """The feed echoes what answers have told; hearing it twice is hearing it once."""
    once = merge(local, synced, remote, sent)
    assert merge(*once, remote, sent) == once


@given(_views, _views)
def test_without_agreement_the_users_fields_stand(local: View, remote: View) -> None:
    """The first statement about an item that the user made does not change it, and what differs is the user's to send."""
    merged, synced = merge(local, None, remote)
    assert merged == local
    assert synced == remote


@given(_views, _views, _views)
def test_agreement_is_noted_where_both_sides_are_equal(local: View, synced: View, remote: View) -> None:
    """After a merge, synced is remote in every field where local is."""
    merged, agreed = merge(local, synced, remote)
    for name in _names:
        if getattr(merged, name) == getattr(remote, name):
            assert getattr(agreed, name) == getattr(remote, name)


@given(_views, _views, st.sampled_from(["a", "b"]))
def test_taking_a_change_back_before_its_answer_is_a_change(view: View, other: View, name: str) -> None:
    """Sent another name, taken back to the agreed one; the answer states the name sent: the user's stands, and is pending."""
    local = synced = replace(view, name=name)
    answer = replace(other, name="a" if name == "b" else "b")
    merged, agreed = merge(local, synced, answer, {"name"})
    assert merged.name == name
    merged, _ = merge(merged, agreed, answer)  # the feed echoes the answer after it was noted as such
    assert merged.name == name
