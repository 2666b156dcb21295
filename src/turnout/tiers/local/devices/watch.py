"""A look at the world again and again, from a thread of its own: a driver's call may block for ever."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

LOOK_SECONDS = 1.0
SOON_SECONDS = 0.05
"""First pause after a change that somebody waits for, then twice as long each time: drivers give memory back late."""
Seen = TypeVar("Seen")
logger = logging.getLogger("turnout.devices")


class Watch(Generic[Seen]):
    """Looks about once a second, more often after a change. One that never returns holds up those behind it only.

    Args:
        look: Called in a thread.
        told: Called with what it returned, on the event loop.
        seconds: Between two looks.
    """

    def __init__(self, look: Callable[[], Seen], told: Callable[[Seen], None], seconds: float = LOOK_SECONDS) -> None:
        self._look = look
        self._told = told
        self._seconds = seconds
        self._woken = threading.Event()
        self._ended = threading.Event()

    def soon(self) -> None:
        """Look at once, and a few times more in the next second."""
        self._woken.set()

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._work, args=(loop,), name="devices", daemon=True).start()
        try:
            await asyncio.Event().wait()
        finally:
            self._ended.set()
            self._woken.set()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        pause = self._seconds
        while not self._ended.is_set():
            try:
                seen = self._look()
            except Exception:  # the supervisor of foreign drivers: one bad answer must not end the watch
                logger.exception("a look at the devices failed")
            else:
                try:
                    loop.call_soon_threadsafe(self._hand_over, seen)
                except RuntimeError:  # the loop was closed in the meantime
                    return
            pause = min(2 * pause, self._seconds)
            if self._woken.wait(pause):
                self._woken.clear()
                pause = min(SOON_SECONDS / 2, self._seconds)

    def _hand_over(self, seen: Seen) -> None:
        if not self._ended.is_set():
            self._told(seen)
