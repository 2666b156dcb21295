"""The other side of a transport: a raw TCP server that plays exact bytes, and the clients under test."""

from __future__ import annotations

import asyncio
import functools
import gc
import re
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, ParamSpec, Self

import pytest
import uvloop

from turnout.tiers.http1 import PooledHttp1Transport
from turnout.tiers.https import Httpx2Transport
from turnout.tiers.transport import Deadlines, HttpRequest, HttpResponse, Transport

P = ParamSpec("P")
PATIENT = Deadlines(connect=10, first_byte=10, gap=10, write=10)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Line:
    """The peer's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """Return the next request, head and body; raises IncompleteReadError when the client has left."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        return head + await self.reader.readexactly(int(length[1]) if length else 0)

    def send(self, data: bytes) -> None:
        """Write bytes now."""
        self.writer.write(data)

    async def send_apart(self, *parts: bytes) -> None:
        """Write each part so that the client, which shares our loop, reads it before the next."""
        for part in parts:
            self.writer.write(part)
            for _ in range(4):
                await asyncio.sleep(0)

    async def left(self) -> None:
        """Wait until the client has closed its end."""
        with suppress(ConnectionError):
            while await self.reader.read(1 << 20):
                pass


Script = Callable[[Line], Awaitable[None]]


class Peer:
    """A server whose every connection runs the script and is then closed.

    Args:
        script: What to do on each connection; the client's leaving ends it quietly.
        unix_path: Listen here instead of on 127.0.0.1.
    """

    def __init__(self, script: Script, unix_path: str = "") -> None:
        self.base_url = ""
        self.accepted = 0
        self._script = script
        self._unix_path = unix_path
        self._running: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        if self._unix_path:
            self._server = await asyncio.start_unix_server(self._serve, self._unix_path)
            self.base_url = f"http+unix://{self._unix_path}"
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
            self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        await self._server.wait_closed()
        if error is None and self._errors:
            raise self._errors[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        self.accepted += 1
        try:
            await self._script(Line(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except Exception as error:  # noqa: BLE001  raised again where the test ends
            self._errors.append(error)
        finally:
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self._running.discard(task)


def answering(answer: bytes, *, times: int = 1_000_000) -> Script:
    """Return a script that gives the same answer to each request of a connection.

    Args:
        answer: The exact bytes.
        times: After so many the connection is closed.
    """

    async def script(line: Line) -> None:
        for _ in range(times):
            await line.request()
            line.send(answer)
        await line.writer.drain()

    return script


class Client:
    """A transport under test, and the kind of event loop that it is tested on."""

    def __init__(
        self, make: Callable[[], Transport], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
    ) -> None:
        self.transport = make()
        self.loop_factory = loop_factory

    async def send(
        self,
        peer: Peer | str,
        deadlines: Deadlines = PATIENT,
        *,
        method: str = "POST",
        path: str = "/v1/x",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        body: bytes = b"{}",
    ) -> HttpResponse:
        """Send one request to the peer."""
        base_url = peer if isinstance(peer, str) else peer.base_url
        body = b"" if method in ("GET", "HEAD") else body
        return await self.transport.send(HttpRequest(method, base_url, path, headers, body), deadlines)

    async def ask(self, peer: Peer | str, deadlines: Deadlines = PATIENT, *, method: str = "POST") -> bytes:
        """Send one request and return the body of its answer."""
        return await (await self.send(peer, deadlines, method=method)).read_all(1 << 30)


def loopy(case: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Turn a case into a test that runs on its client's own kind of loop, and leaves nothing open behind it."""

    @functools.wraps(case)
    def test(*args: P.args, **kwargs: P.kwargs) -> None:
        client = kwargs["client"]
        assert isinstance(client, Client)

        async def run() -> None:
            async with asyncio.timeout(30):
                try:
                    await case(*args, **kwargs)
                finally:
                    await client.transport.aclose()

        with asyncio.Runner(loop_factory=client.loop_factory) as runner:
            runner.run(run())
        gc.collect(1)  # a connection that nobody closed warns here, in the test that left it open

    return test


def http1_clients() -> list[Any]:
    """Return the fast client on both loops, as pytest parameters."""
    return [
        pytest.param((PooledHttp1Transport, None), id="http1"),
        pytest.param((PooledHttp1Transport, uvloop.new_event_loop), id="http1-uvloop"),
    ]


def all_clients() -> list[Any]:
    """Return every client, as pytest parameters."""
    return [*http1_clients(), pytest.param((Httpx2Transport, None), id="httpx2")]
