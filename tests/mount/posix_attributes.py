"""Programs about attributes, locks, and things that are not files."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from .programs import opened, program, touch, tree, tries


@program
def chmod(d: Path) -> Any:
    touch(d / "f")
    (d / "s").mkdir()
    os.chmod(d / "f", 0o750)
    os.chmod(d / "s", 0o711)
    return [oct((d / name).stat().st_mode) for name in ("f", "s")]


@program
def chmod_setuid(d: Path) -> Any:
    os.chmod(touch(d / "f"), 0o4755)
    return stat.S_IMODE((d / "f").stat().st_mode)


@program
def modes_at_creation(d: Path) -> Any:
    umask = os.umask(0o027)
    try:
        os.close(os.open(d / "f", os.O_CREAT, 0o777))
        os.mkdir(d / "s", 0o777)
    finally:
        os.umask(umask)
    return [oct((d / name).stat().st_mode) for name in ("f", "s")]


@program
def executes(d: Path) -> Any:
    touch(d / "run", b"#!/bin/sh\necho executed\n")
    refused = tries(lambda: subprocess.run([d / "run"], check=True).returncode)
    os.chmod(d / "run", 0o700)
    return refused, subprocess.run([d / "run"], check=True, capture_output=True).stdout


@program
def times(d: Path) -> Any:
    touch(d / "f", b"x")
    os.utime(d / "f", ns=(1, 1_234_567_890_123_000_000))
    mtime = (d / "f").stat().st_mtime_ns
    with opened(d / "f", os.O_WRONLY) as fd:
        os.write(fd, b"y")
        os.utime(fd, ns=(1, 987_654_321_000_000_000))
    return mtime, (d / "f").stat().st_mtime_ns


@program
def a_folder_grows_younger_with_its_children(d: Path) -> Any:
    results = []
    touch(d / "f")
    for change in (
        lambda: touch(d / "g"),
        lambda: os.rename(d / "g", d / "h"),
        lambda: os.unlink(d / "h"),
        lambda: os.mkdir(d / "s"),
        lambda: os.symlink("x", d / "l"),
    ):
        os.utime(d, (1, 1))
        change()
        results.append(d.stat().st_mtime > 1)
    return results


@program
def chown_to_oneself(d: Path) -> Any:
    touch(d / "f")
    return tries(lambda: os.chown(d / "f", os.geteuid(), -1), lambda: os.chown(d / "f", -1, os.getegid()))


@program
def chown_to_another(d: Path) -> Any:
    os.chown(touch(d / "f"), 12345, 12345)
    return "given away"


@program
def set_an_xattr(d: Path) -> Any:
    os.setxattr(touch(d / "f"), "user.mine", b"x")
    return "set"


@program
def flock(d: Path) -> Any:
    touch(d / "f")
    with opened(d / "f", os.O_RDWR) as one, opened(d / "f", os.O_RDWR) as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        results = tries(lambda: fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB))
        fcntl.flock(one, fcntl.LOCK_UN)
        results += tries(lambda: fcntl.flock(two, fcntl.LOCK_SH | fcntl.LOCK_NB))
    return results


@program
def fcntl_lock_of_another_process(d: Path) -> Any:
    touch(d / "f")
    code = (
        "import fcntl, sys\n"
        "try: fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except OSError as error: print(error.errno)"
    )
    with (d / "f").open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        held = subprocess.run([sys.executable, "-c", code, d / "f"], capture_output=True, text=True, check=True).stdout
        fcntl.lockf(file, fcntl.LOCK_UN)
        free = subprocess.run([sys.executable, "-c", code, d / "f"], capture_output=True, text=True, check=True).stdout
    return held, free


@program
def hard_link(d: Path) -> Any:
    os.link(touch(d / "f"), d / "g")
    return "linked"


@program
def mkfifo(d: Path) -> Any:
    os.mkfifo(d / "pipe")
    return "made"


@program
def mknod_device(d: Path) -> Any:
    os.mknod(d / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    return "made"


@program
def mknod_file(d: Path) -> Any:
    os.mknod(d / "plain", stat.S_IFREG | 0o600)
    return tree(d)


@program
def bind_unix_socket(d: Path) -> Any:
    here = os.getcwd()
    os.chdir(d)  # socket paths are short
    try:
        with socket.socket(socket.AF_UNIX) as door:
            door.bind("sock")
    finally:
        os.chdir(here)
    return "bound"
