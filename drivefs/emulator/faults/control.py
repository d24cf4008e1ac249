"""``/_emulator/faults``: rules that come and go while the server runs."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from drivefs.emulator.errors import bad_request
from drivefs.emulator.faults.book import parse_rules
from drivefs.emulator.faults.rules import RuleError
from drivefs.emulator.faults.wire import FaultWire

__all__ = ["FaultControl"]


class FaultControl:
    """GET lists the rules in force with their counts, POST adds rules, DELETE forgets the posted ones."""

    def __init__(self, wire: FaultWire) -> None:
        self._wire = wire

    def routes(self) -> list[Route]:
        path = "/_emulator/faults"
        return [
            Route(path, self.list, methods=["GET"]),
            Route(path, self.add, methods=["POST"]),
            Route(path, self.clear, methods=["DELETE"]),
        ]

    async def list(self, request: Request) -> Response:
        if self._wire.book.refresh():
            self._wire.rules_changed(request.scope)
        return JSONResponse(self.describe())

    def describe(self) -> dict[str, Any]:
        """What is in force, for people and programs."""
        wire = self._wire
        more = {"latency": "drive" if wire.profile else "none", "quota": wire.quota.describe() if wire.quota else None}
        return wire.book.describe() | more

    async def add(self, request: Request) -> Response:
        """``{"rules": [...]}``, or one rule. All are taken, or none."""
        try:
            document = json.loads(await request.body())
            rules = parse_rules(document if isinstance(document, dict) and "rules" in document else {"rules": [document]})
        except ValueError:
            raise bad_request('Send JSON: one rule, or {"rules": [...]}.', reason="parseError") from None
        except RuleError as error:
            raise bad_request(str(error), reason="invalid") from None
        added = self._wire.book.post(rules)
        self._wire.rules_changed(request.scope)
        return JSONResponse({"ids": added})

    async def clear(self, request: Request) -> Response:
        self._wire.book.clear()
        self._wire.rules_changed(request.scope)
        return JSONResponse(self.describe())
