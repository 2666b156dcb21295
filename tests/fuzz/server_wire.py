"""Any bytes on a server connection: it answers properly or closes, and handlers see only what was framed.

An input is four control bytes (how it is cut into pieces, how the caller behaves, what the handler does, the limits)
and then what the caller sends.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from starlette.types import Message, Receive, Scope, Send

from fuzz.memory import HOUR, JumpingLoop, MemoryTransport, QuietSocket, pieces_of
from fuzz.oracle import Message as Framed
from fuzz.oracle import read_answers, read_requests
from turnout.core.errors import TurnoutError
from turnout.gateway.asgi import asgi_handler
from turnout.gateway.connection import Connection, ServerLimits, State
from turnout.gateway.exchange import logger

LIMITS = (ServerLimits(), ServerLimits(header_bytes=256, body_bytes=64, connections=1))
ENDINGS = ("silence", "end of file", "reset", "stuck")
MANNERS = ("echo", "early", "stream", "slow", "large", "fail")
CONTROL_BYTES = 4
POST = b"POST /v1/chat/completions?a=1 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: 1\r\n\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
REQUESTS = (
    GET, GET + GET, GET * 4, CHUNKED, CHUNKED + GET,
    POST + b"Content-Length: 11\r\n\r\nhello world" + GET,
    POST + b"Content-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\nhello",
    POST + b"Content-Length: 5\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\nhello" + GET,
    POST + b"Content-Length: 99\r\n\r\n" + b"b" * 99,
    b"HEAD /v1/models HTTP/1.1\r\nHost: a\r\n\r\n" + GET,
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET,
    b"\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n\x16\x03\x01",
    b"GET http://a:80/%7Euser/%ff?q#f HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 300 + b"\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)  # fmt: skip
SEEDS = tuple(
    bytes([cut, end, manner, limit]) + sent
    for number, sent in enumerate(REQUESTS)
    for cut, end, manner, limit in [(0, 0, 0, 0), (number % 7, number % 4, number % 6, number % 2)]
)
WORDS = (
    b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"GET ",
    b"HEAD ", b"POST ", b"DELETE ", b"CONNECT ", b"Content-Length: 0\r\n", b"Content-Length: 5\r\n",
    b"Content-Length: +5\r\n", b"Content-Length: 18446744073709551617\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding:\x0bchunked\r\n",
    b"Connection: close\r\n", b" folded\r\n", b"Connection: keep-alive\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n",
    b"5;a=b\r\n", b"fffffffffffffffff\r\n", b"-1\r\n", b"0x5\r\n", b"?", b"#", b"%00", b"//", b"\x80\xff",
)  # fmt: skip


class Call(NamedTuple):
    """What a handler was given."""

    scope: Scope
    body: bytearray
    ends: list[str]


class Play:
    """One input.

    Args:
        data: Control bytes and what the caller sends.
        loop: In virtual time.
        quiet: Stands in for a socket.
    """

    def __init__(self, data: bytes, loop: JumpingLoop, quiet: QuietSocket) -> None:
        control = data[:CONTROL_BYTES].ljust(CONTROL_BYTES, b"\0")
        self.sent = data[CONTROL_BYTES:]
        self.cut, self.turns = control[0] % 64, control[0] // 64
        self.ending = ENDINGS[control[1] % len(ENDINGS)]
        self.manner = MANNERS[control[2] % len(MANNERS)]
        self.limits = LIMITS[control[3] % len(LIMITS)]
        self.calls: list[Call] = []
        self._loop = loop
        self._quiet = quiet
        self.transport: MemoryTransport

    async def run(self) -> None:
        """Let the caller send and end as the control bytes say, and wait until the server has closed."""
        protocol = Connection(self._loop, asgi_handler(self._handle), State(self._loop), self.limits)
        is_stuck = self.ending == "stuck"
        self.transport = MemoryTransport(self._loop, protocol, self._quiet, is_stuck=is_stuck)
        protocol.connection_made(self.transport)
        for piece in pieces_of(self.sent, self.cut):
            if not await self.transport.deliver(piece):
                break
            for _ in range(self.turns):
                await asyncio.sleep(0)
        if self.ending == "end of file":
            self.transport.end()
        elif self.ending == "reset":
            self.transport.reset()
        async with asyncio.timeout(HOUR):
            await self.transport.lost.wait()
        while len(asyncio.all_tasks()) > 1:  # handlers that were cancelled by the loss
            await asyncio.sleep(0)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, bytearray(), [])
        self.calls.append(call)
        if self.manner == "slow":
            await asyncio.sleep(1.5)  # two probes of a caller that has shut its sending side
        if self.manner == "fail" and len(self.calls) > 1:
            raise RuntimeError("a handler fails")
        if self.manner not in ("early", "large"):
            await self._read(call, receive, is_partial=self.manner == "stream")
            if call.ends == ["disconnected"]:
                return
        body = bytes(call.body) * (self.manner != "large") or b"x" * (100_000 if self.manner == "large" else 0)
        length = [(b"content-length", b"%d" % len(body))] if self.manner != "stream" else []
        await send({"type": "http.response.start", "status": 200, "headers": [*length, (b"x-answer", b"1")]})
        if self.manner == "fail":
            raise RuntimeError("a handler fails in the middle")
        for _ in range(2 if self.manner == "stream" else 0):
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": body, "more_body": False})
        call.ends.append("answered")

    async def _read(self, call: Call, receive: Receive, *, is_partial: bool) -> None:
        while True:
            try:
                message: Message = await receive()
            except TurnoutError:
                call.ends.append("refused")
                raise
            if message["type"] == "http.disconnect":
                call.ends.append("disconnected")
                return
            call.body.extend(message["body"])
            if not message["more_body"]:
                call.ends.append("read")
                return
            if is_partial:
                return

    def judge(self, logged: list[str]) -> None:
        """Compare what the handlers were given and what was written with the slow and strict reading.

        Args:
            logged: What the server had to say.
        """
        assert self.manner == "fail" or not logged, f"it failed on its own: {logged}"
        framed, why = read_requests(self.sent)
        assert len(self.calls) <= len(framed), f"a handler was called for what is no request: {why}"
        for call, request in zip(self.calls, framed, strict=False):
            self._judge_call(call, request, why)
        methods = [call.scope["method"].encode() for call in self.calls]
        written = bytes(self.transport.written)
        answers = read_answers(written, methods + self._refused_head(written), is_closed=True)
        cut = [answer for answer in answers if not answer.is_whole]
        assert not cut or self.transport.was_aborted or self.ending in ("reset", "stuck"), f"cut off: {cut}"
        assert len(answers) <= len(self.calls) + 1, f"{len(answers)} answers to {len(self.calls)} requests"
        for answer, call in zip(answers, self.calls, strict=False):
            if call.ends[-1:] == ["answered"] and self.manner in ("echo", "slow") and answer.is_whole:
                expected = b"" if call.scope["method"] == "HEAD" else bytes(call.body)
                assert (answer.start[1], answer.body) == (b"200", expected), f"the wrong answer: {answer}"
        for answer in answers[len(self.calls) :]:
            assert not answer.is_whole or answer.start[1] >= b"400", f"an answer that nobody gave: {answer}"

    def _judge_call(self, call: Call, request: Framed, why: str) -> None:
        method, target, version = request.start
        assert (call.scope["method"].encode(), b"HTTP/" + call.scope["http_version"].encode()) == (
            method, b"HTTP/" + version,
        ), f"{call.scope} for {request}"  # fmt: skip
        if target.startswith(b"/"):
            path, _, query = target.partition(b"#")[0].partition(b"?")
            assert (call.scope["raw_path"], call.scope["query_string"]) == (path, query), f"{call.scope} for {target!r}"
        # llhttp leaves white space behind a value in its place.
        given = [(name, value.rstrip(b" \t")) for name, value in call.scope["headers"] if name != b"upgrade"]
        assert given == [header for header in request.headers if header[0] != b"upgrade"], f"{given} for {request}"
        if "read" in call.ends:
            assert request.is_whole, f"a body was handed over as whole: {request}, {why}"
            assert bytes(call.body) == request.body, f"{call.body!r} for {request}"
        else:
            assert request.body.startswith(bytes(call.body)), f"{call.body!r} for {request}"

    def _refused_head(self, written: bytes) -> list[bytes]:
        """Return HEAD for a request that was refused before its handler began: the answer then has no body."""
        return [b"HEAD"] if written.endswith(b"\r\n\r\n") and b"HEAD " in self.sent else []


class ServerWire:
    """The target."""

    name = "server_wire"
    seeds: tuple[bytes, ...] = SEEDS
    words: tuple[bytes, ...] = WORDS
    fixed_bytes = CONTROL_BYTES

    def __init__(self) -> None:
        self._loop = JumpingLoop()
        self._quiet = QuietSocket()
        self._logged: list[str] = []
        logger.addFilter(self._note)

    def _note(self, record: logging.LogRecord) -> bool:
        self._logged.append(f"{record.getMessage()} {record.exc_info}")
        return False

    def check(self, data: bytes) -> list[Call]:
        """Play one input; return what handlers were given.

        Raises:
            AssertionError: An invariant is broken.
        """
        play = Play(data, self._loop, self._quiet)
        self._logged.clear()
        self._loop.play(play.run())
        play.judge(self._logged)
        return play.calls

    def close(self) -> None:
        """Close the loop."""
        logger.removeFilter(self._note)
        self._loop.close()
        self._quiet.close()
