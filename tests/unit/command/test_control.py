"""The control socket and its client, over real sockets."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from drivefs import client
from drivefs.base.errors import DriveFull, ExitCode, MountpointUnusable, UsageError
from drivefs.client import Client, ClientError
from drivefs.control import Chunks, Progress, Reply, Stream, serve

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user, which only root can")


async def echo(arguments: Mapping[str, Any], _: Progress) -> Any:
    return {"echo": dict(arguments)}


async def refuse(_: Mapping[str, Any], __: Progress) -> Any:
    raise DriveFull("The account is full. Empty its trash.")


async def blunder(_: Mapping[str, Any], __: Progress) -> Any:
    raise ZeroDivisionError("a secret detail")


@pytest.fixture
def door(home: Path) -> Path:
    return Path(client.socket_path(str(home / "run"), "/mnt/d"))


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await trio.to_thread.run_sync(lambda: function(*arguments), abandon_on_cancel=True)


def talk(door: Path, *lines: bytes) -> list[dict[str, Any]]:
    """Say ``lines`` as they are and read as many answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(door))
        connection.sendall(b"".join(lines))
        with connection.makefile("rb") as answers:
            return [json.loads(answers.readline()) for _ in lines]


@contextmanager
def effective_uid(uid: int) -> Iterator[None]:
    """As another user, without letting any other task run."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_every_json_value_survives_the_way_to_the_daemon_and_back(door: Path, nursery: trio.Nursery) -> None:
    """Paths that are not UTF-8 (lone surrogates) and control characters arrive as they were sent."""
    paths = ["/mnt/d/a\udcff\n\u202e", "/mnt/d/ü"]
    got: list[Any] = []

    async def flush(arguments: Mapping[str, Any], _: Progress) -> Any:
        got.append(arguments)
        return {"unsent": [{"path": path, "size": 1, "age_s": 0.5, "reason": "r"} for path in arguments["paths"]]}

    await nursery.start(serve, door, {"flush": flush})
    unsent = await in_thread(lambda: Client("/mnt/d").flush(paths, timeout=5))
    assert got == [{"paths": paths, "timeout": 5}]
    assert [entry["path"] for entry in unsent] == paths


async def test_a_refusal_keeps_its_sentence_and_exit_code(door: Path, nursery: trio.Nursery) -> None:
    """A DriveFSError raised in the daemon, also deep in nurseries, is a ClientError with the same text and code."""

    async def refuse_deeply(arguments: Mapping[str, Any], progress: Progress) -> Any:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            inner.start_soon(refuse, arguments, progress)
            outer.start_soon(trio.sleep_forever)

    await nursery.start(serve, door, {"status": refuse, "unmount": refuse_deeply})
    for ask in (Client("/mnt/d").status, Client("/mnt/d").unmount):
        with pytest.raises(ClientError, match=r"^The account is full\. Empty its trash\.$") as caught:
            await in_thread(ask)
        assert caught.value.exit_code == ExitCode.UNREACHABLE


async def test_a_defect_is_logged_and_does_not_end_the_daemon(
    door: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception is exit code 1 without details to the client, a traceback to the log, and no end to the daemon."""
    await nursery.start(serve, door, {"status": blunder, "echo": echo})
    with caplog.at_level(logging.ERROR), pytest.raises(ClientError) as caught:
        await in_thread(Client("/mnt/d").status)
    assert caught.value.exit_code == ExitCode.UNEXPECTED
    assert "secret detail" not in str(caught.value)
    assert "a secret detail" in caplog.text
    assert (await in_thread(talk, door, b'{"verb": "echo"}\n'))[0]["ok"]


@pytest.mark.parametrize(
    "line",
    [b"not json\n", b"[1]\n", b'{"verb": 3}\n', b"{}\n", b'{"verb": "eval"}\n', b"\xff\xfe\n", b"\n", b"[" * 100_000 + b"\n"],
)
async def test_nonsense_is_answered_and_the_conversation_goes_on(door: Path, nursery: trio.Nursery, line: bytes) -> None:
    """A line that is no request gets a usage error, and the next line its answer."""
    await nursery.start(serve, door, {"echo": echo})
    first, second = await in_thread(talk, door, line, b'{"verb": "echo", "n": 1}\n')
    assert (first["ok"], first["exit_code"]) == (False, ExitCode.USAGE)
    assert second == {"ok": True, "result": {"echo": {"n": 1}}}


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_a_line_is_limited_to_a_mebibyte(door: Path, nursery: trio.Nursery, end: bytes) -> None:
    """More than 1 MiB without a line break, or in one line, is refused, and the connection is closed."""
    await nursery.start(serve, door, {"echo": echo})

    def ask() -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(door))
            connection.sendall(b'{"verb": "echo", "x": "' + b"x" * (1 << 20) + end)
            with connection.makefile("rb") as answers:
                return answers.read()

    answer = json.loads(await in_thread(ask))
    assert (answer["ok"], answer["exit_code"]) == (False, ExitCode.USAGE)


async def test_chunks_arrive_as_they_were_sent_and_before_the_result(door: Path, nursery: trio.Nursery) -> None:
    """Any bytes, line breaks and braces too, empty pieces, and more of them than any buffer holds; then the end."""
    pieces = [b'{"ok": true}\n', b"\0\n\xff" * 1000, os.urandom(3 << 20), b"x"]

    async def get(arguments: Mapping[str, Any], chunks: Chunks) -> Any:
        assert arguments == {"id": "i", "size": 3, "md5": None}
        await chunks(pieces[:2])
        for piece in pieces[2:]:
            await chunks([piece[:5], b"", piece[5:]])

    await nursery.start(serve, door, {"get": Stream(get)})
    got = await in_thread(lambda: list(Client("/mnt/d").get("i", 3)))
    assert b"".join(got) == b"".join(pieces)
    assert max(map(len, got)) <= 3 << 20


async def test_an_error_after_chunks_is_an_error(door: Path, nursery: trio.Nursery) -> None:
    """Who has taken all bytes so far still learns that they were not all, or wrong."""

    async def get(_: Mapping[str, Any], chunks: Chunks) -> Any:
        await chunks([b"half"])
        raise DriveFull("Not the right bytes. Get them anew.")

    await nursery.start(serve, door, {"get": Stream(get)})
    got: list[bytes] = []
    with pytest.raises(ClientError, match="Not the right bytes") as caught:
        await in_thread(lambda: got.extend(Client("/mnt/d").get("i", 3)))
    assert caught.value.exit_code == ExitCode.UNREACHABLE
    assert got == [b"half"]


async def test_a_slow_reader_holds_up_the_sender(door: Path, nursery: trio.Nursery) -> None:
    """Nothing piles up in the daemon, and who leaves early cancels what was being sent to him."""
    sent, over = 0, trio.Event()

    async def get(_: Mapping[str, Any], chunks: Chunks) -> Any:
        nonlocal sent
        try:
            while True:
                await chunks([bytes(1 << 16)])
                sent += 1 << 16
        finally:
            over.set()

    await nursery.start(serve, door, {"get": Stream(get)})
    download = Client("/mnt/d").get("i", 1 << 40)
    await in_thread(next, download)
    await trio.sleep(0.2)
    assert sent < 4 << 20
    await in_thread(download.close)
    with trio.fail_after(5):
        await over.wait()


async def test_progress_comes_before_the_result_and_in_order(door: Path, nursery: trio.Nursery) -> None:
    """Progress reported by several tasks of one verb arrives as whole messages, before the result."""

    async def unmount(_: Mapping[str, Any], progress: Progress) -> Any:
        async with trio.open_nursery() as inner:
            for number in range(50):
                inner.start_soon(progress, {"number": number, "filler": "x" * 5000})
        return {"unsent": [{"path": "p", "size": 0, "age_s": 0, "reason": ""}]}

    await nursery.start(serve, door, {"unmount": unmount})
    heard: list[int] = []
    unsent = await in_thread(lambda: Client("/mnt/d").unmount(timeout=5, progress=lambda news: heard.append(news["number"])))
    assert len(unsent) == 1
    assert sorted(heard) == list(range(50))


async def test_a_waiting_client_delays_no_other(door: Path, nursery: trio.Nursery) -> None:
    """While one request waits for ever, others are answered."""

    async def wait(_: Mapping[str, Any], __: Progress) -> Any:
        await trio.sleep_forever()

    await nursery.start(serve, door, {"wait": wait, "echo": echo})
    waiting = await trio.open_unix_socket(door)
    await waiting.send_all(b'{"verb": "wait"}\n')
    for _ in range(3):
        assert (await in_thread(talk, door, b'{"verb": "echo"}\n'))[0]["ok"]
    await waiting.aclose()


async def test_a_client_that_leaves_cancels_its_own_request_only(door: Path, nursery: trio.Nursery) -> None:
    """Closing one connection cancels the verb it waited for; the same verb for another client runs on to its result."""
    began, cancelled, finish = trio.Semaphore(0), trio.Event(), trio.Event()

    async def wait(_: Mapping[str, Any], __: Progress) -> Any:
        began.release()
        try:
            await finish.wait()
        except trio.Cancelled:
            cancelled.set()
            raise
        return "done"

    await nursery.start(serve, door, {"wait": wait})
    leaving, staying = await trio.open_unix_socket(door), await trio.open_unix_socket(door)
    for stream in (leaving, staying):
        await stream.send_all(b'{"verb": "wait"}\n')
        await began.acquire()
    await leaving.aclose()
    with trio.fail_after(5):
        await cancelled.wait()
        finish.set()
        assert json.loads(await staying.receive_some()) == {"ok": True, "result": "done"}
    await staying.aclose()


async def test_a_client_that_floods_is_dropped(door: Path, nursery: trio.Nursery) -> None:
    """Requests without number, sent while one is in progress, end the connection and nothing else."""

    async def wait(_: Mapping[str, Any], __: Progress) -> Any:
        await trio.sleep_forever()

    await nursery.start(serve, door, {"wait": wait, "echo": echo})
    flood = await trio.open_unix_socket(door)
    with trio.fail_after(5):
        await flood.send_all(b'{"verb": "wait"}\n' * 100)
        try:
            end = await flood.receive_some()
        except trio.BrokenResourceError:  # a socket that is closed with something unread is reset
            end = b""
        assert end == b""
    await flood.aclose()
    assert (await in_thread(talk, door, b'{"verb": "echo"}\n'))[0]["ok"]


async def test_a_verb_that_ends_the_daemon_is_answered_first(door: Path) -> None:
    """Reply.then runs after the answer was sent, even when it cancels the server itself."""
    async with trio.open_nursery() as nursery:

        async def stop(_: Mapping[str, Any], __: Progress) -> Any:
            return Reply("bye", nursery.cancel_scope.cancel)

        await nursery.start(serve, door, {"stop": stop})
        stream = await trio.open_unix_socket(door)
        await stream.send_all(b'{"verb": "stop"}\n')
        with trio.CancelScope(shield=True):
            assert json.loads(await stream.receive_some()) == {"ok": True, "result": "bye"}
            await stream.aclose()
    assert not door.exists()


async def test_the_socket_is_private_whatever_the_umask(door: Path, nursery: trio.Nursery) -> None:
    """Directory 0700, socket 0600, under umask 0; the umask is put back."""
    before = os.umask(0)
    try:
        await nursery.start(serve, door, {})
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(door.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(door.stat().st_mode) & 0o077 == 0


async def test_a_socket_of_a_dead_daemon_is_replaced(door: Path, nursery: trio.Nursery) -> None:
    """A socket file nobody listens on any more does not keep the next daemon out."""
    door.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(door))
    with pytest.raises(ClientError) as caught:
        await in_thread(Client("/mnt/d").status)
    assert caught.value.exit_code == ExitCode.NOT_MOUNTED
    assert "has ended without unmounting" in str(caught.value)
    assert await in_thread(client.running) == []
    await nursery.start(serve, door, {"echo": echo})
    assert (await in_thread(talk, door, b'{"verb": "echo"}\n'))[0]["ok"]


async def test_a_living_daemon_keeps_its_socket(door: Path, nursery: trio.Nursery) -> None:
    """A second server on the same socket refuses, and the first goes on answering."""
    await nursery.start(serve, door, {"echo": echo})
    with pytest.raises(MountpointUnusable, match="Another drivefs daemon serves this mountpoint"):
        await serve(door, {})
    assert (await in_thread(talk, door, b'{"verb": "echo"}\n'))[0]["ok"]


def _symlink(directory: Path) -> None:
    (directory.parent / "elsewhere").mkdir(mode=0o700)
    directory.symlink_to(directory.parent / "elsewhere")


def _foreign(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    os.chown(directory, NOBODY, NOBODY)


def _file_in_the_way(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    Path(client.socket_path(str(directory), "/mnt/d")).write_text("")


def _group_readable(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o740)


def _world_writable(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o707)


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        (_symlink, "is a symlink: give the directory it points to"),
        pytest.param(_foreign, f"belongs to user {NOBODY}", marks=needs_root),
        (_group_readable, "other users can enter"),
        (_world_writable, "other users can enter"),
        (lambda directory: directory.write_text(""), "is not a directory"),
        (_file_in_the_way, "is not a socket"),
    ],
)
async def test_a_directory_that_is_not_ours_alone_is_refused(door: Path, attack: Callable[[Path], None], sentence: str) -> None:
    """Whatever somebody prepared at the place of the socket directory, no socket is made there."""
    attack(door.parent)
    with pytest.raises(UsageError, match=sentence):
        await serve(door, {})
    assert not any(path.is_socket() for path in door.parent.parent.rglob("*"))


async def test_a_path_too_long_for_a_socket_is_named(home: Path) -> None:
    """bind(2) takes 107 bytes; more is refused with the variable that shortens it."""
    with pytest.raises(UsageError, match="DRIVEFS_RUNTIME_DIR"):
        await serve(home / ("x" * 100) / "a.sock", {})


@needs_root
async def test_another_user_is_refused_even_where_the_directory_lets_him_in(door: Path, nursery: trio.Nursery) -> None:
    """The peer's uid is asked of the kernel on every accept: with all file modes open, a stranger still gets no verb executed."""
    called: list[Any] = []

    async def spy(arguments: Mapping[str, Any], _: Progress) -> Any:
        called.append(arguments)

    await nursery.start(serve, door, {"spy": spy})
    for path, mode in ((door.parent.parent, 0o755), (door.parent, 0o755), (door, 0o666)):
        path.chmod(mode)
    with socket.socket(socket.AF_UNIX) as connection:
        with effective_uid(NOBODY):
            connection.connect(str(door))
            connection.sendall(b'{"verb": "spy"}\n')
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection.dup()))
        answer = json.loads(await stream.receive_some())
        await stream.aclose()
    assert (answer["ok"], answer["exit_code"]) == (False, ExitCode.USAGE)
    assert called == []


@needs_root
def test_the_client_does_not_believe_a_stranger_s_server(door: Path) -> None:
    """Somebody who made the socket directory first cannot answer "everything is on Drive" in the daemon's place."""
    door.parent.parent.chmod(0o755)
    door.parent.mkdir(mode=0o777)
    door.parent.chmod(0o777)
    with socket.socket(socket.AF_UNIX) as impostor:
        with effective_uid(NOBODY):
            impostor.bind(str(door))
            impostor.listen()
        with pytest.raises(ClientError, match=f"belongs to user {NOBODY}") as caught:
            Client("/mnt/d").flush(timeout=1)
    assert caught.value.exit_code == ExitCode.UNEXPECTED


@contextmanager
def scripted(door: Path, behave: Callable[[socket.socket], object]) -> Iterator[None]:
    """A server that does ``behave`` with its one connection."""
    door.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(door))
        listener.listen()

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                behave(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield
        thread.join()


def test_a_daemon_that_dies_before_answering_is_reported(door: Path) -> None:
    """End of stream without an answer is an error with exit code 1, not an empty result."""
    with scripted(door, lambda connection: connection.recv(100)), pytest.raises(ClientError, match="ended before") as caught:
        Client("/mnt/d").flush(timeout=5)
    assert caught.value.exit_code == ExitCode.UNEXPECTED


@pytest.mark.parametrize("said", [b"", b'{"chunk": 5}\nabc', b'{"chunk": 5}', b'{"chunk": 0}\n', b"{}\n"])
def test_half_a_chunk_is_no_chunk(door: Path, said: bytes) -> None:
    """A daemon that dies in the middle of a download gives an error, not fewer bytes."""

    def behave(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(said)

    with scripted(door, behave), pytest.raises(ClientError, match="ended before") as caught:
        list(Client("/mnt/d").get("i", 5))
    assert caught.value.exit_code == ExitCode.UNEXPECTED


@pytest.mark.parametrize("said", [b"nonsense\n", b'{"chunk": "x"}\n'])
def test_nonsense_is_no_chunk(door: Path, said: bytes) -> None:
    """What is no frame is said to be none."""

    def behave(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(said)

    with scripted(door, behave), pytest.raises(ClientError, match="broke off"):
        list(Client("/mnt/d").get("i", 5))


def test_a_download_that_stalls_is_reported_in_time(door: Path) -> None:
    """There is a bound for each chunk, so that nobody waits for ever."""
    over = threading.Event()
    with scripted(door, lambda connection: over.wait(10)):
        with pytest.raises(ClientError, match="has not answered 'get'"):
            list(Client("/mnt/d").get("i", 5, timeout=0.2))
        over.set()


def test_half_an_answer_is_not_an_answer(door: Path) -> None:
    """A line cut off by the daemon's death is not taken for its result."""

    def behave(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b'{"ok": true, "result": {"unsent": []}}')

    with scripted(door, behave), pytest.raises(ClientError, match="ended before"):
        Client("/mnt/d").flush(timeout=5)


def test_a_daemon_that_hangs_is_reported_in_time(door: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped daemon does not stop its clients: there is a deadline for every answer."""
    monkeypatch.setattr(client, "_STATUS_TIMEOUT", 0.2)
    over = threading.Event()
    with scripted(door, lambda connection: over.wait(10)):
        with pytest.raises(ClientError, match="has not answered 'status'"):
            Client("/mnt/d").status()
        over.set()
