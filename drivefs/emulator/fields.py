"""Partial responses: the ``fields`` parameter, parsed strictly, checked against the API's description, and applied.

Grammar: mask = item *("," item); item = path ["(" mask ")"]; path = name *("/" name); name = identifier | "*".
Source: https://developers.google.com/workspace/drive/api/guides/fields-parameter
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

from drivefs.emulator.discovery import schema
from drivefs.emulator.errors import fields_error

__all__ = ["Mask", "apply", "covers", "parse", "sub"]

# For each field wanted: the mask for what lies below it; an empty mask wants all of it.
Mask: TypeAlias = Mapping[str, "Mask"]
_MutableMask: TypeAlias = dict[str, "_MutableMask"]
_ALL: Final[Mask] = {}
_TOKEN: Final = re.compile(r"\s*([A-Za-z0-9_\-.$]+|[*,/()])")
_DEEPEST: Final = 20


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None:
                raise fields_error(text)
            self._tokens.append(match[1])
            position = match.end()
        self._tokens.reverse()

    def _peek(self) -> str:
        return self._tokens[-1] if self._tokens else ""

    def _take(self, wanted: str = "") -> str:
        if not self._tokens or (wanted and self._tokens[-1] != wanted):
            raise fields_error(self._text)
        return self._tokens.pop()

    def whole(self) -> _MutableMask:
        mask = self._mask(0)
        if self._tokens:
            raise fields_error(self._text)
        return mask

    def _mask(self, depth: int) -> _MutableMask:
        if depth > _DEEPEST:
            raise fields_error(self._text)
        mask: _MutableMask = {}
        while True:
            self._item(mask, depth)
            if self._peek() != ",":
                return mask
            self._take(",")

    def _item(self, mask: _MutableMask, depth: int) -> None:
        node, names = mask, [self._name()]
        while self._peek() == "/":
            self._take("/")
            names.append(self._name())
        for name in names[:-1]:
            node = node.setdefault(name, {})
        below: _MutableMask = {}
        if self._peek() == "(":
            self._take("(")
            below = self._mask(depth + 1)
            self._take(")")
        leaf = node.setdefault(names[-1], {})
        leaf.update(below)

    def _name(self) -> str:
        name = self._take()
        if name in ",/()":
            raise fields_error(self._text)
        return name


def _check(mask: Mask, described: Mapping[str, Any]) -> None:
    """Every name in the mask is described by the schema at its place."""
    if "$ref" in described:
        described = schema(described["$ref"])
    if described.get("type") == "array":
        return _check(mask, described["items"])
    properties, others = described.get("properties", {}), described.get("additionalProperties")
    for name, below in mask.items():
        if name == "*":
            for each in properties.values() if below else ():
                _check(below, each)
        elif name in properties:
            _check(below, properties[name])
        elif others is None:
            raise fields_error(name)
    return None


@lru_cache(maxsize=512)
def parse(text: str, resource: str | None) -> Mask:
    """The mask that ``text`` states for a resource of the API's description. Raises ApiError 400 invalidParameter.

    resource None: one that is not described here; any name is good.
    """
    mask = _Parser(text).whole()
    if resource is not None:
        _check(mask, schema(resource))
    return mask


def sub(mask: Mask, name: str) -> Mask | None:
    """The mask below ``name``; None where ``name`` is not wanted."""
    if not mask:
        return _ALL
    if name in mask:
        return mask[name]
    return mask.get("*")


def covers(mask: Mask, *path: str) -> bool:
    """Whether the mask wants the field at ``path``."""
    below: Mask | None = mask
    for name in path:
        below = sub(below, name) if below is not None else None
    return below is not None


def apply(value: Any, mask: Mask) -> Any:
    """The part of a JSON value that the mask wants."""
    if not mask:
        return value
    if isinstance(value, list):
        return [apply(one, mask) for one in value]
    if not isinstance(value, dict):
        return value
    return {name: apply(one, below) for name, one in value.items() if (below := sub(mask, name)) is not None}
