"""How every transport fails: by name, in time, and without keeping the peer on the line."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.transport_peer import PATIENT, Client, Line, Peer, all_clients, answering, loopy
from turnout.core.errors import Broken, ConnectFailed, CutOff, DeadlineExceeded, Malformed, Stalled
from turnout.tiers.transport import Deadlines, HttpResponse

HASTY = Deadlines(connect=0.1, first_byte=0.1, gap=0.1, write=0.1)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LONG = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"


@pytest.fixture(params=all_clients())
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Client:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return Client(*request.param)


@contextmanager
def full_listener() -> Iterator[str]:
    """A listener that accepts nobody and whose queue is full: further connects hang."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "arrives"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\ncont", b""),
        (LONG + b"hel", b"hel"),
        (CHUNKED + b"5\r\nhel", b"hel"),
        (CHUNKED + b"5\r\nhello\r\n", b"hello"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", b"hello"),
    ],
)
@loopy
async def test_an_answer_that_ends_early_is_cut_off(client: Client, answer: bytes, arrives: bytes) -> None:
    async with Peer(answering(answer, times=1)) as peer:
        got: list[bytes] = []

        async def ask() -> None:
            response = await client.send(peer)
            while piece := await response.read():
                got.append(piece)

        with pytest.raises(CutOff):
            await ask()
        assert b"".join(got) == arrives
        assert peer.accepted == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: minus\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: aaaaaaaa\r\n" * 6000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx: " + b"a" * 65_530 + b"\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000,
        b"HTTP/1.1 999999 What\r\n\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"2\r\nabc\r\n",
        CHUNKED + b"0\r\nx: " + b"a" * 200_000,
    ],
)
@loopy
async def test_what_is_not_http_is_malformed(client: Client, answer: bytes) -> None:
    async def script(line: Line) -> None:
        await line.request()
        line.send(answer)
        await line.left()

    async with Peer(script) as peer:
        with pytest.raises(Malformed):
            await client.ask(peer)


@loopy
async def test_a_body_above_the_callers_limit_is_hung_up_on(client: Client) -> None:
    left = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        line.send(CHUNKED + b"5\r\nhello\r\n")
        await line.left()
        left.set()

    async with Peer(script) as peer:
        response = await client.send(peer)
        with pytest.raises(Malformed, match="larger than 4 bytes"):
            await response.read_all(4)
        await left.wait()


@loopy
async def test_nobody_listens(client: Client) -> None:
    with socket.socket() as bound:  # bound but not listening: refused
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ConnectFailed, match=url):
            await client.ask(url)


@loopy
async def test_connect_deadline(client: Client) -> None:
    with full_listener() as url, pytest.raises(DeadlineExceeded) as raised:
        await client.ask(url, HASTY)
    assert raised.value.code == "connect_deadline"


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (b"", DeadlineExceeded, "first_byte_deadline"),
        (b"HTTP/1.1 200 OK\r\nx: ", DeadlineExceeded, "first_byte_deadline"),
        (LONG, Stalled, "answer_stalled"),
        (CHUNKED + b"3\r\nhel\r\n", Stalled, "answer_stalled"),
    ],
)
@loopy
async def test_deadlines_of_the_answer(client: Client, answer: bytes, kind: type[Broken], code: str) -> None:
    left = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        line.send(answer)
        await line.left()
        left.set()

    async with Peer(script) as peer:
        with pytest.raises(kind) as raised:
            await client.ask(peer, HASTY)
        assert raised.value.code == code
        await left.wait()


@loopy
async def test_write_deadline(client: Client) -> None:
    done = asyncio.Event()

    async def script(line: Line) -> None:
        await done.wait()

    async with Peer(script) as peer:
        with pytest.raises(DeadlineExceeded) as raised:
            await client.send(peer, HASTY, body=bytes(64 << 20))
        assert raised.value.code == "write_deadline"
        done.set()


# Leaving.


@pytest.mark.parametrize("way", ["close", "aclose", "cancel", "transport"])
@loopy
async def test_the_peer_sees_at_once_that_the_caller_left(client: Client, way: str) -> None:
    left = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        line.send(CHUNKED + b"5\r\nhello\r\n")
        await line.left()
        left.set()

    async with Peer(script) as peer:
        response = await client.send(peer)
        assert await response.read() == b"hello"
        if way == "close":
            response.close()
        elif way == "aclose":
            await response.aclose()
        elif way == "transport":
            await client.transport.aclose()
        else:
            await cancelled_in(response)
        await left.wait()
        with pytest.raises(CutOff):
            await response.read()
        response.close()
        await response.aclose()


async def cancelled_in(response: HttpResponse) -> None:
    """Cancel a task while it waits for the body."""
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(response.read())
        await asyncio.sleep(0)
        reader.cancel()


@loopy
async def test_cancelling_while_waiting_for_the_head(client: Client) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        asked.set()
        await line.left()
        left.set()

    async with Peer(script) as peer, asyncio.TaskGroup() as group:
        sender = group.create_task(client.send(peer))
        await asked.wait()
        sender.cancel()
        await left.wait()


@loopy
async def test_cancelling_while_connecting(client: Client) -> None:
    with full_listener() as url:
        async with asyncio.TaskGroup() as group:
            sender = group.create_task(client.send(url))
            for _ in range(20):
                await asyncio.sleep(0)
            sender.cancel()
    assert sender.cancelled()


@loopy
async def test_a_reader_who_is_slow_slows_the_peer(client: Client) -> None:
    total = 64 << 20
    held_back = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        line.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        for sent in range(0, total, 1 << 20):
            line.send(bytes(1 << 20))
            try:
                async with asyncio.timeout(None if held_back.is_set() else 0.2):
                    await line.writer.drain()
            except TimeoutError:
                assert sent < total // 2
                held_back.set()
        await line.left()

    async with Peer(script) as peer:
        response = await client.send(peer, PATIENT)
        await held_back.wait()
        assert len(await response.read_all(total)) == total
