"""A bare relay: the least that a Python gateway can do, and so the ceiling for turnout. No product, and not for use.

``python -m benchmarks.bare PORT UPSTREAM_PORT``. asyncio protocols on both sides, httptools finds the ends of messages,
msgspec decodes the name of the model, and the bytes are passed on as they are, with back-pressure. There are no
deadlines, keys, checks, traces or errors.
"""

from __future__ import annotations

import asyncio
import sys

import httptools
import msgspec
import uvloop


class Body(msgspec.Struct):
    """What a router has to know of a body."""

    model: str


class Upstream(asyncio.Protocol):
    """One kept connection to the upstream."""

    caller: Caller | None = None  # who waits for its answer

    def __init__(self, pool: list[Upstream]) -> None:
        self.pool = pool
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.caller is not None:
            self.caller.transport.write(data)
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self.caller is not None:
            self.caller.upstream = None
            self.caller = None
            self.pool.append(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        if self in self.pool:
            self.pool.remove(self)
        if self.caller is not None:
            self.caller.transport.close()


class Caller(asyncio.Protocol):
    """One caller, one request at a time."""

    upstream: Upstream | None = None
    decoder = msgspec.json.Decoder(Body)

    def __init__(self, pools: dict[str, list[Upstream]], port: int) -> None:
        self.pools, self.port = pools, port
        self.parser = httptools.HttpRequestParser(self)
        self.raw = self.body = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.raw += data
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        pool = self.pools[self.decoder.decode(self.body).model if self.body else "mock"]
        raw, self.raw, self.body = self.raw, b"", b""
        if pool:
            self.send(pool.pop(), raw)
        else:
            self.opening = asyncio.get_running_loop().create_task(self.open(pool, raw))  # kept: a task must be held

    async def open(self, pool: list[Upstream], raw: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.send((await loop.create_connection(lambda: Upstream(pool), "127.0.0.1", self.port))[1], raw)

    def send(self, upstream: Upstream, raw: bytes) -> None:
        self.upstream, upstream.caller = upstream, self
        upstream.transport.write(raw)

    def pause_writing(self) -> None:
        if self.upstream is not None:
            self.upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.upstream is not None:
            self.upstream.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        if self.upstream is not None:
            self.upstream.transport.close()


async def main() -> None:
    """Serve until killed."""
    port, upstream_port = map(int, sys.argv[1:])
    pools: dict[str, list[Upstream]] = {"mock": [], "paced": []}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Caller(pools, upstream_port), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
