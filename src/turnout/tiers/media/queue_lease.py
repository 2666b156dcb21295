"""When a program with a queue of its own needs a lease, and when it has really given the memory back. Pure.

A person may put work into ComfyUI's page at any moment, so the lease follows the queue. Once that has been empty for a
while the program is asked to free its memory. It takes note of that, no more, so the lease ends when the memory is seen
to be free, and not before.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Phase = Literal["idle", "asking", "held", "freeing"]
Step = Literal["nothing", "ask", "give_up", "free", "release"]


class QueueFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of the program.

    Attributes:
        jobs: That run or wait in its queue.
        held_bytes: What it holds on the device by its own account; None if it does not say.
    """

    jobs: int
    held_bytes: int | None = None


class QueueLease:
    """The state of one program's lease.

    Args:
        quiet_seconds: The queue has to be empty for so long before memory is asked back.
        free_seconds: After so long it is asked back again.
        rest_bytes: What may stay behind.

    Attributes:
        phase: Where it is.
        unanswered: How often memory was asked back in vain.
    """

    def __init__(self, quiet_seconds: float, free_seconds: float, rest_bytes: int) -> None:
        self._quiet_seconds = quiet_seconds
        self._free_seconds = free_seconds
        self._rest_bytes = rest_bytes
        self.phase: Phase = "idle"
        self.unanswered = 0
        self._busy_at = 0.0
        self._asked_back_at = 0.0

    def looked(self, facts: QueueFacts, now: float) -> Step:
        """Take in a look at the program; return what has to be done.

        Args:
            facts: What was seen.
            now: Monotonic seconds.
        """
        if facts.jobs:
            self._busy_at = now
            self.unanswered = 0
            if self.phase == "idle":
                self.phase = "asking"
                return "ask"
            if self.phase == "freeing":
                self.phase = "held"  # somebody came back in time
            return "nothing"
        is_quiet = now - self._busy_at >= self._quiet_seconds
        if self.phase == "asking" and is_quiet:
            self.phase = "idle"
            return "give_up"
        if self.phase == "held" and is_quiet:
            self.phase = "freeing"
            self._asked_back_at = now
            return "free"
        if self.phase == "freeing":
            return self._is_it_free(facts, now)
        return "nothing"

    def _is_it_free(self, facts: QueueFacts, now: float) -> Step:
        if facts.held_bytes is not None and facts.held_bytes <= self._rest_bytes:
            self.phase = "idle"
            self.unanswered = 0
            return "release"
        if now - self._asked_back_at >= self._free_seconds:
            self._asked_back_at = now
            self.unanswered += 1
            return "free"
        return "nothing"

    def granted(self) -> None:
        """Take in that the lease was granted."""
        if self.phase == "asking":
            self.phase = "held"

    def refused(self) -> None:
        """Take in that it was not granted in time; the next look at a busy queue asks again."""
        if self.phase == "asking":
            self.phase = "idle"

    def gone(self) -> Step:
        """Take in that the program is gone, and its memory with it."""
        before, self.phase = self.phase, "idle"
        self.unanswered = 0
        if before == "idle":
            return "nothing"
        return "give_up" if before == "asking" else "release"
