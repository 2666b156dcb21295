"""One HTTP/1.1 connection to an upstream: bytes in, parser, deadlines, back-pressure.

`http1.py` pools these. The shape follows from the hot path: no task and no stream object per request, one future per
wait, one alarm per connection, and one piece of body per read of the socket, however many HTTP chunks it holds.
"""

from __future__ import annotations

import asyncio
import enum
import select
import socket
from typing import Protocol, cast

import httptools

from turnout.core.alarm import Alarm
from turnout.core.errors import Broken, CutOff, DeadlineExceeded, Malformed, Stalled
from turnout.core.outbox import HELD_BYTES, Outbox
from turnout.tiers.transport import Deadlines, HttpResponse

HEAD_LIMIT_BYTES = 64 * 1024
"""For the header block, and for anything else that is not body: trailers, chunk extensions, interim answers."""
WAITING_LIMIT_BYTES = 64 * 1024
"""Unread body above which the socket is no longer read. Thousands of slow readers each hold so much (and what was read
at once, up to 256 KiB): with four times as much the loop was late by seconds."""
RECEIVE_BUFFER_BYTES = 64 * 1024
"""What the kernel takes of an answer ahead of us (Linux doubles it). Left alone it grows to 6 MiB for each connection,
and one read of the loop takes up to 256 KiB."""
SLICE_BYTES = 256 * 1024
"""How much of a request body is handed to the socket at a time; each slice has its own write deadline."""


class Waiting(enum.Enum):
    """What a connection's deadline stands for."""

    IDLE = enum.auto()
    WRITE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


class Owner(Protocol):
    """Who holds the connections: the pool."""

    def opened(self, connection: Http1Connection) -> None:
        """Take note of a new connection."""
        ...

    def finished(self, connection: Http1Connection) -> None:
        """Take back a connection that may serve another request."""
        ...

    def lost(self, connection: Http1Connection) -> None:
        """Forget a connection whose socket is closed."""
        ...


class Http1Response(HttpResponse):
    """An answer on an `Http1Connection`; holds the body that nobody has read yet."""

    __slots__ = (
        "_deadlines",
        "_patience_seconds",
        "connection",
        "error",
        "headers",
        "pieces",
        "status",
        "waiting_bytes",
    )

    def __init__(self, connection: Http1Connection, deadlines: Deadlines) -> None:
        self.connection: Http1Connection | None = connection  # None once the connection is done with this answer
        self.status = 0
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.pieces: list[bytes] = []
        self.waiting_bytes = 0
        self.error: Broken | None = None
        self._deadlines = deadlines
        self._patience_seconds = deadlines.first_byte

    @property
    def is_over(self) -> bool:
        """Whether the whole body has been read."""
        return self.connection is None and self.error is None and not self.pieces

    async def read(self) -> bytes:
        """Return what has arrived of the body; see `HttpResponse.read`."""
        while not self.pieces and self.connection is not None:
            await self.connection.wait(self, Waiting.BODY, self._patience_seconds)
        if self.pieces:
            piece = self._take()
            self._patience_seconds = self._deadlines.gap
            if self.connection is not None:
                self.connection.resume_reading()
            return piece
        if self.error is not None:
            raise self.error
        return b""

    async def read_all(self, limit_bytes: int) -> bytes:
        """Return the whole rest of the body; see `HttpResponse.read_all`."""
        if self.connection is None and self.error is None and self.waiting_bytes <= limit_bytes:
            return self._take()  # a short answer came together with its head
        return await super().read_all(limit_bytes)

    def _take(self) -> bytes:
        piece = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.pieces.clear()
        self.waiting_bytes = 0
        return piece

    def close(self) -> None:
        """Give the answer up; see `HttpResponse.close`."""
        self.pieces.clear()
        if self.connection is not None:
            self.connection.fail(CutOff("the answer was closed here before its end"))

    async def aclose(self) -> None:
        """Do what `close` does."""
        self.close()


class Http1Connection(asyncio.Protocol):
    """A connection that serves one request at a time.

    Args:
        loop: The running loop.
        name: The origin, `http://host:port`: the pool's key, and what messages say.
        owner: The pool.
        outbox: Where short requests wait for the end of the loop's turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, owner: Owner, outbox: Outbox) -> None:
        self.name = name
        self.was_cut_silently = False  # the peer closed without a single byte of an answer
        self.is_sent = False  # the whole request has left for the kernel
        self.silent_seconds = 0.0  # how long after the request began the peer closed
        self._loop = loop
        self._owner = owner
        self._outbox = outbox
        self._held = b""  # a request that is written at the end of the loop's turn
        self._transport: asyncio.Transport
        self._arrived: list[bytes] = []  # pieces of body from the read of the socket that is being parsed
        self.on_body = self._arrived.append  # httptools calls it for every chunk: nothing is cheaper
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._poll = select.poll()
        self._is_closing = False
        self._loss: Broken | None = None  # why a connection without a request was closed
        # The wait and its deadline.
        self._waiter: asyncio.Future[None] | None = None
        self._waiting = Waiting.IDLE
        self._alarm = Alarm(loop, self._ring)
        self._is_reading_paused = False
        self._is_writing_paused = False
        # The request under way.
        self._response: Http1Response | None = None
        self._started_at = 0.0
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._quiet_bytes = 0  # received since the last byte of body
        self._got_bytes = False
        self._is_head_only = False
        self._has_head = False
        self._has_end = False
        self._last_pieces = 0  # how many of `_arrived` belong to the answer that ended among them
        self._may_stay = False
        self._problem = ""

    # What the pool calls.

    def is_reusable(self) -> bool:
        """Say whether the peer has neither closed nor spoken since the last answer, as far as the kernel knows."""
        return not self._is_closing and not self._poll.poll(0)

    def rest(self, seconds: float) -> None:
        """Wait for the next request, and close when none comes in time."""
        self._waiting = Waiting.IDLE
        self._alarm.set_in(seconds)

    def abort(self) -> None:
        """Close the socket now, dropping what is not sent."""
        if not self._is_closing:
            self._is_closing = True
            self._transport.abort()

    async def exchange(self, head: bytes, body: bytes, deadlines: Deadlines, *, is_head_only: bool) -> Http1Response:
        """Send a request and wait for the head of its answer.

        Args:
            head: Request line and headers with the empty line.
            body: May be empty.
            deadlines: How long each wait may take.
            is_head_only: The method is HEAD: whatever the headers say, no body follows.
        """
        if self._is_closing:
            raise self._loss or CutOff(f"{self.name} closed the connection before it answered")
        response = self._response = Http1Response(self, deadlines)
        self._started_at = self._loop.time()
        self._head_bytes = self._quiet_bytes = 0
        self._is_head_only = is_head_only
        self._got_bytes = self._has_head = self._has_end = self.is_sent = False
        if len(head) + len(body) <= HELD_BYTES and not self._is_writing_paused:
            self._held = head + body
            self._outbox.add(self._flush)
        else:
            if len(body) <= SLICE_BYTES:
                self._transport.write(head + body)
                self.is_sent = not self._is_writing_paused
            if not self.is_sent:
                await self._upload(response, head, body, deadlines.write)
        if not self._has_head and response.error is None:
            await self.wait(response, Waiting.HEAD, deadlines.first_byte)
        if not self._has_head and response.error is not None:
            raise response.error
        return response

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._is_closing:
            self._transport.write(held)  # so little never fills an empty buffer
            self.is_sent = True

    async def _upload(self, response: Http1Response, head: bytes, body: bytes, seconds: float) -> None:
        """Send a body that the socket does not take at once; an answer before its end ends the sending."""
        rest = memoryview(b"" if len(body) <= SLICE_BYTES else body)
        if rest:
            self._transport.write(head)
        while True:
            if self._is_writing_paused:
                await self.wait(response, Waiting.WRITE, seconds)
            if self._has_head or response.error is not None:
                # Answered early. A refusal ends the sending; a peer that streams gets the rest without our waiting.
                # is_sent stays false: this connection serves no other request.
                if rest and response.status < 400 and not self._is_closing:
                    self._transport.write(rest)
                return
            if not rest:
                break
            self._transport.write(rest[:SLICE_BYTES])
            rest = rest[SLICE_BYTES:]
        self.is_sent = True

    # Waiting.

    async def wait(self, response: Http1Response, waiting: Waiting, seconds: float) -> None:
        """Sleep until something happened that this wait is for; being cancelled closes the connection."""
        if self._waiter is not None:
            raise RuntimeError("another task is waiting on this answer")
        self._waiting = waiting
        self._alarm.set_in(seconds)
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        except asyncio.CancelledError:
            # The connection may have finished this answer, and serve another one, before the cancelled task ran.
            if self._response is response:
                self._waiter = None
                self.fail(CutOff("the wait was cancelled"))
            raise

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            self._alarm.off()
            if not waiter.done():
                waiter.set_result(None)

    def _ring(self) -> None:
        if self._is_closing:
            return
        if self._waiting is Waiting.IDLE:
            self.abort()
        elif self._waiting is Waiting.WRITE:
            self.fail(DeadlineExceeded(f"{self.name} stopped taking the request's body", code="write_deadline"))
        elif self._waiting is Waiting.HEAD:
            self.fail(DeadlineExceeded(f"{self.name} did not begin to answer in time", code="first_byte_deadline"))
        else:
            self.fail(Stalled(f"{self.name} began to answer and then fell silent"))

    # The end of an answer.

    def _finish(self, response: Http1Response) -> None:
        response.connection = None
        self._response = None
        self._wake()
        if self._may_stay and self.is_sent and not self._is_closing:
            self._owner.finished(self)
        else:
            self.abort()

    def fail(self, error: Broken) -> None:
        """Close the connection; whoever reads the answer gets the error after what has already arrived."""
        response = self._response
        if response is None:
            self._loss = error
        else:
            response.error = error
            response.connection = None
            self._response = None
        self.abort()
        self._wake()

    def _peer_closed(self, why: str) -> None:
        if self._response is not None and not self._got_bytes:
            self.was_cut_silently = True
            self.silent_seconds = self._loop.time() - self._started_at
        when = "in the middle of the answer" if self._has_head else "before it answered"
        self.fail(CutOff(f"{self.name} closed the connection {when}{why}"))

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's have the methods but not the base class
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._poll.register(sock.fileno(), select.POLLIN)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        response, parser = self._response, self._parser
        if response is None or parser is None:  # nobody asked: never to be taken for the next answer
            self.fail(Malformed(f"{self.name} sent bytes without being asked"))
            return
        self._got_bytes = True
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._may_stay = False
            if not self._has_end:  # otherwise this answer is whole and what follows it is of no interest
                self._problem = self._problem or f"is not HTTP: {error}"
        if self._arrived:
            self._quiet_bytes = 0
            self._collect(response)
        else:
            self._quiet_bytes += len(data)
            if self._quiet_bytes > HEAD_LIMIT_BYTES and not self._has_end:
                self._problem = self._problem or f"has more than {HEAD_LIMIT_BYTES} bytes of headers"
        if self._problem:
            self.fail(Malformed(f"the answer of {self.name} {self._problem}"))
        elif self._has_end:
            self._finish(response)
        elif self._has_head:
            if response.pieces or self._waiting is not Waiting.BODY:
                self._wake()
            if response.waiting_bytes > WAITING_LIMIT_BYTES and not self._is_reading_paused:
                self._is_reading_paused = True
                self._transport.pause_reading()

    def _collect(self, response: Http1Response) -> None:
        """Make one piece of what has just been parsed; what came behind the answer's end is dropped."""
        arrived = self._arrived
        if self._has_end:
            del arrived[self._last_pieces :]
        piece = arrived[0] if len(arrived) == 1 else b"".join(arrived)
        arrived.clear()
        if piece:
            response.pieces.append(piece)
            response.waiting_bytes += len(piece)

    def resume_reading(self) -> None:
        """Read the socket again after a pause, if there was one."""
        if self._is_reading_paused and not self._is_closing:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def eof_received(self) -> None:
        """End a body that lasts until the peer closes; anything else is cut off."""
        response = self._response
        if response is not None and self._has_head and not self._may_stay and self._lasts_until_close(response):
            self._finish(response)
        elif not self._is_closing:
            self._peer_closed("")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits, and the pool."""
        if not self._is_closing:
            self.is_sent = self.is_sent and not isinstance(exc, BrokenPipeError)
            self._peer_closed(f": {exc}" if exc else "")
        self._alarm.close()
        self._parser = None  # the parser holds this object: break the cycle
        self._owner.lost(self)

    def pause_writing(self) -> None:
        """Note that the socket's buffer is full."""
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        """Go on with the upload."""
        self._is_writing_paused = False
        if self._waiting is Waiting.WRITE:
            self._wake()

    # httptools callbacks: they note, data_received acts.

    def on_message_begin(self) -> None:
        """Begin an answer; one behind the end of ours came unasked."""
        if self._has_end:
            self._may_stay = False
        elif not self._has_head:
            self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; those behind the head are trailers, which nobody needs."""
        if not self._has_head:
            self._head_bytes += len(name) + len(value) + 4
            self._headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        """Take the head, unless it is an interim one."""
        response, parser = self._response, self._parser
        if self._has_head or response is None or parser is None:
            return
        if self._head_bytes > HEAD_LIMIT_BYTES:
            self._problem = f"has more than {HEAD_LIMIT_BYTES} bytes of headers"
        status = parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                self._problem = f"has the status {status}, which nobody asked for"
            elif any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers):
                self._problem = "has a body in an interim answer"  # RFC 9110 section 15.2: it ends with its headers
            return
        response.status = status
        response.headers = tuple(self._headers)
        self._has_head = True
        if self._is_head_only:  # httptools would wait for a body: this parser, and so this connection, is spent
            self._has_end, self._may_stay, self._last_pieces = True, False, 0
            return
        self._may_stay = parser.should_keep_alive()
        if not self._may_stay:
            coding = response.header(b"transfer-encoding")
            if coding is not None and not coding.lower().endswith(b"chunked"):
                self._problem = f"has the transfer-encoding {coding!r}"

    def on_message_complete(self) -> None:
        """Note the end; that of an interim answer is none."""
        if self._has_head and not self._has_end:
            self._has_end, self._last_pieces = True, len(self._arrived)

    def _lasts_until_close(self, response: Http1Response) -> bool:
        return response.header(b"content-length") is None and response.header(b"transfer-encoding") is None
