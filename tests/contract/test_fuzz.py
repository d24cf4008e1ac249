"""Random calls made from the API's own description: whatever is sent, the answer is an answer.

No 500 but the one that Drive itself gives (names compared in a query), no traceback in the server, errors in the envelope.
DRIVEFS_FUZZ_EXAMPLES sets how many calls (a few hundred a second), DRIVEFS_FUZZ_SEED another beginning.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_plus, urlencode, urlsplit

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from drivefs.emulator.discovery import document_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.emulator, pytest.mark.slow]
EXAMPLES = int(os.environ.get("DRIVEFS_FUZZ_EXAMPLES", "2000"))
SEED = int(os.environ.get("DRIVEFS_FUZZ_SEED", "20261121"))
DOCUMENT = document_for("http://127.0.0.1/")
FOLDER = "application/vnd.google-apps.folder"
_TRIPS = re.compile(r"name\s*(?:<|>)")  # Drive itself answers 500 to these


@dataclass
class Target:
    """A server with a few items of each kind, and a connection that is made again where the server closed it."""

    port: int
    errors: Any
    ids: list[str] = field(default_factory=list)
    sent: int = 0
    connection: http.client.HTTPConnection | None = None

    def send(self, verb: str, target: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, str, bytes]:
        sent = {"Authorization": "Bearer t"} | headers
        for attempt in range(2):
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            try:
                self.connection.request(verb, target, body, sent)
                answer = self.connection.getresponse()
                return answer.status, answer.headers.get("content-type", ""), answer.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.connection.close()
                self.connection = None
                if attempt:
                    raise
        raise AssertionError("unreachable")

    def make(self, path: str, body: dict[str, Any]) -> str:
        status, _, raw = self.send("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        assert status == 200, raw
        return str(json.loads(raw).get("id", ""))

    def tracebacks(self) -> str:
        self.errors.seek(0)
        return str(self.errors.read())


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "drivefs.emulator"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        try:
            made = Target(urlsplit(json.loads(process.stdout.readline())["url"]).port or 0, errors)
            _furnish(made)
            yield made
            if made.connection is not None:
                made.connection.close()
        finally:
            process.terminate()
            process.wait(15)
            process.stdout.close()


# Stand for the ids of the items there are; written into a call when it is sent, since the Drive is furnished anew now and then.
PLACES = [f"@{number}@" for number in range(5)]
IDS = [*PLACES, "root", "trash", "head", "generateIds"]
_AFRESH = 250  # calls, after which most of the furniture may have been deleted


def _furnish(target: Target) -> None:
    """Items of every kind, a second account and a shared drive, so that every corner has something in it."""
    target.send("POST", "/_emulator/reset", None, {})
    folder = target.make("/drive/v3/files", {"name": "d", "mimeType": FOLDER})
    file = target.make("/drive/v3/files", {"name": "f", "parents": [folder], "appProperties": {"k": "v"}})
    target.make("/_emulator/users", {"email": "bob@example.com"})
    target.make(f"/drive/v3/files/{folder}/permissions", {"type": "user", "role": "writer", "emailAddress": "bob@example.com"})
    shared = target.make("/drive/v3/drives?requestId=r", {"name": "team"})
    document = target.make("/drive/v3/files", {"name": "doc", "mimeType": "application/vnd.google-apps.document"})
    shortcut = {"mimeType": "application/vnd.google-apps.shortcut", "shortcutDetails": {"targetId": file}}
    target.ids = [folder, file, shared, document, target.make("/drive/v3/files", shortcut)]


def _carry_out(target: Target, call: tuple[str, str, bytes | None, dict[str, str]]) -> tuple[int, str, bytes]:
    verb, path, body, headers = call
    target.sent += 1
    if target.sent % _AFRESH == 0:
        _furnish(target)
    for place, item_id in zip(PLACES, target.ids, strict=True):
        path = path.replace(quote(place, safe=""), item_id)
        body = body.replace(place.encode(), item_id.encode()) if body is not None else None
    return target.send(verb, path, body, headers)


def _methods(resources: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in resources.values():
        yield from resource.get("methods", {}).values()
        yield from _methods(resource.get("resources", {}))


METHODS = sorted(_methods(DOCUMENT["resources"]), key=lambda one: str(one["id"]))
_SOME = ("files.", "changes.", "drives.", "permissions.", "revisions.", "about.")
EMULATED = [one for one in METHODS if one["id"].removeprefix("drive.").startswith(_SOME)]
_FIELDS = sorted(DOCUMENT["schemas"]["File"]["properties"])
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_TERMS = (
    "name = 'f'|name contains 'f'|name > 'a'|trashed = false|'root' in parents|'me' in owners|sharedWithMe|starred=true|"
    "modifiedTime > '2020-01-01T00:00:00'|mimeType != 'x'|appProperties has { key='k' and value='v' }|visibility = 'limited'|"
    "fullText contains 'x'|'bob@example.com' in writers|id = 'x'|(|)|name = 'it\\'s'|not|viewedByMeTime < '9999-12-31T23:59:59'"
)
_TERM = st.sampled_from(_TERMS.split("|"))
_QUERY = st.lists(_TERM, min_size=1, max_size=4).flatmap(
    lambda terms: st.sampled_from([" and ", " or ", " "]).map(lambda j: j.join(terms))
)
_MASK = st.lists(st.sampled_from([*_FIELDS, "*", "files(id)", "nextPageToken", "a/b", "files/*", "("]), max_size=4).map(",".join)
_KNOWN: dict[str, st.SearchStrategy[str]] = {
    "q": st.one_of(_QUERY, _TEXT),
    "fields": _MASK,
    "orderBy": st.lists(st.sampled_from(["name", "folder desc", "modifiedTime", "name_natural", "x", "recency"]), max_size=3).map(
        ",".join
    ),
    "pageToken": st.one_of(st.sampled_from(["1", "101", "~!!~AAAA", "~!!~", "99999999999999999999"]), _TEXT),
    "mimeType": st.sampled_from(["text/plain", "application/pdf", "x"]),
    "uploadType": st.sampled_from(["media", "multipart", "resumable", "x"]),
    "role": st.sampled_from(["owner", "reader"]),
}


def _parameter(name: str, described: dict[str, Any]) -> st.SearchStrategy[str]:
    known = _KNOWN.get(name)
    if known is not None:
        return known
    if "enum" in described:
        return st.sampled_from([*described["enum"], "?"])
    if described["type"] == "boolean":
        return st.sampled_from(["true", "false", "maybe"])
    if described["type"] == "integer":
        return st.one_of(st.integers(-2, 1100).map(str), st.sampled_from(["", "x", "1e9", "9" * 30]))
    if name.endswith("Id") or name.endswith("Parents"):
        return st.one_of(st.sampled_from(IDS), _TEXT)
    return _TEXT


def _value(described: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Mostly of the described type, sometimes of another."""
    if "$ref" in described:
        described = DOCUMENT["schemas"][described["$ref"]]
    kind = described.get("type")
    wrong = st.sampled_from([None, 0, -1, 2**70, "", "x", [], {}, [None], {"x": None}, True, 1.5])
    right: st.SearchStrategy[Any] = wrong
    if kind == "string":
        right = st.one_of(
            _TEXT, st.sampled_from([*IDS, FOLDER, "text/plain", "2024-02-02T10:40:02.874Z", "0001-01-01T00:00:00Z", "reader"])
        )
    elif kind == "boolean":
        right = st.booleans()
    elif kind == "array" and depth < 3:
        right = st.lists(_value(described["items"], depth + 1), max_size=2)
    elif kind == "object" and depth < 3:
        right = _body(described, depth + 1)
    return st.one_of(right, right, right, wrong)


def _body(described: dict[str, Any], depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    properties = described.get("properties")
    if not properties:
        return st.dictionaries(_TEXT, st.one_of(_TEXT, st.none()), max_size=2)
    names = st.lists(st.sampled_from(sorted(properties)), max_size=4, unique=True)
    return names.flatmap(lambda some: st.fixed_dictionaries({name: _value(properties[name], depth) for name in some}))


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, str, bytes | None, dict[str, str]]:
    """One request: a method of the description, with parameters, a body and perhaps content."""
    method = draw(st.sampled_from(METHODS) if draw(st.integers(0, 4)) == 0 else st.sampled_from(EMULATED))
    path, parameters, query = method["path"], method.get("parameters", {}) | DOCUMENT["parameters"], {}
    for name, described in sorted(parameters.items()):
        if described.get("location") == "path":
            path = path.replace("{" + name + "}", quote(draw(_parameter(name, described)), safe=""))
        elif described.get("required") or draw(st.integers(0, 9)) == 0:
            query[name] = draw(_parameter(name, described))
    query.pop("access_token", None)
    query.pop("oauth_token", None)
    prefix, body, headers = "/drive/v3/", None, {}
    if "request" in method and draw(st.integers(0, 9)) > 0:
        sent = draw(_value(method["request"]))
        body, headers = json.dumps(sent).encode(), {"Content-Type": "application/json"}
    if method.get("supportsMediaUpload") and draw(st.booleans()):
        prefix, query["uploadType"] = "/upload/drive/v3/", draw(_KNOWN["uploadType"])
        body = body if body is not None and draw(st.booleans()) else draw(st.binary(max_size=40))
        headers = {
            "Content-Type": draw(st.sampled_from(["text/plain", "application/json", "multipart/related; boundary=X", "x"]))
        }
    if draw(st.integers(0, 9)) == 0:
        headers["Range"] = draw(st.sampled_from(["bytes=0-0", "bytes=-1", "bytes=5-2", "bytes=9999999999999999999-", "x"]))
    return method["httpMethod"], f"{prefix}{path}?{urlencode(query)}", body, headers


def test_no_call_trips_the_server(target: Target) -> None:
    """Every method of the description, known here or not: no undocumented 500, no traceback, errors in the envelope."""
    met: Counter[str] = Counter()

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(calls())
    def attempt(call: tuple[str, str, bytes | None, dict[str, str]]) -> None:
        status, kind, raw = _carry_out(target, call)
        met[f"{status // 100}xx"] += 1
        path = unquote_plus(call[1])
        assert status < 500 or status == 501 or (status == 500 and _TRIPS.search(path)), (status, raw)
        if status >= 400 and kind.startswith("application/json"):
            error = json.loads(raw)["error"]
            assert (error["code"], bool(error["errors"][0]["reason"])) == (status, True)

    attempt()
    assert "Traceback" not in target.tracebacks()
    assert met["2xx"] > EXAMPLES // 10, f"the calls did not reach far: {met}"
