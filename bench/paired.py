"""Side by side: the same work on the mount and on the local disk, in turns, as a ratio.

    .venv/bin/python bench/paired.py [--rounds 5] [--megabytes 256] [--files 500]

Absolute times on a shared machine say little; a ratio of two times taken right after each other says more, and its median over
several rounds more still. Everything runs against an embedded Drive in a directory of its own, which is removed afterwards.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BLOCK = 1 << 20


@dataclass(frozen=True)
class Sizes:
    megabytes: int
    files: int


def write_large(place: Path, sizes: Sizes) -> None:
    block = os.urandom(BLOCK)
    with open(place / "large", "wb") as file:
        for _ in range(sizes.megabytes):
            file.write(block)


def read_large(place: Path, sizes: Sizes) -> None:
    with open(place / "large", "rb", buffering=0) as file:
        while file.read(BLOCK):
            pass


def create_small(place: Path, sizes: Sizes) -> None:
    (place / "small").mkdir()
    for number in range(sizes.files):
        (place / "small" / f"{number:05}").write_bytes(b"x" * 1000)


def list_small(place: Path, sizes: Sizes) -> None:
    for entry in os.scandir(place / "small"):
        entry.stat()


def read_small(place: Path, sizes: Sizes) -> None:
    for number in range(sizes.files):
        (place / "small" / f"{number:05}").read_bytes()


def rename_small(place: Path, sizes: Sizes) -> None:
    for number in range(sizes.files):
        os.rename(place / "small" / f"{number:05}", place / "small" / f"r{number:05}")


def remove_small(place: Path, sizes: Sizes) -> None:
    shutil.rmtree(place / "small")


WORK: tuple[Callable[[Path, Sizes], None], ...] = (
    write_large,
    read_large,
    create_small,
    list_small,
    read_small,
    rename_small,
    remove_small,
)


class Mount:
    """A mount of an embedded Drive in a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.point = home / "mnt"
        self._environment = os.environ | {"DRIVEFS_DATA_DIR": str(home / "data"), "DRIVEFS_RUNTIME_DIR": str(home / "run")}
        self._cache = home / "data" / "cache"

    def command(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "drivefs", *arguments], check=True, env=self._environment, stdout=subprocess.DEVNULL
        )

    def mount(self) -> None:
        self.command("mount", "--embedded", str(self.point))

    def forget(self) -> None:
        """Send everything, then begin again with nothing known."""
        self.command("unmount", str(self.point))
        shutil.rmtree(self._cache)
        self.mount()


@contextmanager
def mounted() -> Iterator[tuple[Mount, Path]]:
    home = Path(tempfile.mkdtemp(prefix="drivefs-bench-"))
    mount = Mount(home)
    mount.mount()
    try:
        yield mount, home
    finally:
        mount.command("unmount", "--release", str(mount.point))
        shutil.rmtree(home)


def timed(work: Callable[[Path, Sizes], None], place: Path, sizes: Sizes) -> float:
    start = time.perf_counter()
    work(place, sizes)
    return time.perf_counter() - start


def one_round(mount: Mount, local: Path, number: int, sizes: Sizes) -> dict[str, float]:
    """Ratio of times, mount to local disk, of each piece of work."""
    ours, theirs = mount.point / "MyDrive" / f"round{number}", local / f"round{number}"
    ours.mkdir()
    theirs.mkdir()
    ratios = {work.__name__: timed(work, ours, sizes) / timed(work, theirs, sizes) for work in WORK[:5]}
    mount.forget()
    for work in (read_large, read_small):
        ratios[f"{work.__name__} cold"] = timed(work, ours, sizes) / timed(work, theirs, sizes)
    ratios |= {work.__name__: timed(work, ours, sizes) / timed(work, theirs, sizes) for work in WORK[5:]}
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--files", type=int, default=500)
    options = parser.parse_args()
    sizes = Sizes(options.megabytes, options.files)
    with mounted() as (mount, home):
        local = home / "local"
        local.mkdir()
        rounds = [one_round(mount, local, number, sizes) for number in range(options.rounds)]
    print(f"time on the mount / time on the local disk, {options.rounds} rounds, {sizes}")
    print(f"{'work':<20}{'median':>8}{'least':>8}{'most':>8}")
    for name in rounds[0]:
        values = [ratios[name] for ratios in rounds]
        print(f"{name:<20}{statistics.median(values):>8.1f}{min(values):>8.1f}{max(values):>8.1f}")


if __name__ == "__main__":
    main()
