"""The one question that costs work when it is answered wrongly: may this machine be switched off now?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from drivefs_agent import text
from drivefs_agent.drive import DriveMount

__all__ = ["Verdict", "judge"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """safe: None where it is not known, which must be treated as no. why: a sentence without its full stop."""

    safe: bool | None
    why: str


def judge(mounts: Iterable[DriveMount], error: str | None) -> Verdict:
    """``error``: why nothing is known of any mount. One mount that does not tell makes the whole not known."""
    mounts = tuple(mounts)
    if error is not None:
        return Verdict(None, f"not known: {error}")
    unknown = next((mount for mount in mounts if mount.error or mount.pending_files is None), None)
    waiting = [mount for mount in mounts if mount.pending_files]
    if waiting:
        return Verdict(False, _waiting(waiting) + (f"; and {unknown.mountpoint} does not tell" if unknown else ""))
    if unknown is not None:
        return Verdict(None, f"not known of {unknown.mountpoint}: {unknown.error or 'its daemon does not say what is pending'}")
    return Verdict(True, "everything is on Drive" if mounts else "nothing is mounted by drivefs")


def _waiting(mounts: list[DriveMount]) -> str:
    files = sum(mount.pending_files or 0 for mount in mounts)
    size = text.size(sum(mount.pending_bytes or 0 for mount in mounts))
    guesses = [mount.estimated_seconds for mount in mounts]
    longest = None if None in guesses else max(guess for guess in guesses if guess is not None)
    rest = "" if not longest else f", about {text.duration(longest)} to go"
    return f"{files} file{'' if files == 1 else 's'} ({size}) not on Drive yet{rest}"
