"""One deadline that is moved often and rarely comes.

Arming and cancelling a timer for every wait costs more than parsing an answer. Moving an alarm to a later time only
writes the time down: the timer that then fires too early is set again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

SLACK_SECONDS = 0.001
"""libuv counts in milliseconds, so a timer may fire that much early."""


class Alarm:
    """Calls back when its deadline has come.

    Args:
        loop: The running loop.
        ring: Called without arguments; may set the alarm again.
    """

    __slots__ = ("_at", "_loop", "_ring", "_timer", "_timer_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def set_in(self, seconds: float) -> float:
        """Move the deadline and return its time.

        Args:
            seconds: From now; infinite for never.
        """
        return self.set_at(self._loop.time() + seconds)

    def set_at(self, when: float) -> float:
        """Move the deadline and return it.

        Args:
            when: In the loop's time; infinite for never.
        """
        self._at = when
        if when < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = when
            self._timer = self._loop.call_at(when, self._fire)
        return when

    def off(self) -> None:
        """Forget the deadline."""
        self._at = math.inf

    def close(self) -> None:
        """Forget the deadline, its timer and whom it rings for: it is not set again."""
        self._at = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, math.inf
        self._ring = _nobody  # its owner holds the alarm: without this only the garbage collector would free both

    def _fire(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if self._at == math.inf:
            return
        if self._at > self._loop.time() + SLACK_SECONDS:
            self.set_at(self._at)
        else:
            self._at = math.inf
            self._ring()


def _nobody() -> None:
    pass
