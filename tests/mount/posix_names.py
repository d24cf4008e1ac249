"""Programs about names: directories, renaming, removing, links, listing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from .programs import make, opened, program, renameat2, touch, tree, tries


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
