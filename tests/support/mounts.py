"""A real mount for tests: the installed command, a real daemon, the real kernel.

After each test the daemon's log is judged: a line that is a warning or worse, and that the test did not announce with
``expect_log``, is a failure, because a log that cries wolf helps nobody.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from drivefs import guard
from drivefs.client import Client, ClientError
from drivefs.store.cache import Cache
from drivefs.store.db import Database
from drivefs.store.tree import Tree

from .server import TOKEN, Server, environment

__all__ = ["Mount", "check_cache", "end_process", "errno_of", "eventually", "mounted_at", "why_no_mounts"]

Result = TypeVar("Result")
_BAD_LINE = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|^Traceback ")
QUICK = ("--poll-interval", "0.2", "--upload-delay", "0.05")


def eventually(look: Callable[[], Result], timeout: float = 15.0) -> Result:
    """The first true answer of ``look``; AssertionError where there is none before the deadline. One from ``look`` is a no."""
    deadline = time.monotonic() + timeout
    said: AssertionError | None = None
    while time.monotonic() < deadline:
        try:
            if answer := look():
                return answer
        except AssertionError as error:
            said = error
        time.sleep(0.02)
    raise said or AssertionError(f"not true within {timeout} s: {look}")


def errno_of(action: Callable[[], object]) -> int:
    """The errno that ``action`` fails with; 0 where it succeeds."""
    try:
        action()
    except OSError as error:
        return error.errno or 0
    return 0


def why_no_mounts() -> str | None:
    """Why nothing can be mounted on this machine; None where it can."""
    if shutil.which("fusermount3") is None:
        return "fusermount3 is missing"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    probe = "import ctypes, sys; sys.exit(ctypes.CDLL(None, use_errno=True).unshare(0x00020000))"  # CLONE_NEWNS
    if subprocess.run([sys.executable, "-c", probe], check=False).returncode:
        return "this process may not mount"
    return None


def mounted_at(path: Path) -> list[str]:
    """The fields of the mount at ``path`` in /proc/mounts (source, place, type, options, …); empty where there is none."""
    entries = [line.split(" ") for line in Path("/proc/mounts").read_text().splitlines()]
    return next((entry for entry in entries if entry[1] == os.fspath(path)), [])


def check_cache(cache_dir: Path) -> None:
    """No daemon runs on it: rows and files of a cache agree with each other."""
    with Database(cache_dir) as db:
        cache = Cache(db, Tree(db))
        cache.recover()
        for _ in cache.tidy():  # it may have been killed before it deleted what no row names any more
            pass
        cache.check_invariants()
        rows = {(int(row["id"]), bool(row["dirty"])) for row in db.execute("SELECT id, dirty FROM content")}
    files = {(int(path.name), kind == "dirty") for kind in ("clean", "dirty") for path in (cache_dir / kind).glob("*/*")}
    assert files == rows, f"files without a row: {files - rows}, rows without a file: {rows - files}"


class Mount:
    """One home of drivefs (data, sockets, mountpoint), and the commands of its user.

    supervise: as people mount; without it a daemon that the test kills stays dead.
    """

    def __init__(self, home: Path, server: Server | None, *, supervise: bool = False) -> None:
        self.home = home
        self.point = home / "mnt"
        self.cache = home / "cache"
        self.server = server
        self.supervise = supervise
        account = {} if server is None else {"DRIVEFS_API_ROOT": server.url, "DRIVEFS_ACCESS_TOKEN": TOKEN}
        runtime = home / "run"
        self.environment = environment(
            HOME=str(home), DRIVEFS_DATA_DIR=str(home / "data"), DRIVEFS_RUNTIME_DIR=str(runtime), **account
        )
        self.client = Client(self.point, runtime=str(runtime))
        self._expected: list[re.Pattern[str]] = []
        self._judged = 0

    @property
    def my(self) -> Path:
        return self.point / "MyDrive"

    # -- commands --------------------------------------------------------------------------------------------------

    def run(
        self, *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command as a person runs it."""
        command = [sys.executable, "-m", "drivefs", *(os.fspath(argument) for argument in arguments)]
        return subprocess.run(
            command,
            cwd=cwd or self.home,
            env=self.environment | (env or {}),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def mount(self, *flags: str | Path) -> Mount:
        """Mount, with short intervals; the test fails where that does."""
        alone = () if self.supervise else ("--no-supervise",)
        done = self.run("mount", self.point, "--cache-dir", self.cache, *QUICK, *alone, *flags)
        assert (done.returncode, done.stdout) == (0, f"Mounted at {self.point}\n"), done
        return self

    def unmount(self, timeout: float = 60) -> None:
        done = self.run("unmount", self.point, "--timeout", str(timeout), "--release")
        assert (done.returncode, done.stderr) == (0, ""), done
        assert not mounted_at(self.point)

    def flush(self, *paths: Path) -> None:
        """Wait until the server has everything, or what is under ``paths``."""
        unsent = self.client.flush(paths, timeout=60)
        assert not unsent, unsent

    def status(self) -> dict[str, Any]:
        return self.client.status()

    def remount(self, *flags: str | Path, wipe: bool = False) -> None:
        """Unmount and mount again; wipe: with nothing remembered."""
        self.unmount()
        if wipe:
            check_cache(self.cache)
            self.judge_log()
            self.wipe()
        self.mount(*flags)

    def wipe(self) -> None:
        shutil.rmtree(self.cache)
        self._judged = 0

    # -- the daemon ------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Of the daemon that holds the cache, if one lives; SIGKILL leaves the number of a dead one in the file."""
        try:
            pid = int((self.cache / "lock").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if os.fsencode(self.point) in command.split(b"\0") else None

    @property
    def supervisor(self) -> int | None:
        """The process that mounted with supervision and still watches, whether or not its daemon lives."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if {b"mount", os.fsencode(self.point)} <= set(command) and int(folder.name) != self.pid:
                return int(folder.name)
        return None

    def signal(self, number: int, timeout: float = 30) -> None:
        """Send a signal that ends the daemon, and wait for that end."""
        pid = self.pid
        assert pid is not None, "no daemon runs"
        end_process(pid, number, timeout)

    def kill(self) -> None:
        """SIGKILL; what is left is a dead mount."""
        self.signal(signal.SIGKILL)

    def end(self) -> None:
        """Whatever the test left: end supervisor and daemon, detach the mount, and let its directory be removed."""
        while (supervisor := self.supervisor) is not None:
            end_process(supervisor)
        if self.pid is not None:
            self.kill()
        while mounted_at(self.point):
            subprocess.run(["fusermount3", "-uz", self.point], check=True)
        guard.release(self.point)

    # -- the log ---------------------------------------------------------------------------------------------------

    @property
    def log(self) -> Path:
        return self.cache / "daemon.log"

    def expect_log(self, pattern: str) -> None:
        """Announce that what the test does makes the daemon log lines that match ``pattern``."""
        self._expected.append(re.compile(pattern))

    def judge_log(self) -> None:
        """AssertionError for lines since the last judgement that no test announced."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        fresh, self._judged = lines[self._judged :], len(lines)
        expected, self._expected = self._expected, []
        bad = [n for n, line in enumerate(fresh) if _BAD_LINE.search(line) and not any(p.search(line) for p in expected)]
        assert not bad, "the daemon's log has lines that nobody expected:\n" + "\n".join(fresh[max(0, bad[0] - 2) : bad[0] + 30])

    def answers(self) -> bool:
        try:
            self.client.status()
        except ClientError:
            return False
        return True


def end_process(pid: int, number: int = signal.SIGKILL, timeout: float = 30) -> None:
    """Send a signal that ends a process which is not our child, and wait for that end."""
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, number)
        assert select.select([handle], [], [], timeout)[0], f"process {pid} has not ended within {timeout} s"
    finally:
        os.close(handle)


def dump(value: Any) -> str:
    """For messages of assertions."""
    return json.dumps(value, indent=1, default=str)
