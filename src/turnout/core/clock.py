"""Time, as something that is passed in: the only place that reads the system's clocks."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from. Deciders never hold one; the loops around them do."""

    def wall_seconds(self) -> float:
        """Return seconds since the Unix epoch."""
        ...

    def monotonic_seconds(self) -> float:
        """Return seconds on a clock that never goes back."""
        ...


class SystemClock:
    """The machine's own clocks. A request asks nine times, so these are the system's functions themselves."""

    wall_seconds = staticmethod(time.time)  # noqa: TID251  the one place
    monotonic_seconds = staticmethod(time.monotonic)


class ManualClock:
    """A clock that moves only when told to; for tests and simulations.

    Args:
        start_seconds: The first reading of both clocks.
    """

    def __init__(self, start_seconds: float = 1_000_000.0) -> None:
        self.seconds = start_seconds

    def wall_seconds(self) -> float:
        """Return the current virtual time."""
        return self.seconds

    def monotonic_seconds(self) -> float:
        """Return the current virtual time."""
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Move time forward.

        Args:
            seconds: How far; not negative.
        """
        if seconds < 0:
            raise ValueError(f"time cannot go back by {seconds!r} s")
        self.seconds += seconds
