"""One frozen Config: defaults, overridden by the environment, overridden by flags. Reading it touches no file.

Environment: DRIVEFS_API_ROOT, DRIVEFS_ACCESS_TOKEN, DRIVEFS_DATA_DIR (where everything drivefs keeps lies; default
``$XDG_DATA_HOME/drivefs``), XDG_RUNTIME_DIR (control sockets).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from drivefs.base.errors import UsageError

__all__ = ["GOOGLE_API_ROOT", "SMALLEST_CACHE", "Config", "data_dir", "runtime_dir", "validate_api_root"]

GOOGLE_API_ROOT: Final = "https://www.googleapis.com"
# Bytes; a smaller cache could not hold what one reader reads ahead.
SMALLEST_CACHE: Final = 16 << 20


def data_dir(environment: Mapping[str, str]) -> Path:
    """Where drivefs keeps what must outlive the session. Not under a cache home: unsent files live here too."""
    if chosen := environment.get("DRIVEFS_DATA_DIR"):
        return Path(chosen)
    base = environment.get("XDG_DATA_HOME") or os.path.join(environment.get("HOME", "/root"), ".local", "share")
    return Path(base) / "drivefs"


def runtime_dir(environment: Mapping[str, str]) -> Path:
    """Where control sockets lie: short paths, because a unix socket's path is limited to 107 bytes (unix(7))."""
    if chosen := environment.get("DRIVEFS_RUNTIME_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/run/drivefs")  # one place whatever root's login says, so that a shell finds the mounts of a system service
    home = environment.get("XDG_RUNTIME_DIR")
    return Path(home) / "drivefs" if home else Path(f"/tmp/drivefs-{os.geteuid()}")


def validate_api_root(url: str) -> str:
    """``url`` without a trailing slash, or UsageError: a Drive v3 server's root, as in ``http://127.0.0.1:8080``."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is not an http(s) address. Give the server's root, such as http://127.0.0.1:8080.")
    if parts.query or parts.fragment or parts.username:
        raise UsageError(f"{url!r} must be a plain root address, without user name, query or fragment.")
    return url.rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything a daemon needs to know. Durations in seconds, sizes in bytes.

    mountpoint: the place whose name the control socket has; of a daemon without a mount (``serves``) its cache directory.
    Exactly one account source is used: ``access_token`` (with ``api_root``), ``credentials`` (a key file), or ``embedded``.
    """

    mountpoint: Path
    cache_dir: Path
    runtime_dir: Path
    serves: Literal["mount", "socket"] = "mount"
    api_root: str = GOOGLE_API_ROOT
    access_token: str | None = field(default=None, repr=False)
    credentials: Path | None = None
    embedded: bool = False
    read_only: bool = False
    poll_interval: float = 10.0
    upload_delay: float = 2.0
    uploads: int = 8
    downloads: int = 16
    drain_timeout: float = 300.0
    # What the cache may hold. Clean data beyond it is evicted, oldest use first; writers wait for uploads, then get ENOSPC.
    # None: clean data may take a fifth of the free space, at most 50 GB, and unsent data all that ``min_free`` leaves.
    cache_size: int | None = None
    # What is left free on the cache's file system whatever happens. None: a twentieth of it, at most 1 GB.
    min_free: int | None = None
    # fsync returns when Drive has the bytes, and not already when this machine's disk has them.
    fsync_remote: bool = False
    # A file that stays open and grows is sent as it is, so often. 0: only when it is closed.
    open_file_snapshot: float = 60.0
    # A program's call that makes no progress for so long fails.
    io_timeout: float = 20.0

    def __post_init__(self) -> None:
        if self.poll_interval <= 0:
            raise UsageError("--poll-interval must be more than 0 seconds.")
        if self.upload_delay < 0:
            raise UsageError("--upload-delay must not be negative.")
        if self.open_file_snapshot < 0:
            raise UsageError("--open-file-snapshot must not be negative; 0 turns it off.")
        if self.io_timeout <= 0:
            raise UsageError("--io-timeout must be more than 0 seconds.")
        if self.cache_size is not None and self.cache_size < SMALLEST_CACHE:
            raise UsageError(f"--cache-size must be at least {SMALLEST_CACHE >> 20}M.")

    @property
    def socket_path(self) -> Path:
        return socket_path(self.runtime_dir, self.mountpoint)


def socket_path(runtime: Path, mountpoint: Path) -> Path:
    """The control socket of the daemon that serves ``mountpoint`` (an absolute path without a trailing slash)."""
    return runtime / (hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:24] + ".sock")
