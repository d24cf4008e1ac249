"""Key files: reading one, refusing what is none or is open to others, and making google.auth's credentials of it.

No secret of a file appears in an error's text.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import google.auth.exceptions
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account

from drivefs.base.errors import UsageError

__all__ = ["SCOPE", "load", "signature"]

SCOPE: Final = "https://www.googleapis.com/auth/drive"
_GOOGLE_TOKEN_URI: Final = "https://oauth2.googleapis.com/token"
_MAX_KEY_FILE: Final = 64 * 1024


def load(path: Path) -> tuple[Any, str]:
    """(google.auth's credentials, a stable name of the account without any secret in it) from a key file; blocks.

    Raises UsageError with the next step; contacts nobody.
    """
    info = _parse(path, _read_private(path))
    make: Callable[[Path, dict[str, Any]], tuple[Any, str]] = (
        _service_account if info["type"] == "service_account" else _authorized_user
    )
    return make(path, info)


def signature(path: Path) -> tuple[int, ...]:
    """Changes with the file; empty where there is none."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode


def _read_private(path: Path) -> bytes:
    """A key file's content. Whoever can read it can act as the user, so one that others can read is refused."""
    try:
        # O_NONBLOCK: a FIFO in the file's place must not hang us.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise UsageError(f"There is no credentials file {str(path)!r}. Check the path given to --credentials.") from None
    except OSError as error:
        raise UsageError(
            f"The credentials file {str(path)!r} cannot be read: {error.strerror}. Check its owner and mode."
        ) from None
    try:
        _check_private(path, os.fstat(descriptor))
        return os.read(descriptor, _MAX_KEY_FILE)
    finally:
        os.close(descriptor)


def _check_private(path: Path, status: os.stat_result) -> None:
    name = repr(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{name} is not a file. Give --credentials a service-account key or authorized-user file.")
    if status.st_mode & 0o077:
        raise UsageError(
            f"The credentials file {name} can be read or changed by other users. Run: chmod 600 {shlex.quote(str(path))}"
        )
    if status.st_uid not in (0, os.geteuid()):
        raise UsageError(f"The credentials file {name} belongs to another user. Make a copy of your own and use that.")
    if status.st_size > _MAX_KEY_FILE:
        raise UsageError(f"{name} is too large for a credentials file. Download the key again.")


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        info = json.loads(data)
    except ValueError:
        raise UsageError(f"The credentials file {str(path)!r} is not JSON. Download the key again.") from None
    kind = info.get("type") if isinstance(info, dict) else None
    if kind in ("service_account", "authorized_user"):
        assert isinstance(info, dict)
        return info
    if isinstance(info, dict) and ("installed" in info or "web" in info):
        raise UsageError(
            f"{str(path)!r} names an OAuth client, not a sign-in. Give a service-account key, or the file that"
            " `gcloud auth application-default login` writes."
        )
    raise UsageError(
        f"{str(path)!r} is neither a service-account key nor an authorized-user file (its type is {kind!r})."
        " Create a key in the Google Cloud console, or run `gcloud auth application-default login`."
    )


def _token_uri(path: Path, info: Mapping[str, Any]) -> str:
    """The file's token address; the secret goes there, so it must be https unless it stays on this machine."""
    uri = info.get("token_uri", _GOOGLE_TOKEN_URI)
    parts = urlsplit(uri) if isinstance(uri, str) else None
    local = parts is not None and parts.hostname in ("127.0.0.1", "::1", "localhost")
    if parts is None or not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise UsageError(f"The token_uri in {str(path)!r} is not an https address. Download the key again.")
    assert isinstance(uri, str)
    return uri


def _service_account(path: Path, info: dict[str, Any]) -> tuple[Any, str]:
    try:
        made = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
            {**info, "token_uri": _token_uri(path, info)}, scopes=[SCOPE]
        )
    except (ValueError, KeyError, TypeError, google.auth.exceptions.GoogleAuthError):
        # The library's text may quote the key.
        raise UsageError(f"The service-account key {str(path)!r} is incomplete or damaged. Download the key again.") from None
    return made, str(info["client_email"])


def _authorized_user(path: Path, info: dict[str, Any]) -> tuple[Any, str]:
    missing = [name for name in ("client_id", "client_secret", "refresh_token") if not isinstance(info.get(name), str)]
    if missing:
        raise UsageError(
            f"The authorized-user file {str(path)!r} lacks {', '.join(missing)}. Sign in again to have it written anew."
        )
    # Not from_authorized_user_info: it replaces the file's token_uri by Google's. No scopes are sent: a refresh grant keeps those
    # of the sign-in.
    made = user_credentials.Credentials(  # type: ignore[no-untyped-call]
        None,
        refresh_token=info["refresh_token"],
        token_uri=_token_uri(path, info),
        client_id=info["client_id"],
        client_secret=info["client_secret"],
        quota_project_id=info.get("quota_project_id"),
    )
    digest = hashlib.sha256(f"{info['client_id']}\0{info['refresh_token']}".encode()).hexdigest()
    account = info.get("account")
    return made, account if isinstance(account, str) and account else f"user-{digest[:16]}"
