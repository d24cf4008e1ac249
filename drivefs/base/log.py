"""Logging: one line a record on standard error, with the journal's priority prefix under systemd, secrets blanked.

Names on Drive are data from strangers: callers format them with %r, so that no control character reaches a terminal.
"""

from __future__ import annotations

import logging
import os
import re
import sys

__all__ = ["configure", "redact"]

_SECRET = re.compile(
    r"(ya29\.[\w.-]+|1//0[\w-]+|GOCSPX-[\w-]+|(?<=Bearer )[\w.~+/=-]+|(?<=upload_id=)[\w.~%-]+"
    r"|(?<=refresh_token=)[^&\s\"']+|(?<=access_token=)[^&\s\"']+)"
)
# sd-daemon(3): a line that begins with <N> has syslog priority N.
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def redact(text: str) -> str:
    """Blank what would let a reader of the log act as the user: tokens, client secrets, resumable session ids."""
    return _SECRET.sub("[secret]", text)


class _Formatter(logging.Formatter):
    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s" if journal else None)
        self._journal = journal
        if not journal:
            self._style = logging.PercentStyle("%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s")
            self.datefmt = "%Y-%m-%dT%H:%M:%S"

    def format(self, record: logging.LogRecord) -> str:
        text = redact(super().format(record))
        if not self._journal:
            return text
        prefix = f"<{_PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in text.splitlines())


def configure(level: int = logging.INFO) -> None:
    """Send all records of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(journal="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # googleapiclient logs every URL at DEBUG and its cache's absence at INFO: neither is news for us.
    logging.getLogger("googleapiclient").setLevel(logging.WARNING)
