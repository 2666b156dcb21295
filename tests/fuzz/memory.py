"""Time that jumps and a transport in memory: a connection's whole life, deadlines included, in microseconds."""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
from collections.abc import Coroutine, Mapping
from typing import Any, cast

HOUR = 3600.0
TURNS = 100_000
"""Turns of the loop that one input may take; time may stand still for so long only in a busy loop."""


class Jumping(selectors.SelectSelector):
    """Waits for nothing: the loop's clock jumps to its next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Move the clock; a wait without an end is a hang."""
        self.turns += 1
        if timeout is None or self.turns > TURNS:
            raise AssertionError("hangs: nothing is due" if timeout is None else "hangs: turns without end")
        self.now += max(timeout, 0.0)
        return []


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop in virtual time. What its tasks and callbacks raise is kept."""

    def __init__(self) -> None:
        self.jumping = Jumping()
        self.escaped: list[Mapping[str, Any]] = []
        super().__init__(self.jumping)
        self.set_exception_handler(lambda _, context: self.escaped.append(context))

    def time(self) -> float:
        """Return virtual seconds."""
        return self.jumping.now

    def play(self, story: Coroutine[Any, Any, None]) -> None:
        """Run one input's story; nothing may be left behind by it."""
        self.jumping.turns = 0
        self.escaped.clear()
        try:
            self.run_until_complete(story)
            left = asyncio.all_tasks(self)
            assert not left, f"tasks are left behind: {left}"
            timers = [timer for timer in cast("Any", self)._scheduled if not timer.cancelled()]
            assert not timers, f"timers are left behind: {timers}"
            assert not self.escaped, f"an exception escaped: {self.escaped}"
        except BaseException:
            self._clear()
            raise

    def _clear(self) -> None:
        """Forget a failed story, so that the next one begins clean."""
        for task in asyncio.all_tasks(self):
            cast("Any", task)._log_destroy_pending = False
        cast("Any", self)._scheduled.clear()
        cast("Any", self)._ready.clear()
        cast("Any", self)._stopping = False


class QuietSocket:
    """What protocols ask of the socket behind their transport."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()  # readable never: a pool may poll it

    def fileno(self) -> int:
        """Return a descriptor on which nothing ever arrives."""
        return self._reader

    def close(self) -> None:
        """Close it."""
        os.close(self._reader)
        os.close(self._writer)

    def getsockopt(self, *_: int) -> int:
        """Return no error."""
        return 0

    def setsockopt(self, *_: Any) -> None:
        """Take any option."""

    def getpeername(self) -> tuple[str, int]:
        """Return a caller's address."""
        return ("127.0.0.1", 50_000)

    def getsockname(self) -> tuple[str, int]:
        """Return a server's address."""
        return ("127.0.0.1", 8150)


class MemoryTransport(asyncio.Transport):
    """A transport that behaves like asyncio's, and remembers what was written.

    Args:
        loop: The running loop.
        protocol: Whom to tell.
        quiet: Stands in for the socket.
        is_stuck: The peer never takes a byte.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, quiet: QuietSocket, *, is_stuck: bool = False
    ) -> None:
        super().__init__({"socket": cast("socket.socket", quiet)})
        self.written = bytearray()
        self.was_aborted = self.has_written_eof = False
        self.lost = asyncio.Event()
        self._loop = loop
        self._protocol = protocol
        self._is_stuck = is_stuck
        self._high = 65_536
        self._is_paused = self._is_closing = self._is_lost = False
        self._may_read = asyncio.Event()
        self._may_read.set()

    async def deliver(self, data: bytes) -> bool:
        """Hand bytes to the protocol once it reads; return whether it still did."""
        while not self._may_read.is_set() and not self._is_closing:
            await self._may_read.wait()
        if self._is_closing:
            return False
        self._protocol.data_received(data)
        return True

    def end(self) -> None:
        """Hand over the peer's end of file."""
        if not self._is_closing and not self._protocol.eof_received():
            self.close()

    def reset(self) -> None:
        """Let the peer reset the connection."""
        self._lose(ConnectionResetError("reset by peer"))

    def write(self, data: Any) -> None:
        """Keep what is sent."""
        if self.has_written_eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._is_lost:
            return
        self.written += data
        if self._is_stuck and not self._is_paused and len(self.written) > self._high:
            self._is_paused = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        """Send no more."""
        self.has_written_eof = True

    def can_write_eof(self) -> bool:
        """Say that an end of file can be sent."""
        return True

    def close(self) -> None:
        """Close when everything is sent: never, if the peer is stuck."""
        self._is_closing = True
        self._may_read.set()
        if not self._is_stuck or not self.written:
            self._lose(None)

    def abort(self) -> None:
        """Close now."""
        self.was_aborted = True
        self._lose(None)

    def is_closing(self) -> bool:
        """Return whether it is closed, or closes."""
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        """Return what the peer has not taken."""
        return len(self.written) if self._is_stuck and not self._is_lost else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when writers have to wait."""
        self._high = self._high if high is None else high

    def pause_reading(self) -> None:
        """Deliver nothing for now."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Deliver again."""
        self._may_read.set()

    def _lose(self, error: Exception | None) -> None:
        self._is_closing = True
        self._may_read.set()
        if not self._is_lost:
            self._is_lost = True
            self._loop.call_soon(self._tell_lost, error)

    def _tell_lost(self, error: Exception | None) -> None:
        self._protocol.connection_lost(error)
        self.lost.set()


def pieces_of(data: bytes, pattern: int) -> list[bytes]:
    """Cut bytes as a network might.

    Args:
        data: What arrives.
        pattern: 0 for one piece, 1 for single bytes, else the seed of the lengths.
    """
    if pattern == 0 or not data:
        return [data] if data else []
    if pattern == 1:
        return [data[at : at + 1] for at in range(len(data))]
    pieces, at, state = [], 0, pattern
    while at < len(data):
        state = (state * 1_103_515_245 + 12_345) & 0x7FFFFFFF
        size = 1 + (state >> 16) % (4 if pattern % 2 else 64)
        pieces.append(data[at : at + size])
        at += size
    return pieces
