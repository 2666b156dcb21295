"""A caller's connection to the simulated worker: what ASGI gives, and what it hides (aborting, noticing who left)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NoReturn

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from turnout.core.errors import BodyTooLarge

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

MAXIMUM_BODY_BYTES = 64 * 1024 * 1024
FLUSH_POLL_SECONDS = 0.001


class CallerLeft(Exception):
    """The connection is gone."""


class AbortableProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with the transport in ``scope["state"]``: ASGI itself has no way to abort a connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the transport where the application finds it."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class Connection:
    """One request and the way back.

    Args:
        scope: ASGI's scope of an HTTP request.
        receive: ASGI's receive.
        send: ASGI's send.
    """

    def __init__(self, scope: Event, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._transport: asyncio.Transport = scope["state"]["transport"]
        self._receive = receive
        self._send = send
        self._has_begun = False

    async def read_body(self) -> bytes:
        """Return the whole body.

        Raises:
            CallerLeft: The connection ended before the body did.
            BodyTooLarge: It has more than 64 MiB.
        """
        body = bytearray()
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise CallerLeft
            body += event.get("body", b"")
            if len(body) > MAXIMUM_BODY_BYTES:
                raise BodyTooLarge(f"the body has more than {MAXIMUM_BODY_BYTES} bytes")
            if not event.get("more_body", False):
                return bytes(body)

    async def wait_until_left(self) -> NoReturn:
        """Wait for the caller to go; call it only after ``read_body``.

        Raises:
            CallerLeft: Always, in the end.
        """
        while (await self._receive())["type"] != "http.disconnect":
            pass
        raise CallerLeft

    async def answer(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        """Send a whole JSON answer.

        Args:
            status: HTTP status.
            body: JSON.
            headers: More headers.
        """
        await self.begin(status, b"application/json", (b"content-length", b"%d" % len(body)), *headers)
        await self.write(body, has_more=False)

    async def begin(self, status: int, content_type: bytes, *headers: tuple[bytes, bytes]) -> None:
        """Send the head of an answer, once; later calls do nothing.

        Args:
            status: HTTP status.
            content_type: Media type of the body.
            headers: More headers.
        """
        if not self._has_begun:
            self._has_begun = True
            all_headers = [(b"content-type", content_type), *headers]
            await self._send({"type": "http.response.start", "status": status, "headers": all_headers})

    async def write(self, body: bytes, *, has_more: bool = True) -> None:
        """Send a part of the body; waits while the caller reads slower than this is written.

        Args:
            body: Any bytes.
            has_more: False for the last part.
        """
        await self._send({"type": "http.response.body", "body": body, "more_body": has_more})

    async def flush(self) -> None:
        """Wait until the kernel has taken everything that was written."""
        # uvicorn's pause and resume fire at the high water mark only; nothing tells that a buffer is empty.
        while self._transport.get_write_buffer_size() > 0 and not self._transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(FLUSH_POLL_SECONDS)

    async def abort(self) -> NoReturn:
        """Drop the connection; what was written before still arrives. Ends by the cancellation that this causes."""
        await self.flush()
        self._transport.abort()
        await stand_still()


async def stand_still() -> NoReturn:
    """Do nothing until cancelled."""
    while True:
        await asyncio.Event().wait()
