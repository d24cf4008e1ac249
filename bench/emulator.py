"""How fast the embedded Drive is: what it serves must never be the bottleneck of what is measured against it.

    .venv/bin/python bench/emulator.py [--megabytes 512] [--calls 6000] [--items 1000000]

Client and server share the machine. Each figure is the median of several rounds, with the slowest and the fastest.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import statistics
import time
from collections.abc import Callable
from urllib.parse import quote, urlsplit

from drivefs.emulator import Running, running
from drivefs.remote.wire import CHILD_FIELDS

ROUNDS = 5
CONNECTIONS = 8


def connect(drive: Running) -> socket.socket:
    parts = urlsplit(drive.url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 80))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def request(method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", "Authorization: Bearer t", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def exchange(connection: socket.socket, message: bytes, buffer: bytearray) -> tuple[bytes, int]:
    """Send a request and take in the answer. Returns its head and how many bytes its body had; the body is not kept."""
    connection.sendall(message)
    head, body = b"", 0
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    head, _, rest = head.partition(b"\r\n\r\n")
    expected = int(next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")).split(b":")[1])
    body = len(rest)
    while body < expected:
        body += connection.recv_into(buffer)
    return head, body


def call(drive: Running, method: str, target: str, body: bytes = b"", **headers: str) -> object:
    with connect(drive) as connection:
        connection.sendall(request(method, target, body, Connection="close", **headers))
        answer = b""
        while piece := connection.recv(1 << 20):
            answer += piece
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def downloads(drive: Running, size: int) -> Callable[[], float]:
    made = call(drive, "POST", "/upload/drive/v3/files?uploadType=media", bytes(size), Content_Type="application/octet-stream")
    assert isinstance(made, dict)
    message = request("GET", f"/drive/v3/files/{made['id']}?alt=media", Range=f"bytes=0-{size - 1}")
    buffer = bytearray(4 << 20)

    def one() -> float:
        with connect(drive) as connection:
            started = time.perf_counter()
            head, received = exchange(connection, message, buffer)
            assert head.startswith(b"HTTP/1.1 206")
            assert received == size
            return size / (time.perf_counter() - started) / 1e6

    return one


def small_calls(drive: Running, count: int) -> Callable[[], float]:
    message = request("GET", "/drive/v3/files/root")

    def one() -> float:
        selector, done = selectors.DefaultSelector(), 0
        started = time.perf_counter()
        for _ in range(CONNECTIONS):
            connection = connect(drive)
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(message)
        while done < count:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj.recv(65536).endswith(b"}"):
                    done += 1
                    key.fileobj.sendall(message)
        took = time.perf_counter() - started
        for key in list(selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        selector.close()
        return count / took

    return one


def listings(drive: Running, folder: str) -> Callable[[], float]:
    query, fields = quote(f"'{folder}' in parents and trashed = false"), f"nextPageToken,files({CHILD_FIELDS})"
    message, buffer = request("GET", f"/drive/v3/files?pageSize=1000&q={query}&fields={quote(fields)}"), bytearray(4 << 20)
    connection = connect(drive)

    def one() -> float:
        started = time.perf_counter()
        head, received = exchange(connection, message, buffer)
        assert head.startswith(b"HTTP/1.1 200")
        assert received > 100_000
        return (time.perf_counter() - started) * 1000

    return one


def report(what: str, unit: str, one: Callable[[], float]) -> None:
    one()
    values = [one() for _ in range(ROUNDS)]
    print(f"{what:<44} {statistics.median(values):>10,.1f} {unit}   ({min(values):,.1f} ... {max(values):,.1f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--calls", type=int, default=6000)
    parser.add_argument("--items", type=int, default=1_000_000)
    options = parser.parse_args()
    with running() as drive:
        report(f"range download, {options.megabytes} MiB, one connection", "MB/s", downloads(drive, options.megabytes << 20))
        report(f"files.get, {CONNECTIONS} connections", "calls/s", small_calls(drive, options.calls))
        started = time.perf_counter()
        made = drive.control("fill", {"folders": max(1, options.items // 1001), "files_per_folder": 1000})
        print(f"{'filled with ' + format(made['items'], ',') + ' items in':<44} {time.perf_counter() - started:>10,.1f} s")
        report("files.list, a folder of 1,000", "ms", listings(drive, made["folders"][len(made["folders"]) // 2]))


if __name__ == "__main__":
    main()
