"""One connection with limits: nothing a caller does, or leaves undone, holds memory or a handler for ever.

The life of a connection is `Phase`; one lazily moved timer guards whichever phase it is in, and a second one guards
writing. Reading is never paused, so a caller who leaves is noticed at once and `connection_lost` cancels the handler:

* a body is buffered whole (up to ``body_bytes``);
* one pipelined request is kept; what follows it is read and dropped, and the connection closes after its answer;
* a caller who only shuts its sending side still gets the answer. As a vanished caller looks the same, half a second
  later one `102 Processing` is sent: only a vanished one answers that with a reset.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import math
import socket
import struct
import urllib.parse
from typing import cast

import httptools
import msgspec

from turnout.core.alarm import Alarm
from turnout.core.errors import (
    BodyTooLarge,
    BodyTooSlow,
    Busy,
    InvalidRequest,
    MethodNotAllowed,
    TurnoutError,
    Wrong,
)
from turnout.core.outbox import HELD_BYTES, Outbox
from turnout.gateway.exchange import STATUS_LINES, Exchange, Handler

WRITE_HIGH_BYTES, WRITE_LOW_BYTES = 65_536, 16_384
CHUNK_OVERHEAD_BYTES = 20  # 16 hexadecimal digits and two CRLF: what honest chunk framing costs at most
LINGER_SECONDS, LINGER_BYTES = 5.0, 256 << 20  # read on so long after an early answer: a reset would destroy it
PROBE_SECONDS = 0.5  # between a caller's end of file and the question whether it is still there


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one caller may cost."""

    header_bytes: int = 65_536
    """Request line and headers; chunk extensions and trailers count too, and pipelined heads in one read together."""
    header_seconds: float = 10
    """From the first byte (or the connect) to the end of the headers."""
    body_bytes: int = 64 << 20
    """The decoded body."""
    body_gap_seconds: float = 30
    """Without a byte of body."""
    body_seconds: float = 600
    """For the whole body."""
    write_stall_seconds: float = 60
    """For a full write buffer to drain, or at least to shrink by 64 KiB."""
    keep_alive_seconds: float = 75
    """Between an answer and the next request."""
    connections: int = 4096
    """Open at once; further ones are answered 503."""


class Phase(enum.Enum):
    """What the connection reads at the moment."""

    IDLE = enum.auto()  # between requests
    HEAD = enum.auto()
    BODY = enum.auto()
    CLOSING = enum.auto()  # the last answer is written; only the caller's end of file is awaited


IDLE, HEAD, BODY, CLOSING = Phase  # through the class a look-up takes 80 ns on Python 3.11, and a request needs 25


class State:
    """What the connections of one server share.

    Attributes:
        connections: Those that are open.
        tasks: Running handlers.
        outbox: Where answers wait for the end of the loop's turn.
        date_line: The Date header of every answer.
        is_stopping: No new request is taken.
        emptied: Set when the last connection has gone.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.outbox = Outbox(loop)
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.date_line = b""
        self.is_stopping = False
        self.emptied = asyncio.Event()

    def cancel(self, task: asyncio.Task[None]) -> None:
        """Cancel a handler; one that never ran a step cannot say itself that it has ended."""
        task.cancel()
        task.add_done_callback(self.tasks.discard)


class Connection(asyncio.Protocol):
    """One connection.

    Args:
        loop: The running loop.
        handler: Answers requests.
        server_state: Shared by all connections.
        limits: What the caller may cost.
    """

    transport: asyncio.Transport
    exchange: Exchange  # the request that is being read, or was read last

    def __init__(
        self, loop: asyncio.AbstractEventLoop, handler: Handler, server_state: State, limits: ServerLimits
    ) -> None:
        self.loop = loop
        self.server_state = server_state
        self.limits = limits
        self.is_writing_paused = False
        self._handler = handler
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._phase = IDLE
        self._is_deaf = False  # what still arrives is dropped
        self._is_half_closed = self._has_probed = False
        self._running: Exchange | None = None  # its answer is not complete
        self._task: asyncio.Task[None] | None = None
        self._queued: Exchange | None = None
        self._fault: TurnoutError | None = None  # why a parser callback stopped the parser
        self._refusal: TurnoutError | None = None  # to be written after the answer in progress
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = self._is_chunked = False
        self._content_bytes = self._body_bytes = self._overhead_bytes = self._dropped_bytes = 0
        self._read_until = 0.0  # of this head or body; 0: it has just begun
        self._alarm = Alarm(loop, self._ring)
        self._stall = Alarm(loop, self._on_stall)
        self._stalled_bytes = 0
        self._drained: asyncio.Future[None] | None = None
        self._held = b""  # written at the end of the loop's turn

    # -- the connection ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the first head's deadline, or turn the caller away."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's have the methods but not the base class
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)
        self.server_state.connections.add(self)
        excess = len(self.server_state.connections) - self.limits.connections
        if self.server_state.is_stopping or excess > 128:
            self.transport.abort()
        elif excess > 0:
            self._refuse(Busy("too many connections", hint="close idle connections or raise the server's limit"), None)
        else:
            self._alarm.set_in(self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """Cancel the handler: nobody waits for its answer."""
        self.server_state.connections.discard(self)
        if not self.server_state.connections:
            self.server_state.emptied.set()
        self._phase, self._is_deaf, self._queued = CLOSING, True, None
        self._alarm.close()
        self._stall.close()
        if self._running is not None and self._task is not None:
            self._running.is_cut = True
            self._running.wake()
            self.server_state.cancel(self._task)
        self._let_write()
        # These hold this object: left alone, cycles would keep it and its buffers until the garbage collector comes.
        self._parser = self._running = self._task = None
        vars(self).pop("exchange", None)

    def eof_received(self) -> bool:
        """Keep the connection if an answer is due: asyncio and uvloop close it when this returns None."""
        if self._phase is BODY and self.exchange is self._running:
            self.transport.abort()  # it will never be whole
            return False
        if self._phase is BODY and self.exchange is self._queued:
            self._queued = None
        last = self._queued or self._running
        if last is None or self._phase is CLOSING:
            self.finish(linger=False)
            return False
        last.keep_alive = False
        self._is_half_closed = self._is_deaf = True
        self._alarm.set_in(PROBE_SECONDS)
        return True

    def shutdown(self) -> None:
        """Close now if idle, after the running answer otherwise."""
        if self._running is None or self._phase is CLOSING:
            self.finish(linger=False)
        else:
            self._queued = None
            self._running.keep_alive = False
            self._is_deaf = self._is_deaf or self._phase is not BODY or self.exchange is not self._running

    def finish(self, *, linger: bool = True) -> None:
        """Close once everything is written.

        Args:
            linger: Read and drop what still arrives until the caller closes too.
        """
        self._phase, self._is_deaf = CLOSING, True
        self.flush()
        unwritten = self.transport.get_write_buffer_size() > 0
        if linger and not self._is_half_closed and not self.transport.is_closing():
            try:
                self.transport.write_eof()
            except OSError:  # the caller's reset came first
                self.transport.abort()
            self._alarm.set_in(max(LINGER_SECONDS, self.limits.write_stall_seconds * unwritten))
        else:
            self.transport.close()
            self._alarm.set_in(self.limits.write_stall_seconds if unwritten else math.inf)

    # -- reading -------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse, and hold what was read against the limits.

        Args:
            data: At most 256 KiB, whatever the loop read.
        """
        if self._is_deaf:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        if self._phase is IDLE:
            self._overhead_bytes = 0
        self._overhead_bytes += len(data)
        body_bytes = self._body_bytes
        try:
            cast("httptools.HttpRequestParser", self._parser).feed_data(data)
        except httptools.HttpParserUpgrade as paused:
            self._replay_without_upgrade(data[paused.args[0] :])
        except httptools.HttpParserError as error:
            if not self._is_deaf:
                fault = self._fault or InvalidRequest(
                    f"not valid HTTP/1.1: {error}", hint="check the request's framing"
                )
                self._refuse(fault, self.exchange if self._phase is BODY else None)
        else:
            if self._overhead_bytes > self.limits.header_bytes and not self._is_deaf:
                self._refuse(self._too_much_head(), None if self._phase is HEAD else self.exchange)
            elif self._phase is HEAD and not self._read_until:
                self._read_until = self._alarm.set_in(self.limits.header_seconds)
            elif self._phase is BODY and (not self._read_until or self._body_bytes != body_bytes):
                now = self.loop.time()
                self._read_until = self._read_until or now + self.limits.body_seconds
                self._alarm.set_at(min(now + self.limits.body_gap_seconds, self._read_until))

    def _too_much_head(self) -> Wrong:
        return Wrong(
            f"request line, headers, chunk extensions and trailers exceed {self.limits.header_bytes} bytes",
            status=431,
            code="headers_too_large",
            hint="send fewer or shorter headers",
        )

    def _replay_without_upgrade(self, rest: bytes) -> None:
        """Parse the request again as an ordinary one: llhttp skips the body of a request that asks for an upgrade."""
        parser = cast("httptools.HttpRequestParser", self._parser)
        lines = [b"%s: %s\r\n" % header for header in self._headers if header[0] != b"upgrade"]
        version = parser.get_http_version().encode()
        head = b"%s %s HTTP/%s\r\n%s\r\n" % (parser.get_method(), self._url, version, b"".join(lines))
        self._parser = httptools.HttpRequestParser(self)
        self._phase = IDLE
        self.data_received(head + rest)

    def _stop_parser(self, fault: TurnoutError) -> None:
        self._fault = fault
        raise fault

    def on_message_begin(self) -> None:
        """Begin a request, unless one is queued already."""
        if self._queued is not None:
            self._queued.keep_alive = False  # its answer is the last: the error below is never written
            self._stop_parser(InvalidRequest("too many pipelined requests"))
        self._phase, self._read_until = HEAD, 0.0
        self._url, self._headers = b"", []
        self._content_bytes, self._is_chunked, self._expects_continue = 0, False, False

    def on_url(self, url: bytes) -> None:
        """Keep a part of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; drop a trailer, which must not change the headers that the handler has seen."""
        if self._phase is not HEAD:
            return
        name = name.lower()
        if name == b"content-length":
            self._content_bytes = int(value)
        elif name == b"transfer-encoding":
            self._is_chunked = True
            if value.strip().lower() != b"chunked":
                coding = value.decode("latin-1")
                self._stop_parser(InvalidRequest(f"transfer-encoding {coding!r} is not supported", hint="use chunked"))
        elif name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Start the handler, or queue it behind the running one."""
        parser = cast("httptools.HttpRequestParser", self._parser)
        version, method = parser.get_http_version(), parser.get_method()
        if version not in ("1.1", "1.0") or (version == "1.0" and self._is_chunked):
            self._stop_parser(InvalidRequest(f"not valid HTTP/1.1: version {version!r}", hint="speak HTTP/1.1"))
        if method == b"CONNECT":
            self._stop_parser(MethodNotAllowed("CONNECT is not served: this is no proxy"))
        if parser.should_upgrade():
            return
        path, raw_path, query = split_target(self._url)
        if self._content_bytes > self.limits.body_bytes:
            self._stop_parser(self._too_large())
        self._phase, self._read_until, self._body_bytes = BODY, 0.0, 0
        self.exchange = exchange = Exchange(
            self,
            method=method.decode(),
            path=path,
            raw_path=raw_path,
            query=query,
            headers=self._headers,
            version=version,
            keep_alive=version == "1.1" and parser.should_keep_alive(),
            expects_continue=self._expects_continue and version == "1.1",
        )
        if self._running is None:
            self._start(exchange)
        else:
            self._queued = exchange

    def _start(self, exchange: Exchange) -> None:
        self._running = exchange
        self._task = self.loop.create_task(exchange.run(self._handler))
        self.server_state.tasks.add(self._task)

    def ended(self, task: asyncio.Task[None]) -> None:
        """Forget a handler: it has nothing more to do."""
        self.server_state.tasks.discard(task)

    def on_chunk_header(self) -> None:
        """Allow a chunk its framing."""
        self._overhead_bytes -= CHUNK_OVERHEAD_BYTES

    def on_body(self, body: bytes) -> None:
        """Count and keep a piece of the body."""
        self._overhead_bytes -= len(body)
        self._body_bytes += len(body)
        if self._body_bytes > self.limits.body_bytes:
            self._stop_parser(self._too_large())
        exchange = self.exchange
        if not exchange.is_complete:
            exchange.pieces.append(body)
            exchange.wake()

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"the body exceeds {self.limits.body_bytes} bytes", hint="send less, or raise the server's body limit"
        )

    def on_message_complete(self) -> None:
        """Hand the whole body over."""
        if self._phase is not BODY:
            return  # an upgrade: see _replay_without_upgrade
        self._phase = IDLE
        self._alarm.off()
        exchange = self.exchange
        exchange.is_whole = True
        exchange.wake()
        self._is_deaf = self._is_deaf or not exchange.keeps_alive_once_continued
        if exchange.is_complete:
            self._rest()

    # -- answering -----------------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Tell a caller who waits for it that its body is welcome."""
        if not self.transport.is_closing():
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def answered(self, exchange: Exchange) -> None:
        """Go on with the queued request, the pending refusal or the wait for the next request.

        Args:
            exchange: Its answer is complete.
        """
        if not exchange.keep_alive:
            self.finish()
        self._running = None
        if self._phase is CLOSING or self.transport.is_closing():
            return
        if self._queued is not None:
            queued, self._queued = self._queued, None
            self._start(queued)
        elif self._refusal is not None:
            self._write_error(self._refusal)
            self.finish()
        else:
            self._rest()

    def _rest(self) -> None:
        if self._is_deaf:
            self.finish()
        elif self._phase is IDLE:
            self._alarm.set_in(self.limits.keep_alive_seconds)

    def _refuse(self, error: TurnoutError, culprit: Exchange | None) -> None:
        """Answer the request that is being read with an error and read no more.

        Args:
            error: The answer.
            culprit: The request, if its head was complete.
        """
        self._is_deaf = True
        self._alarm.off()
        if culprit is not None and culprit is self._queued:
            self._queued = culprit = None
        if culprit is not None and culprit is self._running:
            culprit.refusal = error
            self.answer_for(culprit, error)
            if not culprit.is_receiving and self._task is not None:
                self.server_state.cancel(self._task)
            culprit.wake()
        elif culprit is not None:  # answered before its body was whole
            self.finish()
        elif self._running is not None:
            self._refusal = error
        else:
            self._write_error(error)
            self.finish()

    def answer_for(self, exchange: Exchange, error: TurnoutError) -> None:
        """Answer in the handler's stead; cut the connection if the handler's answer has begun.

        Args:
            exchange: The request; whatever its handler still sends is dropped.
            error: The answer.
        """
        if exchange.is_cut or exchange.is_complete:
            return
        exchange.is_cut = True
        if exchange.has_begun:
            self._reset(always=exchange.version == "1.0")
        else:
            self._write_error(error, is_head=exchange.method == "HEAD")
            self.finish()

    def _write_error(self, error: TurnoutError, *, is_head: bool = False) -> None:
        words = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
        body = msgspec.json.encode({"error": words | {"hint": error.hint, "source": error.source}})
        lines = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        head = b"%b%b%b\r\n" % (STATUS_LINES[error.status], self.server_state.date_line, lines)
        self.write(head if is_head else head + body)

    # -- deadlines -----------------------------------------------------------------------------------------------------

    def _ring(self) -> None:
        if self._phase is CLOSING:
            self._reset()
        elif self._is_half_closed:
            self._probe()
        elif self._phase is IDLE:
            self.finish(linger=False)
        elif self._phase is HEAD:
            hint = "send the whole head at once"
            self._refuse(BodyTooSlow(f"no complete head within {self.limits.header_seconds:g} s", hint=hint), None)
        else:
            hint = f"at most {self.limits.body_gap_seconds:g} s without a byte, {self.limits.body_seconds:g} s in all"
            self._refuse(BodyTooSlow("the body did not arrive in time", hint=hint), self.exchange)

    def _probe(self) -> None:
        """Find out whether a caller who sends nothing more has left altogether: then the first write meets a reset."""
        exchange = self._running
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        elif exchange is not None:
            if not exchange.has_begun and exchange.version == "1.1" and not self._has_probed:
                self.write(b"HTTP/1.1 102 Processing\r\n\r\n")
                self._has_probed = True
            self._alarm.set_in(PROBE_SECONDS)

    # -- writing -------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write at the end of the loop's turn, or now if it is much.

        Args:
            data: Of an answer.
        """
        if self._held:
            self._held += data
        else:
            self._held = data
            self.server_state.outbox.add(self.flush)
        if len(self._held) > HELD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        held, self._held = self._held, b""
        if held and not self.transport.is_closing():
            self.transport.write(held)

    def pause_writing(self) -> None:
        """Give the caller a while to take what was written."""
        self.is_writing_paused = True
        self._watch_stall()

    def resume_writing(self) -> None:
        """Let the handler go on."""
        self._stall.off()
        self._let_write()

    async def drain(self) -> None:
        """Wait until the caller has taken most of what was written, or has left."""
        while self.is_writing_paused:
            if self._drained is None:
                self._drained = self.loop.create_future()
            await asyncio.shield(self._drained)

    def _let_write(self) -> None:
        self.is_writing_paused = False
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _watch_stall(self) -> None:
        self._stalled_bytes = self.transport.get_write_buffer_size()
        self._stall.set_in(self.limits.write_stall_seconds)

    def _on_stall(self) -> None:
        if self.transport.get_write_buffer_size() > self._stalled_bytes - WRITE_HIGH_BYTES:
            self._reset()
        else:
            self._watch_stall()

    def _reset(self, *, always: bool = False) -> None:
        """Close at once; with a reset if something is unwritten, so that the kernel drops its megabytes of it too.

        Args:
            always: A reset in any case, because a mere end of file would look like the answer's end.
        """
        if always or self._held or self.transport.get_write_buffer_size():
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


@functools.lru_cache(maxsize=1024)
def split_target(url: bytes) -> tuple[str, bytes, bytes]:
    """Return the decoded path, the raw path and the query of a request's target.

    Args:
        url: As httptools found it.

    Raises:
        HttpParserInvalidURLError: It is none; httptools then reports the request as malformed.
    """
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return (urllib.parse.unquote(path) if "%" in path else path), parsed.path, parsed.query or b""
