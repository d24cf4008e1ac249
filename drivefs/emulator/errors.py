"""Refusals, and the envelope Drive puts them in.

Source: https://developers.google.com/workspace/drive/api/guides/handle-errors
"""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

__all__ = [
    "ApiError",
    "PlainError",
    "bad_request",
    "fields_error",
    "internal_error",
    "invalid_value",
    "missing_drive",
    "not_found",
    "not_permitted",
    "not_routed",
    "not_writable",
    "respond",
]


class ApiError(Exception):
    """A refusal. ``reason`` is the word clients classify by; ``location`` names the parameter, header or field at fault."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        domain: str = "global",
        location: str = "",
        location_type: str = "parameter",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.domain = domain
        self.location = location
        self.location_type = location_type
        self.headers: dict[str, str] = {}

    def envelope(self) -> dict[str, Any]:
        detail = {"message": self.message, "domain": self.domain, "reason": self.reason}
        if self.location:
            detail |= {"location": self.location, "locationType": self.location_type}
        return {"error": {"code": self.status, "message": self.message, "errors": [detail]}}

    def response(self) -> Response:
        # The envelope is written with one space of indent, as Google does: clients must not compare bodies byte by byte.
        body = json.dumps(self.envelope(), indent=1)
        return Response(body, self.status, headers=self.headers, media_type="application/json; charset=UTF-8")


class PlainError(Exception):
    """A refusal by the upload front end, which answers in plain text: clients must not expect JSON of every error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def bad_request(message: str = "Bad Request", *, location: str = "", reason: str = "badRequest") -> ApiError:
    return ApiError(400, reason, message, location=location)


def invalid_value(location: str, message: str = "Invalid Value") -> ApiError:
    return ApiError(400, "invalid", message, location=location)


def fields_error(selection: str) -> ApiError:
    return ApiError(400, "invalidParameter", f"Invalid field selection {selection}", location="fields")


def not_found(file_id: str, what: str = "File", location: str = "fileId") -> ApiError:
    return ApiError(404, "notFound", f"{what} not found: {file_id}.", location=location)


def missing_drive(drive_id: str) -> ApiError:
    """There is none, or the caller is no member."""
    return not_found(drive_id, "Shared drive", "driveId")


def not_permitted() -> ApiError:
    return ApiError(403, "insufficientFilePermissions", "The user does not have sufficient permissions for this file.")


def not_writable(message: str = "The resource body includes fields which are not directly writable.") -> ApiError:
    return ApiError(403, "fieldNotWritable", message)


async def respond(_request: Request, error: Exception) -> Response:
    """Starlette's handler for both kinds of refusal."""
    if isinstance(error, ApiError):
        return error.response()
    assert isinstance(error, PlainError)
    return PlainTextResponse(error.message, error.status)


async def not_routed(_request: Request, _error: Exception) -> Response:
    """No such path or method: the front end answers in HTML, before any API is reached."""
    page = "<!DOCTYPE html><html lang=en><title>Error 404 (Not Found)</title><p>There is nothing at this URL.</html>"
    return HTMLResponse(page, 404)


async def internal_error(_request: Request, _error: Exception) -> Response:
    """A defect of the emulator; its traceback goes to standard error."""
    return ApiError(500, "internalError", "Internal Error").response()
