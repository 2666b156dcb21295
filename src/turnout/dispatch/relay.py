"""Copy an answer from an engine to a caller without re-encoding it; watch.py says whether it is whole."""

from __future__ import annotations

import asyncio
from typing import Protocol

from turnout.core.errors import UNREADABLE_JSON, CutOff, DeadlineExceeded, Malformed, TurnoutError
from turnout.core.words import Target, Usage
from turnout.dispatch.watch import DONE_EVENT, EVENT, StreamWatch, read_usage
from turnout.tiers.transport import HttpResponse

DRAIN_SECONDS = 1.0


class Sink(Protocol):
    """Where an answer goes: the gateway writes it in the caller's dialect.

    Attributes:
        is_begun: Whether the caller has received anything, if only how long it has to wait.
        is_answering: Whether the caller has received something of an answer.
        attempts: How many targets were tried so far; kept by the dispatcher.
    """

    is_begun: bool
    is_answering: bool
    attempts: int

    async def progress(self, text: str) -> None:
        """Tell a caller who asked for it how the waiting goes; begins a stream whose target is not known yet.

        Args:
            text: One line.
        """
        ...

    async def begin(self, served: Target) -> None:
        """Send status 200 and the headers of a stream.

        Args:
            served: Who answers.
        """
        ...

    async def whole(self, served: Target, data: bytes) -> None:
        """Send a whole answer: status, headers, body and end.

        Args:
            served: Who answers.
            data: JSON.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Send a piece; returns when the caller has room for more."""
        ...

    async def finish(self, last: bytes = b"") -> None:
        """End a good answer.

        Args:
            last: The last piece, which goes out together with the end.
        """
        ...

    async def fail(self, error: TurnoutError) -> None:
        """End a stream that began and then failed, between two events: an error event and the end marker.

        Args:
            error: What happened.
        """
        ...


async def first_events(response: HttpResponse, watch: StreamWatch, target: str, patience_seconds: float) -> bytes:
    """Return the stream up to and with its first whole event: until then the next target can still take over.

    Args:
        response: Whose head has come.
        watch: The stream's.
        target: For messages.
        patience_seconds: How long comments may come instead of an event.

    Raises:
        Malformed: It is no event stream, or its first event is nonsense.
        CutOff: It ended before its first event.
        UpstreamFailed: It begins with an error.
        DeadlineExceeded: No event came in time.
    """
    content_type = response.header(b"content-type") or b""
    if not content_type.lower().startswith(b"text/event-stream"):
        told = content_type.decode("latin-1") or "nothing"
        raise Malformed(f"{target} should have answered with an event stream, its content type is {told!r}")
    begun, is_enough = await _next(response, watch, target)
    if is_enough:
        return begun
    try:
        async with asyncio.timeout(patience_seconds):
            while not is_enough:
                good, is_enough = await _next(response, watch, target)
                begun += good
    except TimeoutError:
        raise DeadlineExceeded(
            f"{target} sent no event within {patience_seconds:g} s", code="first_byte_deadline"
        ) from None
    return begun


async def _next(response: HttpResponse, watch: StreamWatch, target: str) -> tuple[bytes, bool]:
    piece = await response.read()
    if not piece:
        raise CutOff(f"{target} ended the stream before its first event")
    good = watch.feed(piece)
    if watch.failure is not None and not watch.has_event:
        raise watch.failure
    return good, watch.has_event


async def relay_stream(response: HttpResponse, first: bytes, sink: Sink, watch: StreamWatch, target: str) -> None:
    """Copy an event stream until its end marker.

    Args:
        response: Read up to and with its first event.
        first: That beginning.
        sink: Takes the stream.
        watch: Has seen ``first``.
        target: For messages.

    Raises:
        Broken: The stream stopped being one; what was good of it has been sent.
    """
    good = first
    while True:
        if watch.is_done and watch.failure is None:
            await sink.finish(good)
            watch.is_told = True
            await _drain(response)
            return
        if good:
            await sink.write(good)
        if watch.failure is not None:
            raise watch.failure
        piece = await response.read()
        if not piece:
            break
        good = watch.feed(piece)
    if not watch.is_marked:
        raise CutOff(f"{target} ended the stream without an end marker", hint="the answer is incomplete")
    await sink.finish(DONE_EVENT)
    watch.is_told = True


def usage_of(data: bytes, target: str) -> Usage | None:
    """Return the usage of a whole JSON answer.

    Args:
        data: The answer.
        target: For messages.

    Raises:
        Malformed: It is not JSON.
    """
    try:
        return read_usage(EVENT.decode(data))
    except UNREADABLE_JSON as error:
        raise Malformed(f"{target} did not answer with proper JSON: {error}", source="upstream") from error


async def _drain(response: HttpResponse) -> None:
    # The marker was the last event; reading the end of the body lets the connection serve the next request.
    if response.is_over:
        return
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            if await response.read():
                response.close()  # garbage behind the end: this connection is not to be trusted again
    except (TimeoutError, TurnoutError):
        response.close()
