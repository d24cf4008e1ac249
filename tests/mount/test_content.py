"""Much content and large content: every byte arrives, while others read, while it is sent, and over a kill."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from pathlib import Path

import pytest

from ..support.mounts import Mount, eventually
from ..support.server import Server

KIB, MIB = 1 << 10, 1 << 20
# 200 sizes: empty, around a page, around the limits of one request and one chunk, and a few large ones up to 64 MiB.
SIZES = [
    *(0, 1, 4095, 4096, 4097, 65535, 65536, 131072, 5_000_000, 5_000_001, 4 * MIB, 4 * MIB + 1, 16 * MIB, 16 * MIB + 1, 64 * MIB),
    *(random.Random(7).choice((3, 300, 3 * KIB, 30 * KIB, 300 * KIB)) for _ in range(185)),
]


def blob(number: int, size: int) -> bytes:
    """Bytes that no other number gives, quickly."""
    seed = hashlib.sha256(b"%d" % number).digest()
    return (seed * (size // 32 + 1))[:size]


def path_of(top: Path, number: int) -> Path:
    return top / f"folder {number % 7}" / f"{number:03}.bin"


def write_all(top: Path, numbers: range | list[int], written: list[int]) -> None:
    for number in numbers:
        path = path_of(top, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            data = memoryview(blob(number, SIZES[number]))
            while data:
                data = data[file.write(data[: 1 * MIB]) :]
        written.append(number)


class Readers:
    """Threads that read what was written while more is written; ``stop`` raises what any of them found wrong."""

    def __init__(self, top: Path, written: list[int], count: int = 3) -> None:
        self._top, self._written = top, written
        self._over = threading.Event()
        self._wrong: list[str] = []
        self.reads = 0
        self._threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self._over.is_set():
            if not self._written:
                continue
            number = chance.choice(self._written)
            size = SIZES[number]
            offset = chance.randrange(size + 1)
            try:
                with path_of(self._top, number).open("rb") as file:
                    file.seek(offset)
                    data = file.read(100_000)
            except OSError as error:
                self._wrong.append(f"{number}: {error}")
                return
            if data != blob(number, size)[offset : offset + 100_000]:
                self._wrong.append(f"{number}: wrong bytes at {offset}")
            self.reads += 1

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        assert not self._wrong, self._wrong


def expected(numbers: range) -> dict[str, str]:
    return {str(path_of(Path(), n)): hashlib.md5(blob(n, SIZES[n])).hexdigest() for n in numbers}


def md5_of(path: Path) -> str:
    digest = hashlib.md5()
    with path.open("rb") as file:
        while block := file.read(MIB):
            digest.update(block)
    return digest.hexdigest()


def compare(mount: Mount, server: Server) -> None:
    """Mount with a wiped cache, originals and server agree about every file."""
    wanted = expected(range(len(SIZES)))
    on_server = {path: item["md5"] for path, item in server.paths().items() if item["md5"] is not None}
    assert on_server == wanted
    found = {str(path.relative_to(mount.my)): md5_of(path) for path in mount.my.rglob("*.bin")}
    assert found == wanted


@pytest.mark.slow
def test_200_files_with_concurrent_readers(mount: Mount, server: Server) -> None:
    """200 files up to 64 MiB are read while they are written; after flush and with a wiped cache every md5 is right."""
    written: list[int] = []
    readers = Readers(mount.my, written)
    try:
        write_all(mount.my, range(len(SIZES)), written)
    finally:
        readers.stop()
    assert readers.reads > 20
    mount.flush()
    assert server.requests()["files.create"] <= len(SIZES) + 7 + 2
    mount.remount(wipe=True)
    compare(mount, server)


@pytest.mark.slow
def test_200_files_with_a_kill_in_the_middle(mount: Mount, server: Server) -> None:
    """The daemon is killed half-way; what had been closed is there after the restart, the rest is written, all md5s are right."""
    half = len(SIZES) // 2
    written: list[int] = []
    write_all(mount.my, range(half), written)
    assert written == list(range(half))
    mount.kill()
    mount.mount()
    found = {str(path.relative_to(mount.my)): md5_of(path) for path in mount.my.rglob("*.bin")}
    assert found == expected(range(half))
    write_all(mount.my, range(half, len(SIZES)), written)
    mount.flush()
    mount.remount(wipe=True)
    compare(mount, server)


def test_writing_while_it_is_sent(mount: Mount, server: Server) -> None:
    """A large file is changed in place again and again while it is uploaded: Drive ends with the last state, never a mixture."""
    path = mount.my / "checkpoint"
    path.write_bytes(bytes(20 * MIB))
    with path.open("r+b", buffering=0) as file:
        for value in range(1, 12):
            for offset in range(0, 20 * MIB, 5 * MIB):
                os.pwrite(file.fileno(), bytes([value]) * KIB, offset)
            mount.client.flush([path], timeout=0)
    mount.flush()
    (item,) = [entry["id"] for entry in server.paths().values()]
    final = path.read_bytes()
    assert {final[offset] for offset in range(0, 20 * MIB, 5 * MIB)} == {11}
    assert server.content(item) == final


def test_many_readers_of_one_cold_file(server: Server, mount: Mount) -> None:
    """Ten threads read a file that is not cached: every byte is fetched about once, and all of them see the right bytes."""
    data = blob(1, 40 * MIB)
    server.create("cold", data)
    path = mount.my / "cold"
    eventually(path.exists)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(md5_of(path))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [hashlib.md5(data).hexdigest()] * 10
    assert mount.status()["bytes_down"] < 1.1 * len(data)


def test_a_part_of_a_cold_file(server: Server, mount: Mount) -> None:
    """Reading 4 KiB in the middle of 64 MiB, and changing a few bytes there, costs far less than the file."""
    item = server.create("cold", blob(1, 64 * MIB))
    path = mount.my / "cold"
    eventually(path.exists)
    with path.open("rb") as file:
        assert os.pread(file.fileno(), 4096, 30 * MIB) == blob(1, 64 * MIB)[30 * MIB :][:4096]
    assert mount.status()["bytes_down"] <= 4 * MIB
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"changed", 50 * MIB)
        assert os.pread(file.fileno(), 9, 50 * MIB - 1)[1:8] == b"changed"
    assert mount.status()["bytes_down"] <= 64 * MIB
    mount.flush()
    wanted = bytearray(blob(1, 64 * MIB))
    wanted[50 * MIB : 50 * MIB + 7] = b"changed"
    assert server.content(item) == bytes(wanted)
