"""Where a part can be had again, as a requirement that pip and uv understand. Pure.

Invariants: nothing is taken from the box that saved it or from the store (a source tree there would be code of unknown descent),
and nothing that the network could exchange: a repository is named by its commit, and plain http needs a checksum. A manifest may
come from a stranger, so every piece is checked before it becomes a line of a requirements file.

Source: PEP 508 (requirements), PEP 610 (direct_url.json).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from packaging.version import InvalidVersion, Version

from drivefs_agent.packages.model import Part

__all__ = ["Origin", "origin_of"]

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SYSTEMS: Final = ("git", "hg", "bzr", "svn")
# Those that prove whom they speak to; the others are enough only where a checksum is known.
_PROVEN: Final = ("https", "ssh")
_UNPROVEN: Final = ("http", "git")


@dataclass(frozen=True, slots=True)
class Origin:
    """requirement: one line; "" where it cannot be had again, and then refusal is the sentence that says why.

    file: the name of the file that it is a link to; "" for an index or a repository.
    """

    requirement: str = ""
    refusal: str = ""
    file: str = ""


def origin_of(part: Part) -> Origin:
    """For a distribution. An editable one has none: its source lies on the box that saved it."""
    if not _NAME.fullmatch(part.name):
        return Origin(refusal=f"{part.name!r} is no name that an index has. Install it again by hand.")
    if part.editable is not None:
        return Origin(
            refusal=f"It was installed from its source in {part.editable}, which is not kept. "
            f"Bring the source here, then: pip install -e {part.editable}"
        )
    return _indexed(part) if part.direct_url is None else _direct(part, part.direct_url)


def _indexed(part: Part) -> Origin:
    try:
        version = Version(part.version)
    except InvalidVersion:
        return Origin(refusal=f"Its version {part.version!r} is none that an index has. Install it again by hand.")
    return Origin(f"{part.name}=={version}")


def _direct(part: Part, text: str) -> Origin:
    try:
        found = json.loads(text)
        parts = urlsplit(found["url"])
        subdirectory = found.get("subdirectory", "")
        if not isinstance(subdirectory, str) or ".." in subdirectory.split("/"):
            raise ValueError(subdirectory)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Origin(refusal="Its direct_url.json cannot be read. Install it again by hand.")
    if parts.scheme == "file" or not parts.netloc:
        return Origin(
            refusal=f"It was installed from {_shown(parts)} on the box that saved it, and what lies there is not kept. "
            "Install it again from its source."
        )
    if isinstance(repository := found.get("vcs_info"), dict):
        return _repository(part, parts, repository, subdirectory)
    return _link(part, parts, found.get("archive_info"), subdirectory)


def _repository(part: Part, parts: SplitResult, found: Mapping[str, Any], subdirectory: str) -> Origin:
    system, commit = found.get("vcs"), str(found.get("commit_id", ""))
    if system not in _SYSTEMS or parts.scheme not in (*_PROVEN, *_UNPROVEN):
        return Origin(refusal=f"It came from {_shown(parts)}, which is no repository we know. Install it again by hand.")
    if system == "git" and not _COMMIT.fullmatch(commit):
        return Origin(
            refusal=f"It came from the repository {_shown(parts)}, of which commit is not known. Install it again by hand."
        )
    if system != "git" and (not re.fullmatch(r"[\w.:@-]+", commit) or parts.scheme not in _PROVEN):
        return Origin(refusal=f"It came from {_shown(parts)}, which nothing proves to be the same. Install it again by hand.")
    fragment = f"subdirectory={quote(subdirectory)}" if subdirectory else ""
    return Origin(f"{part.name} @ {system}+{_url(parts, commit, fragment)}")


def _link(part: Part, parts: SplitResult, archive: object, subdirectory: str) -> Origin:
    checksum = _checksum(archive)
    if parts.scheme != "https" and not (parts.scheme == "http" and checksum):
        return Origin(refusal=f"It came from {_shown(parts)}, which nothing proves to be the same. Install it again by hand.")
    pieces = [f"sha256={checksum}"] if checksum else []
    pieces += [f"subdirectory={quote(subdirectory)}"] if subdirectory else []
    return Origin(f"{part.name} @ {_url(parts, '', '&'.join(pieces))}", file=unquote(parts.path).rpartition("/")[2])


def _checksum(archive: object) -> str:
    if not isinstance(archive, dict):
        return ""
    hashes = archive.get("hashes")
    named = str(hashes.get("sha256", "")) if isinstance(hashes, dict) else ""
    found = named or str(archive.get("hash") or "").removeprefix("sha256=")
    return found if _SHA256.fullmatch(found) else ""


def _url(parts: SplitResult, commit: str, fragment: str) -> str:
    """In characters that end neither a URL nor a line. A password in it is left out, as PEP 610 asks of whoever wrote it."""
    path = quote(parts.path, safe="/%:@!$&'()*+,~=-._") + (f"@{commit}" if commit else "")
    return urlunsplit((parts.scheme, _host(parts), path, quote(parts.query, safe="/%:@!$&'()*+,~=-._?"), fragment))


def _host(parts: SplitResult) -> str:
    user, at, host = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    # A user's name is part of ssh addresses, and ${NAME} is filled in by pip; anything else may be a token.
    keep = at and (parts.scheme == "ssh" or re.fullmatch(r"\$\{[A-Z0-9_]+\}", name))
    return quote(f"{name}@{host}" if keep else host, safe="@:[].-_${}%")


def _shown(parts: SplitResult) -> str:
    return f"{parts.scheme}://{_host(parts)}{quote(parts.path, safe='/%:@+,~=-._')}" if parts.scheme else "a place without a name"
