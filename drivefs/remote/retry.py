"""What an answer means, and whether and when to ask again. Pure: no clock, no network, no logging.

Drive tells throttling from refusal by a reason word, not by the status, and spells it two ways (``rateLimitExceeded``,
``RATE_LIMIT_EXCEEDED``); front ends answer in HTML. An answer that is not Drive's own says nothing about any file.
Source: https://developers.google.com/workspace/drive/api/guides/handle-errors
"""

from __future__ import annotations

import errno
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from drivefs.base.errors import (
    AccessDenied,
    BadRequest,
    DailyLimit,
    DriveFull,
    IdInUse,
    RangeNotSatisfiable,
    RateLimited,
    RemoteError,
    RemoteNotFound,
    RemoteUnreachable,
    ServerFault,
    SignInRefused,
)

__all__ = ["MAX_ATTEMPTS", "classify", "decide", "parse_retry_after"]

MAX_ATTEMPTS: Final = 8
_LONGEST_DELAY: Final = 32.0


@dataclass(frozen=True, slots=True)
class _Meaning:
    kind: type[RemoteError]
    text: str
    number: int | None = None  # errno, where it is not the class's own


_LIMIT = "Make room in the folder structure on Drive."
_SLOWER = _Meaning(RateLimited, "Drive asks for fewer requests; drivefs slows down and repeats it.")
_DAILY = _Meaning(
    DailyLimit, "The day's allowance of the Google Cloud project is used up. Wait until tomorrow or raise its quota."
)
_UPLOADED_ENOUGH = _Meaning(
    DailyLimit, "Drive asks for fewer requests; where that lasts, the day's 750 GB are uploaded, and drivefs goes on tomorrow."
)
_NO_RIGHT = _Meaning(AccessDenied, "The account has no right to do this. Ask the owner of the file or folder for access.")
_NO_BYTES = _Meaning(RemoteError, "Drive does not hand out this file's bytes. Open it in the browser.")
_SHARED_DRIVE = _Meaning(AccessDenied, "The shared drive does not allow it. Ask one of its managers.", errno.EPERM)

# By reason, in lower case without underscores.
_MEANINGS: Final[Mapping[str, _Meaning]] = {
    "ratelimitexceeded": _SLOWER,
    "userratelimitexceeded": _SLOWER,
    "resourceexhausted": _SLOWER,
    "sharingratelimitexceeded": _SLOWER,
    "urlleaselimitexceeded": _SLOWER,
    "dailylimitexceeded": _DAILY,
    "quotaexceeded": _DAILY,
    "storagequotaexceeded": _Meaning(
        DriveFull, "The account's storage is full. Free space on Drive; unsent files stay in the cache."
    ),
    "activeitemcreationlimitexceeded": _Meaning(DriveFull, "The account owns as many items as Drive allows. Delete some."),
    "teamdrivefilelimitexceeded": _Meaning(DriveFull, "The shared drive holds as many items as Drive allows. Delete some."),
    "numchildreninnonrootlimitexceeded": _Meaning(AccessDenied, f"The folder is full (500,000 items). {_LIMIT}", errno.EMLINK),
    "mydrivehierarchydepthlimitexceeded": _Meaning(AccessDenied, f"Folders are nested too deeply. {_LIMIT}", errno.ELOOP),
    "teamdrivehierarchytoodeep": _Meaning(AccessDenied, f"Folders are nested too deeply. {_LIMIT}", errno.ELOOP),
    "insufficientfilepermissions": _NO_RIGHT,
    "insufficientparentpermissions": _NO_RIGHT,
    "insufficientpermissions": _NO_RIGHT,
    "forbidden": _NO_RIGHT,
    "domainpolicy": _Meaning(AccessDenied, "The organisation's policy forbids it. Ask its administrator."),
    "appnotauthorizedtofile": _Meaning(
        AccessDenied, "The sign-in covers only files made by this app. Sign in with the drive scope."
    ),
    "appaccess": _Meaning(AccessDenied, "The sign-in covers only files made by this app. Sign in with the drive scope."),
    "accesstokenscopeinsufficient": _Meaning(
        SignInRefused, "The sign-in does not cover Drive. Sign in again with the drive scope."
    ),
    "accessnotconfigured": _Meaning(
        SignInRefused, "The Drive API is off in this Google Cloud project. Enable it in the console."
    ),
    "downloadquotaexceeded": _Meaning(
        RemoteError, "The file was downloaded too often. Try again tomorrow, or copy it on Drive.", errno.EDQUOT
    ),
    "cannotdownloadabusivefile": _Meaning(
        RemoteError, "Google flagged the file as harmful. Its owner can open it in the browser."
    ),
    "cannotdownloadfile": _NO_BYTES,
    "filenotdownloadable": _NO_BYTES,
    "filenotexportable": _NO_BYTES,
    "exportsizelimitexceeded": _NO_BYTES,
    "parentnotafolder": _Meaning(AccessDenied, "The parent is not a folder. List the folder again.", errno.ENOTDIR),
    "cannotaddparent": _Meaning(AccessDenied, "An item has one parent. Move it, do not link it.", errno.EPERM),
    "fieldnotwritable": _Meaning(
        BadRequest, "Drive does not let this value be changed. Please report this as a defect of drivefs."
    ),
    "teamdrivemembershiprequired": _SHARED_DRIVE,
    "teamdrivesparentlimit": _SHARED_DRIVE,
    "teamdrivesfoldermoveinnotsupported": _Meaning(
        AccessDenied, "A folder cannot be moved into a shared drive. Copy it.", errno.EXDEV
    ),
    "fileidinuse": _Meaning(IdInUse, "An item with this id exists already. Compare it with what was to be created."),
    "duplicate": _Meaning(IdInUse, "An item with this id exists already. Compare it with what was to be created."),
    "requestedrangenotsatisfiable": _Meaning(
        RangeNotSatisfiable, "The content is shorter than expected. Read the metadata again."
    ),
}

# By status, where the reason is none of the above.
_STATUSES: Final[Mapping[int, _Meaning]] = {
    401: _Meaning(SignInRefused, "The sign-in is not accepted: it has expired or was revoked. Sign in again."),
    403: _Meaning(AccessDenied, "Drive refuses it. Check the account's rights to the file or folder."),
    404: _Meaning(RemoteNotFound, "It does not exist on Drive, or the account may not see it. Check who it is shared with."),
    407: _Meaning(RemoteUnreachable, "The proxy asks for a sign-in. Put user name and password into HTTPS_PROXY."),
    408: _Meaning(RemoteUnreachable, "Drive gave up waiting for the request. Check the network connection."),
    416: _Meaning(RangeNotSatisfiable, "The content is shorter than expected. Read the metadata again."),
    429: _SLOWER,
}
_FAULT = _Meaning(ServerFault, "Drive has trouble of its own. Try again in a moment.")
_FOREIGN = _Meaning(
    ServerFault, "The answer is not one of Drive's. Check for a proxy or a network that wants a sign-in in the browser."
)
_REFUSED = _Meaning(BadRequest, "Drive does not accept the request. Please report this as a defect of drivefs.")
# 401, 407 and 416 explain themselves; any other 4xx without Drive's JSON may come from anything on the way, and must not
# pass for news about a file.
_NEEDS_ENVELOPE: Final = frozenset({400, 403, 404, 409, 410, 412})
# Of an upload beyond the day's allowance the reason says throttling, as of any call too many; only the sentence differs.
_UPLOADED_ENOUGH_SAID: Final = "User rate limit exceeded."
# A daily allowance does not come back while one waits.
_NOT_WORTH_WAITING: Final = frozenset({"dailyLimitExceeded", "quotaExceeded"})


def _fold(reason: str) -> str:
    return reason.replace("_", "").lower()


def _camel(reason: str) -> str:
    if not re.fullmatch(r"[A-Z0-9_]+", reason):
        return reason
    first, *rest = reason.lower().split("_")
    return first + "".join(word.capitalize() for word in rest)


def _envelope(body: bytes) -> dict[str, Any] | None:
    """The ``error`` object of Drive's JSON, None where the body is anything else."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return None
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return error if isinstance(error, dict) else None


def _reasons(envelope: Mapping[str, Any]) -> list[str]:
    """All reason words, the most telling first: ``details`` distinguish what ``errors`` lump together."""
    found: list[str] = []
    for key in ("details", "errors"):
        entries = envelope.get(key)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("reason"), str):
                found.append(entry["reason"])
    if isinstance(envelope.get("status"), str):
        found.append(envelope["status"])
    return found


def _meaning(status: int, reasons: list[str], envelope: bool) -> tuple[_Meaning, str]:
    if status >= 500:
        return _FAULT, _camel(reasons[0]) if reasons else ""
    for reason in reasons:
        if meaning := _MEANINGS.get(_fold(reason)):
            return meaning, _camel(reason)
    if not envelope and (status in _NEEDS_ENVELOPE or status < 400):
        return _FOREIGN, ""
    return _STATUSES.get(status, _REFUSED), _camel(reasons[0]) if reasons else ""


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a Retry-After field asks to wait (RFC 9110, 10.2.3: a number or a date), None where it makes no sense.

    now: seconds since the epoch.
    """
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError):
        return None


def classify(
    what: str, status: int, headers: Mapping[str, str], body: bytes, now: float, *, json_errors: bool = True
) -> RemoteError:
    """The exception for an answer that is not success. what: the call's name, as in ``files.get``.

    now: seconds since the epoch.  json_errors: False for resumable sessions, whose server refuses in plain text.
    """
    envelope = _envelope(body)
    meaning, reason = _meaning(status, _reasons(envelope) if envelope else [], envelope is not None or not json_errors)
    said = envelope.get("message") if envelope else None
    if meaning is _SLOWER and said == _UPLOADED_ENOUGH_SAID:
        meaning = _UPLOADED_ENOUGH
    detail = f", {said[:200]!r}" if isinstance(said, str) and said else ""
    error = meaning.kind(
        f"{what} failed (HTTP {status}{' ' + reason if reason else ''}{detail}). {meaning.text}",
        status=status,
        reason=reason,
        retry_after=parse_retry_after(headers.get("retry-after"), now),
        may_have_applied=status >= 500 or status == 408,
    )
    if meaning.number is not None:
        error.errno = meaning.number
    return error


def decide(error: RemoteError, attempt: int, idempotent: bool, rng: random.Random) -> float | None:
    """Seconds to wait before trying again, None to give up. attempt: 0 for the first failure.

    A throttled request was never begun, so it may always be repeated. After a server fault or a broken connection nobody knows,
    so only what is safe to do twice is. Truncated exponential back-off with jitter; Retry-After is a lower bound.
    """
    if attempt >= MAX_ATTEMPTS:
        return None
    if isinstance(error, RateLimited):
        base = 1.0
        if error.reason in _NOT_WORTH_WAITING:
            return None
    elif isinstance(error, ServerFault | RemoteUnreachable):
        base = 0.25
        if error.may_have_applied and not idempotent:
            return None
    else:
        return None
    delay = min(base * 2.0**attempt, _LONGEST_DELAY) + base * rng.random()
    return max(delay, error.retry_after or 0.0)
