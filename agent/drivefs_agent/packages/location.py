"""Where the store lies, and who gets us there: a directory, or a daemon of drivefs with the account that was named.

A daemon is found, or started without a mount (``drivefs serve``), so that packages come back before anything is mounted and where
nothing can be. Of drivefs only ``drivefs.client`` is imported; the command is run as a person would run it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from drivefs_agent.packages.directory import DirectoryFolder
from drivefs_agent.packages.drive_folder import DriveFolder
from drivefs_agent.packages.errors import StoreUnreachable
from drivefs_agent.packages.folder import Folder

__all__ = ["DEFAULT_STORE", "Location"]

DEFAULT_STORE: Final = "MyDrive/Colab Notebooks/my_env"
_START_SECONDS: Final = 120.0
_NOT_MOUNTED: Final = 10  # drivefs's exit code for it


@dataclass(frozen=True, slots=True)
class Location:
    """store: a path on Drive ("MyDrive/…"), or of a directory ("/…", "~/…", "./…"); one in a mount is reached through its daemon.

    mount: the mountpoint, or the place, of the daemon to use.  credentials, api_root, embedded: the account, as for
    ``drivefs mount``; a token comes from DRIVEFS_ACCESS_TOKEN.
    """

    store: str = DEFAULT_STORE
    mount: str | None = None
    credentials: str | None = None
    api_root: str | None = None
    embedded: bool = False

    def open(self, environment: Mapping[str, str] = os.environ) -> Folder:
        """Connects to nothing yet, except where a daemon must be found or started."""
        if self.store.startswith(("/", "~", ".")):
            return self._directory(os.path.abspath(os.path.expanduser(self.store)))
        client = _client_module()
        return DriveFolder(client, lambda: self._place(client, environment), self.store.strip("/"))

    def _directory(self, path: str) -> Folder:
        try:
            client = _client_module()
            connected = client.connect(path)
        except StoreUnreachable:
            return DirectoryFolder(Path(path))  # without drivefs there are no mounts of drivefs
        except client.ClientError as error:
            if error.exit_code != _NOT_MOUNTED:
                raise StoreUnreachable(str(error)) from error
            return DirectoryFolder(Path(path))
        inside = os.path.relpath(os.path.realpath(path), connected.mountpoint)
        return DriveFolder(client, lambda: str(connected.mountpoint), inside)

    def _place(self, client: Any, environment: Mapping[str, str]) -> str:
        """Of the daemon to talk to. Asked again where a daemon has gone: a mount takes over from one that only serves."""
        if self.mount is not None:
            return str(client.canonical(self.mount))
        if self.credentials or self.embedded or self.api_root or environment.get("DRIVEFS_ACCESS_TOKEN"):
            return self._serve(environment)
        return _only(client)

    def _serve(self, environment: Mapping[str, str]) -> str:
        command = [sys.executable, "-m", "drivefs", "serve", "--json"]
        command += ["--credentials", self.credentials] if self.credentials else []
        command += ["--api-root", self.api_root] if self.api_root else []
        command += ["--embedded"] if self.embedded else []
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_START_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
                env=dict(environment),
            )
        except subprocess.TimeoutExpired as error:
            raise StoreUnreachable(
                f"'drivefs serve' has not answered within {_START_SECONDS:.0f} s. Look into its log."
            ) from error
        if done.returncode:
            raise StoreUnreachable(
                done.stderr.strip().removeprefix("drivefs: ") or f"'drivefs serve' failed ({done.returncode})."
            )
        return str(json.loads(done.stdout)["place"])


def _only(client: Any) -> str:
    """Where no account is named, the daemon that runs is meant."""
    try:
        places = [one.mountpoint for one in client.running()]
    except client.ClientError as error:
        raise StoreUnreachable(str(error)) from error
    if len(places) == 1:
        return str(places[0])
    if places:
        raise StoreUnreachable(f"Several mounts run: {', '.join(map(repr, places))}. Name the one you mean with --mount.")
    raise StoreUnreachable(
        "No Drive is mounted. Mount it (drivefs mount MOUNTPOINT), or name the account with --credentials FILE or with "
        "DRIVEFS_ACCESS_TOKEN, or keep the packages in a directory: --store /some/where"
    )


def _client_module() -> Any:
    try:
        return importlib.import_module("drivefs.client")
    except ImportError as error:
        raise StoreUnreachable("drivefs is not installed here. Give a directory for the store: --store /some/where") from error
