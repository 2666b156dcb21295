"""The hot path's HTTP client: plain HTTP/1.1 over TCP or a Unix socket, with a pool of idle connections per origin.

A stale connection: an upstream may close an idle connection in the moment in which the next request is written to it.
Before every reuse the kernel is asked whether the socket is quiet, which leaves only a close that is still on its way.
A request is then repeated once, on a fresh connection, and only if the reused one closed without a byte of an answer:

* a safe method (GET, HEAD, OPTIONS): always;
* any method whose body was not sent completely: always, since nobody can have acted on it;
* a POST that was sent completely: if the transport allows it (`retry_stale_post`) and the close came within
  `STALE_SECONDS`. Then it was most likely on its way already; an engine that dies of the request takes longer, and is
  not asked a second time. Repeating a generation costs a local engine some work and nobody any money; where a
  repetition costs money, switch it off.
"""

from __future__ import annotations

import asyncio
import functools
import re
from urllib.parse import unquote, urlsplit

import msgspec

from turnout.core.errors import ConnectFailed, CutOff, DeadlineExceeded
from turnout.core.outbox import Outbox
from turnout.tiers.http1_connection import Http1Connection, Http1Response
from turnout.tiers.transport import Deadlines, HttpRequest, Transport

STALE_SECONDS = 1.0
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
NOT_FORWARDED = frozenset(
    {
        # Ours to write.
        b"host",
        b"content-length",
        # Hop by hop: RFC 9110, 7.6.1, and those that older clients send.
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_METHOD = re.compile(r"[A-Z]+")
_TARGET = re.compile(r"/[\x21-\x7e]*")
_AUTHORITY = re.compile(r"[A-Za-z0-9._~%:\[\]-]+")
_REQUEST_ID = re.compile(r"[\x21-\x7e]+")
_HEADER_LINES = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n\0]*\r\n)*")


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a base URL leads."""

    name: str
    """Scheme and authority, or the socket's path: the pool's key, and what messages say."""
    scheme: str
    host: str = ""
    port: int = 80
    unix_path: str = ""
    authority: bytes = b"localhost"
    """For the Host header."""
    prefix: str = ""
    """Put before the path of each request."""


@functools.lru_cache(maxsize=1024)
def origin_of(base_url: str) -> Origin:
    """Read a base URL.

    Args:
        base_url: `http://host:port/prefix`, `https://…` or `http+unix:///path/to.sock`.

    Raises:
        ValueError: It is none of these, or carries a password, a query or a fragment.
    """
    parts = urlsplit(base_url)
    if parts.scheme == "http+unix":
        path = unquote(parts.netloc + parts.path)
        if not path or "\0" in path:
            raise ValueError(f"{base_url!r} names no socket")
        return Origin(name=f"http+unix://{path}", scheme=parts.scheme, unix_path=path)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{base_url!r} is not an http, https or http+unix URL")
    if "@" in parts.netloc:
        raise ValueError("a base URL carries no user name and no password: use a header")
    prefix = parts.path.rstrip("/")
    if parts.query or parts.fragment or (prefix and not _TARGET.fullmatch(prefix)):
        raise ValueError(f"{base_url!r} has more than a host and a path")
    if not parts.hostname or not _AUTHORITY.fullmatch(parts.netloc):
        raise ValueError(f"{base_url!r} has no usable host")
    return Origin(
        name=f"{parts.scheme}://{parts.netloc}",
        scheme=parts.scheme,
        host=parts.hostname,
        port=parts.port or (443 if parts.scheme == "https" else 80),
        authority=parts.netloc.encode(),
        prefix=prefix,
    )


def end_to_end_headers(headers: tuple[tuple[bytes, bytes], ...]) -> list[tuple[bytes, bytes]]:
    """Return the headers without those that belong to one hop, or that the transport writes itself."""
    dropped: frozenset[bytes] | set[bytes] = NOT_FORWARDED
    for name, value in headers:
        if name.lower() == b"connection":  # it may name others
            dropped = dropped | {word.strip().lower() for word in value.split(b",")}
    return [pair for pair in headers if pair[0].lower() not in dropped]


@functools.lru_cache(maxsize=1024)
def static_head(method: str, base_url: str, path: str, headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Write request line and headers, without content-length, request id and the empty line.

    Raises:
        ValueError: A part of the request would break out of its line.
    """
    if not _METHOD.fullmatch(method):
        raise ValueError(f"the method {method!r} is not one word of capital letters")
    if not _TARGET.fullmatch(path):
        raise ValueError(f"the path {path!r} does not begin with a slash, or has a space or control character")
    pairs = end_to_end_headers(headers)
    lines = b"".join([b"%b: %b\r\n" % pair for pair in pairs])
    if lines.count(b"\n") != len(pairs) or not _HEADER_LINES.fullmatch(lines):
        raise ValueError("a header has a line break or NUL in it, or its name is not a word")
    origin = origin_of(base_url)
    line = f"{method} {origin.prefix}{path} HTTP/1.1\r\n".encode("ascii")
    return b"%bhost: %b\r\n%b" % (line, origin.authority, lines)


def render_head(request: HttpRequest) -> bytes:
    """Write the whole head of a request.

    Raises:
        ValueError: A part of the request would break out of its line.
    """
    head = static_head(request.method, request.base_url, request.path, request.headers)
    if request.request_id:
        if not _REQUEST_ID.fullmatch(request.request_id):
            raise ValueError(f"the request id {request.request_id!r} is not one printable word")
        head = b"%bx-request-id: %b\r\n" % (head, request.request_id.encode())
    if request.body or request.method not in SAFE_METHODS:
        return b"%bcontent-length: %d\r\n\r\n" % (head, len(request.body))
    return head + b"\r\n"


class PooledHttp1Transport(Transport):
    """Plain HTTP/1.1 with connections kept for reuse, the latest first.

    Args:
        max_idle: Idle connections kept per origin; any number may be in use.
        idle_seconds: How long one is kept. Less than what servers wait (uvicorn: 5 s) saves a retry; the default
            suits engines that wait for longer.
        retry_stale_post: Whether a POST is repeated when its reused connection turns out to be closed; see above.
    """

    def __init__(self, *, max_idle: int = 256, idle_seconds: float = 30.0, retry_stale_post: bool = True) -> None:
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._retry_stale_post = retry_stale_post
        self._idle: dict[str, list[Http1Connection]] = {}
        self._open: set[Http1Connection] = set()
        self._outbox: Outbox | None = None
        self._is_closed = False
        self._all_lost: asyncio.Future[None] | None = None

    async def send(self, request: HttpRequest, deadlines: Deadlines) -> Http1Response:
        """Send a request and wait for the head of its answer; see `Transport.send`."""
        if self._is_closed:
            raise RuntimeError("the transport is closed")
        origin = origin_of(request.base_url)
        if origin.scheme == "https":
            raise ValueError(f"{request.base_url!r}: this transport speaks plain HTTP only")
        head = render_head(request)
        is_head_only = request.method == "HEAD"
        connection = self._reusable(origin.name)
        if connection is not None:
            try:
                return await connection.exchange(head, request.body, deadlines, is_head_only=is_head_only)
            except CutOff:
                if not self._may_repeat(request.method, connection):
                    raise
        connection = await self._connect(origin, deadlines.connect)
        return await connection.exchange(head, request.body, deadlines, is_head_only=is_head_only)

    async def aclose(self) -> None:
        """Close every connection, also those in use."""
        self._is_closed = True
        for connection in list(self._open):
            connection.fail(CutOff(f"{connection.name}: the client was closed here"))
        if self._open:
            if self._all_lost is None:
                self._all_lost = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._all_lost)

    def _reusable(self, name: str) -> Http1Connection | None:
        idle = self._idle.get(name)
        while idle:
            connection = idle.pop()
            if connection.is_reusable():
                return connection
            connection.abort()
        return None

    def _may_repeat(self, method: str, connection: Http1Connection) -> bool:
        if not connection.was_cut_silently:
            return False
        if method in SAFE_METHODS or not connection.is_sent:
            return True
        return self._retry_stale_post and connection.silent_seconds <= STALE_SECONDS

    async def _connect(self, origin: Origin, seconds: float) -> Http1Connection:
        loop = asyncio.get_running_loop()
        outbox = self._outbox = self._outbox or Outbox(loop)

        def protocol() -> Http1Connection:
            return Http1Connection(loop, origin.name, self, outbox)

        try:
            async with asyncio.timeout(seconds):
                if origin.unix_path:
                    _, connection = await loop.create_unix_connection(protocol, origin.unix_path)
                else:
                    _, connection = await loop.create_connection(protocol, origin.host, origin.port)
        except TimeoutError as error:
            raise DeadlineExceeded(f"no connection to {origin.name} in time", code="connect_deadline") from error
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that DNS cannot carry
            raise ConnectFailed(f"no connection to {origin.name}: {error}") from error
        return connection

    # What connections call: `http1_connection.Owner`.

    def opened(self, connection: Http1Connection) -> None:
        """Take note of a new connection."""
        self._open.add(connection)
        if self._is_closed:
            connection.abort()

    def finished(self, connection: Http1Connection) -> None:
        """Keep a connection for the next request, dropping the one that is idle for longest if there are too many."""
        idle = self._idle.setdefault(connection.name, [])
        idle.append(connection)
        connection.rest(self._idle_seconds)
        if len(idle) > self._max_idle:
            idle.pop(0).abort()

    def lost(self, connection: Http1Connection) -> None:
        """Forget a connection whose socket is closed."""
        self._open.discard(connection)
        idle = self._idle.get(connection.name)
        if idle is not None:
            if connection in idle:
                idle.remove(connection)
            if not idle:
                del self._idle[connection.name]
        if self._all_lost is not None and not self._open:
            self._all_lost.set_result(None)
            self._all_lost = None
