"""A bare relay as an ASGI application on uvicorn: what a gateway built on the usual server can reach at most.

``python -m benchmarks.bare_asgi PORT UPSTREAM_PORT``. The name of the model is decoded, the request is written anew for
a kept connection, and pieces of the answer are passed on as they arrive. No deadlines, keys, checks, traces or errors.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httptools
import msgspec
import uvicorn


class Body(msgspec.Struct):
    """What a router has to know of a body."""

    model: str


class Upstream(asyncio.Protocol):
    """One kept connection to the upstream, and the answer that arrives on it."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.arrived = asyncio.Event()
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.is_complete = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)
        self.arrived.set()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.is_complete = True

    def ask(self, request: bytes) -> None:
        self.headers, self.pieces, self.is_complete = [], [], False
        self.arrived.clear()
        self.transport.write(request)

    async def wait(self) -> bytes:
        await self.arrived.wait()
        self.arrived.clear()
        data = b"".join(self.pieces)
        self.pieces.clear()
        return data


class App:
    """The application.

    Args:
        port: The upstream's.
    """

    decoder = msgspec.json.Decoder(Body)

    def __init__(self, port: int) -> None:
        self.port = port
        self.pool: list[Upstream] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        has_more = True
        while has_more:
            message = await receive()
            body += message.get("body", b"")
            has_more = message.get("more_body", False)
        if body:
            self.decoder.decode(body)
        loop = asyncio.get_running_loop()
        upstream = self.pool.pop() if self.pool else await self.open(loop)
        head = b"%b %b HTTP/1.1\r\nhost: mock\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        upstream.ask(head % (scope["method"].encode(), scope["raw_path"], len(body)) + body)
        data = await upstream.wait()
        await send({"type": "http.response.start", "status": 200, "headers": upstream.headers})
        while not upstream.is_complete:
            await send({"type": "http.response.body", "body": data, "more_body": True})
            data = await upstream.wait()
        self.pool.append(upstream)
        await send({"type": "http.response.body", "body": data, "more_body": False})

    async def open(self, loop: asyncio.AbstractEventLoop) -> Upstream:
        return (await loop.create_connection(Upstream, "127.0.0.1", self.port))[1]


def main() -> None:
    """Serve until killed."""
    port, upstream_port = map(int, sys.argv[1:])
    config: dict[str, Any] = {"loop": "uvloop", "http": "httptools", "access_log": False, "log_level": "warning"}
    uvicorn.run(App(upstream_port), host="127.0.0.1", port=port, lifespan="off", backlog=4096, **config)


if __name__ == "__main__":
    main()
