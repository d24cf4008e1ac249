"""What the daemon says, in words for a terminal. Names come from strangers: shown with repr(), so that none acts on it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["age_text", "progress_text", "size_text", "status_text", "unsent_line"]


_LISTED: Final = 20


def size_text(size: int) -> str:
    """``1536`` -> ``1.5 KiB``."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def age_text(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``; whole seconds, the two largest units."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def unsent_line(entry: Mapping[str, Any]) -> str:
    """One file that Drive does not have: its name, how much, since when, why."""
    reason = str(entry.get("reason") or "waiting")
    reason = reason if reason.isprintable() else repr(reason)
    what = "deleted here" if entry.get("deletion") else f"{size_text(entry['size'])}, changed {age_text(entry['age_s'])} ago"
    return f"  {entry['path']!r}  {what}: {reason}"


def progress_text(news: Mapping[str, Any]) -> str:
    size = f" ({size_text(news['pending_bytes'])})" if "pending_bytes" in news else ""
    return f"to be sent: {news['pending_files']} files{size}"


def status_text(state: Mapping[str, Any], now: float | None = None) -> str:
    """The first line answers the question that matters; the rest explains."""
    if state.get("mounted") is False:
        return "\n".join(_last_session(state))
    lines = [_verdict(state), *_identity(state, time.time() if now is None else now)]
    lines += _pending(state)
    lines += _waiting(state.get("waiting") or [])
    if requests := state.get("api_requests"):
        counts = ", ".join(f"{name} {count}" for name, count in sorted(requests.items()))
        lines.append(f"requests to Drive: {counts}")
    if errors := state.get("last_errors"):
        lines.append("last errors:")
        lines += [f"  {_error_line(error)}" for error in errors]
    return "\n".join(lines)


def _verdict(state: Mapping[str, Any]) -> str:
    if not state["pending_files"]:
        return "safe to power off: yes (everything is on Drive)"
    estimate = state.get("estimated_seconds")
    rest = "" if estimate is None else f", about {age_text(estimate)} to go"
    return f"safe to power off: no ({_amount(state)}, oldest {age_text(state['oldest_pending_age_s'] or 0)}{rest})"


def _amount(state: Mapping[str, Any]) -> str:
    files = state["pending_files"]
    return f"{files} {'file' if files == 1 else 'files'}, {size_text(state['pending_bytes'])}"


def _last_session(state: Mapping[str, Any]) -> list[str]:
    """A mount that is no more, and did not end with everything on Drive."""
    where = f"only in the cache {state['cache_dir']!r}"
    if state["pending_files"] is None:
        lines = [f"safe to power off: no (not mounted: its daemon crashed; what it had not sent is {where})"]
    else:
        lines = [f"safe to power off: no (not mounted: {_amount(state)} of the last session {where})"]
    mount = state.get("serves") != "socket"
    lines.append(f"was mounted at: {state['mountpoint']!r}" if mount else "was served without a mount")
    if state.get("gave_up"):
        lines.append(_plain(state["gave_up"]))
    return [*lines, *_pending(state), f"{'Mount' if mount else 'Serve'} it again, and what is left is sent."]


def _identity(state: Mapping[str, Any], now: float) -> list[str]:
    mode = "read-only" if state.get("read_only") else "read and write"
    where = "served without a mount, as" if state.get("serves") == "socket" else "mounted at:"
    lines = [
        f"{where} {state['mountpoint']!r} ({mode}), process {state['pid']}",
        f"account: {_plain(state.get('account'))} at {_plain(state.get('api_root'))}",
        f"cache: {_room(state)} in {state.get('cache_dir')!r}",
    ]
    if since := state.get("since"):
        lines.append(f"running for: {age_text(max(0.0, now - float(since)))}")
    if state.get("supervised") is False:
        lines.append("not supervised: after a crash it has to be mounted again by hand")
    if state.get("offline"):
        lines.append(f"not signed in yet: {_plain(state['offline'])}")
    return lines


def _room(state: Mapping[str, Any]) -> str:
    limit = state.get("cache_limit")
    return size_text(int(state.get("cache_bytes") or 0)) + (f" of {size_text(limit)}" if limit else "")


def _pending(state: Mapping[str, Any]) -> list[str]:
    listed = state.get("pending") or []
    lines = ["not on Drive yet:"] if listed else []
    lines += [unsent_line(entry) for entry in listed]
    if listed and state["pending_files"] > len(listed):
        lines.append(f"  and {state['pending_files'] - len(listed)} more")
    return lines


def _waiting(operations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Programs' calls that wait for Drive at this moment, the longest first."""
    lines = ["waiting for Drive:"] if operations else []
    for one in sorted(operations, key=lambda one: -float(one["seconds"]))[:_LISTED]:
        lines.append(f"  {_plain(one['operation'])} {one['path']!r} for {age_text(one['seconds'])}: {_plain(one['what'])}")
    return lines


def _error_line(error: Any) -> str:
    if not isinstance(error, Mapping):
        return _plain(error)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(error.get("when") or 0)))
    return f"{when}  {error.get('subject')!r}: {_plain(error.get('what'))}"


def _plain(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() else repr(text)
