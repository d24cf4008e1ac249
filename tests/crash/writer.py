"""A program that changes files below one directory and writes down what was acknowledged.

Run: writer.py FOLDER JOURNAL SEED [CHANCE]

Each operation is written to the journal (a local file) before it begins, and once more when the kernel has answered; so after a
kill at most one operation is in flight. It ends at the first error, which it writes down; what was there before it began comes
as JSON from standard input. CHANCE: how often an operation is followed by fsync of what it changed and of the folders concerned,
which is written down as well.
Standard library only: it is a stranger to the code under test.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from typing import Any, TextIO

# Path -> None for a directory, else what the content is made from: [[seed, size], …], or [seed, size, bytes that arrived].
State = dict[str, Any]


def piece(seed: int, size: int, arrived: int | None = None) -> bytes:
    return random.Random(seed).randbytes(size)[:arrived]


def content(pieces: list[list[int]]) -> bytes:
    return b"".join(piece(*one) for one in pieces)


class Writer:
    """``state`` is the model: what is there once the operation in hand is acknowledged."""

    def __init__(self, folder: str, journal: TextIO, seed: int, state: State, chance: float = 0.0) -> None:
        self.chance = chance
        self.folder = folder
        self.journal = journal
        self.random = random.Random(seed)
        self.state = state
        self.kinds: list[Callable[[], tuple[list[Any], Callable[[], None], State] | None]] = [
            self.create,
            self.create,
            self.overwrite,
            self.append,
            self.rename,
            self.replace,
            self.unlink,
            self.mkdir,
            self.rmdir,
        ]

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def run(self) -> None:
        while True:
            chosen = self.random.choice(self.kinds)()
            if chosen is None:
                continue
            described, action, after = chosen
            self.write({"begin": described, "after": after})
            action()
            self.state = after
            self.write({"done": described})
            if self.chance and self.random.random() < self.chance and self.make_durable(described):
                self.write({"durable": described})
            self.note_time(described[-1])

    def make_durable(self, described: list[Any]) -> bool:
        """fsync(2): a file and its names are on the disk afterwards. False for a folder that was moved with all that is in it."""
        kind, *names = described
        if kind == "rename" and self.state[names[1]] is None:
            return False
        there = [name for name in names if name in self.state]
        for path in [*there, *sorted({os.path.dirname(name) for name in names})]:
            number = os.open(self.path(path), os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)
        return True

    def write(self, entry: dict[str, Any]) -> None:
        self.journal.write(json.dumps(entry) + "\n")
        self.journal.flush()

    def note_time(self, name: str) -> None:
        """What stat shows must not change by a kill, nor by a rename; a content is found again by what it is made from."""
        if (made_from := self.state.get(name)) is not None:
            self.write({"mtime_ns": os.stat(self.path(name)).st_mtime_ns, "of": made_from})

    # -- choosing --------------------------------------------------------------------------------------------------

    def files(self) -> list[str]:
        return [name for name, what in self.state.items() if what is not None]

    def folders(self) -> list[str]:
        return ["", *(name for name, what in self.state.items() if what is None)]

    def new_name(self) -> str | None:
        name = os.path.join(self.random.choice(self.folders()), f"n{self.random.randrange(12)}")
        return None if name in self.state or name.count("/") > 3 else name

    def new_piece(self) -> list[int]:
        return [self.random.randrange(1 << 30), self.random.choice((0, 1, 100, 5000, 70_000, 300_000))]

    def without(self, *names: str) -> State:
        return {name: what for name, what in self.state.items() if name not in names}

    # -- operations: (description, what to do, the state afterwards), or None where there is nothing to do it with --------

    def create(self) -> tuple[list[Any], Callable[[], None], State] | None:
        name, what = self.new_name(), self.new_piece()
        if name is None:
            return None
        return ["create", name], lambda: self.save(name, "xb", what), self.state | {name: [what]}

    def overwrite(self) -> tuple[list[Any], Callable[[], None], State] | None:
        """Write a temporary file and rename it over the old one, as editors do."""
        if not self.files():
            return None
        name, what = self.random.choice(self.files()), self.new_piece()

        def act() -> None:
            temporary = os.path.join(os.path.dirname(name), ".tmp")
            self.save(temporary, "wb", what)
            os.replace(self.path(temporary), self.path(name))

        return ["overwrite", name], act, self.state | {name: [what]}

    def append(self) -> tuple[list[Any], Callable[[], None], State] | None:
        if not self.files():
            return None
        name, what = self.random.choice(self.files()), self.new_piece()
        return ["append", name], lambda: self.save(name, "ab", what), self.state | {name: [*self.state[name], what]}

    def rename(self) -> tuple[list[Any], Callable[[], None], State] | None:
        new = self.new_name()
        movable = [name for name in self.state if new is not None and not f"{new}/".startswith(f"{name}/")]
        if new is None or not movable:
            return None
        old = self.random.choice(movable)
        after = {new + name[len(old) :] if f"{name}/".startswith(f"{old}/") else name: what for name, what in self.state.items()}
        return ["rename", old, new], lambda: os.rename(self.path(old), self.path(new)), after

    def replace(self) -> tuple[list[Any], Callable[[], None], State] | None:
        if len(self.files()) < 2:
            return None
        old, new = self.random.sample(self.files(), 2)
        return (
            ["replace", old, new],
            lambda: os.replace(self.path(old), self.path(new)),
            self.without(old) | {new: self.state[old]},
        )

    def unlink(self) -> tuple[list[Any], Callable[[], None], State] | None:
        if not self.files():
            return None
        name = self.random.choice(self.files())
        return ["unlink", name], lambda: os.unlink(self.path(name)), self.without(name)

    def mkdir(self) -> tuple[list[Any], Callable[[], None], State] | None:
        name = self.new_name()
        return None if name is None else (["mkdir", name], lambda: os.mkdir(self.path(name)), self.state | {name: None})

    def rmdir(self) -> tuple[list[Any], Callable[[], None], State] | None:
        empty = [n for n in self.folders() if n and not any(other.startswith(f"{n}/") for other in self.state)]
        if not empty:
            return None
        name = self.random.choice(empty)
        return ["rmdir", name], lambda: os.rmdir(self.path(name)), self.without(name)

    def save(self, name: str, mode: str, what: list[int]) -> None:
        with open(self.path(name), mode) as file:
            file.write(piece(*what))


def main() -> int:
    folder, journal, seed, *chance = sys.argv[1:5]
    state: State = json.load(sys.stdin)
    with open(journal, "w") as file:
        try:
            Writer(folder, file, int(seed), state, *map(float, chance)).run()
        except OSError as error:
            file.write(json.dumps({"errno": error.errno}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
