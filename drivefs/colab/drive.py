"""``drive.mount`` and ``drive.flush_and_unmount`` as notebooks call them, on a machine of one's own.

Signatures and sentences follow google.colab's, because notebooks and people look for them. Three things are better than there:
``force_remount`` sends what is pending before it unmounts, mounts at other places are left alone, and an error says its cause.
"""

from __future__ import annotations

import os
import subprocess
import sys

from drivefs import client

__all__ = ["flush_and_unmount", "mount"]

_NOT_MOUNTED = 10
_MOUNTPOINT_REFUSED = 7
_GRACE = 30.0  # seconds for starting, beyond what the caller granted; Colab gives as many


def mount(mountpoint: str, force_remount: bool = False, timeout_ms: int = 120000, readonly: bool = False) -> None:
    """Mount Drive at ``mountpoint``, with the account that the environment configures (see ``drivefs mount --help``).

    force_remount: unmount first, where it is mounted.  timeout_ms: what sending before a remount, and mounting, may each take.
    ValueError: the place cannot be mounted at, or mounting failed; its text says why.
    """
    if " " in mountpoint:
        raise ValueError("Mountpoint must not contain a space.")
    mountpoint = os.path.expanduser(mountpoint)
    if _is_mounted(mountpoint):
        if not force_remount:
            print(  # noqa: T201
                f"Drive already mounted at {mountpoint}; to attempt to forcibly remount, "
                f'call drive.mount("{mountpoint}", force_remount=True).'
            )
            return
        _send_and_unmount(client.Client(mountpoint), timeout_ms, "mount failed")
    _run_mount(mountpoint, timeout_ms / 1000 + _GRACE, readonly)
    print(f"Mounted at {mountpoint}")  # noqa: T201


def flush_and_unmount(timeout_ms: int = 24 * 60 * 60 * 1000) -> None:
    """Send everything of every mount of this user to Drive, and unmount. ValueError: some could not be sent; it stays mounted."""
    mounts = client.running()
    if not mounts:
        print("Drive not mounted, so nothing to flush and unmount.")  # noqa: T201
    for mounted in mounts:
        _send_and_unmount(mounted, timeout_ms, "flush_and_unmount failed")


def _is_mounted(mountpoint: str) -> bool:
    try:
        client.Client(mountpoint).status()
    except client.ClientError as error:
        if error.exit_code == _NOT_MOUNTED:
            return False
        raise ValueError(f"mount failed: {error}") from error
    return True


def _send_and_unmount(mounted: client.Client, timeout_ms: int, failure: str) -> None:
    try:
        unsent = mounted.unmount(timeout=timeout_ms / 1000)
    except client.ClientError as error:
        raise ValueError(f"{failure}: {error}") from error
    if unsent:
        some = ", ".join(repr(entry["path"]) for entry in unsent[:3])
        raise ValueError(f"{failure}: {len(unsent)} not on Drive yet (such as {some}). {mounted.mountpoint!r} stays mounted.")


def _run_mount(mountpoint: str, timeout: float, readonly: bool) -> None:
    # In / because a folder named drivefs in the notebook's directory would be imported instead of us.
    command = [sys.executable, "-m", "drivefs", "mount", os.path.abspath(mountpoint), *(["--read-only"] if readonly else [])]
    try:
        done = subprocess.run(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"mount failed: timeout: Drive has not answered within {timeout:.0f} s.") from error
    said = done.stderr.strip()
    if done.returncode == 0:
        if said:
            print(said)  # noqa: T201
        return
    sentence = said.removeprefix("drivefs: ")
    if done.returncode == _MOUNTPOINT_REFUSED and sentence.startswith("Mountpoint must"):
        raise ValueError(sentence.splitlines()[0])
    raise ValueError(f"mount failed: {sentence}")
