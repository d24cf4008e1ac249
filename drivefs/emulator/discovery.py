"""The API's own description: which fields exist, and a copy of the document that leads clients here.

The document ships with google-api-python-client; it is read from there, so that the two always agree.
"""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["document_for", "fields_of", "schema"]


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
