"""Writes of one turn of the loop, made together.

A write to a peer that sleeps wakes it up, which costs several times what the write does. Eight writes in a row wake it
once; eight writes with the work of a request between each two wake it eight times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

HELD_BYTES = 16_384
"""So much one connection may hold back; more is written at once."""
TOGETHER = 8
"""So many writes wait for each other. With all of a turn the first of 32 callers waits for the work of the last."""


class Outbox:
    """Calls back once, at the end of the loop's turn or when enough have come together.

    Args:
        loop: The running loop.
    """

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[Callable[[], None]] = []

    def add(self, flush: Callable[[], None]) -> None:
        """Call ``flush`` soon: at the end of this turn at the latest.

        Args:
            flush: Writes what was held; must not raise.
        """
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(flush)
        if len(self._waiting) >= TOGETHER:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for flush in waiting:
            flush()
