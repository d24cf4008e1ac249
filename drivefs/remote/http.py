"""HTTP for everything that speaks to Drive: libcurl in worker threads, one awaitable request on the trio loop.

The only importer of pycurl. An easy handle owns its connections, so idle handles are kept last-in-first-out: the handle used last
has the connection most likely to be alive still. Redirects are not followed and no status is an error here: 308 is data on an
upload, and meaning is the business of ``retry`` and ``caller``.

Invariants: a handle is used by one thread at a time; a handle whose transfer failed is closed, never reused; after a cancelled
``request`` no callback of its caller runs any more (see ``transfer``).
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

import pycurl
import trio

from drivefs.base.crashpoints import crash_point
from drivefs.base.errors import BadRequest, RemoteError, RemoteUnreachable
from drivefs.base.log import redact
from drivefs.remote.transfer import PIECE, Cancelled, OnHead, Request, Sink, Transfer

__all__ = ["Response", "Transport", "trust_store"]

# CURLOPT_SUPPRESS_CONNECT_HEADERS (curl/curl.h), which pycurl does not name: a proxy's answer to CONNECT is not the server's.
_SUPPRESS_CONNECT_HEADERS: Final = 265
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, whatever its status.

    headers: names in lower case; repeated fields joined with ", " (RFC 9110, 5.2).  body: empty where a sink took it.
    elapsed: seconds from the start of the request to its last byte.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    elapsed: float


def trust_store(environment: Mapping[str, str]) -> str | None:
    """The file of trusted certificate authorities: CURL_CA_BUNDLE, SSL_CERT_FILE (in curl's order), or the system's, or None.

    libcurl as packaged for Python was built on another system and may look for a bundle that does not exist here.
    """
    for name in ("CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        if path := environment.get(name):
            return path
    return next((path for path in (ssl.get_default_verify_paths().cafile, *_BUNDLES) if path and os.path.exists(path)), None)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _configure(curl: pycurl.Curl, transfer: Transfer, ca_file: str | None, connect_timeout: float) -> None:
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


def _configure_body(curl: pycurl.Curl, transfer: Transfer) -> None:
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


def _unreachable(error: pycurl.error, curl: pycurl.Curl, request: Request) -> RemoteError:
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


def _perform(curl: pycurl.Curl, transfer: Transfer) -> Response:
    started = transfer.begin()
    try:
        curl.perform()
    except pycurl.error as error:
        if transfer.failure is not None:
            raise transfer.failure from None
        if transfer.cancelled:
            raise Cancelled from None
        transfer.finish()  # what did arrive need not be fetched again
        if transfer.stalled:
            raise RemoteUnreachable(
                f"{transfer.request.host} sent nothing for {transfer.request.stall:.0f} s. Check the network connection.",
                may_have_applied=transfer.request.method != "GET",
            ) from None
        raise _unreachable(error, curl, transfer.request) from None
    body = transfer.finish()
    return Response(transfer.status, transfer.headers, body, time.monotonic() - started)


class Transport:
    """A pool of connections.

    connections: the most transfers at once; choose it above what bulk work may use, so that small calls do not queue behind it.
    connect_timeout: seconds.  ca_file: certificate authorities to trust in place of ``trust_store``'s.
    """

    def __init__(self, *, connections: int = 40, connect_timeout: float = 10.0, ca_file: str | None = None) -> None:
        self._limiter = trio.CapacityLimiter(connections)
        self._connect_timeout = connect_timeout
        self._ca_file = ca_file or trust_store(os.environ)
        self._idle: list[pycurl.Curl] = []
        self._closed = False
        self._lock = threading.Lock()  # guards _idle and _closed; held for list operations only

    @property
    def busy(self) -> int:
        """Transfers under way, abandoned ones that have not ended yet included."""
        return int(self._limiter.borrowed_tokens)

    @property
    def idle(self) -> int:
        """Handles kept for the next requests."""
        with self._lock:
            return len(self._idle)

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
        go: threading.Event | None = None,
    ) -> Response:
        """Send one request and return its answer, whatever the status.

        sink: takes the body of a 2xx, in order, on the trio loop, in pieces of about 256 KiB (a slow link's come smaller).
        on_head: called on the loop with status and headers of a 2xx before the first piece. What either raises ends the transfer
        and is raised here.  decode: offer gzip; without it ``identity`` is asked for, so that lengths mean the content's bytes.
        timeout: seconds for the whole exchange, None for no bound.  stall: seconds without a byte either way.  go: while the
        sink keeps it cleared, nothing more is read from the connection, and that counts as no stall.
        Raises RemoteUnreachable, with may_have_applied where the request may have been carried out. Cancelling returns at
        once; the abandoned thread ends within about a second.
        """
        transfer = Transfer(Request(method, url, headers, body, sink, on_head, decode, timeout, stall, go))
        try:
            return await trio.to_thread.run_sync(self._run, transfer, abandon_on_cancel=True, limiter=self._limiter)
        finally:
            transfer.cancelled = True

    def _run(self, transfer: Transfer) -> Response:
        curl = self._take()
        try:
            _configure(curl, transfer, self._ca_file, self._connect_timeout)
            response = _perform(curl, transfer)
            crash_point(f"answer-{transfer.request.method}")
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
