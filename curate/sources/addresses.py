"""Images at http(s) addresses that rows give: each within a deadline, and none from inside the network.

Rows are foreign data: an address in them may lead to this machine, to a name inside the network or to the metadata of
a cloud, also by a redirect. So what a name stands for is looked at before every connection, and that address is then
connected to. An answer that comes a byte at a time ends with the deadline.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from enum import IntEnum
from io import BytesIO
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from curate.io import retries

__all__ = [
    "CHUNK_BYTES",
    "MAX_IMAGE_BYTES",
    "RefusedError",
    "Take",
    "UrlAccess",
    "counted",
    "fetch",
    "refuse_private",
    "uncounted",
    "url_access",
]

MAX_IMAGE_BYTES = 256 << 20
#: What is asked for at a time.
CHUNK_BYTES = 1 << 20
#: Seconds for one operation of a connection, and for all of one object, tries and waits between them included.
URL_TIMEOUT_S = 20.0
OBJECT_S = 60.0

#: Addresses that count as public and still are the machinery of a cloud.
_METADATA = frozenset({"168.63.129.16"})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

#: Called with a number of bytes before they are read (it may wait), and with what was too much as a negative one.
Take = Callable[[int], object]


def uncounted(size: int) -> None:
    """Count nothing: for readers of one image at a time."""


class UrlAccess(IntEnum):
    """Which addresses of images are opened: none, those of the public network, or any."""

    NONE = 0
    PUBLIC = 1
    ANY = 2


def url_access(allow: Sequence[str]) -> UrlAccess:
    """Return which addresses `source.allow` opens.

    >>> [url_access(allow).name for allow in ((), ("private",), ("url",), ("url", "private"))]
    ['NONE', 'NONE', 'PUBLIC', 'ANY']
    """
    if "url" not in allow:
        return UrlAccess.NONE
    return UrlAccess.ANY if "private" in allow else UrlAccess.PUBLIC


class RefusedError(Exception):
    """A path or address leads where images are not read from."""


def counted(file: BinaryIO, take: Take) -> bytes:
    """Return what is left of a file, up to a byte more than an image may have; what is read is counted before."""
    whole = BytesIO()
    while whole.tell() <= MAX_IMAGE_BYTES:
        take(CHUNK_BYTES)
        piece = file.read(CHUNK_BYTES)
        take(len(piece) - CHUNK_BYTES)
        if not piece:
            break
        whole.write(piece)
    return whole.getvalue()


def fetch(url: str, *, private: bool, take: Take) -> bytes:
    """Return what is at an http(s) address, up to a byte more than an image may have.

    private : addresses inside the network are asked too. An overloaded server is asked again, after the time that it
    says or as `retries` has it. Raises RefusedError, OSError or HTTPException.
    """
    deadline = _Deadline(OBJECT_S)
    pauses = retries.PAUSES_S
    for number, pause in enumerate([*pauses, None], 1):
        try:
            with deadline:
                return _fetched(url, private, deadline, take)
        except (OSError, http.client.HTTPException) as error:
            if deadline.left <= 0:
                raise TimeoutError(f"not read within {OBJECT_S:g} s") from None
            wait = _wait(error, pause)
            if wait is None or wait >= deadline.left:
                raise _explained(error, number) from None
        deadline.left -= wait
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _wait(error: Exception, pause: float | None) -> float | None:
    """Return how long to wait before the next try; None where there is none.

    Servers that cannot be reached at all are not tried again: lists of addresses are full of dead ones.
    """
    if isinstance(error, urllib.error.HTTPError):
        if pause is None or not retries.transient(error):
            return None
        said = error.headers.get("Retry-After", "") if error.headers else ""
        return max(pause, float(said)) if said.isdecimal() else pause
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    lost = isinstance(cause, ConnectionResetError | BrokenPipeError | http.client.IncompleteRead)
    return pause if lost else None


def _explained(error: Exception, tries: int) -> Exception:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        error = OSError(f"HTTP status {error.code}")
    elif isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if tries > 1:
        error.add_note(f"tried {tries} times")
    return error


def _fetched(url: str, private: bool, deadline: "_Deadline", take: Take) -> bytes:
    with _opened(url, private, deadline) as answer:
        waited = 0

        def count(size: int) -> None:
            nonlocal waited
            waited += size
            with deadline.stopped():  # waiting for room is not the server's fault
                take(size)

        try:
            data = counted(answer, count)
            if deadline.over:
                raise TimeoutError
            if answer.length:
                raise http.client.IncompleteRead(b"", answer.length)
        except BaseException:
            take(-waited)
            raise
    return data


def _opened(url: str, private: bool, deadline: "_Deadline") -> http.client.HTTPResponse:
    """Open an http(s) address; redirects lead to http(s) only, never to files."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Handler(private, deadline),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(url, headers={"User-Agent": "curate"})
    answer = opener.open(request, timeout=URL_TIMEOUT_S)
    if answer is None:
        raise OSError("a redirect to another kind of address")
    found: http.client.HTTPResponse = answer
    return found


class _Connection(http.client.HTTPConnection):
    """A connection to an address that was looked at, which the deadline ends."""

    private = False
    deadline: "_Deadline"

    def connect(self) -> None:
        """Connect, or raise RefusedError."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        if not self.private:
            refuse_private([str(where[0]) for *_, where in found])
        error: OSError | None = None
        for family, kind, protocol, _, where in found:
            one = socket.socket(family, kind, protocol)
            try:
                one.settimeout(min(URL_TIMEOUT_S, max(self.deadline.remaining(), 0.001)))
                one.connect(where)
                self.deadline.watch(one)
                self.sock = one
                break
            except OSError as failed:
                one.close()
                error = failed
        else:
            raise error or OSError("the name stands for no address")
        if tunnel := getattr(self, "_tunnel", None) if getattr(self, "_tunnel_host", None) else None:
            tunnel()


class _TlsConnection(http.client.HTTPSConnection, _Connection):
    """The same, encrypted: the certificate is that of the name, whatever it stands for."""


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens addresses, first ones and those of redirects, by connections that look where they lead."""

    def __init__(self, private: bool, deadline: "_Deadline") -> None:
        super().__init__()
        self._private, self._deadline = private, deadline

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(_Connection, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._open(_TlsConnection, request, context=ssl.create_default_context())

    def _open(
        self,
        kind: type[_Connection],
        request: urllib.request.Request,
        **options: Any,  # noqa: ANN401
    ) -> http.client.HTTPResponse:
        proxied = request.has_proxy() or getattr(request, "_tunnel_host", None) is not None
        if proxied and not self._private:
            _refuse_private_name(urlsplit(request.full_url).hostname or "")

        def connection(host: str, **more: Any) -> _Connection:  # noqa: ANN401  (as urllib calls it)
            made = kind(host, **more)
            made.private = self._private or proxied  # the proxy is the user's, wherever it stands
            made.deadline = self._deadline
            return made

        return self.do_open(connection, request, **options)


def _refuse_private_name(name: str) -> None:
    """Refuse a name that a proxy is to open; one that is not known here is left to the proxy."""
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        refuse_private([str(where[0]) for *_, where in found])


def refuse_private(addresses: Sequence[str]) -> None:
    """Raise RefusedError if any of the addresses that a name stands for is not one of the public network."""
    for address in addresses:
        if not _is_public(address):
            raise RefusedError(
                f"the address leads to {address}, inside the network; source.allow does not list private"
            )


def _is_public(address: str) -> bool:
    """Return True if an address is one of the public network, whichever way it is written.

    >>> [_is_public(one) for one in ("8.8.8.8", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2606:4700::1")]
    [True, False, False, False, True]
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64 or int(ip) >> 32 == 0:
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if not all(_is_public(str(one)) for one in inner if one is not None):
            return False
    return ip.is_global and not ip.is_multicast and str(ip) not in _METADATA


class _Deadline:
    """Ends the connections of one object when its time is over; the time runs inside `with` and not while stopped."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self.over = False
        self._sockets: list[socket.socket] = []
        self._timer: threading.Timer | None = None
        self._since = 0.0

    def __enter__(self) -> None:
        self._start()

    def __exit__(self, *_: object) -> None:
        self._stop()
        for one in self._sockets:
            one.close()
        self._sockets.clear()

    def watch(self, connected: socket.socket) -> None:
        """End this connection too; a copy is kept, because encryption takes the socket over."""
        self._sockets.append(connected.dup())

    def remaining(self) -> float:
        """Return the seconds that are left at this moment."""
        return self.left - (time.monotonic() - self._since if self._timer is not None else 0.0)

    @contextlib.contextmanager
    def stopped(self) -> Any:  # noqa: ANN401  (an iterator for contextmanager)
        """Let the time stand still."""
        self._stop()
        try:
            yield
        finally:
            self._start()

    def _start(self) -> None:
        self._since = time.monotonic()
        self._timer = threading.Timer(max(self.left, 0.0), self._end)
        self._timer.daemon = True
        self._timer.start()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self.left = self.remaining()
            self._timer = None

    def _end(self) -> None:
        self.over = True
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
