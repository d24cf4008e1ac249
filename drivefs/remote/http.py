"""HTTP for everything that speaks to Drive: libcurl in worker threads, one awaitable request on the trio loop.

The only importer of pycurl. An easy handle owns its connections, so idle handles are kept last-in-first-out: the handle used last
has the connection most likely to be alive still. Redirects are not followed and no status is an error here: 308 is data on an
upload, and meaning is the business of ``retry`` and ``caller``.

Invariants: a handle is used by one thread at a time; a handle whose transfer failed is closed, never reused; after a cancelled
``request`` no callback of its caller runs any more (``_Transfer.on_loop`` looks at the flag on the loop, where it is set).
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

import pycurl
import trio

from drivefs.base.errors import BadRequest, RemoteError, RemoteUnreachable
from drivefs.base.log import redact

__all__ = ["Response", "Transport", "trust_store"]

PIECE: Final = 256 * 1024
MAX_ERROR_BODY: Final = 1024 * 1024
MAX_BODY: Final = 64 * 1024 * 1024
# CURLOPT_SUPPRESS_CONNECT_HEADERS (curl/curl.h), which pycurl does not name: a proxy's answer to CONNECT is not the server's.
_SUPPRESS_CONNECT_HEADERS: Final = 265
_PIECE_AGE: Final = 0.05  # seconds: a slow link's bytes are handed over before a whole piece has gathered
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

Sink = Callable[[bytes], None]
OnHead = Callable[[int, Mapping[str, str]], None]


@dataclass(frozen=True, slots=True)
class Response:
    """headers: names in lower case; repeated fields joined with ", " (RFC 9110, 5.2). body: empty where a sink took it.
    elapsed: seconds from the start of the request to its last byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    elapsed: float


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | memoryview | None
    sink: Sink | None
    on_head: OnHead | None
    decode: bool
    timeout: float | None
    stall: float

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2]


def trust_store(environment: Mapping[str, str]) -> str | None:
    """The file of trusted certificate authorities: SSL_CERT_FILE, CURL_CA_BUNDLE, or the system's; None where there is none.

    libcurl as packaged for Python was built on another system and may look for a bundle that does not exist here.
    """
    for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE"):
        if path := environment.get(name):
            return path
    return next((path for path in (ssl.get_default_verify_paths().cafile, *_BUNDLES) if path and os.path.exists(path)), None)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Cancelled(Exception):
    """The awaiting task is gone; its thread ends."""


class _Transfer:
    """One request in its thread. ``cancelled`` is set on the loop; everything else belongs to the thread."""

    def __init__(self, request: _Request) -> None:
        self.request = request
        self.cancelled = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.failure: BaseException | None = None
        self._head_done = False
        self._pieces: list[bytes] = []
        self._size = 0
        self._handed_at = time.monotonic()
        self._sent = 0

    # --- towards the loop ---

    def on_loop(self, function: Callable[[], None]) -> None:
        """Run ``function`` on the trio loop, unless the caller of the request has gone."""

        def guarded() -> None:
            if self.cancelled:
                raise _Cancelled
            function()

        try:
            trio.from_thread.run_sync(guarded)
        except trio.RunFinishedError:
            raise _Cancelled from None

    def _hand_over(self) -> None:
        sink, data = self.request.sink, b"".join(self._pieces)
        assert sink is not None
        self._pieces, self._size, self._handed_at = [], 0, time.monotonic()
        if data:
            self.on_loop(lambda: sink(data))

    def _guard(self, function: Callable[[], None], good: int) -> int:
        """Run a callback's work; an exception is kept for ``finish`` and stops the transfer, for C code cannot carry it."""
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised again in run()
            self.failure = error
            return -1
        return good

    # --- called by libcurl ---

    def on_header_line(self, line: bytes) -> int:
        return self._guard(lambda: self._header_line(line), len(line))

    def _header_line(self, line: bytes) -> None:
        if self._head_done:
            return  # trailers of a chunked body
        text = line.decode("latin-1").strip()
        if line.startswith(b"HTTP/"):
            words = text.split(None, 2)
            self.status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
            self.headers = {}
        elif not text:
            self._end_of_head()
        else:
            name, _, value = text.partition(":")
            name, value = name.strip().lower(), value.strip()
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value

    def _end_of_head(self) -> None:
        if self.status < 200:
            return  # an interim answer; the real one follows (RFC 9110, 15.2)
        self._head_done = True
        on_head = self.request.on_head
        if on_head is not None and self.status < 300:
            self.on_loop(lambda: on_head(self.status, self.headers))

    def on_body(self, data: bytes) -> int:
        return self._guard(lambda: self._body(data), len(data))

    def _body(self, data: bytes) -> None:
        success = 200 <= self.status < 300
        if not success and self._size >= MAX_ERROR_BODY:
            return
        if success and self.request.sink is None and self._size + len(data) > MAX_BODY:
            raise RemoteError(f"{self.request.host} sent an answer of more than {MAX_BODY >> 20} MiB where a small one was due.")
        streaming = success and self.request.sink is not None
        if streaming and self._size + len(data) > PIECE:
            self._hand_over()
        self._pieces.append(data)
        self._size += len(data)
        if streaming and time.monotonic() - self._handed_at > _PIECE_AGE:
            self._hand_over()

    def on_progress(self, *_counts: float) -> int:
        return 1 if self.cancelled else 0

    def on_read(self, size: int) -> bytes:
        body = memoryview(self.request.body or b"")
        piece = bytes(body[self._sent : self._sent + size])
        self._sent += len(piece)
        return piece

    def on_seek(self, offset: int, origin: int) -> int:
        """libcurl begins again where a kept connection turned out to be dead before anything was answered."""
        if origin != os.SEEK_SET:
            return int(pycurl.SEEKFUNC_CANTSEEK)
        self._sent = offset
        return int(pycurl.SEEKFUNC_OK)

    # --- the thread's own ---

    def run(self, curl: pycurl.Curl) -> Response:
        started = time.monotonic()
        try:
            curl.perform()
        except pycurl.error as error:
            if self.failure is not None:
                raise self.failure from None
            if self.cancelled:
                raise _Cancelled from None
            raise _unreachable(error, curl, self.request) from None
        if self.request.sink is not None and 200 <= self.status < 300:
            self._hand_over()
        return Response(self.status, self.headers, b"".join(self._pieces), time.monotonic() - started)


def _configure(curl: pycurl.Curl, transfer: _Transfer, ca_file: str | None, connect_timeout: float) -> None:
    request = transfer.request
    curl.setopt(pycurl.URL, request.url)
    curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.BUFFERSIZE, PIECE)
    curl.setopt(_SUPPRESS_CONNECT_HEADERS, 1)
    if ca_file is not None:
        curl.setopt(pycurl.CAINFO, ca_file)
    if _is_loopback(request.url):
        curl.setopt(pycurl.PROXY, "")  # a proxy cannot reach our loopback
    curl.setopt(pycurl.CONNECTTIMEOUT_MS, int(connect_timeout * 1000))
    curl.setopt(pycurl.LOW_SPEED_LIMIT, 1)
    curl.setopt(pycurl.LOW_SPEED_TIME, max(1, round(request.stall)))
    if request.timeout is not None:
        curl.setopt(pycurl.TIMEOUT_MS, max(1, int(request.timeout * 1000)))
    _configure_body(curl, transfer)
    headers = {"Accept": "", "Expect": "", **request.headers}
    if request.decode:
        curl.setopt(pycurl.ACCEPT_ENCODING, "gzip")
    else:
        headers["Accept-Encoding"] = "identity"
    curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" if value else f"{name}:" for name, value in headers.items()])
    curl.setopt(pycurl.HEADERFUNCTION, transfer.on_header_line)
    curl.setopt(pycurl.WRITEFUNCTION, transfer.on_body)
    curl.setopt(pycurl.NOPROGRESS, 0)
    curl.setopt(pycurl.XFERINFOFUNCTION, transfer.on_progress)


def _configure_body(curl: pycurl.Curl, transfer: _Transfer) -> None:
    request = transfer.request
    if request.body is not None:
        curl.setopt(pycurl.UPLOAD, 1)
        curl.setopt(pycurl.UPLOAD_BUFFERSIZE, PIECE)
        curl.setopt(pycurl.INFILESIZE_LARGE, len(request.body))
        curl.setopt(pycurl.READFUNCTION, transfer.on_read)
        curl.setopt(pycurl.SEEKFUNCTION, transfer.on_seek)
    if request.body is not None or request.method != "GET":
        curl.setopt(pycurl.CUSTOMREQUEST, request.method)


_NAME_UNKNOWN: Final = frozenset({pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY})
_NOT_TRUSTED: Final = frozenset({pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE})


def _unreachable(error: pycurl.error, curl: pycurl.Curl, request: _Request) -> RemoteError:
    """libcurl's error as one of ours. Where not a byte of the request went out, it cannot have taken effect."""
    code, detail = cast("tuple[int, str]", error.args)
    detail = redact(detail)
    host, sent = request.host, curl.getinfo(pycurl.REQUEST_SIZE) > 0
    if code in (pycurl.E_URL_MALFORMAT, pycurl.E_UNSUPPORTED_PROTOCOL):
        return BadRequest(f"An address of {host!r} cannot be used: {detail}. Check --api-root.")
    if code in _NAME_UNKNOWN:
        text = f"The name of {host} cannot be resolved. Check the network connection and its DNS server."
    elif code in _NOT_TRUSTED:
        text = f"The certificate of {host} is not trusted ({detail}). Check the clock; behind a company proxy set SSL_CERT_FILE."
    elif code == pycurl.E_COULDNT_CONNECT:
        text = f"{host} cannot be reached ({detail}). Check the network connection, and that the server runs."
    elif code == pycurl.E_OPERATION_TIMEDOUT:
        text = f"{host} did not answer in time ({detail}). Check the network connection."
    elif code == pycurl.E_PARTIAL_FILE:
        text = f"{host} broke off its answer before the end. Repeat the operation."
    else:
        text = f"The connection to {host} failed ({detail}). Check the network connection."
    return RemoteUnreachable(text, may_have_applied=sent and request.method != "GET")


class Transport:
    """A pool of connections. ``connections`` bounds the transfers at once; choose it above what bulk work may use, so that small
    calls do not queue behind it. ``connect_timeout`` in seconds."""

    def __init__(self, *, connections: int = 40, connect_timeout: float = 10.0, ca_file: str | None = None) -> None:
        self._limiter = trio.CapacityLimiter(connections)
        self._connect_timeout = connect_timeout
        self._ca_file = ca_file or trust_store(os.environ)
        self._idle: list[pycurl.Curl] = []
        self._closed = False
        self._lock = threading.Lock()  # guards _idle and _closed; held for list operations only

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | memoryview | None = None,
        *,
        sink: Sink | None = None,
        on_head: OnHead | None = None,
        decode: bool = True,
        timeout: float | None = 60.0,
        stall: float = 60.0,
    ) -> Response:
        """Send one request and return its answer, whatever the status.

        sink: takes the body of a 2xx, in order, on the trio loop, in pieces of about 256 KiB (a slow link's come smaller).
        on_head: called on the loop with status and headers of a 2xx before the first piece. What either raises ends the transfer
        and is raised here.  decode: offer gzip; without it ``identity`` is asked for, so that lengths mean the content's bytes.
        timeout: seconds for the whole exchange, None for no bound.  stall: seconds without a byte either way.
        Raises RemoteUnreachable, with may_have_applied where the request may have been carried out. Cancelling returns at
        once; the abandoned thread ends within about a second.
        """
        transfer = _Transfer(_Request(method, url, headers, body, sink, on_head, decode, timeout, stall))
        try:
            return await trio.to_thread.run_sync(self._run, transfer, abandon_on_cancel=True, limiter=self._limiter)
        finally:
            transfer.cancelled = True

    def _run(self, transfer: _Transfer) -> Response:
        curl = self._take()
        try:
            _configure(curl, transfer, self._ca_file, self._connect_timeout)
            response = transfer.run(curl)
        except BaseException:
            curl.close()
            raise
        self._give_back(curl)
        return response

    def _take(self) -> pycurl.Curl:
        with self._lock:
            return self._idle.pop() if self._idle else pycurl.Curl()

    def _give_back(self, curl: pycurl.Curl) -> None:
        curl.reset()  # drops options and the references to the transfer; connections stay
        with self._lock:
            if not self._closed:
                self._idle.append(curl)
                return
        curl.close()

    def close(self) -> None:
        """Close idle connections; those in use are closed when their request ends."""
        with self._lock:
            self._closed, idle, self._idle = True, self._idle, []
        for curl in idle:
            curl.close()
