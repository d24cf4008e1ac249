"""Refusals on demand, in every form in which Drive and the front ends before it refuse.

Source: https://developers.google.com/workspace/drive/api/guides/handle-errors
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from starlette.types import Send

from drivefs.emulator.errors import ApiError
from drivefs.emulator.faults.rules import Status

__all__ = ["PROJECT_NUMBER", "Canned", "canned", "error_info", "from_error"]

PROJECT_NUMBER: Final = "123456789012"
# Reason: (status, domain, message).
_KNOWN: Final[Mapping[str, tuple[int, str, str]]] = {
    "badRequest": (400, "global", "Bad Request"),
    "authError": (401, "global", "Invalid Credentials"),
    "rateLimitExceeded": (403, "usageLimits", "Rate Limit Exceeded"),
    "userRateLimitExceeded": (403, "usageLimits", "User Rate Limit Exceeded"),
    "sharingRateLimitExceeded": (403, "usageLimits", "Sharing Rate Limit Exceeded"),
    "dailyLimitExceeded": (403, "usageLimits", "Daily Limit Exceeded"),
    "quotaExceeded": (403, "usageLimits", "Quota exceeded."),
    "storageQuotaExceeded": (403, "usageLimits", "The user's Drive storage quota has been exceeded."),
    "downloadQuotaExceeded": (403, "usageLimits", "The download quota for this file has been exceeded."),
    "UrlLeaseLimitExceeded": (403, "global", "Too many pending uploads for this user."),
    "accessNotConfigured": (403, "usageLimits", "Google Drive API has not been used in this project before or it is disabled."),
    "insufficientPermissions": (403, "global", "Request had insufficient authentication scopes."),
    "insufficientFilePermissions": (403, "global", "The user does not have sufficient permissions for this file."),
    "cannotDownloadAbusiveFile": (403, "global", "This file has been identified as malware or spam and cannot be downloaded."),
    "notFound": (404, "global", "File not found."),
    "conditionNotMet": (412, "global", "Precondition Failed"),
    "internalError": (500, "global", "Internal Error"),
    "backendError": (503, "global", "Backend Error"),
    "transientError": (503, "global", "Transient failure."),
}
_REASONS: Final = {400: "badRequest", 401: "authError", 403: "rateLimitExceeded", 404: "notFound", 429: "rateLimitExceeded"}
_STATUS_WORDS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(frozen=True)
class Canned:
    """A complete answer."""

    status: int
    body: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def send(self, send: Send) -> None:
        headers = [*self.headers, (b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def _typed(kind: str) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", kind.encode())]


def from_error(error: ApiError, **more: Any) -> Canned:
    """The JSON envelope of a refusal. more: goes into its ``error`` object."""
    envelope = error.envelope()
    envelope["error"] |= more
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return Canned(error.status, json.dumps(envelope, indent=1).encode(), _typed("application/json; charset=UTF-8") + headers)


def error_info(reason: str, **metadata: str) -> dict[str, Any]:
    """The newer errors' detail (google.rpc.ErrorInfo)."""
    kind, service = "type.googleapis.com/google.rpc.ErrorInfo", {"service": "drive.googleapis.com"}
    consumer = {"consumer": f"projects/{PROJECT_NUMBER}"}
    return {"@type": kind, "reason": reason, "domain": "googleapis.com", "metadata": service | consumer | metadata}


def _html(code: int, phrase: str) -> bytes:
    page = (
        f"<!DOCTYPE html><html lang=en><title>Error {code} ({phrase})</title><p>The server could not answer this request.</html>"
    )
    return page.encode()


def _screaming(reason: str) -> str:
    """``rateLimitExceeded`` as RATE_LIMIT_EXCEEDED."""
    return "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in reason).lstrip("_")


def canned(status: Status) -> Canned:
    """The answer that a rule asks for."""
    default = _REASONS.get(status.code, "backendError" if status.code > 500 else "internalError")
    reason = status.reason or default
    usual, domain, message = _KNOWN.get(reason, (status.code or 403, "global", reason))
    code = status.code or usual
    retry = [(b"retry-after", status.retry_after.encode("latin-1"))] if status.retry_after else []
    phrase = HTTPStatus(code).phrase if code in HTTPStatus.__members__.values() else "Error"
    if status.body == "empty":
        made = Canned(code)
    elif status.body == "html":
        made = Canned(code, _html(code, phrase), _typed("text/html; charset=UTF-8"))
    elif status.body == "text":
        made = Canned(code, (status.message or phrase).encode(), _typed("text/plain; charset=UTF-8"))
    else:
        error = ApiError(code, reason, status.message or message, domain=domain)
        if code == 401:
            error.location, error.location_type = "Authorization", "header"
            error.headers["WWW-Authenticate"] = 'Bearer realm="https://accounts.google.com/", error="invalid_token"'
        details = [error_info(_screaming(reason))]
        newer = {"status": _STATUS_WORDS.get(code, "UNKNOWN"), "details": details} if status.body == "details" else {}
        made = from_error(error, **newer)
    return Canned(made.status, made.body, made.headers + retry)
