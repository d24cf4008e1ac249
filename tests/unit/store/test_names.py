"""Names: whatever Drive has becomes a legal, unique name in a directory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefs.base.model import Kind
from drivefs.store.names import chosen_name, legal_name, unique_name

DOCUMENT = "application/vnd.google-apps.document"


@given(st.text(max_size=400), st.sampled_from([Kind.FILE, Kind.FOLDER, Kind.DOCUMENT]))
def test_every_name_on_drive_can_be_shown(name: str, kind: Kind) -> None:
    """What is shown is 1 to 255 bytes of UTF-8 without slash and NUL, and no dot entry."""
    shown = legal_name(name, kind, DOCUMENT if kind is Kind.DOCUMENT else "")
    assert 1 <= len(shown.encode()) <= 255
    assert not set(shown) & {"/", "\0"}
    assert shown not in (".", "..")


@pytest.mark.parametrize("name", ["a", "résumé.pdf", "a" * 255, ".hidden", "with space", "tab\there"])
def test_a_legal_name_is_shown_as_it_is(name: str) -> None:
    """Only what Linux cannot have is changed."""
    assert legal_name(name, Kind.FILE, "") == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "ä" * 200])
def test_an_illegal_name_stays_distinct_from_its_neighbours(name: str) -> None:
    """What stands in for an illegal name is not what an obvious other name is shown as."""
    assert legal_name(name, Kind.FILE, "") not in {name, "a_b", "a-b", "ab"}


def test_two_long_names_with_one_beginning_stay_distinct() -> None:
    """Cut names carry a mark of what was cut, and keep their extension."""
    one, two = (legal_name("x" * 300 + end + ".ipynb", Kind.FILE, "") for end in "12")
    assert one != two
    assert one.endswith(".ipynb")
    assert two.endswith(".ipynb")


@given(st.sets(st.integers(0, 6)), st.sampled_from(["a.txt", "a", ".rc", "a.tar.gz", "ä" * 126 + ".x"]))
def test_a_unique_name_is_not_taken(numbers: set[int], wanted: str) -> None:
    """The name itself where it is free, else the first free numbered one, whose number precedes the extension."""
    numbered: list[str] = [wanted]
    for _ in range(7):
        numbered.append(unique_name(wanted, lambda name: name in numbered))
    taken = {numbered[n] for n in numbers}
    found = unique_name(wanted, taken.__contains__)
    assert found not in taken
    assert found == next(name for name in numbered if name not in taken)
    assert len(found.encode()) <= 255


def test_a_number_precedes_the_extension() -> None:
    """Programs choose by extension, so it stays last."""
    assert unique_name("a.txt", {"a.txt"}.__contains__) == "a (1).txt"
    assert unique_name(".rc", {".rc"}.__contains__) == ".rc (1)"


def test_the_suffix_of_a_document_is_only_shown() -> None:
    """Renaming what is shown as x.gdoc to y.gdoc names it y on Drive, and every cache shows y.gdoc."""
    assert legal_name("x", Kind.DOCUMENT, DOCUMENT) == "x.gdoc"
    assert chosen_name("y.gdoc", Kind.DOCUMENT, DOCUMENT) == "y"
    assert chosen_name("y.gdoc", Kind.FILE, "") == "y.gdoc"
