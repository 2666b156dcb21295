"""When to start a crashed worker again. Pure: times go in, a delay comes out."""

from __future__ import annotations

import msgspec

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
STEADY_SECONDS = 60.0


class RestartPolicy(msgspec.Struct, frozen=True):
    """How often a worker failed in a row.

    The first crash after a steady life is mended at once, because a single crash should cost callers one load and no
    more; then the delay doubles from half a second to half a minute. A worker that could not load gets no second try at
    once: whoever waits for it is told first. One that was killed while it loaded does: that was not its own doing.

    Attributes:
        failures: Failures in a row; a life of ``STEADY_SECONDS`` starts the count again.
    """

    failures: int = 0

    def after_life(self, lived_seconds: float, *, was_killed: bool = False) -> RestartPolicy:
        """Return the policy after a worker ended.

        Args:
            lived_seconds: How long it had been ready; 0 if it never was.
            was_killed: A signal ended it.
        """
        if lived_seconds >= STEADY_SECONDS:
            return RestartPolicy(1)
        return RestartPolicy(max(self.failures + 1, 2 if lived_seconds <= 0 and not was_killed else 1))

    @property
    def delay_seconds(self) -> float:
        """How long to wait before the next start."""
        if self.failures <= 1:
            return 0.0
        doublings = min(self.failures - 2, 60)  # after a night of failures a float could not hold the power
        return min(FIRST_DELAY_SECONDS * 2.0**doublings, LONGEST_DELAY_SECONDS)
