"""The server's limits, over real loopback sockets and raw bytes.

Every wait is for an event or an end of file; the deadlines under test are short, those of the tests are long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from turnout.core.errors import BodyTooLarge, BodyTooSlow, SetupError
from turnout.gateway.asgi import asgi_handler
from turnout.gateway.connection import ServerLimits
from turnout.gateway.server import HttpServer, bind_socket

MIB = 1 << 20
PATIENCE_SECONDS = 20
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


class Client:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """Read until the server closes; a reset is an error."""
        return await self.reader.read()

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Read one answer that has a content-length or is chunked."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.split(b"\r\n")[:-2]
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        body = b""
        if b"content-length" in headers:
            body = await self.reader.readexactly(int(headers[b"content-length"]))
        elif b"transfer-encoding" in headers:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        return int(lines[0].split()[1]), headers, body

    def vanish(self) -> None:
        """Close both directions."""
        self.writer.close()

    def reset(self) -> None:
        """Vanish with a reset."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


class Served:
    """A running server."""

    def __init__(self, server: HttpServer, address: tuple[str, int], task: asyncio.Task[None]) -> None:
        self.server = server
        self.address = address
        self.task = task
        self._clients: list[Client] = []

    async def connect(self, *, receive_buffer_bytes: int | None = None) -> Client:
        sock = socket.socket()
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self.address)
        except OSError:
            sock.close()
            raise
        client = Client(*await asyncio.open_connection(sock=sock, limit=receive_buffer_bytes or 65536))
        self._clients.append(client)
        return client

    async def ask(self, data: bytes) -> bytes:
        """Send and read until the server closes."""
        client = await self.connect()
        await client.send(data)
        return await client.rest()

    def close_clients(self) -> None:
        for client in self._clients:
            client.writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, **limits: Any) -> AsyncIterator[Served]:
    sock = bind_socket("127.0.0.1", 0)
    address = sock.getsockname()
    server = HttpServer(asgi_handler(app), limits=ServerLimits(**limits), sockets=[sock])
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        served = Served(server, address, group.create_task(server.serve()))
        try:
            yield served
        finally:
            served.close_clients()
            server.stop(0)


async def answer(send: Send, body: bytes = b"ok", status: int = 200) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        body += bytes(message["body"])
        if not message["more_body"]:
            return body


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer method, path and body."""
    body = await read_body(receive)
    await answer(send, f"{scope['method']} {scope['path']} ".encode() + body)


class Waiting:
    """A handler that waits, on something that is neither send nor receive, until it is released or cancelled."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        await answer(send, scope["path"].encode())


def error_of(reply: bytes) -> tuple[int, dict[str, Any]]:
    """Return the status and the error of the only answer in `reply`."""
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    assert b"connection: close" in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code", "hint", "source"}
    assert error["source"] == "gateway"
    return int(head.split()[1]), error


def status_of(reply: bytes) -> int:
    return error_of(reply)[0]


# -- heads -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nx: " + b"a" * 3000,  # never finished
        b"GET / HTTP/1.1\r\nx: " + b"a" * 3000 + b"\r\n\r\n",
        b"GET /" + b"a" * 3000,
        b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 500,
        b"POST / HTTP/1.1\r\ncontent-length: 100000\r\nx: " + b"a" * 3000 + b"\r\n\r\nabc",
    ],
)
async def test_a_head_over_the_limit_is_431(head: bytes) -> None:
    handler = Waiting()
    async with serving(handler, header_bytes=2000) as served:
        status, error = error_of(await served.ask(head))
    assert (status, error["code"], error["type"]) == (431, "headers_too_large", "invalid_request_error")
    assert not handler.paths


async def test_a_head_over_the_limit_in_many_pieces_is_431() -> None:
    async with serving(echo, header_bytes=2000) as served:
        client = await served.connect()
        await client.send(b"GET / HTTP/1.1\r\n")
        for _ in range(300):
            await client.send(b"x: aaaaaaaa\r\n")
        assert status_of(await client.rest()) == 431


async def test_a_big_body_in_the_same_read_does_not_count_as_head() -> None:
    async with serving(echo, header_bytes=200) as served:
        client = await served.connect()
        await client.send(b"POST / HTTP/1.1\r\ncontent-length: 50000\r\n\r\n" + b"b" * 50000)
        status, _, body = await client.answer()
        assert (status, len(body)) == (200, 50007)
        chunks = b"".join(b"1\r\nc\r\n" for _ in range(5000)) + b"0\r\n\r\n"
        await client.send(CHUNKED + chunks)
        status, _, body = await client.answer()
        assert (status, len(body)) == (200, 5007)


@pytest.mark.parametrize(
    "grower",
    [b"0\r\n" + b"trailer: aaaaaaaa\r\n", b"1;" + b"extension=a;" * 9, b"0" * 100],
    ids=["trailers", "extensions", "zeros"],
)
async def test_chunk_extensions_and_trailers_count_against_the_limit(grower: bytes) -> None:
    async with serving(echo, header_bytes=2000) as served:
        client = await served.connect()
        await client.send(CHUNKED + grower)
        with contextlib.suppress(ConnectionError):
            for _ in range(400):
                await client.send(grower.removeprefix(b"0\r\n").removeprefix(b"1;"))
        assert status_of(await client.rest()) == 431


async def test_trailers_do_not_reach_the_handler() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        seen.extend(scope["headers"])
        await answer(send)

    async with serving(app) as served:
        client = await served.connect()
        await client.send(CHUNKED + b"1;a=b\r\nx\r\n0\r\nauthorization: stolen\r\n\r\n")
        assert (await client.answer())[0] == 200
    assert [name for name, _ in seen] == [b"host", b"transfer-encoding"]


async def test_an_unfinished_head_is_408() -> None:
    async with serving(echo, header_seconds=0.1) as served:
        status, error = error_of(await served.ask(b"GET / HT"))
    assert (status, error["code"]) == (408, "request_timeout")


async def test_dripping_a_head_does_not_extend_its_deadline() -> None:
    async with serving(echo, header_seconds=0.2) as served:
        client = await served.connect()

        async def drip() -> None:
            await client.send(b"GET / HTTP/1.1\r\nx: ")
            with contextlib.suppress(ConnectionError):
                while not client.reader.at_eof():
                    await client.send(b"a")
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.02):
                            await asyncio.Event().wait()

        async with asyncio.TaskGroup() as group:
            dripping = group.create_task(drip())
            assert status_of(await client.rest()) == 408
            dripping.cancel()


async def test_a_silent_connection_is_closed_silently() -> None:
    async with serving(echo, header_seconds=0.1) as served:
        assert await served.ask(b"") == b""


async def test_an_idle_keep_alive_connection_is_closed_silently() -> None:
    async with serving(echo, keep_alive_seconds=0.1, header_seconds=5) as served:
        client = await served.connect()
        await client.send(GET)
        assert (await client.answer())[0] == 200
        assert await client.rest() == b""


async def test_a_second_head_has_its_own_deadline() -> None:
    async with serving(echo, keep_alive_seconds=60, header_seconds=0.2) as served:
        client = await served.connect()
        await client.send(GET)
        assert (await client.answer())[0] == 200
        await client.send(b"GET /")
        assert status_of(await client.rest()) == 408


# -- bodies ------------------------------------------------------------------------------------------------------------


async def test_a_declared_body_over_the_limit_is_413_before_a_byte_of_it() -> None:
    handler = Waiting()
    async with serving(handler, body_bytes=1000) as served:
        head = b"POST / HTTP/1.1\r\ncontent-length: 1001\r\nexpect: 100-continue\r\n\r\n"
        status, error = error_of(await served.ask(head))
    assert (status, error["code"]) == (413, "request_too_large")
    assert not handler.paths


async def test_413_reaches_a_caller_who_is_still_sending() -> None:
    async with serving(echo, body_bytes=MIB) as served:
        client = await served.connect()
        await client.send(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (100 * MIB))
        piece = bytes(MIB)
        for _ in range(100):
            await client.send(piece)
        assert status_of(await client.rest()) == 413


async def test_413_reaches_a_caller_who_is_still_sending_chunks() -> None:
    async with serving(echo, body_bytes=MIB) as served:
        client = await served.connect()
        await client.send(CHUNKED)
        piece = b"100000\r\n" + bytes(MIB) + b"\r\n"
        for _ in range(100):
            await client.send(piece)
        assert status_of(await client.rest()) == 413


async def test_receive_raises_when_a_chunked_body_exceeds_the_limit() -> None:
    raised: list[BaseException] = []
    receiving = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        receiving.set()
        try:
            await read_body(receive)
        except BodyTooLarge as error:
            raised.append(error)
            await answer(send, b"must not be written", status=500)

    async with serving(app, body_bytes=100) as served:
        client = await served.connect()
        await client.send(CHUNKED)
        await receiving.wait()
        await client.send(b"65\r\n" + bytes(101) + b"\r\n")
        assert status_of(await client.rest()) == 413
    assert len(raised) == 1


async def test_a_refusal_out_of_receive_is_no_error_of_the_handler(caplog: pytest.LogCaptureFixture) -> None:
    receiving = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        receiving.set()
        await echo(scope, receive, send)

    async with serving(app, body_bytes=100) as served:
        client = await served.connect()
        await client.send(CHUNKED)
        await receiving.wait()
        await client.send(b"65\r\n" + bytes(101) + b"\r\n")
        assert status_of(await client.rest()) == 413
    assert not caplog.records


async def test_a_handler_outside_receive_is_cancelled_when_the_body_exceeds_the_limit() -> None:
    handler = Waiting()
    async with serving(handler, body_bytes=100) as served:
        client = await served.connect()
        await client.send(CHUNKED)
        await handler.started.wait()
        await client.send(b"65\r\n" + bytes(101) + b"\r\n")
        assert status_of(await client.rest()) == 413
        await handler.cancelled.wait()


async def test_a_body_over_the_limit_after_the_answer_began_cuts_the_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await read_body(receive)

    async with serving(app, body_bytes=100) as served:
        client = await served.connect()
        await client.send(CHUNKED)
        await client.reader.readuntil(b"1\r\na\r\n")
        await client.send(b"65\r\n" + bytes(101) + b"\r\n")
        with contextlib.suppress(ConnectionError):
            assert await client.rest() == b""


async def test_a_gap_in_the_body_is_408() -> None:
    async with serving(echo, body_gap_seconds=0.1) as served:
        assert status_of(await served.ask(b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nab")) == 408
        assert status_of(await served.ask(CHUNKED)) == 408


async def test_a_gap_in_the_body_is_raised_out_of_receive() -> None:
    raised = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await read_body(receive)
        except BodyTooSlow:
            raised.set()
            raise

    async with serving(app, body_gap_seconds=0.1) as served:
        assert status_of(await served.ask(CHUNKED + b"1\r\na\r\n")) == 408
        await raised.wait()


async def drip_body(client: Client, piece: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        while not client.reader.at_eof():
            await client.send(piece)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("piece", "limits"),
    [
        (b"1\r\na\r\n", {"body_seconds": 0.3, "body_gap_seconds": 10}),
        (b"0", {"body_seconds": 60, "body_gap_seconds": 0.3}),  # framing is no byte of body
    ],
    ids=["whole", "gap"],
)
async def test_dripping_a_body_is_408(piece: bytes, limits: dict[str, float]) -> None:
    async with serving(echo, **limits) as served:
        client = await served.connect()
        await client.send(CHUNKED)
        async with asyncio.TaskGroup() as group:
            dripping = group.create_task(drip_body(client, piece))
            assert status_of(await client.rest()) == 408
            dripping.cancel()


async def test_an_answer_before_the_whole_body_reaches_the_caller() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"no", status=401)

    async with serving(app) as served:
        client = await served.connect()
        await client.send(b"POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (20 * MIB))
        for _ in range(20):
            await client.send(bytes(MIB))
        assert (await client.rest()).startswith(b"HTTP/1.1 401 ")
        client = await served.connect()
        await client.send(b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\n")
        assert (await client.answer())[0] == 401
        await client.send(b"abc" + GET)
        assert (await client.answer())[0] == 401


# -- not HTTP, and smuggling -------------------------------------------------------------------------------------------

POST = b"POST / HTTP/1.1\r\nhost: a\r\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="tls"),
        pytest.param(b"hello\r\n\r\n", id="text"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="http2"),
        pytest.param(b"GET / HTTP/2.0\r\n\r\n", id="version"),
        pytest.param(b"GET /\r\n\r\n", id="http09"),
        pytest.param(POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", id="cl-te"),
        pytest.param(POST + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n", id="te-cl"),
        pytest.param(POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc", id="two-cl"),
        pytest.param(POST + b"content-length: 3, 4\r\n\r\nabc", id="cl-list"),
        pytest.param(POST + b"content-length: +3\r\n\r\nabc", id="cl-sign"),
        pytest.param(POST + b"content-length : 3\r\n\r\nabc", id="space-colon"),
        pytest.param(POST + b"transfer-encoding: xchunked\r\n\r\nabc", id="te-unknown"),
        pytest.param(POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="te-gzip"),
        pytest.param(POST + b"transfer-encoding: chunked, identity\r\n\r\nabc", id="te-not-last"),
        pytest.param(POST + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n", id="te-tab"),
        pytest.param(b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", id="te-http10"),
        pytest.param(POST + b"x: a\r\n b\r\n\r\n", id="folding"),
        pytest.param(b"GET / HTTP/1.1\nhost: a\n\n", id="lf-line"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\n\r\n", id="lf-header"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\n\n", id="lf-end"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\rx: b\r\n\r\n", id="cr"),
        pytest.param(POST + b"x: a\0b\r\n\r\n", id="nul"),
        pytest.param(CHUNKED + b"1\na\r\n0\r\n\r\n", id="chunk-lf"),
        pytest.param(CHUNKED + b"0x1\r\na\r\n0\r\n\r\n", id="chunk-0x"),
        pytest.param(CHUNKED + b"1;a\nb\r\na\r\n0\r\n\r\n", id="extension-lf"),
        pytest.param(CHUNKED + b"1\r\nab\r\n0\r\n\r\n", id="chunk-long"),
    ],
)
async def test_what_is_not_strict_http_is_400(data: bytes) -> None:
    async with serving(echo) as served:
        status, error = error_of(await served.ask(data))
    assert (status, error["code"]) == (400, "invalid_request")


async def test_connect_is_405() -> None:
    async with serving(echo) as served:
        assert status_of(await served.ask(b"CONNECT a:80 HTTP/1.1\r\n\r\n")) == 405


async def test_nothing_is_served_after_connection_close() -> None:
    handler = Waiting()
    handler.release.set()
    async with serving(handler) as served:
        reply = await served.ask(b"GET /1 HTTP/1.1\r\nconnection: close\r\n\r\nGET /2 HTTP/1.1\r\n\r\n")
        assert reply.count(b"HTTP/1.1 ") == 1
        client = await served.connect()
        handler.release.clear()
        handler.started.clear()
        await client.send(b"GET /3 HTTP/1.1\r\nconnection: close\r\n\r\n")
        await handler.started.wait()
        await client.send(b"GET /4 HTTP/1.1\r\n\r\n")
        handler.release.set()
        assert (await client.rest()).count(b"HTTP/1.1 ") == 1
    assert handler.paths == ["/1", "/3"]


async def test_garbage_behind_a_good_request_is_answered_after_it() -> None:
    handler = Waiting()
    async with serving(handler) as served:
        client = await served.connect()
        await client.send(GET + b"\x00\x01\x02")
        await handler.started.wait()
        handler.release.set()
        assert (await client.answer())[0] == 200
        assert status_of(await client.rest()) == 400


# -- pipelining --------------------------------------------------------------------------------------------------------


async def test_one_pipelined_request_is_served_and_the_connection_lives() -> None:
    async with serving(echo) as served:
        client = await served.connect()
        await client.send(b"GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\ncontent-length: 2\r\n\r\nab")
        assert (await client.answer())[2] == b"GET /1 "
        assert (await client.answer())[2] == b"POST /2 ab"
        await client.send(b"GET /3 HTTP/1.1\r\n\r\n")
        assert (await client.answer())[2] == b"GET /3 "


async def test_more_than_one_pipelined_request_closes_after_the_queued_one() -> None:
    handler = Waiting()
    async with serving(handler) as served:
        client = await served.connect()
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(2000)))
        await handler.started.wait()
        handler.release.set()
        assert (await client.answer())[2] == b"/0"
        _, headers, body = await client.answer()
        assert (headers[b"connection"], body) == (b"close", b"/1")
        assert await client.rest() == b""
    assert handler.paths == ["/0", "/1"]


@pytest.mark.parametrize(
    "flood", [GET, GET * 5000, b"POST / HTTP/1.1\r\ncontent-length: 500000\r\n\r\n" + bytes(400000)]
)
async def test_pipelining_does_not_hide_a_disconnect(flood: bytes) -> None:
    handler = Waiting()
    async with serving(handler) as served:
        client = await served.connect()
        await client.send(GET)
        await handler.started.wait()
        await client.send(flood)
        client.reset()
        await handler.cancelled.wait()
    assert len(handler.paths) == 1


async def test_a_queued_request_with_a_slow_body_is_refused_after_the_answer_in_progress() -> None:
    handler = Waiting()
    async with serving(handler, body_gap_seconds=0.1) as served:
        client = await served.connect()
        await client.send(GET + b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nab")
        await handler.started.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.reader.read(1)
        handler.release.set()
        assert (await client.answer())[0] == 200
        assert status_of(await client.rest()) == 408
    assert len(handler.paths) == 1


# -- callers who leave -------------------------------------------------------------------------------------------------


async def test_a_reset_cancels_a_handler_that_awaits_something_else() -> None:
    handler = Waiting()
    async with serving(handler) as served:
        client = await served.connect()
        await client.send(GET)
        await handler.started.wait()
        client.reset()
        await handler.cancelled.wait()


async def test_a_close_cancels_a_handler_that_awaits_something_else() -> None:
    handler = Waiting()
    async with serving(handler) as served:
        client = await served.connect()
        await client.send(GET)
        await handler.started.wait()
        client.vanish()
        async with asyncio.timeout(4):
            await handler.cancelled.wait()


async def test_a_close_is_noticed_behind_a_big_unread_body() -> None:
    handler = Waiting()
    async with serving(handler) as served:
        client = await served.connect()
        await client.send(b"POST / HTTP/1.1\r\ncontent-length: 3000000\r\n\r\n" + bytes(2_000_000))
        await handler.started.wait()
        client.vanish()
        await handler.cancelled.wait()


async def test_a_close_cancels_a_streaming_handler() -> None:
    cancelled = asyncio.Event()
    tick = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"token", "more_body": True})
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await tick.wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(app) as served:
        client = await served.connect()
        await client.send(GET)
        await client.reader.readuntil(b"token")
        client.vanish()
        await cancelled.wait()


async def test_our_own_cancel_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    handler = Waiting()
    async with serving(handler) as served:
        client = await served.connect()
        await client.send(GET)
        await handler.started.wait()
        client.reset()
        await handler.cancelled.wait()
    assert not caplog.records


async def test_work_after_the_answer_is_not_cancelled() -> None:
    answered, finish, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)
        answered.set()
        await finish.wait()
        finished.set()

    async with serving(app) as served:
        client = await served.connect()
        await client.send(GET)
        await client.answer()
        await answered.wait()
        client.reset()
        again = await served.connect()
        await again.send(GET)
        await again.answer()
        assert served.server.running_requests == 2
        finish.set()
        await finished.wait()


async def test_a_caller_who_shuts_its_sending_side_gets_the_answer() -> None:
    handler = Waiting()
    async with serving(handler) as served:
        client = await served.connect()
        await client.send(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n")
        client.writer.write_eof()
        await handler.started.wait()
        handler.release.set()
        assert (await client.answer())[2] == b"/1"
        _, headers, body = await client.answer()
        assert (headers[b"connection"], body) == (b"close", b"/2")
        assert await client.rest() == b""


async def test_a_half_closed_caller_is_asked_once_whether_it_is_there() -> None:
    handler = Waiting()
    async with serving(handler) as served:
        client = await served.connect()
        await client.send(GET)
        client.writer.write_eof()
        assert await client.answer() == (102, {}, b"")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.8):
                await client.reader.read(1)
        handler.release.set()
        assert (await client.answer())[0] == 200
        assert await client.rest() == b""


async def test_a_half_closed_idle_connection_is_closed() -> None:
    async with serving(echo) as served:
        client = await served.connect()
        await client.send(GET)
        assert (await client.answer())[0] == 200
        client.writer.write_eof()
        assert await client.rest() == b""


# -- callers who do not read -------------------------------------------------------------------------------------------


async def test_a_caller_who_takes_nothing_is_cut_off_and_its_handler_cancelled() -> None:
    cancelled = asyncio.Event()
    sent_bytes = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent_bytes
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
                sent_bytes += 65536
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(app, write_stall_seconds=0.2) as served:
        client = await served.connect(receive_buffer_bytes=4096)
        await client.send(GET)
        await cancelled.wait()
    assert 0 < sent_bytes < 16 * MIB  # the kernel's buffers, and 64 KiB of ours


async def test_a_steady_reader_of_one_big_message_is_not_cut_off() -> None:
    size = 24 * MIB

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, bytes(size))

    async with serving(app, write_stall_seconds=0.2) as served:
        client = await served.connect(receive_buffer_bytes=65536)
        await client.send(GET)
        await client.reader.readuntil(b"\r\n\r\n")
        received = 0
        while received < size:
            received += len(await client.reader.read(256 * 1024))
            if received < 8 * MIB:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await asyncio.Event().wait()
        assert received == size


async def test_a_caller_who_does_not_take_its_last_answer_is_cut_off() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, bytes(16 * MIB))

    async with serving(app, write_stall_seconds=0.2) as served:
        client = await served.connect(receive_buffer_bytes=4096)
        await client.send(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
        received = 0
        with contextlib.suppress(ConnectionError):
            while data := await client.reader.read(1024):
                received += len(data)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await asyncio.Event().wait()
        assert received < 16 * MIB


# -- handlers that fail ------------------------------------------------------------------------------------------------


async def test_an_exception_before_the_answer_is_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("the cause")

    async with serving(app) as served:
        status, error = error_of(await served.ask(GET))
        assert (status, error["type"], error["code"]) == (500, "server_error", "internal_error")
        assert "the cause" not in error["message"]
        reply = await served.ask(b"HEAD / HTTP/1.1\r\n\r\n")
        assert reply.endswith(b"\r\n\r\n")
    assert [record.name for record in caplog.records] == ["turnout.server"] * 2
    assert "the cause" in caplog.text


async def test_a_cancelled_error_that_nobody_asked_for_is_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with serving(app) as served:
        assert status_of(await served.ask(GET)) == 500
    assert len(caplog.records) == 1


async def test_a_handler_that_answers_nothing_is_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async with serving(app) as served:
        assert status_of(await served.ask(GET)) == 500
    assert len(caplog.records) == 1


@pytest.mark.parametrize("is_raising", [True, False])
async def test_a_failure_after_the_answer_began_cuts_the_connection(
    is_raising: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        if is_raising:
            raise ZeroDivisionError

    async with serving(app) as served:
        client = await served.connect()
        await client.send(GET)
        reply = b""
        with contextlib.suppress(ConnectionError):
            reply = await client.rest()
        assert b"0\r\n\r\n" not in reply
    assert len(caplog.records) == 1


async def test_a_failure_of_an_unchunked_answer_is_a_reset() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    async with serving(app) as served:
        with pytest.raises(ConnectionResetError):
            await served.ask(b"GET / HTTP/1.0\r\n\r\n")


# -- what must still work ----------------------------------------------------------------------------------------------


async def test_keep_alive_is_reused_and_state_is_per_request() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["state"] == {}
        scope["state"]["seen"] = True
        await echo(scope, receive, send)

    async with serving(app) as served:
        client = await served.connect()
        for number in range(5):
            await client.send(b"POST /%d HTTP/1.1\r\ncontent-length: 1\r\n\r\nx" % number)
            status, headers, body = await client.answer()
            assert (status, body) == (200, b"POST /%d x" % number)
            assert b"date" in headers
            assert b"server" not in headers


async def test_head_has_no_body() -> None:
    async with serving(echo) as served:
        client = await served.connect()
        await client.send(b"HEAD /a HTTP/1.1\r\n\r\n")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"content-length: 8" in head
        await client.send(GET)
        assert (await client.answer())[2] == b"GET / "


async def test_expect_continue() -> None:
    async with serving(echo) as served:
        client = await served.connect()
        await client.send(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert (await client.answer())[0] == 100
        await client.send(b"ab")
        _, headers, body = await client.answer()
        assert body == b"POST / ab"
        assert b"connection" not in headers
        await client.send(GET)
        assert (await client.answer())[0] == 200


async def test_an_answer_instead_of_continue_closes_the_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, status=401)

    async with serving(app) as served:
        head = b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        reply = await served.ask(head)
        assert reply.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" in reply


async def test_http_10_gets_no_chunks() -> None:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"a", b"b"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"c"})

    async with serving(stream) as served:
        head, _, body = (await served.ask(b"GET / HTTP/1.0\r\n\r\n")).partition(b"\r\n\r\n")
        assert (b"transfer-encoding" in head, b"connection: close" in head, body) == (False, True, b"abc")
    async with serving(echo) as served:
        head, _, body = (await served.ask(b"POST /x HTTP/1.0\r\ncontent-length: 1\r\n\r\ny")).partition(b"\r\n\r\n")
        assert (b"content-length: 9" in head, body) == (True, b"POST /x y")


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
async def test_an_upgrade_is_an_ordinary_request_with_its_body(
    protocol: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    upgrade = b"connection: upgrade\r\nupgrade: " + protocol + b"\r\n"
    async with serving(echo) as served:
        client = await served.connect()
        await client.send(b"GET /a?b=c HTTP/1.1\r\n" + upgrade + b"\r\n")
        assert (await client.answer())[2] == b"GET /a "
        await client.send(b"POST / HTTP/1.1\r\n" + upgrade + b"content-length: 25\r\n\r\nGET /smuggled")
        await client.send(b" HTTP/1.1\r\n\r")
        assert (await client.answer())[2] == b"POST / GET /smuggled HTTP/1.1\r\n\r"
        await client.send(GET)
        assert (await client.answer())[2] == b"GET / "
    assert not caplog.records


async def test_too_many_connections_are_503() -> None:
    async with serving(echo, connections=2) as served:
        first, _ = await served.connect(), await served.connect()
        await first.send(GET)
        assert (await first.answer())[0] == 200
        assert status_of(await served.ask(GET)) == 503
        await first.send(GET)
        assert (await first.answer())[0] == 200


# -- stopping ----------------------------------------------------------------------------------------------------------


async def test_a_streaming_handler_finishes_within_the_drain() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"last"})

    async with serving(app) as served:
        client, idle, fresh = await served.connect(), await served.connect(), await served.connect()
        await client.send(GET)
        await client.reader.readuntil(b"first\r\n")
        assert served.server.running_requests == 1
        served.server.stop(10)
        assert await idle.rest() == b""
        assert await fresh.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await served.connect()
        await client.send(GET)  # comes too late
        go_on.set()
        assert (await client.rest()) == b"4\r\nlast\r\n0\r\n\r\n"
        async with asyncio.timeout(1):
            await served.task
        assert served.server.running_requests == 0


async def test_an_idle_server_stops_at_once() -> None:
    async with serving(echo) as served:
        idle, half = await served.connect(), await served.connect()
        await idle.send(GET)
        await idle.answer()
        await half.send(b"GET / HT")
        async with asyncio.timeout(1):
            served.server.stop(30)
            await served.task
        assert await idle.rest() == b""


async def test_a_handler_is_cancelled_when_the_drain_is_over(caplog: pytest.LogCaptureFixture) -> None:
    handler = Waiting()
    async with serving(handler) as served:
        client = await served.connect()
        await client.send(GET)
        await handler.started.wait()
        served.server.stop(0.1)
        status, error = error_of(await client.rest())
        assert (status, error["code"]) == (503, "shutting_down")
        assert handler.cancelled.is_set()
        await served.task
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_a_second_stop_shortens_the_drain() -> None:
    handler = Waiting()
    async with serving(handler) as served:
        client, idle = await served.connect(), await served.connect()
        await client.send(GET)
        await handler.started.wait()
        served.server.stop(1000)
        assert await idle.rest() == b""
        served.server.stop(0)
        await served.task
        assert handler.cancelled.is_set()


async def test_cancelling_serve_ends_handlers_and_connections() -> None:
    handler = Waiting()
    async with serving(handler) as served:
        client = await served.connect()
        await client.send(GET)
        await handler.started.wait()
        served.task.cancel()
        assert status_of(await client.rest()) == 503
        assert handler.cancelled.is_set()


# -- sockets -----------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_a_setup_error() -> None:
    with bind_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=f"127.0.0.1:{port} is in use") as caught:
            bind_socket("127.0.0.1", port)
    assert "server.port" in caught.value.hint


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("192.0.2.1", 0, "'192.0.2.1' is no address of this machine"),
        ("no.such.host.invalid", 0, "is no address of this machine"),
        ("127.0.0.1", 99999, "99999 is not a port"),
    ],
)
def test_an_address_that_cannot_be_bound_is_a_setup_error(host: str, port: int, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        bind_socket(host, port)


def test_a_forbidden_port_is_a_setup_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(SetupError, match=r"no permission to listen on 127\.0\.0\.1:80"):
        bind_socket("127.0.0.1", 80)


def test_ipv6_is_served_where_the_machine_has_it() -> None:
    try:
        probe = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    probe.close()
    with bind_socket("::1", 0) as sock:
        assert sock.family == socket.AF_INET6


# -- the other loop ----------------------------------------------------------------------------------------------------

Scenario = Callable[[], Awaitable[None]]


@pytest.mark.parametrize(
    "scenario",
    [
        test_a_silent_connection_is_closed_silently,
        test_an_unfinished_head_is_408,
        test_413_reaches_a_caller_who_is_still_sending,
        test_a_gap_in_the_body_is_raised_out_of_receive,
        test_nothing_is_served_after_connection_close,
        test_more_than_one_pipelined_request_closes_after_the_queued_one,
        test_a_reset_cancels_a_handler_that_awaits_something_else,
        test_a_close_cancels_a_handler_that_awaits_something_else,
        test_a_close_cancels_a_streaming_handler,
        test_a_caller_who_shuts_its_sending_side_gets_the_answer,
        test_a_half_closed_idle_connection_is_closed,
        test_a_caller_who_takes_nothing_is_cut_off_and_its_handler_cancelled,
        test_a_steady_reader_of_one_big_message_is_not_cut_off,
        test_a_caller_who_does_not_take_its_last_answer_is_cut_off,
        test_keep_alive_is_reused_and_state_is_per_request,
        test_a_streaming_handler_finishes_within_the_drain,
        test_an_idle_server_stops_at_once,
        test_cancelling_serve_ends_handlers_and_connections,
    ],
)
def test_on_uvloop(scenario: Scenario) -> None:
    async def run() -> None:
        await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
