"""files.list: the search language, order, pages, and partial answers."""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.conftest import Drive

FOLDER = "application/vnd.google-apps.folder"


def test_name_equality_ignores_case_and_nothing_else(drive: Drive) -> None:
    """files.list: ``name =`` ignores case; composed and decomposed letters stay different; quotes and backslashes are escaped."""
    for name in ("Straße", "it's", "back\\slash", "e\u0301"):
        drive.create(name)
    assert drive.names("name = 'STRASSE'") == ["Straße"]
    assert drive.names(r"name='it\'s'") == ["it's"]
    assert drive.names(r"name = 'back\\slash'") == ["back\\slash"]
    assert drive.names("name = '\u00e9'") == []


def test_name_contains_matches_word_beginnings(drive: Drive) -> None:
    """files.list: each word of the query begins some word of the name, in any order."""
    drive.create("HelloWorld final-report.txt")
    assert [q for q in ("hello", "rep fin", "TXT", "World", "ello") if drive.names(f"name contains '{q}'")] == [
        "hello",
        "rep fin",
        "TXT",
    ]


@pytest.mark.emulator
def test_a_typical_lookup(drive: Drive) -> None:
    """files.list: the query that rclone sends for each lookup."""
    folder = drive.folder("d")
    drive.create("x", folder)
    drive.create("x")
    assert drive.names(f"trashed=false and ('{folder}' in parents) and (name='x')", pageSize=1000) == ["x"]
    assert drive.names("'root' in parents and name = 'd'") == ["d"]
    assert drive.names("not 'root' in parents") == ["x"]


@pytest.mark.emulator
def test_trashed_items_are_listed_unless_excluded(drive: Drive) -> None:
    """files.list: without ``trashed = false`` the trash is included; the root never is."""
    item = drive.create("x")["id"]
    drive.call("PATCH", f"files/{item}", {"trashed": True})
    assert drive.names("") == ["x"]
    assert drive.names("trashed = false") == []
    assert drive.names("trashed != false") == ["x"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("name", 400),
        ("name = x", 400),
        ("name = 'x", 400),
        (r"name = 'a\b'", 400),
        ("name = 'x' and", 400),
        ("('x' in parents", 400),
        ("id > 'x'", 400),
        ("trashed = 'false'", 400),
        ("trashed > true", 400),
        ("starred contains 'x'", 400),
        ("nothing = 'x'", 400),
        ("'x' in nowhere", 400),
        ("modifiedTime > 'yesterday'", 400),
        ("modifiedTime contains '2024-01-01T00:00:00'", 400),
        ("appProperties has { key='k' }", 400),
        ("name has { key='k' and value='v' }", 400),
        ("name > 'x'", 500),
        ("name >= 'x'", 500),
        ("fullText contains 'x'", 501),
        (" or ".join(["name = 'x'"] * 101), 400),
        ("(" * 5000, 400),
    ],
)
def test_queries_that_are_refused(drive: Drive, query: str, status: int) -> None:
    """files.list: a bad q is 400 with location q; ordering names trips the server with 500; too many terms are too complex."""
    headers = {"x-http-method-override": "GET", "Content-Type": "application/x-www-form-urlencoded"}
    answer = drive.send("POST", "/drive/v3/files", body=urlencode({"q": query}), headers=headers)
    assert answer.status == status
    assert answer.location == ("None" if status == 500 else "q")


class _Item(NamedTuple):
    name: str
    mime_type: str
    parent: str
    trashed: bool
    starred: bool
    modified: int
    properties: dict[str, str]


class _Query(NamedTuple):
    """A query's text and the same condition in Python. level: 0 = or, 1 = and, 2 = needs no parentheses."""

    text: str
    holds: Callable[[_Item], bool]
    level: int = 2


_NAMES = ["alpha", "Alpha", "beta gamma", "Gamma-ray", "it's", "alphabet", ""]
_TYPES = ["text/plain", "image/png", FOLDER]
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _contains(name: str, query: str) -> bool:
    return bool(_words(query)) and all(any(w.startswith(q) for w in _words(name)) for q in _words(query))


def _time(day: int) -> str:
    return f"2024-01-{day:02d}T00:00:00.000Z"


def _equality(field: str, value: str, sign: str, get: Callable[[_Item], str]) -> _Query:
    return _Query(f"{field} {sign} {_quoted(value)}", lambda item: _SIGNS[sign](get(item), value))


def _atoms(folders: list[str]) -> st.SearchStrategy[_Query]:
    equal = st.sampled_from(["=", "!="])
    flag = st.booleans()

    def name(value: str, sign: str) -> _Query:
        return _Query(f"name{sign}{_quoted(value)}", lambda item: _SIGNS[sign](item.name.casefold(), value.casefold()))

    def contains(value: str) -> _Query:
        return _Query(f"name contains {_quoted(value)}", lambda item: _contains(item.name, value))

    def parent(value: str) -> _Query:
        return _Query(f"{_quoted(value)} in parents", lambda item: item.parent == value)

    def trashed(value: bool, sign: str) -> _Query:
        return _Query(f"trashed {sign} {str(value).lower()}", lambda item: _SIGNS[sign](item.trashed, value))

    def starred(value: bool) -> _Query:
        return _Query(f"starred={str(value).lower()}", lambda item: item.starred == value)

    def time(day: int, sign: str) -> _Query:
        return _Query(f"modifiedTime {sign} '2024-01-{day:02d}T00:00:00'", lambda item: _SIGNS[sign](item.modified, day))

    def has(key: str, value: str) -> _Query:
        text = f"appProperties has {{ key='{key}' and value='{value}' }}"
        return _Query(text, lambda item: item.properties.get(key) == value)

    return st.one_of(
        st.builds(name, st.sampled_from(_NAMES), equal),
        st.builds(contains, st.sampled_from(["al", "gam bet", "it", "ray gamma", "x", "-"])),
        st.builds(lambda v, s: _equality("mimeType", v, s, lambda item: item.mime_type), st.sampled_from(_TYPES), equal),
        st.builds(parent, st.sampled_from(folders)),
        st.builds(trashed, flag, equal),
        st.builds(starred, flag),
        st.builds(time, st.integers(1, 9), st.sampled_from(sorted(_SIGNS))),
        st.builds(has, st.sampled_from("kl"), st.sampled_from("vw")),
    )


def _inside(query: _Query, level: int) -> str:
    return query.text if query.level >= level else f"({query.text})"


def _joined(word: str, level: int, parts: list[_Query]) -> _Query:
    decide = all if word == "and" else any
    text = f" {word} ".join(_inside(part, level + 1) for part in parts)
    return _Query(text, lambda item: decide(part.holds(item) for part in parts), level)


def _queries(folders: list[str]) -> st.SearchStrategy[_Query]:
    return st.recursive(
        _atoms(folders),
        lambda inner: st.one_of(
            st.builds(lambda parts: _joined("and", 1, parts), st.lists(inner, min_size=2, max_size=3)),
            st.builds(lambda parts: _joined("or", 0, parts), st.lists(inner, min_size=2, max_size=3)),
            st.builds(lambda one: _Query(f"not {_inside(one, 2)}", lambda item: not one.holds(item)), inner),
        ),
        max_leaves=8,
    )


def _populate(drive: Drive, folders: list[str]) -> dict[str, _Item]:
    population = {}
    for number in range(30):
        item = _Item(
            _NAMES[number % len(_NAMES)],
            _TYPES[number % 3],
            folders[number % 4 // 2],
            number % 5 == 0,
            number % 7 < 3,
            1 + number % 9,
            {"kl"[number % 2]: "vw"[number % 3 // 2]},
        )
        made = drive.create(
            item.name, item.parent, mimeType=item.mime_type, starred=item.starred,
            modifiedTime=_time(item.modified), appProperties=item.properties,
        )  # fmt: skip
        if item.trashed:
            drive.call("PATCH", f"files/{made['id']}", {"trashed": True})
        population[made["id"]] = item
    return population


@pytest.mark.emulator
def test_queries_mean_what_they_say(drive: Drive) -> None:
    """files.list: any query selects just the items for which the same condition in Python holds; ``and`` before ``or``."""
    folders = [drive.folder("one"), drive.folder("two")]
    population = _populate(drive, folders)

    @settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(_queries(folders))
    def check(query: _Query) -> None:
        # The two folders that hold the population are set aside by their parent.
        text = f"not 'root' in parents and ({query.text})"
        found = {one["id"] for one in drive.get("files", q=text, fields="files(id)", pageSize=1000)["files"]}
        assert found == {key for key, item in population.items() if query.holds(item)}

    check()


@pytest.mark.emulator
def test_pages_are_complete_whatever_the_order(drive: Drive) -> None:
    """files.list: pages by any order hold every item once, also when items come and go between pages."""
    for name in ("b10", "b9", "a", "B1", "c"):
        drive.create(name)
    drive.folder("zz")
    orders = {"name": ["a", "B1", "b10", "b9", "c", "zz"], "name_natural desc": ["zz", "c", "b10", "b9", "B1", "a"]}
    orders["folder,name"] = ["zz", "a", "B1", "b10", "b9", "c"]
    orders["modifiedTime desc"] = ["zz", "c", "B1", "a", "b9", "b10"]
    for order, expected in orders.items():
        seen, token = [], ""
        while True:
            page = drive.get("files", pageSize=2, orderBy=order, **({"pageToken": token} if token else {}))
            seen += [one["name"] for one in page["files"]]
            if "nextPageToken" not in page:
                break
            token = page["nextPageToken"]
            drive.call("DELETE", f"files/{drive.create('0')['id']}")
        assert seen == expected, order


def test_page_tokens_are_bound_to_the_request(drive: Drive) -> None:
    """files.list: a token is refused with another query, order, call or Drive, when tampered with, and when made up."""
    for name in "abc":
        drive.create(name)
    token = drive.get("files", pageSize=1)["nextPageToken"]
    assert drive.call("GET", "files", pageSize=1, pageToken=token).status == 200
    wrong: list[dict[str, Any]] = [
        {"pageSize": 1, "pageToken": token, "q": "trashed=false"},
        {"pageSize": 1, "pageToken": token, "orderBy": "name"},
        {"pageSize": 1, "pageToken": token[:-2] + ("AA" if token[-2:] != "AA" else "BB")},
        {"pageSize": 1, "pageToken": "7"},
        {"pageSize": 1, "pageToken": "é"},
    ]
    for params in wrong:
        answer = drive.call("GET", "files", **params)
        assert (answer.status, answer.reason, answer.location) == (400, "invalid", "pageToken")
    assert drive.call("GET", "changes", pageSize=1, pageToken=token).status == 400
    drive.send("POST", "/_emulator/reset")
    assert drive.call("GET", "files", pageSize=1, pageToken=token).status == 400


@pytest.mark.parametrize(
    ("size", "status"), [("1", 200), ("1000", 200), ("99999", 200), ("0", 400), ("-1", 400), ("x", 400), ("", 400)]
)
def test_page_size_bounds(drive: Drive, size: str, status: int) -> None:
    """files.list: 1 to 1000, above is coerced, below is refused."""
    assert drive.call("GET", "files", pageSize=size).status == status


@pytest.mark.parametrize("order", ["size", "name up", "name desc desc", "name,,folder"])
def test_orders_that_are_refused(drive: Drive, order: str) -> None:
    """files.list: only the listed sort keys."""
    assert drive.call("GET", "files", orderBy=order).location == "orderBy"


@pytest.mark.emulator
def test_asking_for_parents_caps_the_page(drive: Drive) -> None:
    """Files resource, files.list: a page is never longer than 460 where parents are asked for, in files.list and changes.list."""
    start = drive.get("changes/startPageToken")["startPageToken"]
    boundary, parts = "b", []
    for number in range(501):
        head = "Content-Type: application/http\r\n\r\nPOST /drive/v3/files HTTP/1.1\r\nContent-Type: application/json\r\n\r\n"
        parts.append(f"--{boundary}\r\n{head}" + f'{{"name": "{number}"}}')
    for first in range(0, 501, 100):
        body = "\r\n".join([*parts[first : first + 100], f"--{boundary}--", ""])
        headers = {"Content-Type": f"multipart/mixed; boundary={boundary}"}
        assert drive.send("POST", "/batch/drive/v3", body=body.encode(), headers=headers).status == 200
    for fields, expected in (("nextPageToken,files(id)", 501), ("files(id,parents)", 460), ("*", 460), ("files", 460)):
        assert len(drive.get("files", pageSize=1000, fields=fields)["files"]) == expected
    for fields, expected in (("changes(fileId)", 501), ("changes(file(parents))", 460)):
        assert len(drive.get("changes", pageToken=start, pageSize=1000, fields=fields)["changes"]) == expected


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("files(id,name)", {"files": {"id", "name"}}),
        ("files/name", {"files": {"name"}}),
        ("kind,files/id,files/name", {"kind": set(), "files": {"id", "name"}}),
        (" files( id , capabilities/canEdit ) ", {"files": {"id", "capabilities"}}),
        ("files(appProperties/anything,id)", {"files": {"id"}}),
        ("nextPageToken", {}),
    ],
)
def test_field_masks_filter_strictly(drive: Drive, fields: str, expected: dict[str, set[str]]) -> None:
    """Files resource: what is asked for, and nothing else."""
    drive.create("x")
    answer = drive.get("files", fields=fields)
    assert set(answer) == set(expected)
    if "files" in expected:
        assert set(answer["files"][0]) == expected["files"]


@pytest.mark.emulator
def test_nested_masks(drive: Drive) -> None:
    """Files resource: masks reach below: objects, and objects in lists; ``*`` is everything."""
    made = drive.create("x")
    assert drive.get(f"files/{made['id']}", fields="capabilities(canEdit),owners/me") == {
        "capabilities": {"canEdit": True},
        "owners": [{"me": True}],
    }
    assert drive.get("files", fields="*")["files"] == drive.get("files", fields="files")["files"] == [made]


@pytest.mark.parametrize(
    "fields",
    ["etag", "files(id", "files)", "id,,name", "files(etag)", "files/id/x(y)", "files()", "(id)", "id;name", "files.id", "id,"],
)
def test_field_masks_that_are_refused(drive: Drive, fields: str) -> None:
    """Files resource: 400 invalidParameter "Invalid field selection", location fields."""
    answer = drive.call("GET", "files", fields=fields)
    assert (answer.status, answer.reason, answer.location) == (400, "invalidParameter", "fields")
    assert answer.json()["error"]["message"].startswith("Invalid field selection")


def test_empty_fields_count_as_absent(drive: Drive) -> None:
    """Files resource: Go sends an empty ``fields`` on calls whose answer it ignores."""
    made = drive.create("x")
    assert set(drive.get(f"files/{made['id']}", fields="")) == {"kind", "id", "name", "mimeType"}
