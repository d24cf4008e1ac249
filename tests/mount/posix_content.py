"""Programs about content: creating, opening, reading, writing, mapping."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

from .programs import opened, program, touch, tries


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
