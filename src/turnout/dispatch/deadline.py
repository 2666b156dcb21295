"""The one deadline of a whole answer. ``asyncio.timeout`` does the same at three times the price, per request."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class AnswerDeadline:
    """Ends what runs inside its ``with`` block by TimeoutError when the time has come.

    Args:
        seconds: From now.
    """

    __slots__ = ("_cancelling", "_is_over", "_task", "_timer", "has_passed")

    def __init__(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._is_over = False
        self._timer = loop.call_later(seconds, self.pass_now)
        self.has_passed = False
        """The time has come: an error that follows from it says nothing about anybody else."""

    def pass_now(self) -> None:
        """Let the time come at once, unless the block has ended."""
        if not (self._is_over or self.has_passed):
            self.has_passed = True
            self._task.cancel()

    def __enter__(self) -> Self:
        """Begin the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the block.

        Raises:
            TimeoutError: The time came, and nobody else cancelled the task too.
        """
        self._is_over = True
        self._timer.cancel()
        if self.has_passed and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
