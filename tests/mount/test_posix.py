"""The same small programs on the mount and on the local disk: results and errnos must be the same.

What differs by decision is listed in ``OURS``, each with its reason; nothing else may differ.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..support.mounts import Mount
from ..support.server import Server

Program = Callable[[Path], Any]
PROGRAMS: dict[str, Program] = {}

# What the mount may answer where the local disk answers something else, and why.
OURS: dict[str, list[Any]] = {
    # Drive has no second name for an item. We answer ENOSYS as Colab does, which newer kernels turn into EPERM; git, pip and
    # uv fall back to copies.
    "hard_link": ["ENOSYS", "EPERM"],
    # Drive holds files and folders; there is nothing that a pipe, a socket or a device could become.
    "mkfifo": ["EPERM"],
    "bind_unix_socket": ["EPERM"],
    "mknod_device": ["EPERM"],
    # Names on Drive are Unicode.
    "name_not_utf8": ["EILSEQ"],
    # Nobody may plant a file that runs as somebody else on the next machine.
    "chmod_setuid": [0o755],
    # Drive knows accounts, not the users of one machine.
    "chown_to_another": ["EPERM"],
    # Attributes are Drive's own.
    "set_an_xattr": ["ENOTSUP"],
    # RENAME_EXCHANGE would be several calls on Drive, so it could not be atomic.
    "rename_exchange": ["EINVAL"],
    # Holes take no room here either, but nobody asks FUSE where they are: all is data up to the end.
    "seek_data_and_hole": [(0, 1 << 20)],
}


def program(function: Program) -> Program:
    """Register: it gets an empty directory and returns what can be compared; an OSError counts as the name of its errno."""
    PROGRAMS[function.__name__] = function
    return function


def outcome(run: Program, folder: Path) -> Any:
    try:
        return run(folder)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def tries(*actions: Callable[[], Any]) -> list[Any]:
    """What each action gave, errors as names; values that say nothing (None) as "ok"."""
    results = []
    for action in actions:
        try:
            value = action()
            results.append("ok" if value is None else value)
        except OSError as error:
            results.append(errno.errorcode[error.errno or 0])
    return results


@contextmanager
def opened(path: Path, flags: int, mode: int = 0o600) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def touch(path: Path, content: bytes = b"") -> Path:
    path.write_bytes(content)
    return path


def make(path: Path) -> None:
    """An empty file, which must not exist."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))


def tree(folder: Path) -> dict[str, Any]:
    """Everything below: contents of files, targets of links, None for directories."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = f"-> {path.readlink()}" if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found


def renameat2(old: Path, new: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


# -- creating and opening ----------------------------------------------------------------------------------------------


@program
def create_and_open(d: Path) -> Any:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    return tries(
        lambda: os.close(os.open(d / "f", flags)),
        lambda: os.close(os.open(d / "f", flags)),
        lambda: os.close(os.open(d / "no/f", flags)),
        lambda: os.close(os.open(d / "f/g", flags)),
        lambda: os.close(os.open(d / "absent", os.O_RDONLY)),
        lambda: os.close(os.open(d, os.O_WRONLY)),
        lambda: os.close(os.open(d, os.O_RDONLY | os.O_DIRECTORY)),
        lambda: os.close(os.open(d / "f", os.O_RDONLY | os.O_DIRECTORY)),
        lambda: os.close(os.open(d / "f", os.O_RDWR | os.O_CREAT)),
        lambda: (d / "f").stat().st_size,
    )


@program
def o_trunc(d: Path) -> Any:
    touch(d / "f", b"something")
    with opened(d / "f", os.O_WRONLY | os.O_TRUNC) as fd:
        size = os.fstat(fd).st_size
        os.write(fd, b"new")
    return size, (d / "f").read_bytes()


@program
def access_modes(d: Path) -> Any:
    touch(d / "f", b"x")
    results = []
    with opened(d / "f", os.O_RDONLY) as fd:
        results += tries(lambda: os.write(fd, b"y"), lambda: os.ftruncate(fd, 0), lambda: os.pread(fd, 9, 0))
    with opened(d / "f", os.O_WRONLY) as fd:
        results += tries(lambda: os.read(fd, 1), lambda: os.write(fd, b"z"))
    return results, (d / "f").read_bytes()


@program
def tmpfile_leaves_no_name(d: Path) -> Any:
    with tempfile.TemporaryFile(dir=d) as file:
        file.write(b"x")
        file.seek(0)
        content = file.read()
    return content, os.listdir(d)


# -- reading and writing -----------------------------------------------------------------------------------------------


@program
def append_from_two_handles(d: Path) -> Any:
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
    with opened(d / "log", flags) as one, opened(d / "log", flags) as two:
        for n in range(5):
            os.write(one, b"one%d;" % n)
            os.write(two, b"two%d;" % n)
    return (d / "log").read_bytes()


@program
def random_writes(d: Path) -> Any:
    touch(d / "f", bytes(range(256)) * 64)
    with opened(d / "f", os.O_RDWR) as fd:
        for offset, data in ((5, b"five"), (4090, b"across a page"), (16380, b"past the end"), (100, b"")):
            os.pwrite(fd, data, offset)
        middle = os.pread(fd, 20, 4085)
        past = os.pread(fd, 10, 1 << 20)
    return middle, past, (d / "f").read_bytes()


@program
def sparse_file(d: Path) -> Any:
    with opened(d / "f", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"end", 3 << 20)
        hole = os.pread(fd, 8, 1 << 20)
        size = os.fstat(fd).st_size
    return hole, size, (d / "f").read_bytes() == bytes(3 << 20) + b"end"


@program
def truncate_by_path_and_handle(d: Path) -> Any:
    touch(d / "f", b"0123456789")
    os.truncate(d / "f", 4)
    first = (d / "f").read_bytes()
    with opened(d / "f", os.O_RDWR) as fd:
        os.ftruncate(fd, 8)
        second = os.pread(fd, 99, 0)
        os.pwrite(fd, b"!", 6)
        os.ftruncate(fd, 7)
    results = tries(lambda: os.truncate(d, 0), lambda: os.truncate(d / "no", 0), lambda: os.truncate(d / "f", -1))
    return first, second, (d / "f").read_bytes(), results


@program
def truncate_shrinks_and_grows_with_zeros(d: Path) -> Any:
    touch(d / "f", b"x" * 10000)
    os.truncate(d / "f", 5000)
    os.truncate(d / "f", 10000)
    return (d / "f").read_bytes() == b"x" * 5000 + bytes(5000)


@program
def sizes_while_open(d: Path) -> Any:
    with opened(d / "f", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"abc")
        by_handle, by_path = os.fstat(fd).st_size, (d / "f").stat().st_size
        seen = (d / "f").read_bytes()
    return by_handle, by_path, seen


@program
def seek_data_and_hole(d: Path) -> Any:
    with opened(d / "f", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 1 << 20)
        os.pwrite(fd, b"x", 512 << 10)
        return os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 0, os.SEEK_HOLE)


@program
def large_vectored_io(d: Path) -> Any:
    pieces = [bytes([n]) * 200_001 for n in range(7)]
    with opened(d / "f", os.O_CREAT | os.O_RDWR) as fd:
        written = os.writev(fd, pieces)
        back = os.pread(fd, written, 0)
    return written, back == b"".join(pieces)


@program
def copy_file_range(d: Path) -> Any:
    touch(d / "a", os.urandom(1) * 300_000)
    with opened(d / "a", os.O_RDONLY) as source, opened(d / "b", os.O_CREAT | os.O_WRONLY) as target:
        copied = os.copy_file_range(source, target, 300_000)
    return copied, (d / "a").read_bytes() == (d / "b").read_bytes()


@program
def mmap_read_and_shared_write(d: Path) -> Any:
    touch(d / "f", b"a" * 10_000)
    with opened(d / "f", os.O_RDWR) as fd:
        with mmap.mmap(fd, 10_000) as shared:
            first = shared[:3]
            shared[4094:4098] = b"MMAP"
            shared.flush()
        by_handle = os.pread(fd, 8, 4092)
    return first, by_handle, (d / "f").read_bytes()


@program
def fsync_of_files_and_directories(d: Path) -> Any:
    with opened(d / "f", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x")
        results = tries(lambda: os.fsync(fd), lambda: os.fdatasync(fd))
    with opened(d, os.O_RDONLY | os.O_DIRECTORY) as fd:
        results += tries(lambda: os.fsync(fd))
    return results


# -- names -------------------------------------------------------------------------------------------------------------


@program
def directories(d: Path) -> Any:
    return tries(
        lambda: os.mkdir(d / "a"),
        lambda: os.mkdir(d / "a"),
        lambda: os.mkdir(d / "x/y"),
        lambda: os.rmdir(d / "absent"),
        lambda: os.mkdir(d / "a/b"),
        lambda: os.rmdir(d / "a"),
        lambda: os.unlink(d / "a"),
        lambda: make(d / "f"),
        lambda: os.rmdir(d / "f"),
        lambda: os.unlink(d / "f/g"),
        lambda: os.rmdir(d / "a/b"),
        lambda: os.rmdir(d / "a"),
        lambda: os.listdir(d),
    )


@program
def rename_within_and_across(d: Path) -> Any:
    (d / "one").mkdir()
    (d / "two").mkdir()
    touch(d / "one/f", b"f")
    os.rename(d / "one/f", d / "one/g")
    os.rename(d / "one/g", d / "two/h")
    (d / "one/sub").mkdir()
    touch(d / "one/sub/deep", b"deep")
    os.rename(d / "one/sub", d / "two/sub")
    return tree(d)


@program
def rename_over(d: Path) -> Any:
    for name in ("empty", "empty2", "full"):
        (d / name).mkdir()
    touch(d / "full/x", b"x")
    touch(d / "f", b"f")
    touch(d / "g", b"g")
    results = tries(
        lambda: os.rename(d / "f", d / "g"),
        lambda: os.rename(d / "g", d / "empty"),
        lambda: os.rename(d / "empty", d / "g"),
        lambda: os.rename(d / "empty", d / "full"),
        lambda: os.rename(d / "empty", d / "empty2"),
        lambda: os.rename(d / "full", d / "empty2"),
        lambda: os.rename(d / "g", d / "g"),
        lambda: os.rename(d / "absent", d / "g"),
        lambda: os.rename(d / "g", d / "nowhere/g"),
        lambda: os.rename(d / "g", d / "g/h"),
    )
    return results, tree(d)


@program
def rename_into_own_subtree(d: Path) -> Any:
    (d / "a/b/c").mkdir(parents=True)
    return tries(
        lambda: os.rename(d / "a", d / "a/b/c/a"), lambda: os.rename(d / "a", d / "a/x"), lambda: os.rename(d / "a/b", d / "a")
    )


@program
def rename_noreplace(d: Path) -> Any:
    touch(d / "a", b"a")
    touch(d / "b", b"b")
    return tries(lambda: renameat2(d / "a", d / "b", 1), lambda: renameat2(d / "a", d / "c", 1)), tree(d)


@program
def rename_exchange(d: Path) -> Any:
    touch(d / "a", b"a")
    touch(d / "b", b"b")
    renameat2(d / "a", d / "b", 2)
    return "exchanged"


@program
def rename_while_open(d: Path) -> Any:
    with opened(d / "a", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"before ")
        os.rename(d / "a", d / "b")
        os.write(fd, b"after")
    return tree(d)


@program
def replaced_while_open(d: Path) -> Any:
    touch(d / "f", b"old")
    with opened(d / "f", os.O_RDONLY) as fd:
        touch(d / "t", b"newer")
        os.rename(d / "t", d / "f")
        still = os.pread(fd, 9, 0)
    return still, tree(d)


@program
def unlink_while_open(d: Path) -> Any:
    touch(d / "f", b"content")
    with opened(d / "f", os.O_RDWR) as fd:
        os.unlink(d / "f")
        listed = os.listdir(d)
        os.pwrite(fd, b"C", 0)
        still = os.pread(fd, 9, 0)
        links = os.fstat(fd).st_nlink
        touch(d / "f", b"another")
        again = os.pread(fd, 9, 0)
    return listed, still, links, again, tree(d)


@program
def rmdir_while_inside(d: Path) -> Any:
    (d / "sub").mkdir()
    with opened(d / "sub", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rmdir(d / "sub")
        return tries(
            lambda: os.listdir(fd), lambda: os.close(os.open("f", os.O_CREAT, dir_fd=fd)), lambda: os.stat("f", dir_fd=fd)
        )


@program
def symlinks(d: Path) -> Any:
    touch(d / "f", b"f")
    os.symlink("f", d / "to_f")
    os.symlink("../outside/../nowhere", d / "dangling")
    os.symlink("loop", d / "loop")
    os.symlink("x" * 1000, d / "long")
    status = (d / "to_f").lstat()
    results = tries(
        lambda: (d / "to_f").read_bytes(),
        lambda: (d / "dangling").read_bytes(),
        lambda: (d / "loop").read_bytes(),
        lambda: os.readlink(d / "dangling"),
        lambda: os.readlink(d / "f"),
        lambda: os.symlink("f", d / "to_f"),
        lambda: os.symlink("", d / "empty"),
        lambda: os.symlink("x" * 5000, d / "too_long"),
        lambda: os.close(os.open(d / "to_f", os.O_RDONLY | os.O_NOFOLLOW)),
        lambda: os.unlink(d / "to_f"),
    )
    return stat.S_ISLNK(status.st_mode), status.st_size, results, tree(d)


@program
def long_names(d: Path) -> Any:
    return tries(
        lambda: make(d / ("n" * 255)),
        lambda: make(d / ("n" * 256)),
        lambda: os.mkdir(d / ("d" * 256)),
        lambda: os.rename(d / ("n" * 255), d / ("m" * 256)),
        lambda: os.stat(d / ("q" * 256)).st_size,
        lambda: make(d / ("é" * 127)),
        lambda: make(d / ("é" * 128)),
        lambda: sorted(len(os.fsencode(name)) for name in os.listdir(d)),
    )


@program
def strange_but_legal_names(d: Path) -> Any:
    names = [
        " ",
        "a\nb",
        "\x1b[31m",
        "quote'\"",
        "back\\slash",
        "%2F",
        "e\u0301",
        "\u00e9",
        "😀",
        "-rf",
        "~",
        "con.txt ",
        ".hidden",
    ]
    for name in names:
        touch(d / name, name.encode())
    return sorted(os.listdir(d)) == sorted(names), tree(d)


@program
def name_not_utf8(d: Path) -> Any:
    os.close(os.open(os.fsencode(d) + b"/\xff\xfe", os.O_CREAT))
    return "created"


@program
def listing_while_deleting(d: Path) -> Any:
    for n in range(300):
        touch(d / f"{n:03}")
    seen = []
    with os.scandir(d) as entries:
        for entry in entries:
            os.unlink(d / entry.name)
            seen.append(entry.name)
    return sorted(seen) == [f"{n:03}" for n in range(300)], os.listdir(d)


# -- attributes --------------------------------------------------------------------------------------------------------


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


# -- locks and things that are not files --------------------------------------------------------------------------------


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


# -- the comparison ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(module_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """One mount for all programs of this module: each works in a directory of its own."""
    home = Path(tempfile.mkdtemp(prefix="dfs-"))
    mount = Mount(home, module_server).mount()
    yield mount
    mount.unmount()
    mount.end()


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_as_the_local_disk(name: str, shared: Mount, tmp_path: Path) -> None:
    """A program sees on the mount what it sees on the local disk, but for the listed differences."""
    folder = shared.my / name
    folder.mkdir()
    local = outcome(PROGRAMS[name], tmp_path)
    ours = outcome(PROGRAMS[name], folder)
    if name in OURS:
        assert ours in OURS[name]
        assert local not in OURS[name], "no difference any more: take it out of OURS"
    else:
        assert ours == local
    shared.judge_log()


def test_drive_has_what_the_programs_left(shared: Mount, module_server: Server) -> None:
    """After all of that the server's tree is the mount's tree, byte for byte."""
    shared.flush()
    mine = tree(shared.my)
    items = module_server.paths()
    for path, content in mine.items():
        if isinstance(content, bytes):
            assert module_server.content(items[path]["id"]) == content, path
    assert items.keys() == mine.keys()
    assert mine, "no program left anything"
