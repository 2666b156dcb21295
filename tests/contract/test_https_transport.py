"""What only the general client does: TLS, proxies, and asking for an unpacked body."""

from __future__ import annotations

import pytest

from support.transport_peer import OK, Client, Line, Peer, loopy
from turnout.core.errors import ConnectFailed
from turnout.tiers.https import Httpx2Transport


@pytest.fixture
def client() -> Client:
    return Client(Httpx2Transport, None)


@loopy
async def test_asks_for_an_unpacked_body_unless_the_caller_wants_otherwise(client: Client) -> None:
    seen: list[bytes] = []

    async def script(line: Line) -> None:
        while True:
            seen.append(await line.request())
            line.send(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n" + OK[17:])

    async with Peer(script) as peer:
        for headers in ((), ((b"Accept-Encoding", b"gzip"),)):
            response = await client.send(peer, headers=headers)
            assert await response.read_all(10) == b"ok"
    assert b"accept-encoding: identity\r\n" in seen[0].lower()
    assert b"accept-encoding: gzip\r\n" in seen[1].lower()
    assert b"identity" not in seen[1]


@loopy
async def test_a_proxy_of_the_environment(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    async def script(line: Line) -> None:
        seen.append(await line.request())
        line.send(OK)

    async with Peer(script) as peer:
        monkeypatch.setenv("http_proxy", peer.base_url)
        assert await client.ask("http://engine.invalid") == b"ok"
    assert seen[0].startswith(b"POST http://engine.invalid/v1/x HTTP/1.1\r\n")


@loopy
async def test_a_peer_without_tls_is_no_connection(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")

    async def script(line: Line) -> None:
        line.send(OK)

    async with Peer(script) as peer:
        with pytest.raises(ConnectFailed, match="https://"):
            await client.ask(peer.base_url.replace("http", "https"))


@loopy
async def test_cookies_are_not_kept(client: Client) -> None:
    seen: list[bytes] = []

    async def script(line: Line) -> None:
        while True:
            seen.append(await line.request())
            line.send(b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\n" + OK[17:])

    async with Peer(script) as peer:
        for _ in range(2):
            await client.ask(peer)
    assert b"cookie" not in seen[1].lower()
    assert isinstance(client.transport, Httpx2Transport)
    assert client.transport._client is not None
    assert not client.transport._client.cookies


@loopy
async def test_no_unix_sockets(client: Client) -> None:
    with pytest.raises(ValueError, match="Unix"):
        await client.ask("http+unix:///tmp/x.sock")
