"""A connection in memory: bytes of requests in, bytes of answers out, through the server's own protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from turnout.gateway.connection import Connection, ServerLimits, State
from turnout.gateway.exchange import Handler


class MemoryTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 50_000), "sockname": ("127.0.0.1", 8150)})
        self.written = b""
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))
        self.written += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write_eof(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close


class Answer:
    """One answer, read back from its bytes."""

    def __init__(self, written: bytes, *, is_head: bool = False) -> None:
        head, _, rest = written.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        self.status = int(line.split()[1])
        self.pairs = [tuple(header.split(b": ", 1)) for header in lines]
        self.headers: dict[bytes, bytes] = dict(self.pairs)  # type: ignore[arg-type]
        self.body = rest
        if self.headers.get(b"transfer-encoding") == b"chunked":
            self.body = b""
            while size := int(rest.partition(b"\r\n")[0], 16):
                rest = rest.partition(b"\r\n")[2]
                self.body += rest[:size]
                rest = rest[size + 2 :]
            assert rest == b"0\r\n\r\n", rest
        elif self.status != 204 and not is_head:
            assert len(self.body) == int(self.headers[b"content-length"])

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        assert self.headers[b"content-type"] == b"application/json"
        assert set(error) == {"message", "type", "param", "code", "hint", "source", "retryable", "request_id"}
        return error


async def ask(handler: Handler, *pieces: bytes, limits: ServerLimits | None = None) -> tuple[Answer, MemoryTransport]:
    """Send one request to a handler and return its answer.

    Args:
        handler: Answers it.
        pieces: The request's bytes, as they arrive one after the other.
        limits: Instead of the default ones.
    """
    loop = asyncio.get_running_loop()
    state, transport = State(loop), MemoryTransport()
    connection = Connection(loop, handler, state, limits or ServerLimits())
    connection.connection_made(transport)
    try:
        for piece in pieces:
            connection.data_received(piece)
            await asyncio.sleep(0)
        await asyncio.wait(state.tasks, timeout=10) if state.tasks else None
        assert not state.tasks, "the handler hangs"
        await asyncio.sleep(0)  # the outbox writes at the end of a turn
    finally:
        connection.connection_lost(None)
    return Answer(transport.written, is_head=pieces[0].startswith(b"HEAD ")), transport


POST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n"
