"""Reading content: what the answer to a ranged GET must look like, and how a broken one is continued.

Pure but for the callback. Invariant of a Cursor: bytes reach the sink once each, in order, without gaps,
whatever the server sends.
Source: RFC 9110, 14 (range requests).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from drivefs.base.errors import RangeNotSatisfiable
from drivefs.remote.caller import broken

__all__ = ["Complete", "Cursor"]

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)


class Complete(Exception):
    """The wanted bytes are all there, and the server is still sending: the transfer may be dropped."""


class Cursor:
    """Takes the bytes [start, end) of content of ``size`` bytes over as many answers as it takes. ``at`` is the next byte due."""

    def __init__(self, name: str, start: int, end: int, size: int, sink: Callable[[int, bytes], None]) -> None:
        self.at = start
        self._name = name
        self._end = end
        self._size = size
        self._sink = sink
        self._skip = 0
        self._answer_end = end

    @property
    def finished(self) -> bool:
        return self.at >= self._end

    def request_headers(self) -> dict[str, str]:
        """No Range for the whole: the real Drive begins to send sooner without one."""
        if self.at == 0 and self._end == self._size:
            return {}
        return {"range": f"bytes={self.at}-{self._end - 1}"}

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Look at an answer's head before its first byte is believed. Raises RemoteUnreachable or RangeNotSatisfiable."""
        if headers.get("content-encoding", "identity") != "identity":
            raise broken(self._name, "the server compressed bytes that were asked for as they are")
        if status == 206:
            self._accept_part(headers.get("content-range", ""))
        elif status == 200:
            self._accept_whole(headers.get("content-length"))
        else:
            raise broken(self._name, f"HTTP {status} is no answer to a request for content")

    def _accept_part(self, content_range: str) -> None:
        match = _CONTENT_RANGE.fullmatch(content_range)
        if match is None:
            raise broken(self._name, "the server did not say which bytes it sends")
        first, last, total = map(int, match.groups())
        self._check_total(total)
        if first != self.at or not first <= last < self._end:
            raise broken(self._name, f"the server sent bytes {first}-{last} where {self.at}-{self._end - 1} were asked for")
        self._skip, self._answer_end = 0, last + 1

    def _accept_whole(self, content_length: str | None) -> None:
        """A server may ignore Range (RFC 9110, 14.2): skip what we have, stop at what we want."""
        if content_length is not None and content_length.isdigit():
            self._check_total(int(content_length))
        self._skip, self._answer_end = self.at, self._size

    def _check_total(self, total: int) -> None:
        if total != self._size:
            raise RangeNotSatisfiable(
                f"{self._name}: the content has {total} bytes where {self._size} were expected; it changed on Drive."
                " Read the metadata again.",
                status=416,
            )

    def on_body(self, data: bytes) -> None:
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if self.at + len(data) > self._answer_end:
            raise broken(self._name, "the server sent more bytes than it announced")
        wanted = data[: self._end - self.at]
        if wanted:
            offset, self.at = self.at, self.at + len(wanted)
            self._sink(offset, wanted)
        if self.finished and self._answer_end > self._end:
            raise Complete

    def end_of_answer(self) -> None:
        """Raise RemoteUnreachable where the answer ended early; a new one will be asked for from ``at`` on."""
        if not self.finished:
            raise broken(self._name, f"the answer ended at byte {self.at} of {self._end}")
