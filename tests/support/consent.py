"""What a person does on the local Drive's consent page: press Allow, and be sent back to the app."""

from __future__ import annotations

import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from .server import Server

__all__ = ["allow"]


class _Stay(urllib.request.HTTPRedirectHandler):
    """Nobody listens where the browser would be sent."""

    def redirect_request(self, *_args: Any, **_more: Any) -> None:
        return None


def allow(server: Server, target: str) -> dict[str, str]:
    """Open the page at ``target`` (path and query) and allow everything. Returns what the app is told: code, state, scope."""
    with urllib.request.urlopen(server.url + target, timeout=20) as answer:
        page = answer.read().decode()
    pairs = re.findall(r'name="(request|scope)" value="([^"]+)"', page)
    body = urllib.parse.urlencode([*pairs, ("decision", "allow")]).encode()
    try:
        urllib.request.build_opener(_Stay).open(f"{server.url}/o/oauth2/consent", body, timeout=20)
    except urllib.error.HTTPError as answer:
        with answer:
            if answer.code != 302:
                raise
            return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(answer.headers["Location"]).query))
    raise AssertionError("the browser was not sent back")
