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

from drivefs.emulator.access import ANYONE
from drivefs.emulator.caller import MAIN, User
from drivefs.emulator.errors import ApiError, invalid_value
from drivefs.emulator.values import parse_time

__all__ = ["Condition", "compile_query", "contains_words", "install_functions"]

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
_ROLES: Final = {
    "writers": "('writer', 'fileOrganizer', 'organizer')",
    "readers": "('reader', 'commenter', 'writer', 'fileOrganizer', 'organizer')",
}
# Whether an item, or a folder above it, gives a permission that satisfies the rest of the condition.
_GIVEN: Final = (
    "EXISTS (WITH RECURSIVE up(id) AS (SELECT items.id UNION SELECT above.parent FROM items AS above JOIN up USING (id)"
    " WHERE above.parent IS NOT NULL) SELECT 1 FROM up JOIN permissions ON permissions.item = up.id WHERE "
)
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
    def __init__(self, me: User, most_terms: int) -> None:
        super().__init__()
        self._me, self._most_terms = me, most_terms
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
        if self._terms > self._most_terms:
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
        return self._other_field(name, sign, value)

    def _other_field(self, name: str, sign: str, value: Token) -> Condition:
        if name == "sharedWithMe":
            return self._shared_with_me((_sign(sign) == "IS") == _boolean(value))
        if name == "visibility":
            return self._visibility(_sign(sign) == "IS", _text(value))
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
        return self._shared_with_me(True)

    def _shared_with_me(self, wanted: bool) -> Condition:
        given = "EXISTS (SELECT 1 FROM permissions WHERE permissions.item = items.id AND permissions.id = ?)"
        sql = f"(items.owner IS NOT ? AND items.owner IS NOT '' AND {given})"
        return Condition(sql if wanted else f"(NOT {sql})", (self._me.owner, self._me.id))

    def _visibility(self, equal: bool, value: str) -> Condition:
        if value not in ("limited", "anyoneWithLink"):  # the others need groups and domains
            return _constant(not equal)
        linked = f"{_GIVEN}permissions.id = '{ANYONE}')"
        return Condition(linked if equal == (value == "anyoneWithLink") else f"(NOT {linked})")

    def _owned_by(self, who: str) -> Condition:
        if who == "me" or who.casefold() == self._me.email:
            return Condition("(items.owner IS ?)", (self._me.owner,))
        if who.casefold() == MAIN.email:
            return Condition("(items.owner IS NULL)")
        return Condition(
            "(items.owner IS (SELECT ifnull(max(users.id), 'nobody') FROM users WHERE users.email = ?))", (who.casefold(),)
        )

    def _given_to(self, who: str, roles: str) -> Condition:
        owned, known = self._owned_by(who), {"me": self._me.id, self._me.email: self._me.id, MAIN.email: MAIN.id}
        given = f"{_GIVEN}permissions.role IN {roles} AND permissions.id = "
        if (user_id := known.get(who.casefold())) is not None:
            return Condition(f"({owned.sql} OR {given} ?))", (*owned.parameters, user_id))
        sql = f"({owned.sql} OR {given} (SELECT users.id FROM users WHERE users.email = ?)))"
        return Condition(sql, (*owned.parameters, who.casefold()))

    @v_args(inline=True)
    def member(self, value: Token, collection: Token) -> Condition:
        self._count()
        if str(collection) == "parents":
            parent = _text(value)
            return Condition("parent IS ?", (self._me.root_id if parent == "root" else parent,))
        if str(collection) == "owners":
            return self._owned_by(_text(value))
        if str(collection) in _ROLES:
            return self._given_to(_text(value), _ROLES[str(collection)])
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
def compile_query(query: str, me: User, most_terms: int = 100) -> Condition:
    """The condition that ``query`` states. Raises ApiError: 400 for what Drive refuses, 500 where Drive trips."""
    try:
        return _ToSql(me, most_terms).transform(_PARSER.parse(query))
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
