"""The faults of docs/concepts/faults.md as scripts of exact bytes; fault_peer.py plays them.

A fault that comes after something was delivered waits until the test says that its caller has it, so that no outcome
depends on how bytes fall into pieces.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn

from support.fault_answers import (
    BYTES_BEFORE_FAULT,
    DONE,
    FRAGMENTS,
    GOOD_STREAM,
    GOOD_WHOLE,
    STREAMS,
    WHOLES,
    WORDS,
    Behaviour,
    event_of,
)

PATIENCE_SECONDS = 5.0
COMMENT_SECONDS = 0.05
RETRY_AFTER_SECONDS = 7
HUGE_EVENT_BYTES = 100 << 10
HUGE_BODY_BYTES = 4 << 20
MISSING_BYTES = 100
FLOOD_BYTES = 16 << 10
SSE, JSON, WEB_PAGE = "text/event-stream", "application/json", "text/html"


class Exchange:
    """One request and its answer.

    Attributes:
        is_clean: A complete HTTP message was sent: its connection may serve another request.
        closed: Set when the client has closed the connection.
    """

    def __init__(self) -> None:
        self.is_clean = False
        self.closed = asyncio.Event()


class Play:
    """One answer being played: the words that the scripts below are written in."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, behaviour: Behaviour, *, is_stream: bool
    ) -> None:
        self.behaviour = behaviour
        self.phase = behaviour.phase
        self.is_stream = is_stream
        self.exchange = Exchange()
        self.may_go_on = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._is_chunked = False

    def raw(self, data: bytes) -> None:
        """Send exact bytes."""
        self._writer.write(data)

    def head(self, *fields: str, status: str = "200 OK", content_type: str = "") -> None:
        """Send status line and headers."""
        lines = [f"HTTP/1.1 {status}", f"content-type: {content_type or (SSE if self.is_stream else JSON)}", *fields]
        self._is_chunked = "transfer-encoding: chunked" in fields
        self.raw("\r\n".join([*lines, "", ""]).encode())

    def send(self, data: bytes) -> None:
        """Send a piece of the body."""
        self.raw(self._framed(data))

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked and data else data

    async def begin(
        self, rest: bytes = b"", *, missing: int = 0, is_chunked: bool | None = None, behind: bytes = b""
    ) -> None:
        """Send head and body up to the fault, wait until the caller has that, and send the rest.

        Args:
            rest: More of the body.
            missing: Bytes that ``content-length`` promises beyond these.
            is_chunked: Of unknown length; streams are, whole answers are not.
            behind: Sent together with the rest, but no part of the body.
        """
        first = self.behaviour.delivered
        if not self.is_stream:
            part = WHOLES[self.phase][: BYTES_BEFORE_FAULT[self.phase]]
            first = (part,) if part else ()
        if self.is_stream if is_chunked is None else is_chunked:
            self.head("transfer-encoding: chunked")
        else:
            self.head(f"content-length: {sum(map(len, first)) + len(rest) + missing}")
        for piece in first:
            self.send(piece)
        if first and self.is_stream:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self.may_go_on.wait()
        self.raw(self._framed(rest) + behind)

    def end(self) -> None:
        """End the message as HTTP demands."""
        if self._is_chunked:
            self.raw(b"0\r\n\r\n")
        self.exchange.is_clean = True

    def answer(self, status: str, body: bytes, *fields: str, content_type: str = JSON) -> None:
        """Send a complete answer."""
        self.head(f"content-length: {len(body)}", *fields, status=status, content_type=content_type)
        self.send(body)
        self.end()

    async def flood(self, data: bytes) -> NoReturn:
        """Send the same bytes again and again; ends by ConnectionError."""
        block = data * (FLOOD_BYTES // len(data))
        while True:
            self.send(block)
            await self._writer.drain()
            await asyncio.sleep(0)  # drain() returns at once while there is room: let the others run too

    async def client_leaves(self, seconds: float | None = None) -> bool:
        """Return whether the client has closed its end, waiting for that."""
        try:
            async with asyncio.timeout(seconds):
                while await self._reader.read(1 << 16):
                    pass
        except TimeoutError:
            return False
        return True

    async def hang_up(self) -> None:
        """End the connection and wait until the client has closed its end too."""
        self._writer.write_eof()
        await self.client_leaves()

    def reset(self) -> NoReturn:
        """Reset the connection."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        raise ConnectionResetError


Script = Callable[[Play], Awaitable[None]]


def _half(play: Play) -> bytes:
    return WORDS[0][:60] if play.is_stream else b' "'


async def good(play: Play) -> None:
    if play.is_stream:
        play.head("transfer-encoding: chunked")
        for piece in (*GOOD_STREAM, DONE):
            play.send(piece)
        play.end()
    else:
        play.answer("200 OK", GOOD_WHOLE)


async def _reset_before_headers(play: Play) -> None:
    play.reset()


async def _reset_after_headers(play: Play) -> None:
    play.head("transfer-encoding: chunked")
    play.reset()


async def _slow_headers(play: Play) -> None:
    await play.client_leaves()


async def _stall(play: Play) -> None:
    await play.begin(missing=MISSING_BYTES)
    await play.client_leaves()


async def _stall_inside_event(play: Play) -> None:
    await play.begin(_half(play), missing=MISSING_BYTES)
    await play.client_leaves()


async def _cut(play: Play) -> None:
    await play.begin(missing=MISSING_BYTES)
    await play.hang_up()


async def _cut_inside_event(play: Play) -> None:
    await play.begin(_half(play), missing=MISSING_BYTES)
    await play.hang_up()


async def _cut_by_reset(play: Play) -> None:
    await play.begin(_half(play), missing=MISSING_BYTES)
    play.reset()


async def _wrong_length(play: Play) -> None:
    rest = b"" if play.is_stream else WHOLES[play.phase][BYTES_BEFORE_FAULT[play.phase] :]
    await play.begin(rest, missing=MISSING_BYTES, is_chunked=False)
    await play.hang_up()


def _malformed(event: bytes, body: bytes) -> Script:
    async def script(play: Play) -> None:
        await play.begin(event if play.is_stream else body)
        if play.is_stream:
            await play.client_leaves()
        else:
            play.end()

    return script


async def _malformed_framing(play: Play) -> None:
    await play.begin(is_chunked=True)
    play.raw(b"zz\r\nnonsense\r\n")
    await play.client_leaves()


async def _no_end_marker(play: Play) -> None:
    await play.begin()
    play.end()


async def _error_event(play: Play) -> None:
    await play.begin(b'data: {"error": {"message": "out of memory", "type": "server_error", "code": 500}}\n\n' + DONE)
    play.end()


async def _wrong_content_type(play: Play) -> None:
    play.answer("200 OK", b"<!doctype html><title>Welcome</title>", content_type=WEB_PAGE)


async def _huge(play: Play) -> None:
    await play.begin(event_of({"content": "x" * HUGE_EVENT_BYTES}) if play.is_stream else b"x" * HUGE_BODY_BYTES)
    await play.client_leaves()


async def _endless(play: Play) -> None:
    await play.begin(is_chunked=True)
    if not play.is_stream:
        await play.flood(b" ")  # as engines do that keep a connection alive in front of a late body
    if play.phase == "before":
        play.send(b": still thinking\n\n")
        while not await play.client_leaves(COMMENT_SECONDS):
            play.send(b": still thinking\n\n")
    else:
        await play.flood((FRAGMENTS if play.phase == "inside_tool_call" else WORDS)[0])


def _garbage(play: Play) -> tuple[bytes, bytes]:
    if play.is_stream:
        return b"".join(STREAMS[play.phase][len(play.behaviour.delivered) :]) + DONE, WORDS[0] + DONE
    return WHOLES[play.phase][BYTES_BEFORE_FAULT[play.phase] :], b'{"choices": []}'


async def _garbage_in_body(play: Play) -> None:
    rest, garbage = _garbage(play)
    await play.begin(rest + garbage, missing=-len(garbage))
    if play.is_stream:
        play.end()  # the garbage is framed as HTTP demands, so the next answer cannot be mistaken


async def _garbage_behind_body(play: Play) -> None:
    rest, garbage = _garbage(play)
    end = b"0\r\n\r\n" if play.is_stream else b""
    await play.begin(rest, behind=end + b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" + garbage)


async def _endless_garbage(play: Play) -> None:
    rest, garbage = _garbage(play)
    await play.begin(rest + garbage, missing=-len(garbage))
    await play.flood(garbage)


def _status(status: str, *fields: str) -> Script:
    message = status.partition(" ")[2]
    error = {"message": message, "type": "engine_error", "param": None, "code": int(status.split()[0])}
    body = json.dumps({"error": error}).encode()

    async def script(play: Play) -> None:
        play.answer(status, body, *fields)

    return script


FAULTS: dict[str, dict[str, Script]] = {
    "refused": {"": good},  # nobody listens where its models are said to be
    "reset-before-headers": {"": _reset_before_headers},
    "reset-after-headers": {"": _reset_after_headers},
    "slow-headers": {"": _slow_headers},
    "stall": {"": _stall, "inside-event": _stall_inside_event},
    "cut": {"": _cut, "inside-event": _cut_inside_event, "reset": _cut_by_reset},
    "malformed": {
        "json": _malformed(WORDS[0][:90] + b"\n\n", b'{"choices": [{"index": 0, '),
        "no-field": _malformed(b"<p>Bad gateway</p>\n\n", b"<p>Bad gateway</p>"),
        "no-object": _malformed(b'data: "words"\n\n', b"words"),
        "framing": _malformed_framing,
    },
    "no-end-marker": {"": _no_end_marker},
    "error-event": {"": _error_event},
    "wrong-content-type": {"": _wrong_content_type},
    "wrong-length": {"": _wrong_length},
    "huge-chunk": {"": _huge},
    "endless": {"": _endless},
    "garbage-after-end": {
        "in-body": _garbage_in_body,
        "behind-body": _garbage_behind_body,
        "endless": _endless_garbage,
    },
    "status-429": {"": _status("429 Slow down", f"retry-after: {RETRY_AFTER_SECONDS}")},
    "status-500": {"": _status("500 Out of memory")},
    "status-503": {"": _status("503 Loading model")},
    "redirect": {"": _status("307 Elsewhere", "location: /trap")},
}
"""Every fault with its variants: more than one way to do the same wrong."""
