"""Writes answers in OpenAI's dialect to one caller, with the facts of the route in the headers."""

from __future__ import annotations

import functools
from urllib.parse import quote

import msgspec

from turnout.core.errors import TurnoutError
from turnout.core.words import Request, Target, Tier
from turnout.dispatch.watch import DONE_EVENT
from turnout.gateway.exchange import Exchange, header_lines
from turnout.gateway.openai import error_body

JSON_LINE = b"content-type: application/json\r\n"
STREAM_LINES = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"


class OpenAiSink:
    """One answer. ``dispatch.relay.Sink`` says what each method means.

    Args:
        exchange: Whom to answer.
        request: Whose answer it is.
    """

    __slots__ = ("_exchange", "_is_stream", "_owed", "_request", "attempts", "is_answering", "is_begun")

    def __init__(self, exchange: Exchange, request: Request) -> None:
        self._exchange = exchange
        self._request = request
        self._is_stream = False
        self._owed: Target | None = None  # who serves, where the head was sent before anybody knew
        self.is_begun = self.is_answering = False
        self.attempts = 0

    async def progress(self, text: str) -> None:
        """Send a comment, which every client of server-sent events skips; before the first one, the head."""
        if not self.is_begun:
            self.is_begun = self._is_stream = True
            await self._exchange.begin(200, route_lines(self._request, None, self.attempts) + STREAM_LINES)
        await self._exchange.write(b": %b\n\n" % text.encode())

    async def begin(self, served: Target) -> None:
        """Send the head of a stream; the facts of the route come last where it was sent already."""
        self.is_answering = True
        if self.is_begun:
            self._owed = served
            return
        self.is_begun = self._is_stream = True
        await self._exchange.begin(200, route_lines(self._request, served, self.attempts) + STREAM_LINES)

    async def whole(self, served: Target, data: bytes) -> None:
        """Send a whole answer."""
        self.is_begun = self.is_answering = True
        await self._exchange.whole(200, route_lines(self._request, served, self.attempts) + JSON_LINE, data)

    async def write(self, data: bytes) -> None:
        """Send a piece."""
        await self._exchange.write(data)

    async def finish(self, last: bytes = b"") -> None:
        """Send the last piece and end a good answer."""
        if self._owed is not None and last.endswith(DONE_EVENT):
            last = last[: -len(DONE_EVENT)] + route_event(self._request, self._owed, self.attempts) + DONE_EVENT
        await self._exchange.end(last)

    async def fail(self, error: TurnoutError) -> None:
        """Send the error as an event, then the end marker."""
        if not self._is_stream:
            return  # a whole answer is handed over in one piece: only the caller's taking of it can have failed
        event = b"data: " + error_body(error, self._request.id) + b"\n\n"
        await self.finish(event + DONE_EVENT)


def route_lines(request: Request, served: Target | None, attempts: int) -> bytes:
    """Return the ``x-turnout-*`` header lines of an answer.

    Args:
        request: Whose answer it is.
        served: Who serves it; None for an error before anybody did.
        attempts: How many targets were tried.
    """
    name, tier = (served.name, served.tier) if served is not None else ("", None)
    facts = _fact_lines(request.selector, request.effort, attempts, name, tier)
    return b"x-turnout-request-id: %b\r\n%b" % (request.id.encode(), facts)


def route_event(request: Request, served: Target, attempts: int) -> bytes:
    """Return the facts of the route as the last event of a stream, in the shape of a chunk without choices.

    Args:
        request: Whose answer it is.
        served: Who serves it.
        attempts: How many targets were tried.
    """
    facts = {
        "request_id": request.id,
        "requested_model": request.selector,
        "served_model": served.name,
        "tier": served.tier,
        "attempts": attempts,
        "effort": request.effort,
        "cost_usd": 0,
    }
    kind = "text_completion" if request.kind == "completion" else "chat.completion.chunk"
    chunk = {"id": request.id, "object": kind, "model": served.model, "choices": [], "turnout": facts}
    return b"data: %b\n\n" % msgspec.json.encode(chunk)


@functools.lru_cache(maxsize=1024)
def _fact_lines(selector: str, effort: int | None, attempts: int, served: str, tier: Tier | None) -> bytes:
    headers = [
        (b"x-turnout-requested-model", _printable(selector)),
        (b"x-turnout-effort", str(effort).encode() if effort else b"unrated"),
        (b"x-turnout-attempts", str(attempts).encode()),
        # Local work never costs money; the paid tiers will say their price here.
        (b"x-turnout-cost-usd", b"0"),
    ]
    if tier is not None:
        headers += [(b"x-turnout-served-model", _printable(served)), (b"x-turnout-tier", tier.encode())]
    return header_lines(headers)


def _printable(text: str) -> bytes:
    """Return a header value that cannot break the header block; anything unusual is percent-encoded."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return quote(text, safe="/:@-._~ ").encode()


async def send_error(exchange: Exchange, error: TurnoutError, request_id: str, more_lines: bytes) -> None:
    """Send an error as a whole answer.

    Args:
        exchange: Whom to answer.
        error: What happened.
        request_id: Goes into body and header.
        more_lines: More header lines.
    """
    lines = JSON_LINE + more_lines
    if b"x-turnout-request-id: " not in more_lines:
        lines += b"x-turnout-request-id: %b\r\n" % request_id.encode()
    if error.status == 401:
        lines += b"www-authenticate: Bearer\r\n"
    if error.retry_after_seconds is not None:
        lines += b"retry-after: %d\r\n" % max(1, round(error.retry_after_seconds))
    await exchange.whole(error.status, lines, error_body(error, request_id))
