"""Downloads that are cut off or altered on their way: read again or refused, never taken for the file."""

from __future__ import annotations

import errno
import random

import pytest

from ..support.mounts import Mount, errno_of
from ..support.server import Server

SMALL = random.Random(1).randbytes(1_000_000)
LARGE = random.Random(2).randbytes(9_000_000)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_an_answer_that_is_cut_off_is_continued(mount: Mount, server: Server, content: bytes) -> None:
    """The program reads the file as if nothing had happened, though each of the first five answers ends early."""
    server.create("file", content)
    server.ask("POST", "/_emulator/faults", {"method": "*.get_media", "cut_response": 100_000, "times": 5})
    assert (mount.my / "file").read_bytes() == content


def test_a_small_file_that_arrives_altered_is_fetched_again(mount: Mount, server: Server) -> None:
    """One bit of the first answer is wrong: the program reads the right bytes. Always wrong: EIO, and not one byte."""
    server.create("once", SMALL)
    server.create("always", SMALL)
    server.ask("POST", "/_emulator/faults", {"name": "once", "method": "*.get_media", "flip": 77, "times": 1})
    server.ask("POST", "/_emulator/faults", {"name": "always", "method": "*.get_media", "flip": 77})
    assert (mount.my / "once").read_bytes() == SMALL
    mount.expect_log("do not match its checksum")
    assert errno_of((mount.my / "always").read_bytes) == errno.EIO


def test_who_reads_a_large_file_that_arrives_altered_gets_an_error(mount: Mount, server: Server) -> None:
    """It is fetched in parts, which no checksum covers: with the last bytes comes EIO; opened again, the file is right."""
    server.create("file", LARGE)
    server.ask("POST", "/_emulator/faults", {"method": "*.get_media", "flip": 77, "times": 1})
    mount.expect_log("do not match its checksum")
    assert errno_of((mount.my / "file").read_bytes) == errno.EIO
    assert (mount.my / "file").read_bytes() == LARGE
