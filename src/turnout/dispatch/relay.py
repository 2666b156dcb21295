"""Copy an answer from an engine to a caller without re-encoding it, and know whether it was whole.

A stream is watched by its bytes alone: the end marker, an error event, and the usage in its tail. JSON text cannot
contain a raw line break, so ``data: [DONE]`` at the start of a line is always the marker and never a model's words.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

import msgspec

from turnout.core.errors import UNREADABLE_JSON, CutOff, Malformed, TurnoutError, UpstreamFailed
from turnout.core.words import Target, Usage
from turnout.dispatch.outcome import read_error
from turnout.tiers.transport import HttpResponse

END_MARKER = b"data: [DONE]"
EVENT_ENDS = (b"\n\n", b"\r\n\r\n")
TAIL_BYTES = 8192
DRAIN_SECONDS = 1.0


class Sink(Protocol):
    """Where an answer goes: the gateway writes it in the caller's dialect.

    Attributes:
        is_begun: Whether the caller has received anything.
        attempts: How many targets were tried so far; kept by the dispatcher.
    """

    is_begun: bool
    attempts: int

    async def begin(self, served: Target, *, is_stream: bool) -> None:
        """Send status 200 and the headers.

        Args:
            served: Who answers.
            is_stream: Whether events follow, or one JSON body.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Send a piece; returns when the caller has room for more."""
        ...

    async def finish(self) -> None:
        """End a good answer."""
        ...

    async def fail(self, error: TurnoutError, *, is_inside_event: bool) -> None:
        """End an answer that began and then failed: an error event and the end marker.

        Args:
            error: What happened.
            is_inside_event: The bytes sent so far end in the middle of an event.
        """
        ...


class UsageWire(msgspec.Struct, frozen=True):
    """``usage`` as engines send it; embeddings have no completion tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class AnswerWire(msgspec.Struct, frozen=True):
    """The few fields of an answer that turnout reads."""

    usage: UsageWire | None = None


class StreamWatch:
    """Watches the bytes of one event stream."""

    def __init__(self) -> None:
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self.is_done = False
        self.is_told = False
        """The caller has the whole answer: whatever happens from now on, it was answered."""

    def feed(self, piece: bytes) -> None:
        """Look at the next piece."""
        self._tail.append(piece)
        self._tail_bytes += len(piece)
        while len(self._tail) > 1 and self._tail_bytes - len(self._tail[0]) >= TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())
        # The marker ends the stream, so it ends a piece; only when a piece is tiny can it be split over several.
        end = piece[-32:] if len(piece) >= 32 else b"".join(self._tail)[-32:]
        self.is_done = end.endswith(EVENT_ENDS) and _ends_with_marker(end)

    @property
    def tail(self) -> bytes:
        """The last bytes of the stream."""
        return b"".join(self._tail)

    @property
    def is_inside_event(self) -> bool:
        """Whether the stream stopped in the middle of an event."""
        tail = self.tail
        return bool(tail) and not tail.endswith(EVENT_ENDS)

    @property
    def is_marked(self) -> bool:
        """Whether the end marker was the last thing, be the blank line after it missing or not."""
        return _ends_with_marker(self.tail[-32:])

    def usage(self) -> Usage | None:
        """Return the usage of the last event that carries one."""
        tail = self.tail
        at = tail.rfind(b'"usage":{')
        if at < 0:
            at = tail.rfind(b'"usage": {')
        if at < 0:
            return None
        start = tail.rfind(b"\n", 0, at) + 1
        end = tail.find(b"\n", at)
        line = tail[start : end if end >= 0 else len(tail)]
        return read_usage(line[5:]) if line.startswith(b"data:") else None


def _ends_with_marker(end: bytes) -> bool:
    stripped = end.rstrip()
    return stripped.endswith(END_MARKER) and stripped[: -len(END_MARKER)][-1:] in (b"", b"\n")


def error_event(piece: bytes) -> str:
    """Return the error that an event stream begins with, or an empty string."""
    start = piece.lstrip()
    for prefix in (b'data: {"error"', b'data:{"error"', b"error:"):
        if start.startswith(prefix):
            line = start.split(b"\n", 1)[0]
            told = read_error(line.split(b":", 1)[1].strip())
            return told.message or line.decode("utf-8", "replace")
    return ""


def read_usage(data: bytes) -> Usage | None:
    """Return the usage in an answer's JSON, or None if it has none."""
    try:
        wire = msgspec.json.decode(data, type=AnswerWire).usage
    except UNREADABLE_JSON:
        return None
    return Usage(wire.prompt_tokens or 0, wire.completion_tokens or 0) if wire else None


async def first_piece(response: HttpResponse, target: str) -> bytes:
    """Return the first bytes of an event stream: until they are here, the next target can still take over.

    Raises:
        Malformed: It is no event stream.
        CutOff: It is empty.
        UpstreamFailed: It begins with an error event.
    """
    content_type = response.header(b"content-type") or b""
    if not content_type.lower().startswith(b"text/event-stream"):
        told = content_type.decode("latin-1") or "nothing"
        raise Malformed(f"{target} should have answered with an event stream, its content type is {told!r}")
    piece = await response.read()
    if not piece:
        raise CutOff(f"{target} ended the stream before its first event")
    if told := error_event(piece):
        raise UpstreamFailed(f"{target} began with an error: {told}", source="upstream")
    return piece


async def relay_stream(response: HttpResponse, first: bytes, sink: Sink, watch: StreamWatch, target: str) -> None:
    """Copy an event stream until its end marker.

    Raises:
        CutOff: The stream ended without it.
    """
    piece = first
    while piece:
        watch.feed(piece)
        await sink.write(piece)
        if watch.is_done:
            await sink.finish()
            watch.is_told = True
            await _drain(response)
            return
        piece = await response.read()
    if watch.is_marked:
        await sink.write(b"\n\n")
        await sink.finish()
        return
    raise CutOff(f"{target} ended the stream without an end marker", hint="the answer is incomplete")


async def read_answer(response: HttpResponse, target: str, limit_bytes: int) -> tuple[bytes, Usage | None]:
    """Return a whole JSON answer and its usage.

    Raises:
        Malformed: It is not JSON, or larger than the limit.
    """
    data = await response.read_all(limit_bytes)
    try:
        wire = msgspec.json.decode(data, type=AnswerWire)
    except UNREADABLE_JSON as error:
        raise Malformed(f"{target} did not answer with proper JSON: {error}", source="upstream") from error
    usage = wire.usage
    return data, Usage(usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else None


async def _drain(response: HttpResponse) -> None:
    # The marker was the last event; reading the end of the body lets the connection serve the next request.
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while await response.read():
                pass
    except (TimeoutError, TurnoutError):
        response.close()
