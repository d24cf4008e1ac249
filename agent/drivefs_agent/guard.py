"""Watches over a rented box: stops it when nobody uses it, and brings everything to Drive before it goes.

What holds, whatever happens: the stop command is run only after a flush that left nothing, by a box of which every probe said at
the last moment that it is idle, drivefs's mounts among them. A probe that fails, a mount that is stuck, a file that cannot be
sent, a look that breaks: each of them keeps the box on, and the log says which.

One thread does one thing after the other; only what may hang is given time limits, where it is asked.
"""

from __future__ import annotations

import logging
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Final

from drivefs_agent import flush, text
from drivefs_agent.activity import Activity, Finding
from drivefs_agent.drive import DriveMount, DriveReader
from drivefs_agent.flush import Left, flush_all
from drivefs_agent.host import read_mounts
from drivefs_agent.inventory import Specs
from drivefs_agent.notice import Notice, Notices
from drivefs_agent.state import State, StateError

__all__ = ["Guard", "Plan", "run_command"]

logger = logging.getLogger(__name__)

_TICK: Final = 5.0  # AWS's advice: look for a notice every 5 seconds
_LOOK: Final = 15.0
_AGAIN: Final = 300.0  # seconds between two tries to stop
_LEASE_WARNINGS: Final = (1800, 600, 300)
_LEASE_FLUSH: Final = 600
_MARGIN: Final = 3.0  # seconds before the end at which a report must be out
_COMMAND_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds. idle: for how long the box must be idle before it is stopped; None: it never is.

    warn: between the announcement and the stop.  flush: how long Drive may take at most.
    """

    idle: float | None = None
    warn: float = 300.0
    flush: float = 300.0
    stop_command: str | None = None


def run_command(command: str) -> bool:
    """Without a shell. False, and a line in the log, where it fails."""
    try:
        done = subprocess.run(
            shlex.split(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        logger.error("the stop command cannot be run: %s", error)
        return False
    if done.returncode:
        said = text.printable((done.stderr or done.stdout).strip()[-500:])
        logger.error("the stop command ended with exit status %d: %s", done.returncode, said)
    return done.returncode == 0


class Guard:
    """``look``: the box now.  ``wait``: sleeps so many seconds, and is true where the guard is to end.

    The other functions are what it acts through; tests put others in their place.
    """

    def __init__(
        self,
        plan: Plan,
        state: State,
        activity: Activity,
        look: Callable[[], Specs],
        wait: Callable[[float], bool],
        notices: Notices | None = None,
        *,
        flush: Callable[[float], list[Left]] = flush_all,
        stop: Callable[[str], bool] = run_command,
        drive: Callable[[], tuple[tuple[DriveMount, ...], str | None]] = lambda: DriveReader().read(read_mounts()),
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._plan, self._state, self._activity, self._notices = plan, state, activity, notices
        self._look, self._wait, self._flush_all, self._run_stop, self._drive = look, wait, flush, stop, drive
        self._clock, self._now = clock, now
        self._findings: list[Finding] = []
        self._look_due = float("-inf")
        self._idle_since: float | None = None
        self._warned_at: float | None = None
        self._not_before = float("-inf")
        self._notice: Notice | None = None
        self._notice_error: str | None = None
        self._told_left: list[str] | None = None
        self._complained: set[str] = set()
        self._lease_told: set[tuple[float, int]] = set()

    def run(self) -> list[Left]:
        """Until told to end; then flush, and give what is left."""
        while True:
            self._tick()
            if self._wait(_TICK):
                break
        logger.info("asked to end: sending what is not on Drive yet")
        return self._flush(self._plan.flush)

    def _tick(self) -> None:
        self._heed_notices()
        if self._clock() >= self._look_due:
            self._look_due = self._clock() + _LOOK
            self._heed_lease()
            self._findings = self._examine()
            self._heed_idleness()
        try:
            self._state.put_report(self._report())
        except StateError as error:
            self._complain(f"the page cannot be told how the guard is: {error}")

    # -- notices ---------------------------------------------------------------------------------------------------

    def _heed_notices(self) -> None:
        """While a notice stands, again and again: programs write their last checkpoints in just these seconds."""
        if self._notices is None:
            return
        notice = self._notices.poll()
        if self._notices.error != self._notice_error and self._notices.error:
            logger.warning("%s", self._notices.error)
        self._notice_error = self._notices.error
        if notice is not None and notice != self._notice:
            logger.warning("%s: sending what is not on Drive yet", text.printable(notice.text))
        # A server that falls silent in its last minute has not taken its word back.
        if notice is not None or self._notice_error is None:
            self._notice = notice
        if self._notice is not None:
            left = float("inf") if self._notice.at is None else self._notice.at - self._now() - _MARGIN
            self._flush(max(1.0, min(self._plan.flush, left)))

    # -- the lease -------------------------------------------------------------------------------------------------

    def _heed_lease(self) -> None:
        """Warnings before the rent ends, each once, and a flush at the one that leaves time for it."""
        try:
            end = self._state.session().lease_end
        except StateError as error:
            self._complain(str(error))
            return
        if end is None or end <= self._now():
            return
        left = end - self._now()
        due = [mark for mark in _LEASE_WARNINGS if left <= mark and (end, mark) not in self._lease_told]
        if due:
            self._lease_told.update((end, mark) for mark in due)
            logger.warning("the lease ends in %s", text.duration(left))
        if left <= _LEASE_FLUSH and due:
            self._flush(max(1.0, min(self._plan.flush, left - _MARGIN)))

    # -- idleness --------------------------------------------------------------------------------------------------

    def _examine(self) -> list[Finding]:
        try:
            return self._activity.findings(self._look())
        except Exception:  # whatever broke: the box is then not known to be idle
            logger.exception("a look at the box failed")
            return [Finding("look", None, "the last look at the box failed; see the guard's log")]

    def _heed_idleness(self) -> None:
        if not _idle(self._findings):
            if self._warned_at is not None:
                logger.info("not stopping: %s", _why_busy(self._findings))
            self._idle_since = self._warned_at = None
            return
        now = self._clock()
        if self._idle_since is None:
            self._idle_since = now
        if self._plan.idle is None or self._plan.stop_command is None or now - self._idle_since < self._plan.idle:
            return
        if self._warned_at is None:
            self._warned_at = now
            logger.warning(
                "idle for %s: stopping in %s. To keep the box: drivefs-agent hold 3h",
                text.duration(now - self._idle_since),
                text.duration(self._plan.warn),
            )
        if now - self._warned_at >= self._plan.warn and now >= self._not_before:
            self._stop(self._plan.stop_command)

    def _stop(self, command: str) -> None:
        """Flush, look once more, stop. Whatever is in the way puts it off."""
        if self._flush(self._plan.flush):
            logger.error("not stopping: not everything is on Drive")
        elif self._is_still_idle():
            logger.warning("everything is on Drive; stopping: %s", command)
            self._run_stop(command)
        # Counted from their end: a flush, and a command that fails, take their time.
        self._not_before = self._clock() + _AGAIN

    def _is_still_idle(self) -> bool:
        """The flush may have taken minutes, and looks show mounts as they were a moment ago: those are asked anew."""
        try:
            mounts, error = self._drive()
            self._findings = self._activity.findings(replace(self._look(), drive=mounts, drive_error=error))
        except Exception:
            logger.exception("not stopping: the last look at the box failed")
            self._idle_since = self._warned_at = None
            return False
        if not _idle(self._findings):
            logger.info("not stopping: %s", _why_busy(self._findings))
            self._idle_since = self._warned_at = None
            return False
        return True

    # -- both ------------------------------------------------------------------------------------------------------

    def _flush(self, timeout: float) -> list[Left]:
        """Says what is left, when it is another than what was said before."""
        left = self._flush_all(timeout)
        lines = list(flush.report(left))
        if lines != self._told_left:
            for line in lines or ["everything is on Drive"]:
                logger.log(logging.ERROR if lines else logging.INFO, "%s", line)
        self._told_left = lines
        return left

    def _complain(self, sentence: str) -> None:
        """Once, however often it is met."""
        if sentence not in self._complained:
            self._complained.add(sentence)
            logger.warning("%s", sentence)

    def _report(self) -> dict[str, object]:
        now = self._clock()
        stop_in = None if self._warned_at is None else max(self._warned_at + self._plan.warn, self._not_before) - now
        return {
            "time": self._now(),
            "idle_seconds": None if self._idle_since is None else now - self._idle_since,
            "idle_after": self._plan.idle,
            "stop_at": None if stop_in is None else self._now() + max(0.0, stop_in),
            "notice": None if self._notice is None else asdict(self._notice),
            "notice_error": self._notice_error,
            "findings": [asdict(finding) for finding in self._findings],
        }


def _idle(findings: Iterable[Finding]) -> bool:
    return all(finding.idle is True for finding in findings)


def _why_busy(findings: Iterable[Finding]) -> str:
    return text.printable("; ".join(f"{one.probe}: {one.text}" for one in findings if one.idle is not True))
