"""The search language of files.list (parameter ``q``), compiled to an SQL condition over ``items``.

Facts: ``name =`` ignores case; ``name contains`` wants every word of the query to begin some word of the name; ``and`` binds
tighter than ``or``. Source: https://developers.google.com/workspace/drive/api/guides/ref-search-terms
"""

from __future__ import annotations

import re
import sqlite3
from functools import lru_cache
from typing import Any, Final, NamedTuple

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import LarkError, VisitError

from drivefs.emulator.errors import ApiError, invalid_value
from drivefs.emulator.resources import ACCOUNT
from drivefs.emulator.values import parse_time

__all__ = ["Condition", "compile_query", "contains_words", "install_functions"]

MOST_TERMS: Final = 100  # Drive publishes no bound on "too complex"; clients send 50 parents in one query

_GRAMMAR: Final = r"""
    start: _or
    _or: either
    either: both ("or" both)*
    both: _unary ("and" _unary)*
    _unary: negated | _atom
    negated: "not" _unary
    _atom: "(" _or ")" | compared | flagged | member | owned
    compared: FIELD OPERATOR (TEXT | TRUE | FALSE)
    flagged: FIELD
    member: TEXT "in" FIELD
    owned: FIELD "has" "{" "key" "=" TEXT "and" "value" "=" TEXT "}"
    TRUE.2: /true\b/
    FIELD: /(?!(?:and|or|not|in|has|contains|true|false)\b)[A-Za-z]+(?:\.[A-Za-z]+)?/
    FALSE.2: /false\b/
    OPERATOR: "<=" | ">=" | "!=" | "=" | "<" | ">" | /contains\b/
    TEXT: /'(?:\\['\\]|[^'\\])*'/
    %ignore /[ \t\r\n]+/
"""

_TIMES: Final = {"modifiedTime": "modified_ms", "createdTime": "created_ms", "viewedByMeTime": "viewed_ms"}
_FLAGS: Final = {"trashed": "trashed", "starred": "starred"}
_ORDERINGS: Final = ("<=", "<", "=", "!=", ">", ">=")
_WORD: Final = re.compile(r"\w+")


class Condition(NamedTuple):
    """An SQL expression that is never NULL, with its parameters."""

    sql: str
    parameters: tuple[Any, ...] = ()


class _NotEmulated(Exception):
    pass


class _ServerTrips(Exception):
    """Drive itself answers 500 to this query."""


def contains_words(name: str, query: str) -> bool:
    """Whether each word of ``query`` begins some word of ``name``, case aside."""
    words = _WORD.findall(name.casefold())
    wanted = _WORD.findall(query.casefold())
    return bool(wanted) and all(any(word.startswith(one) for word in words) for one in wanted)


def install_functions(connection: sqlite3.Connection) -> None:
    connection.create_function("contains_words", 2, contains_words, deterministic=True)


def _text(token: Token) -> str:
    if token.type != "TEXT":
        raise ValueError("a quoted string is needed")
    return re.sub(r"\\(.)", r"\1", token[1:-1])


def _boolean(token: Token) -> bool:
    if token.type == "TEXT":
        raise ValueError("true or false is needed")
    return str(token) == "true"


def _sign(operator: str) -> str:
    if operator not in ("=", "!="):
        raise ValueError(f"operator {operator} does not apply")
    return "IS" if operator == "=" else "IS NOT"


def _name(operator: str, value: Token) -> Condition:
    if operator == "contains":
        return Condition("contains_words(name, ?)", (_text(value),))
    if operator not in ("=", "!="):
        raise _ServerTrips
    return Condition(f"name_folded {_sign(operator)} ?", (_text(value).casefold(),))


def _constant(truth: bool) -> Condition:
    return Condition("1" if truth else "0")


class _ToSql(Transformer[Token, Condition]):
    def __init__(self, root_id: str) -> None:
        super().__init__()
        self._root_id = root_id
        self._terms = 0

    def start(self, children: list[Condition]) -> Condition:
        return children[0]

    def _joined(self, word: str, children: list[Condition]) -> Condition:
        if len(children) == 1:
            return children[0]
        return Condition(
            "(" + f" {word} ".join(one.sql for one in children) + ")",
            tuple(value for one in children for value in one.parameters),
        )

    def either(self, children: list[Condition]) -> Condition:
        return self._joined("OR", children)

    def both(self, children: list[Condition]) -> Condition:
        return self._joined("AND", children)

    def negated(self, children: list[Condition]) -> Condition:
        return Condition(f"(NOT {children[0].sql})", children[0].parameters)

    def _count(self) -> None:
        self._terms += 1
        if self._terms > MOST_TERMS:
            raise ApiError(400, "invalid", "The query is too complex.", location="q")

    @v_args(inline=True)
    def compared(self, field: Token, operator: Token, value: Token) -> Condition:
        self._count()
        name, sign = str(field), str(operator)
        if name == "name":
            return _name(sign, value)
        if name == "mimeType" and sign == "contains":
            return Condition("(instr(mime_type, ?) > 0)", (_text(value),))
        if name == "mimeType":
            return Condition(f"mime_type {_sign(sign)} ?", (_text(value),))
        if name in _TIMES and sign in _ORDERINGS:
            column = _TIMES[name]
            return Condition(f"(ifnull({column} {sign} ?, 0))", (parse_time(_text(value), zone_required=False),))
        if name in _FLAGS:
            return Condition(f"{_FLAGS[name]} {_sign(sign)} {int(_boolean(value))}")
        return self._constant_field(name, sign, value)

    def _constant_field(self, name: str, sign: str, value: Token) -> Condition:
        """Fields on which all items of a Drive without sharing agree."""
        if name == "sharedWithMe":
            return _constant((_sign(sign) == "IS") != _boolean(value))
        if name == "visibility":
            return _constant((_sign(sign) == "IS") == (_text(value) == "limited"))
        if name == "shortcutDetails.targetId":
            return Condition(f"shortcut_target {_sign(sign)} ?", (_text(value),))
        if name == "fullText":
            raise _NotEmulated(name)
        raise ValueError(f"{name} cannot be searched")

    @v_args(inline=True)
    def flagged(self, field: Token) -> Condition:
        self._count()
        if str(field) != "sharedWithMe":
            raise ValueError(f"{field} alone says nothing")
        return _constant(False)

    @v_args(inline=True)
    def member(self, value: Token, collection: Token) -> Condition:
        self._count()
        if str(collection) == "parents":
            parent = _text(value)
            return Condition("parent IS ?", (self._root_id if parent == "root" else parent,))
        if str(collection) in ("owners", "writers", "readers"):
            return _constant(_text(value) in ("me", ACCOUNT["emailAddress"]))
        raise ValueError(f"{collection} is no collection")

    @v_args(inline=True)
    def owned(self, field: Token, key: Token, value: Token) -> Condition:
        self._count()
        columns = {"properties": "properties", "appProperties": "app_properties"}
        return Condition(
            f"EXISTS (SELECT 1 FROM json_each(items.{columns[str(field)]}) AS pair WHERE pair.key = ? AND pair.value = ?)",
            (_text(key), _text(value)),
        )


_PARSER: Final = Lark(_GRAMMAR, parser="lalr", maybe_placeholders=False)


@lru_cache(maxsize=256)
def compile_query(query: str, root_id: str) -> Condition:
    """The condition that ``query`` states. Raises ApiError: 400 for what Drive refuses, 500 where Drive trips."""
    try:
        return _ToSql(root_id).transform(_PARSER.parse(query))
    except VisitError as error:
        cause = error.orig_exc
        if isinstance(cause, ApiError):
            raise cause from None
        if isinstance(cause, _ServerTrips):
            raise ApiError(500, "internalError", "Internal Error") from None
        if isinstance(cause, _NotEmulated):
            raise ApiError(501, "notImplemented", f"This server does not search by {cause}.", location="q") from None
        if isinstance(cause, (ValueError, KeyError)):
            raise invalid_value("q") from None
        raise
    except (LarkError, RecursionError):
        raise invalid_value("q") from None
