"""What every transport promises, played against exact bytes on a real socket."""

from __future__ import annotations

import asyncio

import pytest

from support.transport_peer import OK, Client, Line, Peer, all_clients, answering, loopy

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(params=all_clients())
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Client:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return Client(*request.param)


# Framing.

FRAMINGS = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
    "empty": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b""),
    "chunked": (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", 200, b"hello"),
    "extension and trailers": (CHUNKED + b"5;a=b\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n", 200, b"hello"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 304, b""),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, 200, b"ok"),
    "server error": (b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno", 503, b"no"),
}


@pytest.mark.parametrize("framing", FRAMINGS)
@loopy
async def test_framing_with_reuse(client: Client, framing: str) -> None:
    answer, status, body = FRAMINGS[framing]
    async with Peer(answering(answer)) as peer:
        for _ in range(3):
            response = await client.send(peer)
            assert response.status == status
            assert await response.read_all(100) == body
            assert await response.read() == b""
        assert peer.accepted == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
    ],
)
@loopy
async def test_framing_by_the_end_of_the_connection(client: Client, answer: bytes) -> None:
    async with Peer(answering(answer, times=1)) as peer:
        assert await client.ask(peer) == b"hello"
        assert await client.ask(peer) == b"hello"
        assert peer.accepted == 2


@loopy
async def test_head_has_no_body_whatever_its_length_says(client: Client) -> None:
    async with Peer(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")) as peer:
        for _ in range(2):
            response = await client.send(peer, method="HEAD")
            assert response.header(b"content-length") == b"5"
            assert await response.read_all(100) == b""


@loopy
async def test_headers_arrive_with_lower_case_names(client: Client) -> None:
    async with Peer(answering(b"HTTP/1.1 200 OK\r\nX-A: 1 \r\nx-a:2\r\nContent-Encoding: gzip\r\n" + OK[17:])) as peer:
        response = await client.send(peer)
        assert response.headers[:3] == ((b"x-a", b"1"), (b"x-a", b"2"), (b"content-encoding", b"gzip"))
        assert await response.read_all(100) == b"ok"


@loopy
async def test_split_at_every_byte(client: Client) -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"2\r\nhe\r\n3;x\r\nllo\r\n0\r\nt: 1\r\n\r\n"
    cuts = [(answer[:at], answer[at:]) for at in range(1, len(answer))]
    cuts.append(tuple(answer[at : at + 1] for at in range(len(answer))))  # type: ignore[arg-type]

    async def script(line: Line) -> None:
        for parts in cuts:
            await line.request()
            await line.send_apart(*parts)

    async with Peer(script) as peer:
        for _ in cuts:
            assert await client.ask(peer) == b"hello"
        assert peer.accepted == 1


@loopy
async def test_each_piece_is_there_as_soon_as_it_arrived(client: Client) -> None:
    taken = [asyncio.Event() for _ in range(3)]

    async def script(line: Line) -> None:
        await line.request()
        line.send(CHUNKED)
        for number, event in enumerate(taken):
            line.send(b"1\r\n%d\r\n" % number)
            await event.wait()
        line.send(b"0\r\n\r\n")

    async with Peer(script) as peer:
        response = await client.send(peer)
        for number, event in enumerate(taken):
            assert await response.read() == b"%d" % number
            event.set()
        assert await response.read() == b""


# What is sent.


@loopy
async def test_the_request_on_the_wire(client: Client) -> None:
    seen: list[bytes] = []

    async def script(line: Line) -> None:
        seen.append(await line.request())
        line.send(OK)

    async with Peer(script) as peer:
        headers = (
            (b"X-Keep", b"yes"),
            (b"Connection", b"close, x-hop"),
            (b"X-Hop", b"no"),
            (b"Host", b"evil"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Content-Length", b"77"),
        )
        response = await client.send(f"{peer.base_url}/v2/", headers=headers, path="/x?q=%20a", body=b"body")
        response.close()

        head, _, body = seen[0].partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        assert head.startswith(b"POST /v2/x?q=%20a HTTP/1.1\r\n")
        assert body == b"body"
        assert sorted(line for line in lines[1:] if not line.startswith(b"accept-encoding")) == [
            b"content-length: 4",
            b"host: " + peer.base_url.removeprefix("http://").encode(),
            b"x-keep: yes",
        ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "/a b"},
        {"path": "/a\r\nx: y"},
        {"path": "a"},
        {"path": "/ü"},
        {"method": "GET /"},
        {"headers": ((b"x", b"a\r\nb: c"),)},
        {"headers": ((b"x", b"a\nb"),)},
        {"headers": ((b"x", b"a\0"),)},
        {"headers": ((b"x: y\r\nz", b"a"),)},
        {"headers": ((b"", b"a"),)},
    ],
)
@loopy
async def test_a_request_that_breaks_out_of_its_line_is_refused(client: Client, wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"path|method|header"):
        await client.send("http://127.0.0.1:9", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("base_url", ["ftp://h", "http://", "http://u:secret@h", "http://h?x=1", "http://h h"])
@loopy
async def test_a_base_url_that_is_none_is_refused(client: Client, base_url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|host") as raised:
        await client.send(base_url)
    assert "secret" not in str(raised.value)


@loopy
async def test_a_large_upload_arrives_whole(client: Client) -> None:
    body = bytes(range(256)) * (1 << 15)  # 8 MiB

    async def script(line: Line) -> None:
        request = await line.request()
        line.send(OK if request.endswith(b"\r\n\r\n" + body) else b"HTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\n")
        await line.left()

    async with Peer(script) as peer:
        assert (await client.send(peer, body=body)).status == 200


# Reuse.


@loopy
async def test_a_connection_that_closed_while_idle_is_not_used_again(client: Client) -> None:
    async with Peer(answering(OK, times=1)) as peer:
        for _ in range(3):
            assert await client.ask(peer) == b"ok"
        assert peer.accepted == 3


@pytest.mark.parametrize("extra", [b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"])
@loopy
async def test_a_connection_that_spoke_unasked_is_not_used_again(client: Client, extra: bytes) -> None:
    sent = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.send_apart(OK, extra)
        sent.set()
        await line.left()

    async with Peer(script) as peer:
        for number in range(1, 3):
            assert await client.ask(peer) == b"ok"
            await sent.wait()
            sent.clear()
            assert peer.accepted == number


@loopy
async def test_two_hundred_at_once(client: Client) -> None:
    async def script(line: Line) -> None:
        while True:
            body = (await line.request()).partition(b"\r\n\r\n")[2]
            line.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with Peer(script) as peer:

        async def one(number: int) -> bytes:
            return await (await client.send(peer, body=b"%d" % number)).read_all(100)

        for _ in range(2):
            assert await asyncio.gather(*map(one, range(200))) == [b"%d" % number for number in range(200)]
