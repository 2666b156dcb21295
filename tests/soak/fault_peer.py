"""An engine that answers OpenAI's way with exact bytes and fails as often as it was told, in a process of its own.

Started as ``python fault_peer.py FAULTS_IN_100``; says its port on stdout. Every request is counted; of each hundred so
many get the next fault of `FAULTS`. A stall opens the breaker at once, so that comes by the clock: one in
`STALL_SECONDS`. A body with ``event_bytes`` gets endless events of that size, one each ``event_seconds``: for
callers who do not read.
``GET /simulated/state`` counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
from collections import Counter
from typing import Any

FAULTS = ("error", "hang_up", "cut", "not_http", "truncate", "error_event", "hang_up", "cut_head")
EARLY = frozenset({"error", "hang_up", "not_http", "error_event", "cut_head"})
"""These come before the first byte that a caller could see."""
STALL_SECONDS = 30.0
EVENTS = 10
EVENT_SECONDS = 0.01
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n"
STREAM_HEAD = HEAD % (b"text/event-stream", b"transfer-encoding: chunked\r\n")
EVENT = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
ANSWER = {
    "id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": "w"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}  # fmt: skip
MODELS = {"object": "list", "data": [{"id": "peer", "object": "model", "owned_by": "test"}]}


class FaultPeer:
    """Serves connections.

    Args:
        faults_in_100: How many of a hundred requests fail.
    """

    def __init__(self, faults_in_100: int) -> None:
        self._every = 100 // faults_in_100 if faults_in_100 else 0
        self._requests = self._faults = self._running = self._cancelled = 0
        self._told: Counter[str] = Counter()
        self._stall_at = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests until either side ends it."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(lengths[0][15:]) if lengths else 0)
                if head.startswith(b"GET"):
                    await _whole(writer, MODELS if b"/models" in head else self._state())
                elif not await self._answer(json.loads(body), reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort() if writer.is_closing() else writer.close()

    def _state(self) -> dict[str, Any]:
        faults = {name: count for name, count in self._told.items() if name != "good"}
        late = sum(count for name, count in faults.items() if name not in EARLY)
        counts = {"requests": self._requests, "running": self._running, "cancelled": self._cancelled}
        return {**counts, "faults": faults, "late": late, "early": sum(faults.values()) - late}

    def _next(self) -> str:
        self._requests += 1
        now = asyncio.get_running_loop().time()
        self._stall_at = self._stall_at or now + STALL_SECONDS / 2
        if self._every and now > self._stall_at:
            self._stall_at = now + STALL_SECONDS
            return "stall"
        if self._every and self._requests % self._every == 0:
            self._faults += 1
            return FAULTS[self._faults % len(FAULTS)]
        return "good"

    async def _answer(self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer; return whether the connection may serve another request."""
        fault = self._next()
        self._told[fault] += 1
        self._running += 1
        try:
            if "event_bytes" in body:
                await self._endless(int(body["event_bytes"]), float(body["event_seconds"]), reader, writer)
                return False
            if fault in EARLY:
                return await _fail_early(fault, writer)
            if not body.get("stream"):
                return await _answer_whole(fault, reader, writer)
            return await _stream(fault, reader, writer)
        finally:
            self._running -= 1

    async def _endless(
        self, size: int, seconds: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        event = EVENT.replace(b"word ", b"x" * size)
        writer.write(STREAM_HEAD)
        leaving = asyncio.get_running_loop().create_task(reader.read(1))
        try:
            while not leaving.done():
                writer.write(_chunk(event))
                draining = asyncio.get_running_loop().create_task(writer.drain())
                await asyncio.wait([draining, leaving], return_when=asyncio.FIRST_COMPLETED)
                draining.cancel()
                await asyncio.wait([leaving], timeout=seconds)
        finally:
            leaving.cancel()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await leaving
            self._cancelled += 1
            writer.transport.abort()


async def _whole(writer: asyncio.StreamWriter, value: object, status: bytes = b"200 OK") -> None:
    data = json.dumps(value).encode()
    fields = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data)
    writer.write(b"HTTP/1.1 " + status + b"\r\n" + fields + data)
    await writer.drain()


async def _fail_early(fault: str, writer: asyncio.StreamWriter) -> bool:
    if fault == "error":
        await _whole(writer, {"error": {"message": "a fault", "type": "server_error"}}, b"500 Internal Server Error")
        return True
    if fault == "not_http":
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    elif fault == "cut_head":
        writer.write(STREAM_HEAD[:30])
    elif fault == "error_event":
        writer.write(STREAM_HEAD + _chunk(b'data: {"error":{"message":"a fault"}}\n\n'))
    await writer.drain()
    return False


async def _answer_whole(fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    if fault == "good":
        await _whole(writer, ANSWER)
        return True
    writer.write(HEAD % (b"application/json", b"content-length: 400\r\n") + b'{"id":')
    if fault == "stall":
        await reader.read(1)
    return False


async def _stream(fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(STREAM_HEAD)
    for _ in range(EVENTS if fault == "good" else 3):
        writer.write(_chunk(EVENT))
        await asyncio.sleep(EVENT_SECONDS)
    if fault == "stall":
        await reader.read(1)
    elif fault in ("good", "truncate"):
        writer.write((_chunk(b"data: [DONE]\n\n") if fault == "good" else b"") + b"0\r\n\r\n")
        await writer.drain()
        return True
    return False


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def main() -> None:
    """Serve until the process ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    peer = FaultPeer(int(sys.argv[1]))
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
