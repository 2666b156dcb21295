"""What only the fast client promises: staleness, early answers, Unix sockets, the pool's limits."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from support.transport_peer import OK, PATIENT, Client, Line, Peer, answering, http1_clients, loopy
from turnout.core.errors import CutOff, Malformed
from turnout.tiers.http1 import PooledHttp1Transport
from turnout.tiers.http1_connection import Http1Connection
from turnout.tiers.transport import HttpRequest

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(params=http1_clients())
def client(request: pytest.FixtureRequest) -> Client:
    return Client(*request.param)


def pool(client: Client) -> PooledHttp1Transport:
    """Return the client's transport, as what it is here."""
    assert isinstance(client.transport, PooledHttp1Transport)
    return client.transport


class Fickle:
    """A script whose first connection answers once and hangs up on the second request, with or without last words."""

    def __init__(self, last_words: bytes = b"") -> None:
        self.requests: list[bytes] = []
        self._last_words = last_words
        self._is_first = True

    async def __call__(self, line: Line) -> None:
        is_first, self._is_first = self._is_first, False
        while True:
            request = await line.request()
            self.requests.append(request.split(b" ")[0])
            if is_first and len(self.requests) > 1:
                line.send(self._last_words)
                return
            line.send(OK)


@pytest.mark.parametrize(("method", "retries"), [("GET", True), ("GET", False), ("POST", True)])
@loopy
async def test_a_stale_connection_costs_a_second_try(client: Client, method: str, retries: bool) -> None:
    pool(client)._retry_stale_post = retries
    script = Fickle()
    async with Peer(script) as peer:
        for _ in range(2):
            assert await client.ask(peer, method=method) == b"ok"
        assert script.requests == [method.encode()] * 3
        assert peer.accepted == 2


@loopy
async def test_a_post_is_not_repeated_where_that_is_switched_off(client: Client) -> None:
    pool(client)._retry_stale_post = False
    script = Fickle()
    async with Peer(script) as peer:
        await client.ask(peer)
        with pytest.raises(CutOff):
            await client.ask(peer)
        assert script.requests == [b"POST"] * 2


@loopy
async def test_a_post_that_was_being_worked_on_is_not_repeated(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout.tiers.http1.STALE_SECONDS", -1.0)
    script = Fickle()
    async with Peer(script) as peer:
        await client.ask(peer)
        with pytest.raises(CutOff):
            await client.ask(peer)
        assert script.requests == [b"POST"] * 2


@loopy
async def test_a_post_that_was_not_sent_completely_is_always_repeated(client: Client) -> None:
    pool(client)._retry_stale_post = False
    body = bytes(32 << 20)
    accepted = 0

    async def script(line: Line) -> None:
        nonlocal accepted
        accepted += 1
        await line.request()
        line.send(OK)
        if accepted == 1:
            await line.reader.readuntil(b"\r\n\r\n")
            line.writer.transport.abort()
        else:
            await line.left()

    async with Peer(script) as peer:
        await client.ask(peer)
        assert await (await client.send(peer, body=body)).read_all(10) == b"ok"
        assert accepted == 2


@pytest.mark.parametrize("last_words", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
@loopy
async def test_an_answer_that_began_is_not_repeated(client: Client, last_words: bytes) -> None:
    script = Fickle(last_words)
    async with Peer(script) as peer:
        await client.ask(peer, method="GET")
        with pytest.raises(CutOff):
            await client.ask(peer, method="GET")
        assert peer.accepted == 1


@pytest.mark.parametrize("extra", [b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"])
@loopy
async def test_bytes_behind_an_answer_end_the_connection(client: Client, extra: bytes) -> None:
    """In the same read as the answer; httpx2 takes them for the next answer."""

    async def script(line: Line) -> None:
        await line.request()
        line.send(OK + extra)
        await line.left()

    async with Peer(script) as peer:
        for number in range(1, 3):
            assert await client.ask(peer) == b"ok"
            assert peer.accepted == number


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 8000,
        b"HTTP/1.1 200 OK\nx: y\n\n",
        CHUNKED + b"5;" + b"x" * 400_000,
    ],
)
@loopy
async def test_ambiguous_or_endless_framing_is_malformed(client: Client, answer: bytes) -> None:
    async def script(line: Line) -> None:
        await line.request()
        line.send(answer)
        await line.left()

    async with Peer(script) as peer:
        with pytest.raises(Malformed):
            await client.ask(peer)


@loopy
async def test_a_refusal_ends_the_upload(client: Client) -> None:
    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        line.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await line.writer.drain()
        await line.left()

    async with Peer(script) as peer:
        response = await client.send(peer, body=bytes(32 << 20))
        assert response.status == 413
        assert await response.read_all(10) == b"no"
        assert await client.ask(peer) == b"no"
        assert peer.accepted == 2


@loopy
async def test_a_peer_that_answers_while_it_reads_gets_the_whole_body(client: Client) -> None:
    size = 32 << 20

    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        line.send(CHUNKED + b"5\r\nhello\r\n")
        await line.writer.drain()
        await line.reader.readexactly(size)
        line.send(b"3\r\nall\r\n0\r\n\r\n")

    async with Peer(script) as peer:
        response = await client.send(peer, body=bytes(size))
        assert await response.read_all(100) == b"helloall"


@loopy
async def test_a_unix_socket(client: Client, tmp_path: Path) -> None:
    async with Peer(answering(OK), unix_path=str(tmp_path / "engine.sock")) as peer:
        for _ in range(2):
            assert await client.ask(peer) == b"ok"
        assert peer.accepted == 1


@loopy
async def test_arrived_pieces_come_as_one(client: Client) -> None:
    sent = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.send_apart(CHUNKED, b"1\r\na\r\n1\r\nb\r\n", b"1\r\nc\r\n")
        sent.set()
        await line.left()

    async with Peer(script) as peer:
        response = await client.send(peer)
        await sent.wait()
        assert await response.read() == b"abc"


@loopy
async def test_idle_connections_age(client: Client) -> None:
    pool(client)._idle_seconds = 0.05
    left = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        line.send(OK)
        await line.left()
        left.set()

    async with Peer(script) as peer:
        assert await client.ask(peer) == b"ok"
        await left.wait()
    assert not pool(client)._idle.get(peer.base_url)


@loopy
async def test_the_pool_keeps_only_so_many(client: Client) -> None:
    pool(client)._max_idle = 2
    async with Peer(answering(OK)) as peer:
        responses = await asyncio.gather(*(client.send(peer) for _ in range(5)))
        for response in responses:
            await response.read_all(10)
        assert peer.accepted == 5
        assert len(pool(client)._idle[peer.base_url]) == 2


@loopy
async def test_cancelled_requests_leave_no_connection(client: Client) -> None:
    """At whatever step of its way a request is cancelled, also when its answer has just arrived."""
    async with Peer(answering(OK)) as peer:
        for steps in range(40):
            async with asyncio.TaskGroup() as group:
                asker = group.create_task(client.ask(peer))
                for _ in range(steps):
                    await asyncio.sleep(0)
                asker.cancel()
            assert await client.ask(peer) == b"ok"
            idle = pool(client)._idle.get(peer.base_url, [])
            assert all(connection.is_reusable() for connection in idle)
        in_use = [one for one in pool(client)._open if one not in idle and not one._is_closing]
        assert in_use == []


@loopy
async def test_a_cancel_behind_the_end_of_an_answer_spares_the_connection(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is back in the pool, or serves another request, before the cancelled task runs again."""
    finished = pool(client).finished
    async with Peer(answering(OK)) as peer, asyncio.TaskGroup() as group:
        asker = group.create_task(client.ask(peer))

        def finished_and_cancelled(connection: Http1Connection) -> None:
            finished(connection)
            asker.cancel()

        monkeypatch.setattr(pool(client), "finished", finished_and_cancelled)
        await asyncio.wait([asker])
        assert asker.cancelled()
        assert await client.ask(peer) == b"ok"
        assert peer.accepted == 1


@loopy
async def test_a_close_that_the_loop_has_not_seen_yet(client: Client) -> None:
    """It is in the kernel, so no request is written to that connection, not even one that may not be repeated."""
    pool(client)._retry_stale_post = False
    lines: list[Line] = []

    async def script(line: Line) -> None:
        lines.append(line)
        await answering(OK)(line)

    async with Peer(script) as peer:
        assert await client.ask(peer) == b"ok"
        with socket.socket(fileno=os.dup(lines[0].writer.get_extra_info("socket").fileno())) as twin:
            twin.shutdown(socket.SHUT_WR)
        assert await client.ask(peer) == b"ok"
        assert peer.accepted == 2


@loopy
async def test_misuse_is_told(client: Client) -> None:
    async def script(line: Line) -> None:
        await line.request()
        line.send(CHUNKED)
        await line.left()

    with pytest.raises(ValueError, match="plain HTTP only"):
        await client.ask("https://127.0.0.1:9")
    async with Peer(script) as peer:
        response = await client.send(peer)
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(response.read())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await response.read()
            reader.cancel()
    await client.transport.aclose()
    await client.transport.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await client.transport.send(HttpRequest("GET", peer.base_url, "/"), PATIENT)
