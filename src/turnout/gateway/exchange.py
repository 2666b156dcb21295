"""One request and its answer: what a handler reads and writes, and who answers if the handler fails.

An error that the connection answers itself (408, 413, 431 ...) while a handler runs is raised out of ``read`` if the
handler waits there, and cancels the handler otherwise; whatever the handler still sends is dropped.
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from turnout.core.errors import ShuttingDown, TurnoutError

if TYPE_CHECKING:
    from turnout.gateway.connection import Connection

logger = logging.getLogger("turnout.server")

Handler = Callable[["Exchange"], Awaitable[None]]
"""Answers one request; it is cancelled when the caller leaves."""
STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in http.HTTPStatus}
BODILESS = frozenset({204, 304})
UNDECLARED = -1
"""The length of an answer that ends with its connection: HTTP/1.0 knows no chunks."""


class Exchange:
    """One request and its answer.

    Args:
        connection: Where it came from.
        method: ``POST``.
        path: Decoded.
        raw_path: As it came.
        query: Without the question mark.
        headers: As they came, names in lower case.
        version: ``1.1`` or ``1.0``.
        keep_alive: The connection may serve another request.
        expects_continue: The caller sends its body only when it is told to go on.
    """

    __slots__ = (
        "_left_bytes",
        "_waiter",
        "connection",
        "expects_continue",
        "has_begun",
        "headers",
        "is_chunked",
        "is_complete",
        "is_cut",
        "is_whole",
        "keep_alive",
        "keeps_alive_once_continued",
        "method",
        "more_lines",
        "path",
        "pieces",
        "query",
        "raw_path",
        "refusal",
        "version",
    )

    def __init__(
        self,
        connection: Connection,
        *,
        method: str,
        path: str,
        raw_path: bytes,
        query: bytes,
        headers: list[tuple[bytes, bytes]],
        version: str,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        self.connection = connection
        self.method = method
        self.path = path
        self.raw_path = raw_path
        self.query = query
        self.headers = headers
        self.version = version
        self.expects_continue = expects_continue
        # Until the caller was told to go on, its next bytes are ambiguous.
        self.keep_alive = keep_alive and not expects_continue
        self.keeps_alive_once_continued = keep_alive
        self.pieces: list[bytes] = []  # body that nobody has read yet
        self.is_whole = False  # the whole body has come
        self.is_cut = False  # the caller has left, or was answered by the connection
        self.has_begun = self.is_complete = False  # the answer
        self.is_chunked = False
        self.more_lines = b""  # header lines that belong to the answer whoever gives it
        self.refusal: TurnoutError | None = None
        self._left_bytes = 0  # of the answer's declared length
        self._waiter: asyncio.Future[None] | None = None

    # -- running -------------------------------------------------------------------------------------------------------

    async def run(self, handler: Handler) -> None:
        """Run the handler; answer for it if it fails.

        Args:
            handler: Of the server.
        """
        task = asyncio.current_task(self.connection.loop)
        assert task is not None
        try:
            await handler(self)
        except asyncio.CancelledError as error:
            if task.cancelling():  # by the connection or by HttpServer: never the handler's fault
                self.connection.answer_for(self, _stopping())
                raise
            self._fail(error)
        except Exception as error:  # noqa: BLE001  the supervisor of handlers: one bad answer must not stop the server
            if error is not self.refusal:
                self._fail(error)
        else:
            if not self.is_complete:
                if task.cancelling():
                    self.connection.answer_for(self, _stopping())
                elif not self.is_cut:
                    self._fail(RuntimeError("the handler returned without completing its answer"))
        finally:
            self.connection.ended(task)

    def _fail(self, error: BaseException) -> None:
        logger.error("%s %s failed", self.method, self.path, exc_info=error)
        hint = "the daemon's log has the traceback"
        self.connection.answer_for(self, TurnoutError("the server failed on this request", hint=hint))

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def is_receiving(self) -> bool:
        """Whether the handler waits for the body."""
        return self._waiter is not None

    def wake(self) -> None:
        """Tell a handler that waits that something has come, or that nothing will."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def read_body(self) -> bytes:
        """Return the whole body; its size was limited by the connection.

        Raises:
            BodyTooLarge: The body exceeded its limit; 413 is answered already.
            BodyTooSlow: The body did not arrive in time; 408 is answered already.
            InvalidRequest: The body is not valid HTTP; 400 is answered already.
        """
        while not (self.is_whole or self.is_cut or self.is_complete) or self.refusal is not None:
            await self.wait()
        pieces, self.pieces = self.pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def wait(self) -> None:
        """Wait for a piece of the body, its end, or the end of the answer; raises as ``read_body`` does."""
        if self.expects_continue and not self.is_cut and not self.has_begun:
            self.expects_continue = False
            self.connection.go_on()
            self.keep_alive = self.keeps_alive_once_continued
        if self.refusal is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self.refusal is not None:
            raise self.refusal

    # -- answering -----------------------------------------------------------------------------------------------------

    async def whole(self, status: int, lines: bytes, body: bytes) -> None:
        """Send a whole answer in one write.

        Args:
            status: HTTP status.
            lines: From `header_lines`, without content-length.
            body: Left out for HEAD.
        """
        await self.begin(status, lines, body, length_bytes=len(body), is_last=True)

    async def begin(
        self,
        status: int,
        lines: bytes,
        first: bytes = b"",
        *,
        length_bytes: int | None = None,
        is_last: bool = False,
    ) -> None:
        """Send the head of an answer.

        Args:
            status: HTTP status.
            lines: From `header_lines`, without content-length and transfer-encoding.
            first: The beginning of the body, which goes out in the same write.
            length_bytes: Of the body, if it is known; else it is chunked.
            is_last: ``first`` is the whole body.

        Raises:
            RuntimeError: The answer has begun already, or ``first`` is not as long as was said.
        """
        connection = self.connection
        if connection.is_writing_paused:
            await connection.drain()
        if self.is_cut:
            return
        if self.has_begun:
            raise RuntimeError("the answer has begun already")
        self.has_begun, self.expects_continue = True, False
        if length_bytes is not None:
            framing = b"content-length: %d\r\n" % length_bytes
            self._left_bytes = 0 if self.method == "HEAD" else length_bytes
        elif status in BODILESS:
            framing = b""
        elif self.version == "1.0":
            framing, self._left_bytes, self.keep_alive = b"", UNDECLARED, False
        else:
            framing, self.is_chunked = b"transfer-encoding: chunked\r\n", self.method != "HEAD"
        if not self.keep_alive:
            framing += b"connection: close\r\n"
        connection.write(
            b"%b%b%b%b%b\r\n%b"
            % (
                STATUS_LINES[status],
                connection.server_state.date_line,
                lines,
                self.more_lines,
                framing,
                self._framed(first, is_last=is_last),
            )
        )
        if is_last:
            self._complete()

    async def write(self, data: bytes) -> None:
        """Send a piece of the body; waits while the caller is slow to take what was written.

        Args:
            data: May be empty.
        """
        await self._body(data, is_last=False)

    async def end(self, last: bytes = b"") -> None:
        """Send the last piece of the body and the end of the answer.

        Args:
            last: May be empty.
        """
        await self._body(last, is_last=True)

    async def _body(self, data: bytes, *, is_last: bool) -> None:
        connection = self.connection
        if connection.is_writing_paused:
            await connection.drain()
        if self.is_cut:
            return
        if not self.has_begun or self.is_complete:
            raise RuntimeError("a body needs a head before it" if not self.has_begun else "the answer is complete")
        framed = self._framed(data, is_last=is_last)
        if framed:
            connection.write(framed)
        if is_last:
            self._complete()

    def _framed(self, data: bytes, *, is_last: bool) -> bytes:
        if self.is_chunked:
            chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            return chunk + b"0\r\n\r\n" if is_last else chunk
        if self.method == "HEAD":
            return b""
        if self._left_bytes != UNDECLARED:
            self._left_bytes -= len(data)
            if self._left_bytes < 0 or (is_last and self._left_bytes):
                raise RuntimeError("the body has another length than was declared")
        return data

    def _complete(self) -> None:
        self.is_complete = True
        self.wake()
        self.connection.answered(self)


def header_lines(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Render headers, each with its line's end.

    Args:
        headers: Names and values.

    Raises:
        RuntimeError: One would break out of its line.
    """
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers):
        raise RuntimeError("a header has a line break in it")
    return lines


def _stopping() -> ShuttingDown:
    return ShuttingDown("the server is stopping", hint="try again in a moment")
