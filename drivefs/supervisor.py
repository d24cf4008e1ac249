"""Keeps a daemon alive: its parent waits for it, and starts another where it crashed.

A crash is an end by a signal that nobody sends to end a program in order, or an exit code that says "a defect of ours", "Drive
unreachable" or "disk full". Everything else is an end on purpose, and the supervisor ends with the daemon. Before each new
start the dead mount is detached. The first start is immediate; more crashes within a minute are answered later and later, and
after the fifth it gives up and says so, in the log and in the mount's record, which ``drivefs status`` shows.

Signals are never handled but waited for, so there is no moment in which one could be missed or hit the wrong process. A
supervisor that is killed leaves the daemon running, which is then merely unsupervised. It uses the standard library only, and
nothing in it starts a thread that outlives a fork.
"""

from __future__ import annotations

import logging
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drivefs import mountpoint, stuck
from drivefs.base.errors import ExitCode, MountpointUnusable
from drivefs.record import Record

__all__ = ["End", "Supervisor"]

logger = logging.getLogger(__name__)

_PATIENCE: Final = 60.0
_CRASHES: Final = 5
# Seconds after which it looks by itself: in a process with threads SIGCHLD may go to one that does not wait for it.
_LOOK: Final = 1.0
_ASKING: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_AWAITED: Final = _ASKING | {signal.SIGCHLD}
# Ends that a new start may mend.
_MENDABLE: Final = frozenset({ExitCode.UNEXPECTED, ExitCode.UNREACHABLE, ExitCode.DISK_FULL})

# Runs in the forked process until the mount has ended; calls its argument once the mount answers. Returns the exit code.
Live = Callable[[Callable[[], None]], int]


@dataclass(frozen=True, slots=True)
class End:
    """How a daemon ended. ready: whether its mount had answered."""

    status: int
    ready: bool

    @property
    def code(self) -> int:
        """The exit code, or minus the signal's number."""
        return os.waitstatus_to_exitcode(self.status)

    @property
    def crashed(self) -> bool:
        return -self.code not in _ASKING if self.code < 0 else self.code in _MENDABLE

    def __str__(self) -> str:
        return f"was ended by {signal.Signals(-self.code).name}" if self.code < 0 else f"ended with exit code {self.code}"


class Supervisor:
    """place: the mountpoint, canonical; None for a daemon without a mount.  record: of the mount, or of what is served."""

    def __init__(self, place: Path | None, record: Record) -> None:
        self._place = place
        self._record = record
        self._asked = False
        self._crashes: list[float] = []
        # Since when the daemon that runs is dead and has not ended; monotonic.
        self._stuck_since: float | None = None
        self._is_freeing = False

    def run(self, first: Live, again: Live, started: Callable[[], None]) -> int:
        """Run ``first``, and ``again`` after each crash; returns the last exit code. started: called after the first fork."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        end = self._watch(first, started)
        if not end.ready:  # whoever asked for the mount has been told
            self._detach()
        else:
            while self._is_to_restart(end):
                logger.error("the daemon %s; starting it again" if self._place is None else "the daemon %s; mounting again", end)
                end = self._watch(again, lambda: None)
        return end.code if end.code >= 0 else int(ExitCode.UNEXPECTED)

    # -- one daemon ------------------------------------------------------------------------------------------------

    def _watch(self, live: Live, started: Callable[[], None]) -> End:
        """Start a daemon and wait for its end; who asks us to end asks the daemon."""
        self._stuck_since, self._is_freeing = None, False
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _be_the_daemon(live, writer)
        os.close(writer)
        started()
        try:
            status = self._wait(pid)
            os.set_blocking(reader, False)
            return End(status, ready=_was_told(reader))
        finally:
            os.close(reader)

    def _wait(self, pid: int) -> int:
        while True:
            news = signal.sigtimedwait(_AWAITED, _LOOK)
            if news is not None and news.si_signo in _ASKING:
                self._asked = True
                os.kill(pid, news.si_signo)  # not reaped yet, so it is no other process
                continue
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
            self._free_if_stuck(pid)

    def _free_if_stuck(self, pid: int) -> None:
        """A daemon that was killed may be unable to end, and then its mount hangs for everybody (see ``stuck``).

        Every process looks so for a moment when it ends, and its place may be another's the next: only what lasts counts.
        """
        if self._place is None or not stuck.is_stuck(pid):
            self._stuck_since = None
            return
        now = time.monotonic()
        self._stuck_since = since = now if self._stuck_since is None else self._stuck_since
        entry = mountpoint.mount_at(self._place)
        if now - since < _LOOK / 2 or entry is None or not entry.is_ours:
            return
        try:
            stuck.abort(entry)
        except OSError as error:
            what = f"and the kernel does not let us free it: {error}. As root: umount -f {self._place}"
        else:
            what = "so its connection is aborted"
        if not self._is_freeing:
            logger.warning("the daemon was killed, but is stuck in the kernel, %s", what)
        self._is_freeing = True

    # -- after its end ---------------------------------------------------------------------------------------------

    def _is_to_restart(self, end: End) -> bool:
        """Clean up and wait as long as is due; False where this was the end."""
        if self._asked or not end.crashed:
            self._detach()
            return False
        now = time.monotonic()
        self._crashes = [when for when in self._crashes if when > now - _PATIENCE] + [now]
        if not self._detach():
            return False
        if len(self._crashes) >= _CRASHES:
            return self._give_up(f"The daemon {end}, the {_CRASHES}th time within a minute, so it is not started again.")
        if self._pause() or self._record.read().get("stop"):
            logger.info("the mount was asked to end while its daemon was dead")
            return False
        self._look_underneath()
        return True

    def _detach(self) -> bool:
        """Remove the dead mount; a living one by somebody else means that there is nothing left to do."""
        try:
            while self._place is not None and (entry := mountpoint.mount_at(self._place)):
                mountpoint.detach_if_dead(entry)
        except MountpointUnusable as error:
            return self._give_up(str(error))
        return True

    def _pause(self) -> bool:
        """True where somebody asked for the end meanwhile."""
        crashes = len(self._crashes)
        seconds = 0 if crashes == 1 else 2 ** (crashes - 2)
        return self._sleep(seconds) is not None

    def _sleep(self, seconds: float) -> object:
        """The signal that asks us to end, if one came meanwhile."""
        return signal.sigtimedwait(_ASKING, seconds)

    def _give_up(self, why: str) -> bool:
        logger.error("%s What was not sent is kept in the cache. Mount again: drivefs mount", why)
        self._record.add(gave_up=why)
        return False

    def _look_underneath(self) -> None:
        """Where the bare directory cannot be closed to root, somebody may have written into it."""
        if self._place is None:
            return
        try:
            hidden = os.listdir(self._place)
        except OSError as error:
            logger.warning("the mountpoint %r cannot be read: %s", str(self._place), error)
            return
        if hidden:
            logger.warning(
                "the mount hides %d entries that were made in %r while nothing was mounted; unmount to see them",
                len(hidden),
                str(self._place),
            )


def _be_the_daemon(live: Live, writer: int) -> None:
    """In the forked process: never returns."""
    code = int(ExitCode.UNEXPECTED)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
        code = live(lambda: _tell(writer))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def _tell(writer: int) -> None:
    try:
        os.write(writer, b"r")
    except BrokenPipeError:
        logger.info("the supervisor has gone; nobody starts this daemon again after a crash")


def _was_told(reader: int) -> bool:
    try:
        return os.read(reader, 1) == b"r"
    except BlockingIOError:
        return False
