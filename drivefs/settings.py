"""From what a person typed, and the environment, to the one frozen Config. Starts nothing; reads at most a key file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drivefs.base.config import GOOGLE_API_ROOT, Config, data_dir, runtime_dir, validate_api_root
from drivefs.base.errors import UsageError
from drivefs.client import canonical

__all__ = ["Account", "Flags", "build_config", "choose_account", "data_home"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The flags of ``drivefs mount`` and ``drivefs serve``; None where a flag was not given. mountpoint None: without a mount."""

    mountpoint: str | None
    embedded: bool = False
    credentials: str | None = None
    api_root: str | None = None
    cache_dir: str | None = None
    read_only: bool = False
    poll_interval: float | None = None
    upload_delay: float | None = None
    cache_size: int | None = None
    min_free: int | None = None
    fsync: str | None = None
    open_file_snapshot: float | None = None
    io_timeout: float | None = None
    drain_timeout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whose Drive, and where. by_default: nobody asked for the embedded Drive, so the person should be told."""

    api_root: str = GOOGLE_API_ROOT
    token: str | None = field(default=None, repr=False)
    credentials: Path | None = None
    embedded: bool = False
    by_default: bool = False

    @property
    def name(self) -> str:
        """A stable name for this account's cache, which gives nothing away."""
        if self.embedded:
            return "embedded"
        identity = _key_file_identity(self.credentials) if self.credentials else self.api_root
        return "drive-" + hashlib.sha256(identity.encode()).hexdigest()[:12]


def choose_account(flags: Flags, environment: Mapping[str, str]) -> Account:
    """A flag beats the environment; two flags that name different Drives contradict each other. Raises UsageError.

    --embedded: the local one.  --credentials: a key file, against Google or --api-root.
    A token from DRIVEFS_ACCESS_TOKEN: against Google or --api-root / DRIVEFS_API_ROOT.  An API root alone cannot sign in.
    Nothing at all: the embedded Drive.
    """
    if flags.embedded and (flags.credentials or flags.api_root):
        other = "--credentials" if flags.credentials else "--api-root"
        raise UsageError(f"--embedded and {other} name different Drives. Give one of them.")
    if flags.embedded:
        return Account(embedded=True)
    root = flags.api_root if flags.api_root is not None else environment.get("DRIVEFS_API_ROOT", "")
    if flags.api_root == "":
        raise UsageError("--api-root is empty. Give the server's root, such as http://127.0.0.1:8080.")
    api_root = validate_api_root(root) if root else GOOGLE_API_ROOT
    if flags.credentials is not None:
        return Account(api_root=api_root, credentials=_absolute(flags.credentials, "--credentials"))
    if token := environment.get("DRIVEFS_ACCESS_TOKEN", ""):
        return Account(api_root=api_root, token=_checked(token))
    if root:
        raise UsageError(f"{api_root!r} needs an access token. Put it into the environment as DRIVEFS_ACCESS_TOKEN.")
    return Account(embedded=True, by_default=True)


def build_config(flags: Flags, account: Account, environment: Mapping[str, str]) -> Config:
    """For the embedded Drive, api_root and access_token are those of no server yet: the caller starts it and fills them in."""
    names = ("poll_interval", "upload_delay", "cache_size", "min_free", "open_file_snapshot", "io_timeout", "drain_timeout")
    given: dict[str, Any] = {name: getattr(flags, name) for name in names}
    if flags.cache_dir is None:
        cache = data_home(environment) / "cache" / account.name
    else:
        cache = _absolute(flags.cache_dir, "--cache-dir")
    mountpoint = cache if flags.mountpoint is None else Path(canonical(flags.mountpoint))
    if flags.mountpoint is not None and mountpoint in (cache, *cache.parents):
        raise UsageError(f"The cache {str(cache)!r} would lie in the mount that it serves. Give another --cache-dir.")
    return Config(
        mountpoint=mountpoint,
        serves="socket" if flags.mountpoint is None else "mount",
        cache_dir=cache,
        runtime_dir=Path(os.path.abspath(runtime_dir(environment))),
        api_root=account.api_root,
        access_token=account.token,
        credentials=account.credentials,
        embedded=account.embedded,
        read_only=flags.read_only,
        fsync_remote=flags.fsync == "remote",
        **{key: value for key, value in given.items() if value is not None},
    )


def data_home(environment: Mapping[str, str]) -> Path:
    """The data directory, absolute: the daemon and the embedded Drive work in ``/``."""
    return Path(canonical(data_dir(environment)))


def _absolute(path: str, flag: str) -> Path:
    """The daemon works in ``/``, so a relative path would mean something else there."""
    if not path:
        raise UsageError(f"{flag} is empty. Give a path.")
    return Path(canonical(path))


def _checked(token: str) -> str:
    """A token travels in an HTTP header, where a line break would begin another header."""
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise UsageError("DRIVEFS_ACCESS_TOKEN holds characters that no token has. Set it again, without spaces or line breaks.")
    return token


def _key_file_identity(path: Path) -> str:
    """Who a key file speaks for, without its secrets.

    A service account is its address. An authorized user's file need not name the account, so the file's own place stands for it:
    signing in anew rewrites the same file, and its cache with what is still to be sent must be found again.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"The key file {str(path)!r} cannot be read: {error.strerror}. Give another with --credentials."
        ) from error
    except ValueError as error:
        raise UsageError(f"The key file {str(path)!r} is not JSON. Download it again.") from error
    if not isinstance(content, dict):
        raise UsageError(f"The key file {str(path)!r} is not a key file. Download it again.")
    if named := content.get("client_email") or content.get("account"):
        return str(named)
    return json.dumps([content.get("client_id"), os.path.realpath(path)])
