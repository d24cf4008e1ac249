"""pip's settings of where packages come from, as uv's: uv does not read pip's, and a user has usually made only those.

What uv is told in its own way (UV_INDEX_URL …, or an index in uv.toml) stands, and pip's settings are then left alone.

Source: pip's documentation, "Configuration"; uv's, "Environment variables" and "Compatibility with pip".
"""

from __future__ import annotations

import ast
import contextlib
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["for_uv", "pip_settings"]

_OWN: Final = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX")
_OWN_SETTING: Final = re.compile(
    r"^\s*(?:\[\[(?:tool\.uv\.)?index\]\]|(?:extra-)?index(?:-url)?\s*=|find-links\s*=|no-index\s*=)", re.M
)
_LINE: Final = re.compile(r"(?P<section>[^=]+?)\.(?P<name>[a-z-]+)=(?P<value>.*)")
# Later ones win over earlier ones. Source: pip's documentation, "Precedence / Override order"
_SECTIONS: Final = ("global", "install", ":env:")
_SECONDS: Final = 30.0


def pip_settings(python: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """What `pip install` with ``python`` would go by, by option name ("index-url"); empty where it has no pip."""
    command = [str(python), "-I", "-m", "pip", "--disable-pip-version-check", "config", "list"]
    try:
        done = subprocess.run(
            command, env=dict(environment), capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {}
    by_section: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for match in map(_LINE.fullmatch, done.stdout.splitlines()):
        if match is not None and match["section"] in by_section:
            with contextlib.suppress(ValueError, SyntaxError):
                by_section[match["section"]][match["name"]] = str(ast.literal_eval(match["value"]))
    return {name: value for section in _SECTIONS for name, value in by_section[section].items() if value.strip()}


def for_uv(python: Path, environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Options and environment variables for uv that say what pip's settings say.

    What may hold a password is no option, as those are for all to see.
    """
    if any(environment.get(name) for name in _OWN) or _has_own_file(environment):
        return [], {}
    found = pip_settings(python, environment)
    settings = {
        "UV_DEFAULT_INDEX": found.get("index-url", "").strip(),
        "UV_INDEX": " ".join(found.get("extra-index-url", "").split()),
        "UV_FIND_LINKS": ",".join(found.get("find-links", "").split()),
        "UV_INSECURE_HOST": " ".join(found.get("trusted-host", "").split()),
    }
    if settings["UV_INDEX"]:
        # pip looks through all indexes for a version; uv would stop at the first that knows the name.
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    proxy = found.get("proxy", "").strip()
    general = {"SSL_CERT_FILE": found.get("cert", ""), "SSL_CLIENT_CERT": found.get("client-cert", "")}
    general |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), proxy if "://" in proxy or not proxy else f"http://{proxy}")
    settings |= {name: value for name, value in general.items() if name not in environment and name.lower() not in environment}
    no_index = found.get("no-index", "").strip().lower() in ("1", "true", "yes", "on", "y", "t")
    return ["--no-index"] if no_index else [], {name: value for name, value in settings.items() if value}


def _has_own_file(environment: Mapping[str, str]) -> bool:
    """An index in one of uv's files of settings."""
    home = environment.get("HOME", "")
    places = [environment.get("UV_CONFIG_FILE"), f"{environment.get('XDG_CONFIG_HOME') or f'{home}/.config'}/uv/uv.toml"]
    for place in [*places, "/etc/xdg/uv/uv.toml", "/etc/uv/uv.toml"]:
        with contextlib.suppress(OSError):
            if place and _OWN_SETTING.search(Path(place).read_text(encoding="utf-8", errors="replace")):
                return True
    return False
