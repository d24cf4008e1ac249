"""A disk whose power can be cut: an ext4 file system on a loop device, and copies of what its image holds.

What a file system has not written back is not in the image, as it would not be on a disk. So a copy of the image, made while
nobody writes to it, is what the next boot would find; mounting it replays ext4's own journal.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["Disk", "why_no_disks"]

_TRIES = 20


def why_no_disks() -> str | None:
    """Why no file system can be mounted from an image on this machine; None where it can."""
    missing = [program for program in ("losetup", "mkfs.ext4", "mount", "umount") if shutil.which(program) is None]
    if missing:
        return f"{missing[0]} is missing"
    if os.geteuid() != 0:
        return "mounting an image needs root"
    found = subprocess.run(["losetup", "--find"], capture_output=True, text=True, check=False)
    return None if found.returncode == 0 else f"losetup: {found.stderr.strip()}"


class Disk:
    """``place`` is where it is mounted."""

    def __init__(self, home: Path, megabytes: int = 256) -> None:
        self.place = home / "disk"
        self._image = home / "disk.img"
        self._copy = home / "cut.img"
        self.place.mkdir()
        with self._image.open("wb") as image:
            image.truncate(megabytes << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", self._image], check=True)
        self._mount()

    def _mount(self) -> None:
        # Its journal is committed every second, so that names often come without the bytes that nobody synced.
        subprocess.run(["mount", "-o", "loop,commit=1", self._image, self.place], check=True)

    def remember(self) -> None:
        """Copy what the disk holds now. Nobody may write to it meanwhile but the kernel, for whose pauses this waits."""
        for _ in range(_TRIES):
            subprocess.run(["cp", "--sparse=always", self._image, self._copy], check=True)
            if filecmp.cmp(self._image, self._copy, shallow=False):
                return
        raise AssertionError(f"the disk did not rest for the time of a copy in {_TRIES} tries")

    def cut(self) -> None:
        """The power has gone and come back: what was remembered is what is there. Nobody may use the disk any more."""
        self.close()
        os.replace(self._copy, self._image)
        self._mount()

    def close(self) -> None:
        subprocess.run(["umount", self.place], check=True)
