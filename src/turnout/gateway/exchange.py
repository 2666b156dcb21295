"""One request and its answer, on uvicorn's cycle: errors of the handler become answers, refusals reach the handler.

An error that the protocol answers itself (408, 413, 431 ...) while a handler runs is raised out of ``receive()`` if the
handler waits there, and cancels the handler otherwise; whatever the handler still sends is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from turnout.core.errors import ShuttingDown, TurnoutError

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent

    from turnout.gateway.connection import LimitedProtocol

logger = logging.getLogger("turnout.server")


class Outlet:
    """The three methods that an exchange needs of its transport, with a `close` that lingers.

    A head whose body follows at once is held, so that both leave in one write.
    """

    __slots__ = ("_held", "_is_holding", "_write", "close", "is_closing")

    def __init__(self, protocol: LimitedProtocol) -> None:
        self._write = protocol.transport.write
        self._is_holding = False
        self._held = b""
        self.is_closing = protocol.transport.is_closing
        self.close = protocol.finish

    def hold_next(self) -> None:
        """Keep what is written next until the write after it."""
        self._is_holding = True

    def write(self, data: bytes) -> None:
        """Write, or keep, as ``hold_next`` said."""
        if self._is_holding:
            self._is_holding, self._held = False, data
            return
        if self._held:
            data, self._held = self._held + data, b""
        self._write(data)


class Exchange(RequestResponseCycle):
    """One request and its answer."""

    protocol: LimitedProtocol
    outlet: Outlet
    refusal: TurnoutError | None = None
    is_receiving = False
    keeps_alive_once_continued = False

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Run the handler; answer for it if it fails.

        Args:
            app: The application.
        """
        task = asyncio.current_task()
        assert task is not None
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError as error:
            if task.cancelling():  # by the protocol or by HttpServer: never the handler's fault
                self.protocol.answer_for(self, _stopping())
                raise
            self._fail(error)
        except Exception as error:  # noqa: BLE001  the supervisor of handlers: one bad answer must not stop the server
            if error is not self.refusal:
                self._fail(error)
        else:
            if task.cancelling():
                self.protocol.answer_for(self, _stopping())
            elif not self.response_complete and not self.disconnected:
                self._fail(RuntimeError("the handler returned without completing its answer"))
        finally:
            self.on_response = _nothing

    def _fail(self, error: BaseException) -> None:
        logger.error("%s %s failed", self.scope["method"], self.scope["path"], exc_info=error)
        hint = "the daemon's log has the traceback"
        self.protocol.answer_for(self, TurnoutError("the server failed on this request", hint=hint))

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next piece of the body, or the disconnect after the answer.

        Raises:
            BodyTooLarge: The body exceeded its limit; 413 is answered already.
            BodyTooSlow: The body did not arrive in time; 408 is answered already.
            InvalidRequest: The body is not valid HTTP; 400 is answered already.
        """
        if self.waiting_for_100_continue and not self.disconnected and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
            self.keep_alive = self.keeps_alive_once_continued
        if not self.disconnected and not self.response_complete:
            self.is_receiving = True
            try:
                await self.message_event.wait()
            finally:
                self.is_receiving = False
            self.message_event.clear()
        if self.refusal is not None:
            raise self.refusal
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = self.body, bytearray()
        return {"type": "http.request", "body": bytes(body), "more_body": self.more_body}

    async def send(self, message: ASGISendEvent) -> None:
        """Send one ASGI message.

        Args:
            message: The start of the answer or a piece of its body.
        """
        if message["type"] == "http.response.start" and self.scope["method"] != "HEAD":
            headers = list(message.get("headers", ()))
            if headers and headers[-1][0] == b"content-length":  # a whole answer: its body is already there
                self.outlet.hold_next()
        await super().send(message)


class UnchunkedExchange(Exchange):
    """HTTP/1.0 knows no chunks: an answer without content-length ends with the connection."""

    is_undeclared = False

    async def send(self, message: ASGISendEvent) -> None:
        """Send one ASGI message.

        Args:
            message: The start of the answer or a piece of its body.
        """
        if message["type"] == "http.response.start":
            self.is_undeclared = all(name.lower() != b"content-length" for name, _ in message.get("headers", []))
            self.chunked_encoding = False if self.is_undeclared else None
        elif message["type"] == "http.response.body" and self.is_undeclared:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


def _nothing() -> None:
    pass


def _stopping() -> ShuttingDown:
    return ShuttingDown("the server is stopping", hint="try again in a moment")
