"""A protocol double of Ollama: its own paths as documented, and ``/v1`` relayed to a real simulated worker.

It is no Ollama: it knows one loaded model, and shows what the engine contract needs of ``/api/tags``, ``/api/ps`` and
``/api/show`` (github.com/ollama/ollama, docs/api.md).
"""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

import msgspec

MODEL = {"name": "one:latest", "model": "one:latest", "size": 1_000_000, "digest": "d1"}


class OllamaDouble:
    """A small server on a real socket.

    Args:
        worker_url: Where a simulated worker listens.
        worker_key: Its key; a real Ollama asks for none.
    """

    def __init__(self, worker_url: str, worker_key: str) -> None:
        self._worker = urlsplit(worker_url)
        self._key = worker_key
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.url = ""

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
            for writer in [*self._open]:
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._answer(reader, writer)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n", 1)[0].split(b" ")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        body = await reader.readexactly(length)
        if path.startswith(b"/v1/"):
            await self._relay(method, path, body, reader, writer)
            return
        answers = {
            b"/api/tags": {"models": [MODEL]},
            b"/api/ps": {"models": [MODEL | {"context_length": 8192}]},
            b"/api/show": {"capabilities": ["completion", "tools"]},
        }
        status, value = (b"200 OK", answers[path]) if path in answers else (b"404 Not Found", {"error": "not found"})
        data = msgspec.json.encode(value)
        fields = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close" % len(data)
        writer.write(b"HTTP/1.1 " + status + b"\r\n" + fields + b"\r\n\r\n" + data)
        await writer.drain()

    async def _relay(
        self, method: bytes, path: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        upstream, to_worker = await asyncio.open_connection(self._worker.hostname, self._worker.port)
        fields = (
            f"host: worker\r\nauthorization: Bearer {self._key}\r\nconnection: close\r\ncontent-length: {len(body)}"
        )
        to_worker.write(method + b" " + path + b" HTTP/1.1\r\n" + fields.encode() + b"\r\n\r\n" + body)
        try:
            async with asyncio.TaskGroup() as tasks:
                copying = tasks.create_task(_copy(upstream, writer))
                leaving = tasks.create_task(reader.read(1))  # the caller says nothing more: this is its hanging up
                await asyncio.wait([copying, leaving], return_when=asyncio.FIRST_COMPLETED)
                copying.cancel()
                leaving.cancel()
        finally:
            to_worker.transport.abort()


async def _copy(source: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await source.read(65536):
            writer.write(piece)
            await writer.drain()
