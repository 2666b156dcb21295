"""Writes answers in OpenAI's dialect to one ASGI caller, with the facts of the route in the headers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.types import Send

from turnout.core.errors import TurnoutError
from turnout.core.words import Request, Target
from turnout.gateway.openai import error_body

RawHeaders = list[tuple[bytes, bytes]]
JSON_TYPE = (b"content-type", b"application/json")
STREAM_TYPE: RawHeaders = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class OpenAiSink:
    """One answer. ``dispatch.relay.Sink`` says what each method means.

    Args:
        send: The ASGI channel.
        request: Whose answer it is.
    """

    def __init__(self, send: Send, request: Request) -> None:
        self._send = send
        self._request = request
        self._is_stream = False
        self.is_begun = False
        self.attempts = 0

    async def begin(self, served: Target) -> None:
        """Send status 200 and the headers of a stream."""
        self.is_begun = self._is_stream = True
        headers = route_headers(self._request, served, self.attempts) + STREAM_TYPE
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def whole(self, served: Target, data: bytes) -> None:
        """Send a whole answer."""
        self.is_begun = True
        headers = route_headers(self._request, served, self.attempts)
        headers.append(JSON_TYPE)
        await send_whole(self._send, 200, headers, data)

    async def write(self, data: bytes) -> None:
        """Send a piece."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self) -> None:
        """End a good answer."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def fail(self, error: TurnoutError) -> None:
        """Send the error as an event, then the end marker."""
        if not self._is_stream:
            return  # a whole answer is handed over in one piece: only the caller's taking of it can have failed
        event = b"data: " + error_body(error, self._request.id) + b"\n\n"
        await self.write(event + b"data: [DONE]\n\n")
        await self.finish()


def route_headers(request: Request, served: Target | None, attempts: int) -> RawHeaders:
    """Return the ``x-turnout-*`` headers of an answer.

    Args:
        request: Whose answer it is.
        served: Who serves it; None for an error before anybody did.
        attempts: How many targets were tried.
    """
    headers: RawHeaders = [
        (b"x-turnout-request-id", request.id.encode()),
        (b"x-turnout-requested-model", _printable(request.selector)),
        (b"x-turnout-effort", str(request.effort).encode() if request.effort else b"unrated"),
        (b"x-turnout-attempts", str(attempts).encode()),
        # Local work never costs money; the paid tiers will say their price here.
        (b"x-turnout-cost-usd", b"0"),
    ]
    if served is not None:
        headers += [(b"x-turnout-served-model", _printable(served.name)), (b"x-turnout-tier", served.tier.encode())]
    return headers


def _printable(text: str) -> bytes:
    """Return a header value that cannot break the header block; anything unusual is percent-encoded."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return quote(text, safe="/:@-._~ ").encode()


async def send_error(send: Send, error: TurnoutError, request_id: str, extra: RawHeaders) -> None:
    """Send an error as a whole answer.

    Args:
        send: The ASGI channel.
        error: What happened.
        request_id: Goes into body and header.
        extra: More headers.
    """
    headers: RawHeaders = [JSON_TYPE, *extra]
    if not any(name == b"x-turnout-request-id" for name, _ in extra):
        headers.append((b"x-turnout-request-id", request_id.encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.retry_after_seconds is not None:
        headers.append((b"retry-after", str(max(1, round(error.retry_after_seconds))).encode()))
    await send_whole(send, error.status, headers, error_body(error, request_id))


async def send_whole(send: Send, status: int, headers: RawHeaders, body: bytes) -> None:
    """Send one complete answer."""
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    start: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})
