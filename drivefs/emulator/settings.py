"""Limits and habits of the emulated service that a test may scale down or switch on while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

__all__ = ["DEFAULT_SETTINGS", "Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Defaults are Drive's own. All are whole numbers; habits are off at 0."""

    children_limit: int = 500_000  # direct children of a folder; the root is exempt
    depth_limit: int = 100  # levels of folders below the root
    drive_items_limit: int = 500_000  # items in one shared drive
    export_limit: int = 10_000_000  # bytes of an exported document
    sessions_limit: int = 1000  # resumable uploads that one user may have under way; the real number is not published
    query_terms: int = 100  # more make a query too complex
    empty_page_every: int = 0  # every so-manieth page of a listing is empty, and has a token: clients must go on
    incomplete_search: int = 0  # 1: a search of all drives says that it may have missed something
    empty_multi_parent: int = 0  # 1: a query for several parents at once finds nothing, as Drive's index does now and then

    def changed(self, values: Mapping[str, Any]) -> Settings:
        """With some values replaced. Raises ValueError, saying what is wrong."""
        names = [one.name for one in fields(self)]
        for name, value in values.items():
            if name not in names:
                raise ValueError(f"There is no setting {name!r}. There are: {', '.join(names)}.")
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name} must be a whole number, 0 or more.")
        if values.get("empty_page_every") == 1:
            raise ValueError("empty_page_every must be 0, or 2 or more: a listing that is nothing but empty pages never ends.")
        return replace(self, **values)

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


DEFAULT_SETTINGS: Final = Settings()
