"""One worker in the simulated world: which memory it holds, whom it serves, who waits inside it."""

from __future__ import annotations

from collections import deque
from typing import Literal

from turnout.core.memory import Demand
from turnout.simulate.profile import SimulatedModel

Phase = Literal["cold", "loading", "ready", "falling_asleep", "asleep", "waking", "resizing", "stopping"]


class SimulatedWorker:
    """What is true of a worker, whatever a scheduler believes.

    Args:
        shape: The model.
    """

    def __init__(self, shape: SimulatedModel) -> None:
        self.name = shape.model.name
        self.model = shape.model
        self.slots = shape.timing.slots
        self.phase: Phase = "cold"
        self.held: Demand = {}
        self.sleep_level = 0
        self.order = 0
        """Number of the last order; the same order again is not a new one."""
        self.running = 0
        self.line: deque[int] = deque()
        """Arrivals that were admitted and wait for a slot inside the engine, which serves first come, first served."""

    @property
    def is_busy(self) -> bool:
        """Whether somebody is served or waits inside."""
        return self.running > 0 or bool(self.line)
