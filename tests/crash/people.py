"""Writer processes, and what is seen of their folders: through a mount, and on the server."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..support.server import Server, environment
from .history import Finding, History, Kind, Seen, digest_of, parts_in_flight

__all__ = ["Person", "read_folder", "server_view"]

_DEAD = (errno.ENOTCONN, errno.ECONNABORTED)


@dataclass
class Person:
    """One writer. times: what stat said of a content, by what that is made from.  known: contents that the server had."""

    number: int
    folder: Path
    journal: Path
    history: History = field(default_factory=History)
    chance: float = 0.0
    times: dict[str, int] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    process: subprocess.Popen[bytes] | None = None
    in_flight: dict[str, Any] | None = None

    def start(self, seed: int) -> None:
        self.journal.write_bytes(b"")
        program = str(Path(__file__).with_name("writer.py"))
        command = [sys.executable, program, str(self.folder), str(self.journal), str(seed), str(self.chance)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment())
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(self.history.state).encode())
        self.process.stdin.close()

    def acknowledged(self) -> int:
        return self.journal.read_bytes().count(b'{"done"')

    def read_journal(self, *, ended_by: tuple[int, ...] = _DEAD) -> int:
        """The writer ended because its mount died: bring the model to what was acknowledged. Returns the errno it ended with."""
        assert self.process is not None
        self.process.wait(30)
        entries = [json.loads(line) for line in self.journal.read_bytes().splitlines()]
        assert entries[-1].get("errno") in ended_by, entries[-2:]
        for entry in entries:
            if "of" in entry and not self.chance:  # where contents may roll back, so may times
                self.times[json.dumps(entry["of"])] = entry["mtime_ns"] // 10**6
        self.in_flight = self.history.read(entries)
        if self.in_flight is not None:
            self.history.begin(self.in_flight)
        return int(entries[-1]["errno"])

    def judge_midway(self, server: Server) -> list[Finding]:
        """What the server had at the moment of the kill; to be asked while nobody sends."""
        found = server_items(server, self.folder.name)
        findings = self.history.judge_midway(found, self.known)
        self.known = {md5 for _path, md5 in found if md5 is not None}
        return findings

    def judge(self, *, adopt: bool = True) -> list[Finding]:
        """The mount after a restart; with ``adopt`` what is there, if nothing is wrong, is the model from now on."""
        read, findings = read_folder(self.folder)
        seen: Seen = {path: None if data is None else digest_of(data) for path, data in read.items()}
        contents = {path: data for path, data in read.items() if data is not None}
        parts = parts_in_flight(self.history, self.in_flight, contents)
        found, state = self.history.judge(seen, parts)
        unreadable = {finding.path for finding in findings}
        findings += [finding for finding in found if finding.path not in unreadable]
        if self.in_flight is not None and not self.chance and self.in_flight["begin"][0] == "replace":
            # Each of the two may be in either state, but a name that is replaced is always there.
            name = self.in_flight["begin"][-1]
            findings += [Finding(Kind.LOST, name, "while it was replaced")] if name not in seen else []
        if not findings and adopt:
            self.history.restart(state)
            findings = self._judge_times()
            self._tidy()
            self.in_flight = None
        return findings

    def _judge_times(self) -> list[Finding]:
        noted = {name: self.times.get(json.dumps(made_from)) for name, made_from in self.history.state.items()}
        wrong = [n for n, time in noted.items() if time not in (None, (self.folder / n).stat().st_mtime_ns // 10**6)]
        return [Finding(Kind.TIME, name) for name in wrong]

    def _tidy(self) -> None:
        """A temporary file that was left is cleared away, as the program would."""
        state = self.history.state
        for name in [name for name in state if os.path.basename(name) == ".tmp"]:
            os.unlink(self.folder / name)
            del state[name]
        self.history.restart(state)


def read_folder(folder: Path) -> tuple[dict[str, bytes | None], list[Finding]]:
    """Everything below, by path: bytes of files, None for folders; and what is listed but cannot be read."""
    read: dict[str, bytes | None] = {}
    findings = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        try:
            read[name] = None if path.is_dir() else path.read_bytes()
        except OSError as error:
            findings.append(Finding(Kind.UNREADABLE, name, errno.errorcode.get(error.errno or 0, "")))
    return read, findings


def server_items(server: Server, folder: str) -> list[tuple[str, str | None]]:
    """(path, md5) of all that the server has below a folder of My Drive."""
    start = f"{folder}/"
    return [(item["path"][len(start) :], item["md5"]) for item in server.tree() if item["path"].startswith(start)]


def server_view(server: Server, folder: str) -> tuple[Seen, list[Finding]]:
    """The same by path, and the names that are there twice."""
    items = server_items(server, folder)
    counted = Counter(path for path, _md5 in items)
    return dict(items), [Finding(Kind.DUP, path) for path, count in counted.items() if count > 1]
