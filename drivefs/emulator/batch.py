"""Batch requests: up to 100 JSON calls in one multipart/mixed body, answered in no promised order.

Source: https://developers.google.com/workspace/drive/api/guides/performance
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from drivefs.emulator.calls import read_body
from drivefs.emulator.errors import ApiError, bad_request
from drivefs.emulator.multipart import boundary_of
from drivefs.emulator.wire import Traffic

__all__ = ["Batch"]

_MOST: Final = 100
_MOST_AT_ALL: Final = 1000
_BODY_LIMIT: Final = 16 << 20
_BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True)
class _Call:
    """One inner request."""

    content_id: str
    verb: str
    target: str
    headers: dict[str, str]
    body: bytes


def _headers(block: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.decode("latin-1").splitlines())
    return {name.strip().lower(): value.strip() for name, colon, value in pairs if colon}


def _parse_call(part: bytes) -> _Call:
    outer, *inner = _BLANK_LINE.split(part.lstrip(b"\r\n"), maxsplit=2)
    head, _, header_lines = (inner[0] if inner else b"").partition(b"\n")
    words = head.decode("latin-1").split()
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        raise bad_request("Failed to parse batch request.", reason="badContent")
    content_id = _headers(outer).get("content-id", "")
    return _Call(content_id, words[0].upper(), words[1], _headers(header_lines), inner[1] if len(inner) > 1 else b"")


def _parse(raw: bytes, boundary: bytes) -> list[_Call]:
    pieces = re.split(rb"(?:\A|\r?\n)--" + re.escape(boundary), raw)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise bad_request("Failed to parse batch request.", reason="badContent")
    calls = [_parse_call(piece) for piece in pieces[1:-1]]
    if len(calls) > _MOST_AT_ALL:
        raise bad_request("The batch request has too many calls.", reason="badContent")
    return calls


class Batch:
    """POST /batch/drive/v3. ``app`` answers the inner calls; it is set once it exists."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.app: ASGIApp | None = None

    def routes(self) -> list[Route]:
        return [Route("/batch/drive/v3", self.endpoint, methods=["POST"]), Route("/batch", self.endpoint, methods=["POST"])]

    async def endpoint(self, request: Request) -> Response:
        self._traffic.count("batch", f"POST {request.url.path}")
        calls = _parse(await read_body(request, _BODY_LIMIT), boundary_of(request.headers.get("content-type", "")))
        answers = [await self._answer(request, call, index) for index, call in enumerate(calls)]
        # Drive promises no order: who relies on one must find out here.
        answers.reverse()
        boundary = f"batch_{secrets.token_urlsafe(24)}"
        body = b"".join(f"--{boundary}\r\n".encode() + answer + b"\r\n" for answer in answers) + f"--{boundary}--\r\n".encode()
        return Response(body, media_type=f"multipart/mixed; boundary={boundary}")

    async def _answer(self, request: Request, call: _Call, index: int) -> bytes:
        response = await self._inner(request, call, index)
        inner_id = call.content_id.strip("<>")
        lines = ["Content-Type: application/http", *([f"Content-ID: <response-{inner_id}>"] if inner_id else []), ""]
        lines.append(f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}")
        lines += [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in response.raw_headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + bytes(response.body)

    async def _inner(self, request: Request, call: _Call, index: int) -> Response:
        if index >= _MOST:
            message = "Exceeds allowed inner batch requests soft limit. Please retry."
            return ApiError(403, "rateLimitExceeded", message, domain="usageLimits").response()
        target = urlsplit(call.target)
        query = parse_qsl(target.query, keep_blank_values=True)
        if not target.path.startswith("/drive/v3/"):
            return bad_request(
                "Media uploads and calls to other APIs are not possible in a batch.", reason="badContent"
            ).response()
        wants_media = call.verb == "GET" and ("alt", "media") in query
        plain = urlencode([pair for pair in query if pair[0] != "alt"]) if wants_media else target.query
        response = await self._call(request, call, target.path, plain)
        if wants_media and response.status_code == HTTPStatus.OK:
            location = f"{str(request.base_url).rstrip('/')}{target.path}?{target.query}"
            return Response(b"", 302, {"location": location})
        return response

    async def _call(self, request: Request, call: _Call, path: str, query: str) -> Response:
        assert self.app is not None
        headers = {name: value for name, value in request.headers.items() if name in ("authorization", "host")} | call.headers
        scope = {
            **request.scope,
            "method": call.verb,
            "path": path,
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        }
        started: list[Message] = []
        body = bytearray()

        async def receive() -> Message:
            return {"type": "http.request", "body": call.body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(message)
            else:
                body.extend(message.get("body", b""))

        await self.app(scope, receive, send)
        response = Response(bytes(body), started[0]["status"])
        response.raw_headers = list(started[0]["headers"])
        return response
