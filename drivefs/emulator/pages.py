"""The few pages that people see while they sign in: plain HTML that works without scripts, with everything escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from starlette.responses import HTMLResponse

__all__ = ["choice", "failure", "note", "page", "typing"]

_STYLE: Final = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:32rem;margin:4rem auto;padding:0 1rem;color:#202124}"
    "button,input[type=text]{font:inherit;padding:.5rem 1.5rem;margin:1rem 1rem 0 0}code{overflow-wrap:anywhere}"
    "li{list-style:none;margin:.5rem 0}ul{padding:0}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_MEANING: Final = {
    "https://www.googleapis.com/auth/drive": "See, edit, create, and delete all of your Drive files",
    "https://www.googleapis.com/auth/drive.readonly": "See and download all your Drive files",
    "https://www.googleapis.com/auth/drive.file": "See, edit, create, and delete only the Drive files that you use with this app",
    "https://www.googleapis.com/auth/drive.metadata": "See and manage information about your Drive files",
    "https://www.googleapis.com/auth/drive.metadata.readonly": "See information about your Drive files",
    "https://www.googleapis.com/auth/drive.appdata": "See, create, and delete its own data in your Drive",
}


def page(title: str, body: str, status: int = 200, *, form_targets: Iterable[str] = ()) -> HTMLResponse:
    """``body`` is HTML. form_targets: where, beside this server, the answer to a form may lead."""
    targets = " ".join(["'self'", *form_targets])
    headers = {
        "content-security-policy": (
            f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action {targets}; base-uri 'none';"
            " frame-ancestors 'none'"
        ),
        # Not no-referrer: under that, browsers send forms with a foreign origin (null), which the server refuses.
        "referrer-policy": "same-origin",
    }
    text = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>"
    )
    return HTMLResponse(text, status, headers)


def failure(status: int, error: str, sentence: str) -> HTMLResponse:
    """For mistakes that must not be sent back to the address that the request names."""
    return page("Access blocked", f"<p>{escape(sentence)}</p><p>Error {status}: {escape(error)}</p>", status)


def note(title: str, sentence: str) -> HTMLResponse:
    return page(title, f"<p>{escape(sentence)}</p>")


def choice(app: str, scopes: Sequence[str], name: str, *, form_targets: Iterable[str] = ()) -> HTMLResponse:
    """Allow or deny, and which of several scopes. name: of the request that is decided on."""
    several = len(scopes) > 1
    items = []
    for scope in scopes:
        meaning = f"{escape(_MEANING.get(scope, scope))}"
        box = f'<input type="checkbox" name="scope" value="{escape(scope)}" checked> ' if several else ""
        items.append(f"<li><label>{box}{meaning}</label></li>")
    hidden = "" if several else "".join(f'<input type="hidden" name="scope" value="{escape(one)}">' for one in scopes)
    body = (
        f"<p><code>{escape(app)}</code> wants access to the local Drive:</p>"
        f'<form method="post" action="/o/oauth2/consent"><ul>{"".join(items)}</ul>{hidden}'
        f'<input type="hidden" name="request" value="{escape(name)}">'
        '<button name="decision" value="allow">Allow</button><button name="decision" value="deny">Deny</button></form>'
    )
    return page("Sign in to the local Drive", body, form_targets=form_targets)


def typing(wrong: bool) -> HTMLResponse:
    """Asks for the code that a device shows."""
    complaint = "<p>There is no such code, or its time is over. Look at your device again.</p>" if wrong else ""
    body = (
        f'{complaint}<form method="get" action="/device"><label>The code that your device shows: '
        '<input type="text" name="user_code" autocomplete="off" required></label><button>Continue</button></form>'
    )
    return page("Connect a device", body, 400 if wrong else 200)
