"""Any bytes as an engine's answer: the client ends with an answer or one of Broken's errors, and never hangs.

An input is four control bytes (how it is cut into pieces, how the engine ends, the method, what the caller does) and
then what the engine sends. Two requests follow each other on one connection, if it may be used again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

from fuzz.memory import HOUR, JumpingLoop, MemoryTransport, QuietSocket, pieces_of
from fuzz.oracle import read_answers
from turnout.core.errors import Broken
from turnout.core.outbox import Outbox
from turnout.tiers import http1_connection
from turnout.tiers.http1_connection import Http1Connection, Http1Response
from turnout.tiers.transport import Deadlines

DEADLINES = Deadlines(connect=3, first_byte=20, gap=10, write=10)
LONGEST_SECONDS = 2 * (DEADLINES.first_byte + DEADLINES.gap) + 1
SMALL_LIMIT_BYTES = 512
"""For heads and for unread bodies: inputs are too short to reach the real limits."""
ENDINGS = ("silence", "end of file", "reset", "cancel")
METHODS = ("POST", "POST", "GET", "HEAD")
CONTROL_BYTES = 4
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = b'f\r\ndata: {"a":1}\n\n\r\n' + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
ANSWERS = (
    JSON, JSON + JSON, STREAM + EVENTS, STREAM + EVENTS + JSON, STREAM + EVENTS[:20],
    b"HTTP/1.1 100 Continue\r\n\r\n" + JSON,
    b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + STREAM + EVENTS,
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nwords",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.1 204 No Content\r\n\r\n" + JSON, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n" + JSON,
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\nConnection: close\r\n\r\noops",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 600 + b"\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\nA: b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1200\r\n\r\n" + b"z" * 1200 + JSON,
    b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok" + JSON,
)  # fmt: skip
SEEDS = tuple(
    bytes([cut, end, method, wish]) + sent
    for number, sent in enumerate(ANSWERS)
    for cut, end, method, wish in [(0, 1, 0, 0), (number % 7, number % 4, number % 4, number % 3)]
)
WORDS = (
    b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"\0", b" ", b":", b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/2 ", b"200", b"100",
    b"204", b"304", b"000", b"99", b"Content-Length: 0\r\n", b"Content-Length: 2\r\n",
    b"Content-Length: 99999999999999999999\r\n", b"HTTP/1.1 199 x\r\n", b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"0\r\n\r\n",
    b"Transfer-Encoding: chunked, gzip\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"2\r\nok\r\n",
    b"2;x\r\nok\r\n", b"ffffffffffffffff\r\n", b"Content-Encoding: gzip\r\n", b" folded\r\n", b"Upgrade: h2c\r\n",
    b"Connection: Upgrade\r\n", b"\x80\xff", JSON, STREAM,
)  # fmt: skip


class Owner:
    """The pool's place."""

    def __init__(self) -> None:
        self.opened_count = self.lost_count = 0
        self.resting: Http1Connection | None = None

    def opened(self, connection: Http1Connection) -> None:
        """Count."""
        self.opened_count += 1

    def finished(self, connection: Http1Connection) -> None:
        """Keep it, as the pool does."""
        self.resting = connection
        connection.rest(5.0)

    def lost(self, connection: Http1Connection) -> None:
        """Count."""
        self.lost_count += 1


class Heard(NamedTuple):
    """What came of one request: an answer with its body as far as it was read, and the error that ended it."""

    response: Http1Response | None
    body: bytes
    error: Broken | None


class Play:
    """One input.

    Args:
        data: Control bytes and what the engine sends.
        loop: In virtual time.
        quiet: Stands in for a socket.
    """

    def __init__(self, data: bytes, loop: JumpingLoop, quiet: QuietSocket) -> None:
        control = data[:CONTROL_BYTES].ljust(CONTROL_BYTES, b"\0")
        self.sent = data[CONTROL_BYTES:]
        self.cut, self.turns = control[0] % 64, control[0] // 64
        self.ending = ENDINGS[control[1] % len(ENDINGS)]
        self.method = METHODS[control[2] % len(METHODS)]
        self.is_hasty = control[3] % 3 == 1  # closes the answer after its first piece
        self.is_late = control[3] % 3 == 2  # reads after everything has arrived
        self.heard: list[Heard] = []
        self.owner = Owner()
        self._loop = loop
        self._quiet = quiet

    async def run(self) -> None:
        """Ask, let the engine send and end, and wait until the connection is closed."""
        began = self._loop.time()
        connection = Http1Connection(self._loop, "http://engine", self.owner, Outbox(self._loop))
        transport = MemoryTransport(self._loop, connection, self._quiet)
        connection.connection_made(transport)
        all_sent = asyncio.Event()
        async with asyncio.timeout(HOUR):
            asking = self._loop.create_task(self._ask_twice(connection, all_sent))
            await asyncio.sleep(0)
            for piece in pieces_of(self.sent, self.cut):
                if not await transport.deliver(piece):
                    break
                for _ in range(self.turns):
                    await asyncio.sleep(0)
            all_sent.set()
            if self.ending == "cancel":
                asking.cancel()
            elif self.ending == "end of file":
                transport.end()
            elif self.ending == "reset":
                transport.reset()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
            assert self._loop.time() - began <= LONGEST_SECONDS, f"it took {self._loop.time() - began} s"
            await transport.lost.wait()
        assert (self.owner.opened_count, self.owner.lost_count) == (1, 1)

    async def _ask_twice(self, connection: Http1Connection, all_sent: asyncio.Event) -> None:
        for _ in range(2):
            await self._ask(connection, all_sent)
            if self.owner.resting is None or not connection.is_reusable():
                return
            self.owner.resting = None

    async def _ask(self, connection: Http1Connection, all_sent: asyncio.Event) -> None:
        response: Http1Response | None = None
        body = bytearray()
        error: Broken | None = None
        try:
            response = await connection.exchange(b"X", b"", DEADLINES, is_head_only=self.method == "HEAD")
            if self.is_late:
                async with asyncio.timeout(1):
                    await all_sent.wait()
            while piece := await response.read():
                body += piece
                if self.is_hasty:
                    response.close()
        except Broken as broken:
            error = broken
        except TimeoutError:  # back-pressure: the engine waits for us
            return
        finally:
            if response is not None:
                response.close()
        self.heard.append(Heard(response, bytes(body), error))

    def judge(self) -> None:
        """Compare what was heard with the slow and strict reading."""
        assert self.heard or self.is_late or self.ending == "cancel", "no end was told"
        total = sum(len(heard.body) for heard in self.heard)
        assert total <= len(self.sent), f"{total} bytes of body out of {len(self.sent)} sent"
        whole = [heard for heard in self.heard if heard.error is None and not self.is_hasty]
        if not whole or self.is_late:
            return
        answers = read_answers(self.sent, [self.method.encode()] * 2, is_closed=True, most=len(whole))
        for heard, answer in zip(whole, answers, strict=True):
            response = heard.response
            assert response is not None
            assert b"%d" % response.status == answer.start[1], f"{response.status} for {answer}"
            assert heard.body == answer.body, f"{heard.body!r} for {answer}"
            assert answer.is_whole, f"taken for whole: {answer}"
            assert list(response.headers) == answer.headers, f"{response.headers} for {answer}"


class ClientWire:
    """The target."""

    name = "client_wire"
    seeds: tuple[bytes, ...] = SEEDS
    words: tuple[bytes, ...] = WORDS
    fixed_bytes = CONTROL_BYTES

    def __init__(self) -> None:
        self._loop = JumpingLoop()
        self._quiet = QuietSocket()

    def check(self, data: bytes) -> list[Heard]:
        """Play one input; return what was heard.

        Raises:
            AssertionError: An invariant is broken.
        """
        play = Play(data, self._loop, self._quiet)
        limits = http1_connection.HEAD_LIMIT_BYTES, http1_connection.WAITING_LIMIT_BYTES
        http1_connection.HEAD_LIMIT_BYTES = http1_connection.WAITING_LIMIT_BYTES = SMALL_LIMIT_BYTES
        try:
            self._loop.play(play.run())
        finally:
            http1_connection.HEAD_LIMIT_BYTES, http1_connection.WAITING_LIMIT_BYTES = limits
        play.judge()
        return play.heard

    def close(self) -> None:
        """Close the loop."""
        self._loop.close()
        self._quiet.close()
