"""The HTTP seam: how turnout speaks to any engine or provider.

Adapters take a `Transport`; the real ones are `http1.PooledHttp1Transport` (plain HTTP, the hot path) and
`https.Httpx2Transport` (TLS and proxies), `routed_transport.RoutedTransport` picks between them, and
`scripted_transport.ScriptedTransport` is the fake that tests and users share.

The life of an answer::

    response = await transport.send(request, deadlines)   # the head is there
    try:
        while piece := await response.read():             # whatever has arrived, b"" at the end
            ...
    finally:
        response.close()                                  # finished: to the pool; unfinished: hung up at once
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from turnout.core.errors import Malformed


class Deadlines(msgspec.Struct, frozen=True, kw_only=True):
    """How long each wait may take, in seconds."""

    connect: float = 3.0
    """Until the connection stands."""
    first_byte: float = 300.0
    """From the end of sending until the head of the answer is there."""
    gap: float = 60.0
    """Until the next piece of the body, counted while somebody waits for it; the first may take ``first_byte``, since
    some servers send the head before they begin to think."""
    write: float = 60.0
    """Until the upstream takes the next slice (at most 256 KiB) of our body."""


class HttpRequest(msgspec.Struct, frozen=True):
    """One request. The transport adds host and content-length and drops hop-by-hop headers.

    `base_url` is `http://host:port`, `https://host/prefix` or `http+unix:///path/to.sock`; `path` begins with a slash
    and may carry a query. `request_id` is sent as ``x-request-id``: all else of the head is the same for every request
    to a target, so that it is written once.
    """

    method: str
    base_url: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    request_id: str = ""


class HttpResponse(Protocol):
    """An answer whose head has arrived. One task at a time may read it."""

    __slots__ = ()

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    """As received, with lower-case names."""

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header.

        Args:
            name: In lower case.
        """
        for key, value in self.headers:
            if key == name:
                return value
        return None

    @property
    def is_over(self) -> bool:
        """Whether the whole body has been read; false also where nobody can tell without waiting."""
        return False

    async def read(self) -> bytes:
        """Return what has arrived of the body, waiting for at least one byte; b"" at the end.

        The framing of HTTP is gone, a content-encoding is left as it is.

        Raises:
            CutOff: The peer closed in the middle, or the response was closed here.
            Stalled: Nothing came within `Deadlines.gap`.
            Malformed: What came is not HTTP.
        """
        ...

    async def read_all(self, limit_bytes: int) -> bytes:
        """Return the whole rest of the body.

        Args:
            limit_bytes: A longer body is hung up on.

        Raises:
            Malformed: The body is longer than the limit, or is not HTTP.
            CutOff: As in `read`.
            Stalled: As in `read`.
        """
        pieces: list[bytes] = []
        size = 0
        while piece := await self.read():
            size += len(piece)
            if size > limit_bytes:
                self.close()
                raise Malformed(f"the answer is larger than {limit_bytes!r} bytes", code="answer_too_large")
            pieces.append(piece)
        return b"".join(pieces)

    async def aclose(self) -> None:
        """Do what `close` does, and wait until it is done."""
        ...

    def close(self) -> None:
        """Give the answer up; may be called at any time and more than once.

        A connection whose body is not finished is closed at once, which is how an engine learns that the caller left.
        """
        ...


class Transport(Protocol):
    """Something that sends requests and returns answers."""

    async def send(self, request: HttpRequest, deadlines: Deadlines) -> HttpResponse:
        """Send a request and wait for the head of its answer. Cancelling closes the connection at once.

        Args:
            request: What to send.
            deadlines: How long each wait may take.

        Raises:
            ConnectFailed: Refused, unreachable, unknown host, TLS failure: nothing was sent.
            DeadlineExceeded: With the code `connect_deadline`, `write_deadline` or `first_byte_deadline`.
            CutOff: The peer closed before the head was complete.
            Malformed: What came is not HTTP.
            ValueError: The request cannot be written as HTTP, for example a line break in a header.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection, also those in use."""
        ...
