"""The API's own description: which fields exist, and a copy of the document that leads clients here.

The document ships with google-api-python-client; it is read from there, so that the two always agree.
"""

from __future__ import annotations

import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["document_for", "fields_of", "method_of", "schema", "scopes_of"]


@cache
def _document() -> dict[str, Any]:
    spec = importlib.util.find_spec("googleapiclient")  # finds the folder without the half second that importing it takes
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("google-api-python-client is not installed; it brings the description of the Drive API.")
    path = Path(spec.submodule_search_locations[0], "discovery_cache", "documents", "drive.v3.json")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def document_for(root_url: str) -> dict[str, Any]:
    """The description with every address led to ``root_url`` (which ends in a slash)."""
    document = _document()
    return document | {"rootUrl": root_url, "mtlsRootUrl": root_url, "baseUrl": root_url + document["servicePath"]}


@cache
def schema(name: str) -> dict[str, Any]:
    """A resource's JSON schema, references to other resources resolved at its top."""
    found: dict[str, Any] = _document()["schemas"][name]
    return found


@cache
def fields_of(name: str) -> frozenset[str]:
    return frozenset(schema(name)["properties"])


@cache
def _methods() -> list[tuple[str, re.Pattern[str], str, frozenset[str]]]:
    """Verb, path below /drive/v3/, name and sufficient scopes of each method; those without parameters in their path first."""
    found = [(method, f"{resource}.{name}") for resource, held in _document()["resources"].items()
             for name, method in held["methods"].items()]  # fmt: skip
    return [
        (method["httpMethod"], re.compile(re.sub(r"\{\w+\}", "[^/]+", method["path"])), name, frozenset(method["scopes"]))
        for method, name in sorted(found, key=lambda one: one[0]["path"].count("{"))
    ]


@cache
def scopes_of(method: str) -> frozenset[str]:
    """The scopes of which any is enough to call a method (``files.get``)."""
    return next(scopes for _, _, name, scopes in _methods() if name == method)


def method_of(verb: str, path: str) -> str | None:
    """The method that a request calls, also by upload; None where it is none of Drive's."""
    below = path.removeprefix("/resumable").removeprefix("/upload").removeprefix("/drive/v3/")
    wanted = "GET" if verb == "HEAD" else verb
    return next((name for one, pattern, name, _ in _methods() if one == wanted and pattern.fullmatch(below)), None)
